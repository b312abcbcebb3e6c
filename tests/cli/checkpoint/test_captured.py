"""``JOB/PATH`` wherever a command takes a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints.training.trainers import program as trainer
from tests.checkpoints.training.trainers import trainer_files
from tests.cli.program import Program

NAME = "exp/checkpoint-7"
REFERENCE = f"my-run/{NAME}"


@pytest.fixture
def captured(program: Program) -> str:
    """A captured checkpoint; its id."""
    command = trainer(f"save(output() / {NAME!r}, trainer_files(7))")
    assert program.run("training", "run", "my-run", "--", *command).code == 0
    (row,) = program.run("training", "checkpoints", "my-run", "--json").json()
    return str(row["id"])


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_every_command_that_takes_a_checkpoint_takes_its_job_and_path(program: Program, captured: str) -> None:
    def run(*arguments: str) -> str:
        done = program.run("checkpoint", *arguments)
        assert done.code == 0, done.err
        return done.out

    assert program.run("checkpoint", "inspect", REFERENCE, "--json").json()["metadata"]["id"] == captured
    run("fetch", REFERENCE, "-d", "out")
    assert _files(program.cwd / "out") == trainer_files(7)
    run("fetch", REFERENCE, "-d", "out", "--dry-run")
    run("verify", REFERENCE)
    run("protect", REFERENCE)
    assert program.run("checkpoint", "delete", REFERENCE).code == 4
    run("unprotect", REFERENCE)
    run("push", "kept", "--from-checkpoint", REFERENCE)
    run("delete", REFERENCE, "--dry-run")
    run("delete", REFERENCE)
    gone = program.run("checkpoint", "inspect", REFERENCE)
    assert (gone.code, gone.error) == (3, f"there is no checkpoint '{REFERENCE}'")
    assert gone.hint == "flexai training checkpoints my-run shows what that job captured"
    run("undelete", REFERENCE)
    assert program.run("checkpoint", "inspect", "kept", "--json").json()["spec"]["fromCheckpoint"] == captured


@pytest.mark.slow
def test_a_checkpoint_is_exported_by_its_job_and_path(program: Program, captured: str) -> None:
    assert program.run("storage", "create", "share", "--provider", "local", "--root", str(program.cwd)).code == 0
    place = ("--storage-provider", "share", "--destination-path", "bucket/run")
    done = program.run("checkpoint", "export", REFERENCE, *place)
    assert done.code == 0, done.err
    assert trainer_files(7).items() <= _files(program.cwd / "bucket" / "run").items()


def test_a_training_starts_from_a_checkpoint_of_another_job(program: Program, captured: str) -> None:
    listing = "print(sorted(path.name for path in Path(os.environ['FLEXAI_INPUT_CHECKPOINT_DIR']).iterdir()))"
    done = program.run("training", "run", "next-run", "--checkpoint", REFERENCE, "--", *trainer(listing))
    assert (done.code, done.out) == (0, f"{sorted(trainer_files(7))}\n"), done.err
    assert program.run("training", "inspect", "next-run", "--json").json()["spec"]["inputCheckpointID"] == captured
