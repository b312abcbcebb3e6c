"""``flexai training capture`` and ``training files`` as a person calls them."""

from __future__ import annotations

import json
import signal

from tests.checkpoints.training.trainers import program as trainer
from tests.checkpoints.training.trainers import save, trainer_files
from tests.cli.program import Program

LOGGING = trainer("save(output() / 'checkpoint-5', trainer_files(5)); (output() / 'a.log').write_text('line')")


def test_a_job_of_which_nothing_is_left_is_captured_with_nothing_to_do(program: Program) -> None:
    program.run("training", "run", "run", "--", *LOGGING)
    done = program.run("training", "capture", "run")
    assert done.code == 0
    assert "nothing is left of it on this machine" in done.err
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
    watching = program.start("training", "capture", "notebook", "--watch", str(out))
    assert watching.stderr is not None
    said = []
    for line in watching.stderr:
        said.append(line)
        if line.startswith("captured "):
            watching.send_signal(signal.SIGTERM)
    assert watching.wait() == 0, "".join(said)
    assert "training job 'notebook' is no longer watched\n" in said
    job = json.loads(program.run("training", "inspect", "notebook", "--json").out)
    assert (job["runtime"]["status"], job["spec"]["command"]) == ("stopped", [f"(watching {out})"])
