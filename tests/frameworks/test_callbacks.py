"""Trainers that report what they save, by our callbacks: each save is captured, whatever happens beside it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from flexai.checkpoints.models import JobStatus
from flexai.training import MOST_WAITING
from tests.frameworks.harness import Case, Trainer, compare
from tests.support.small_disk import needs_tmpfs, small_disk
from tests.support.waiting import until

pytestmark = pytest.mark.frameworks

SAVES = 30
HELPER_KILLED_AT = 25
"""As ``trainers/truth.py`` has it."""
CASES = (
    Case("transformers", "transformers_trainer", "rotating", "", resumes="tried"),
    Case("accelerate", "accelerate_state", "automatic", "", resumes="yes"),
    Case("lightning", "lightning_fit", "copy", "", resumes="tried"),
    Case("lightning", "lightning_fit", "link", "", resumes="yes"),
    Case("lightning", "lightning_fit", "default", "", resumes="yes"),
)
all_cases = pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
both_ways = pytest.mark.parametrize("is_alone", [True, False], ids=["alone", "below-training-run"])


def job_status(trainer: Trainer) -> JobStatus | None:
    job = trainer.job()
    return None if job is None else job.status


def _is_full(folder: Path) -> bool:
    room = os.statvfs(folder)
    return room.f_bavail * room.f_frsize < 64 * 1024


def check_none_is_lost(trainer: Trainer, case: Case, printed: str) -> None:
    outcome = compare(trainer, case)
    assert not outcome.faults, "\n".join([*outcome.faults, printed])
    captured, saved = map(sum, zip(outcome.paced, outcome.fast, strict=True))
    assert (captured, outcome.lost) == (saved, 0)


def check_all_captured(trainer: Trainer, case: Case, printed: str) -> None:
    check_none_is_lost(trainer, case, printed)
    assert len(trainer.saved()) == SAVES


@all_cases
@both_ways
def test_each_of_thirty_saves_is_captured_where_one_stays_on_the_disk(
    case: Case, is_alone: bool, frameworks: Path, tmp_path: Path
) -> None:
    trainer = Trainer(tmp_path, frameworks / "bin/python", case.script, case.argument, reports=True, is_alone=is_alone)
    code, printed = trainer.run()
    assert code == 0, printed
    assert "RuntimeWarning" not in printed
    check_all_captured(trainer, case, printed)


@pytest.mark.parametrize("case", CASES[:3], ids=[case.id for case in CASES[:3]])
def test_the_processes_of_a_training_make_one_checkpoint_of_each_save(
    case: Case, frameworks: Path, tmp_path: Path
) -> None:
    trainer = Trainer(
        tmp_path, frameworks / "bin/python", case.script, case.argument, reports=True, is_alone=True, ranks=2
    )
    code, printed = trainer.run()
    assert code == 0, printed
    check_all_captured(trainer, case, printed)


@both_ways
def test_eight_processes_that_report_make_one_checkpoint_of_each_save(
    is_alone: bool, frameworks: Path, tmp_path: Path
) -> None:
    case = Case("torch", "dcp_ranks", "", "", resumes="no")
    trainer = Trainer(tmp_path, frameworks / "bin/python", case.script, reports=True, is_alone=is_alone, ranks=8)
    code, printed = trainer.run()
    assert code == 0, printed
    check_all_captured(trainer, case, printed)


@both_ways
def test_what_trainer_saves_because_of_a_sigterm_is_captured(is_alone: bool, frameworks: Path, tmp_path: Path) -> None:
    case = Case("transformers", "transformers_jit", "", "", resumes="yes")
    trainer = Trainer(tmp_path, frameworks / "bin/python", case.script, reports=True, is_alone=is_alone)
    process = trainer.start()
    until(lambda: len(trainer.saved()) >= 2 or process.poll() is not None, "two saves")
    process.send_signal(signal.SIGTERM)
    printed = "".join(process.communicate())
    assert process.returncode == 0, printed
    assert (trainer.saved()[-1].step or 0) > 14
    check_none_is_lost(trainer, case, printed)
    assert job_status(trainer) is JobStatus.STOPPED


@needs_tmpfs
@pytest.mark.parametrize("case", CASES[:3], ids=[case.id for case in CASES[:3]])
def test_a_store_that_is_full_and_a_helper_that_is_killed_later_lose_no_save(
    case: Case, frameworks: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "home", kibibytes=1200) as disk:
        trainer = Trainer(tmp_path, frameworks / "bin/python", case.script, case.argument, reports=True, is_alone=True)
        process = trainer.start(mode="kill-helper")
        reports = tmp_path / ".out.flexai-reports"
        until(
            lambda: (
                (_is_full(disk.folder) and len(list(reports.glob("0*"))) >= MOST_WAITING) or process.poll() is not None
            ),
            "a full store, and a training that waits for it",
        )
        assert process.poll() is None
        assert len(trainer.saved()) < HELPER_KILLED_AT
        disk.grow(kibibytes=64 * 1024)
        printed = "".join(process.communicate())
        assert process.returncode == 0, printed
        assert "RuntimeWarning" in printed and "was started again" in printed
        check_all_captured(trainer, case, printed)


@pytest.mark.parametrize("case", [CASES[0], CASES[2]], ids=[CASES[0].id, CASES[2].id])
def test_a_training_with_a_run_of_its_own_goes_on_after_sigterm_and_after_sigkill(
    case: Case, frameworks: Path, tmp_path: Path
) -> None:
    trainer = Trainer(tmp_path, frameworks / "bin/python", case.script, case.argument, reports=True, is_alone=True)

    process = trainer.start(mode="term")
    until(lambda: len(trainer.saved()) >= 3 or process.poll() is not None, "three saves")
    process.send_signal(signal.SIGTERM)
    printed = "".join(process.communicate())
    assert process.returncode == 0, printed
    assert job_status(trainer) is JobStatus.STOPPED
    at_signal = trainer.saved()[-1].step

    code, printed = trainer.run(mode="kill")
    assert code == -signal.SIGKILL, printed
    assert trainer.resumed_at() == at_signal
    until(lambda: job_status(trainer) is JobStatus.FAILED, "the helper to end the job")
    before_kill = trainer.saved()[-1].step

    code, printed = trainer.run(saves=2)
    assert code == 0, printed
    assert trainer.resumed_at() == before_kill
    check_none_is_lost(trainer, case, printed)
