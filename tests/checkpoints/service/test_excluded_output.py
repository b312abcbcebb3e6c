"""What a training job's capture leaves out, from its command to the job's end and after a runner's death."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.models import JobStatus
from flexai.checkpoints.service.training import capture_left, inspect_job, list_rest
from flexai.checkpoints.service.training_requests import CaptureJobRequest, TrainingRequest
from tests.checkpoints.training.trainers import Files, trainer_files
from tests.support.machine import Machine, check_nothing_is_torn
from tests.support.training import SAVE, Notes, contents, kill_a_runner, left_of, run

WRITTEN = f"""
step = 5; {SAVE}
save(output() / "samples", {{"one.bin": b"sample"}})
save(output(), {{"train.log": b"step 5", "notes.csv": b"a"}})
"""


def kept() -> Files:
    return {name: content for name, content in trainer_files(5).items() if name != "optimizer.pt"}


def rest_of(machine: Machine, name: str = "run") -> list[str]:
    return [file.path for file in list_rest(machine.system, inspect_job(machine.system, name).id)]


def test_what_is_excluded_is_stored_neither_in_a_checkpoint_nor_with_the_job_and_that_is_said(machine: Machine) -> None:
    notes = Notes()
    job = run(machine, WRITTEN, exclude=["optimizer.pt", "samples/", "*.csv"], progress=notes)
    assert (job.status, job.reason) == (JobStatus.SUCCEEDED, "")
    assert contents(machine) == [("checkpoint-5", kept())]
    assert rest_of(machine) == ["train.log"]
    assert left_of(machine, job) == {"log.txt"}, "what is excluded keeps no output directory"
    (said,) = [message for message in notes.messages if "left out" in message]
    assert said.startswith("'checkpoint-5/optimizer.pt' and 2 more left out, as --exclude, .flexaiignore or the")
    check_nothing_is_torn(machine)


def test_what_is_excluded_stays_in_a_directory_that_the_user_named(machine: Machine, tmp_path: Path) -> None:
    run(machine, WRITTEN, exclude=["samples/"], output_dir=tmp_path / "out")
    assert (tmp_path / "out" / "samples" / "one.bin").read_bytes() == b"sample"


def test_a_training_names_what_is_left_out_by_its_own_ignore_file(machine: Machine) -> None:
    run(machine, f'save(output(), {{".flexaiignore": b"optimizer.pt\\nsamples/\\n"}})\n{WRITTEN}')
    assert contents(machine) == [("checkpoint-5", kept())]
    assert sorted(rest_of(machine)) == ["notes.csv", "train.log"]


def test_what_a_killed_runner_left_is_stored_by_the_patterns_that_its_attempt_began_with(
    machine: Machine, tmp_path: Path
) -> None:
    kill_a_runner(machine, f"\n{WRITTEN}\n", output=str(tmp_path / "out"), exclude="optimizer.pt samples/ *.csv")
    notes = Notes()
    capture_left(machine.system, CaptureJobRequest("run"), progress=notes)
    assert contents(machine) == [("checkpoint-5", kept())]
    assert rest_of(machine) == ["train.log"]
    assert any("left out" in message for message in notes.messages)


def test_files_that_look_like_secrets_are_named_once_before_they_are_stored(machine: Machine) -> None:
    notes = Notes()
    program = """
for step in (5, 6):
    save(output() / f"checkpoint-{step}", trainer_files(step) | {".env": b"TOKEN=1"})
save(output(), {"key.pem": b"key"})
"""
    run(machine, program, progress=notes)
    said = [message for message in notes.messages if "secret" in message]
    assert len(said) == 2
    assert said[0].endswith("/.env' looks like a secret, and will be stored: --exclude leaves out what should not")
    assert said[1].startswith("'key.pem' looks like a secret")


def test_an_excluded_log_tells_no_metrics(machine: Machine) -> None:
    program = f"""
step = 10; {SAVE}
(output() / "metrics.csv").write_text("step,val_f1\\n10,0.5\\n")
"""
    run(machine, program, exclude=["metrics.csv"])
    (found,) = machine.system.catalog.checkpoints.of_job(inspect_job(machine.system, "run").id)
    assert "val_f1" not in found.facts.metrics


def test_patterns_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="a pattern of exclude names nothing"):
        TrainingRequest("run", ["true"], exclude=[" "])
    with pytest.raises(UsageError, match="a pattern of exclude has a byte that is no UTF-8"):
        TrainingRequest("run", ["true"], exclude=["\udcff"])
    with pytest.raises(UsageError, match="exclude needs watch"):
        CaptureJobRequest("run", exclude=["*.tmp"])
