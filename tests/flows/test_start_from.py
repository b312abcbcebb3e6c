"""What train-push-export starts from where an earlier attempt of its job was broken off."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest

from flexai.checkpoints.models import JobStatus, TrainingFacts
from flexai.flows.train_push_export import _start_from
from flexai.flows.training_forms import TrainingSpec
from tests.support.fixtures import fast_path, home_template, machine, new_machine, no_settings_of_this_machine
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import Machine

__all__ = ["fast_path", "home_template", "machine", "new_machine", "no_settings_of_this_machine"]

FIT, UNFIT, UNKNOWN = (TrainingFacts(resumable=resumable) for resumable in (True, False, None))


@pytest.mark.parametrize(
    ("status", "captured", "asked", "expected"),
    [
        (JobStatus.STOPPED, [FIT, UNFIT], "base", "latest"),
        (JobStatus.STOPPED, [UNFIT, UNKNOWN], "", "latest"),
        (JobStatus.STOPPED, [UNFIT], "", ""),
        (JobStatus.STOPPED, [UNFIT], "base", "base"),
        # One may lie on the machine still, and the next attempt stores it before it chooses.
        (JobStatus.INTERRUPTED, [], "", "latest"),
        (JobStatus.INTERRUPTED, [], "base", "base"),
        (JobStatus.FAILED, [FIT], "base", "base"),
        (JobStatus.SUCCEEDED, [FIT], "", ""),
    ],
)
def test_a_broken_job_goes_on_from_what_is_not_known_to_be_unfit_and_else_as_it_was_asked_to(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    status: JobStatus,
    captured: Sequence[TrainingFacts],
    asked: str,
    expected: str,
) -> None:
    monkeypatch.setenv("FLEXAI_HOME", str(machine.settings.home))
    job = begin_job(machine, "digits", status=status)
    for number, facts in enumerate(captured):
        capture_files(machine, job, f"checkpoint-{number}", {"w.bin": b"w"}, facts=facts)
    spec = TrainingSpec(name="digits", command=["true"], checkpoint=asked)
    assert _start_from(spec, "digits", logging.getLogger("test")) == expected
