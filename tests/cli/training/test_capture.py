"""``flexai training capture`` and ``training files`` as a person calls them."""

from __future__ import annotations

import json
import signal

import pytest

from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.training import Captured, inspect_job
from flexai.checkpoints.service.training_requests import CaptureJobRequest
from flexai.cli import terminal
from tests.checkpoints.training.trainers import program as trainer
from tests.checkpoints.training.trainers import save, trainer_files
from tests.cli.conftest import Run
from tests.cli.program import Program

LOGGING = trainer("save(output() / 'checkpoint-5', trainer_files(5)); (output() / 'a.log').write_text('line')")


def test_a_job_of_which_nothing_is_left_is_captured_with_nothing_to_do(program: Program) -> None:
    program.run("training", "run", "run", "--", *LOGGING)
    done = program.run("training", "capture", "run")
    assert done.code == 0
    assert "nothing is left of it on this machine" in done.err
    told = program.run("training", "capture", "run", "--json")
    job_id = program.run("training", "inspect", "run", "--json").json()["metadata"]["id"]
    assert (told.code, told.json()) == (0, {"name": "run", "id": job_id, "stored": 0, "left": []})
    assert program.run("training", "capture", "missing").code == 3


def test_what_a_job_wrote_beside_its_checkpoints_is_listed_and_fetched(program: Program) -> None:
    program.run("training", "run", "run", "--", *LOGGING)
    assert program.run("training", "files", "run", "--json").json() == [
        {"archive": "attempt-1", "path": "a.log", "sizeBytes": 4}
    ]
    assert "a.log" in program.run("training", "files", "run").out
    assert program.run("training", "files", "run", "-d", str(program.cwd / "out")).code == 0
    assert (program.cwd / "out" / "attempt-1" / "a.log").read_text() == "line"


def test_a_watching_that_is_told_to_end_ends_well(program: Program) -> None:
    out = program.cwd / "watched"
    save(out / "checkpoint-5", trainer_files(5))
    watching = program.start("training", "capture", "notebook", "--watch", str(out), "--json")
    assert watching.stderr is not None and watching.stdout is not None
    said = []
    for line in watching.stderr:
        said.append(line)
        if line.startswith("captured "):
            watching.send_signal(signal.SIGTERM)
    assert watching.wait() == 0, "".join(said)
    assert "training job 'notebook' is no longer watched\n" in said
    job = json.loads(program.run("training", "inspect", "notebook", "--json").out)
    told = json.loads(watching.stdout.read())
    assert told == {"name": "notebook", "id": job["metadata"]["id"], "stored": 1, "left": []}
    assert (job["runtime"]["status"], job["spec"]["command"]) == ("stopped", [f"(watching {out})"])


def test_of_much_that_is_left_some_is_named_and_all_of_it_in_json(
    program: Program, flexai: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.run("training", "run", "run", "--", "true")
    left = [f"checkpoint-{number} could not be stored: the disk is full" for number in range(terminal.MOST_LINES + 4)]

    def stores_nothing(system: System, request: CaptureJobRequest, **_: object) -> Captured:
        return Captured(inspect_job(system, request.reference), 0, tuple(left))

    monkeypatch.setattr("flexai.checkpoints.service.training.capture_left", stores_nothing)
    done = flexai("training", "capture", "run", "--json")
    assert (done.code, done.json()["left"]) == (1, left)
    said = [line.removeprefix("warning: ") for line in done.err.splitlines() if line.startswith("warning: ")]
    assert said == [*left[: terminal.MOST_LINES], "… and 4 more, which --json shows"]
