"""The batch scripts for Slurm, run under a stand-in that sends what Slurm sends."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexai.checkpoints.owner import new_owner
from tests.checkpoints.training.trainers import program as trainer
from tests.cli.program import Program
from tests.examples.slurm import Slurm

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).resolve().parents[2] / "examples" / "slurm"

# Saves at TERM and ends with 0, as a trainer does that knows of preemptions; goes on where it stopped.
TRAINER = """
start = os.environ.get("FLEXAI_INPUT_CHECKPOINT")
def save_and_leave(number, _frame):
    signal.signal(number, signal.SIG_IGN)
    save(output() / "checkpoint-7", trainer_files(7))
    sys.exit(0)
signal.signal(signal.SIGTERM, save_and_leave)
if start:
    say(f"goes on from {Path(start).name}")
    save(output() / "checkpoint-8", trainer_files(8))
else:
    say("begins")
    while True:
        time.sleep(600)
"""


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """A user of the cluster, with a ``train.py`` and the settings in ``~/flexai.env``."""
    program = Program(tmp_path)
    source = trainer(TRAINER)[-1]
    program.file("train.py", source)
    (tmp_path / "flexai.env").write_text(f"FLEXAI_STORE='{tmp_path / 'store'}'\n")
    return program


@pytest.fixture
def slurm(tmp_path: Path, program: Program) -> Slurm:
    """A cluster whose machines have flexai and Python."""
    path = f"{program.folder_of_program}:{program.environment['PATH']}"
    return Slurm(tmp_path / "slurm", program.environment | {"PATH": path})


def _captured(program: Program, job: str = "my-run") -> list[str]:
    return [row["name"] for row in program.run("training", "checkpoints", job, "--json").json()]


@pytest.mark.parametrize("notice", ["near_the_time_limit", "preempt"])
def test_a_job_that_slurm_ends_saves_asks_to_run_again_and_goes_on(slurm: Slurm, program: Program, notice: str) -> None:
    job = slurm.start(SCRIPTS / "train.sbatch", cwd=program.cwd)
    job.wait_for("begins")
    getattr(job, notice)()
    code, out = job.end()
    assert (code, slurm.requeued) == (75, ["4242"]), out
    assert _captured(program) == ["checkpoint-7"]

    job = slurm.start(SCRIPTS / "train.sbatch", cwd=program.cwd, restarts=1)
    job.wait_for("goes on from checkpoint-7")
    code, out = job.end()
    assert (code, slurm.requeued) == (0, ["4242"]), out
    assert sorted(_captured(program)) == ["checkpoint-7", "checkpoint-8"]


def test_a_job_that_its_owner_stops_does_not_run_again(slurm: Slurm, program: Program) -> None:
    job = slurm.start(SCRIPTS / "train.sbatch", cwd=program.cwd)
    job.wait_for("begins")
    assert program.run("training", "stop", "my-run").code == 0
    code, out = job.end()
    assert (code, slurm.requeued) == (0, []), out


def test_a_job_that_fails_does_not_run_again(slurm: Slurm, program: Program) -> None:
    program.file("train.py", "raise SystemExit(3)")
    code, out = slurm.start(SCRIPTS / "train.sbatch", cwd=program.cwd).end()
    assert (code, slurm.requeued) == (3, []), out


def test_a_task_of_an_array_is_a_job_of_its_own_and_asks_for_itself_alone(slurm: Slurm, program: Program) -> None:
    job = slurm.start(SCRIPTS / "array.sbatch", cwd=program.cwd, task=3)
    job.wait_for("begins")
    job.near_the_time_limit()
    code, out = job.end()
    assert (code, slurm.requeued) == (75, ["4242_3"]), out
    assert _captured(program, "sweep-3") == ["checkpoint-7"]


def test_machines_that_share_no_disk_train_one_job_and_go_on_together(
    slurm: Slurm, program: Program, tmp_path: Path
) -> None:
    # As torchrun does on each machine, it runs the script; the first one saves for all.
    torchrun = slurm.programs / "torchrun"
    torchrun.write_text('#!/bin/sh\nfor script; do :; done\nexec python "$script"\n')
    torchrun.chmod(0o755)
    first_saves = TRAINER.replace("    save(", '    if os.environ["SLURM_NODEID"] == "0": save(')
    program.file("train.py", trainer(first_saves)[-1])
    catalog = f"sqlite:///{tmp_path / 'catalog.db'}"
    with (tmp_path / "flexai.env").open("a") as file:
        file.write(f"FLEXAI_DATABASE_URL='{catalog}'\nFLEXAI_OWNER={new_owner()}\n")
    here = {"FLEXAI_DATABASE_URL": catalog, "FLEXAI_STORE": str(tmp_path / "store")}

    job = slurm.start(SCRIPTS / "nodes.sbatch", cwd=program.cwd, nodes=2)
    job.wait_for("begins", times=2)
    job.near_the_time_limit()
    code, out = job.end()
    assert (code, slurm.requeued) == (75, ["4242"]), out

    job = slurm.start(SCRIPTS / "nodes.sbatch", cwd=program.cwd, nodes=2, restarts=1)
    job.wait_for("goes on from checkpoint-7", times=2)
    code, out = job.end()
    assert (code, slurm.requeued) == (0, ["4242"]), out
    rows = program.run("training", "checkpoints", "my-run", "--json", env=here).json()
    assert sorted((row["name"], row["status"]) for row in rows) == [
        ("checkpoint-7", "available"),
        ("checkpoint-8", "available"),
    ]
