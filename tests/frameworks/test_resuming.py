"""A training that was stopped or killed goes on by `--checkpoint latest`: its framework loads what it is given."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.frameworks.harness import Case, Trainer, compare
from tests.frameworks.test_captures import CASES
from tests.support.waiting import until

pytestmark = pytest.mark.frameworks

RESUMED = [case for case in CASES if case.resumes == "tried"]


@pytest.mark.parametrize("case", RESUMED, ids=[case.id for case in RESUMED])
def test_a_stopped_and_then_killed_training_loses_no_save_and_goes_on_by_latest(
    case: Case, frameworks: Path, tmp_path: Path
) -> None:
    trainer = Trainer(tmp_path, frameworks / "bin/python", case.script, case.argument)

    job = trainer.start(mode="term")
    until(lambda: len(trainer.saved()) >= 3 or job.poll() is not None, "three saves")
    job.send_signal(signal.SIGTERM)
    printed = "".join(job.communicate())
    assert job.returncode == 0, printed
    at_signal = trainer.saved()[-1].step

    code, printed = trainer.run("--checkpoint", "latest", mode="kill")
    assert code == 128 + signal.SIGKILL, printed
    assert trainer.resumed_at() == at_signal
    before_kill = trainer.saved()[-1].step
    assert (before_kill or 0) > (at_signal or 0)

    code, printed = trainer.run("--checkpoint", "latest", saves=2)
    assert code == 0, printed
    assert trainer.resumed_at() == before_kill
    faults = compare(trainer, case).faults
    assert not faults, "\n".join([*faults, printed])
