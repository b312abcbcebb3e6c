"""Trainers that report what they save, by our callbacks: each save is captured, whatever happens beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frameworks.harness import Case, Trainer, compare

pytestmark = pytest.mark.frameworks

SAVES = 30
CASES = (
    Case("transformers", "transformers_trainer", "rotating", "", resumes="tried"),
    Case("accelerate", "accelerate_state", "automatic", "", resumes="yes"),
    Case("lightning", "lightning_fit", "copy", "", resumes="tried"),
    Case("lightning", "lightning_fit", "link", "", resumes="yes"),
    Case("lightning", "lightning_fit", "default", "", resumes="yes"),
)
all_cases = pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
both_ways = pytest.mark.parametrize("is_alone", [True, False], ids=["alone", "below-training-run"])


def check_all_captured(trainer: Trainer, case: Case, printed: str) -> None:
    outcome = compare(trainer, case)
    assert not outcome.faults, "\n".join([*outcome.faults, printed])
    captured, saved = map(sum, zip(outcome.paced, outcome.fast, strict=True))
    assert (captured, saved, outcome.lost) == (SAVES, SAVES, 0)


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
def test_a_helper_that_is_killed_between_two_saves_loses_none(case: Case, frameworks: Path, tmp_path: Path) -> None:
    trainer = Trainer(tmp_path, frameworks / "bin/python", case.script, case.argument, reports=True, is_alone=True)
    code, printed = trainer.run(mode="kill-helper")
    assert code == 0, printed
    assert "RuntimeWarning" in printed and "was started again" in printed
    check_all_captured(trainer, case, printed)
