"""What could not be stored: by whom, and when, it is stored after all, and that nothing of it stays behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from flexai.checkpoints.errors import ConflictError, UsageError
from flexai.checkpoints.models import CheckpointStatus, JobStatus, TrainingJob
from flexai.checkpoints.service.training import capture_left, delete_job, inspect_job
from flexai.checkpoints.service.training_requests import CaptureJobRequest, DeleteJobRequest
from flexai.checkpoints.training.runner import OnOutput
from tests.checkpoints.training.trainers import trainer_files, unknown_files
from tests.support.faults import FaultyCatalog
from tests.support.fixtures import NewMachine
from tests.support.machine import Machine, check_nothing_is_torn
from tests.support.small_disk import needs_tmpfs, small_disk
from tests.support.training import SAVE, WAIT, Notes, captured, captures, contents, kill_a_runner, run, wait_until

pytestmark = pytest.mark.slow

MiB = 1024 * 1024
BOTH = "\n".join(f"step = {step}; {SAVE}; time.sleep(0.3)" for step in (5, 10))
DELETE_FIRST = "shutil.rmtree(output() / 'checkpoint-5'); time.sleep(0.3)"


@contextmanager
def refusing_store(machine: Machine) -> Iterator[None]:
    """A store that takes nothing while the block runs."""
    blobs = machine.store_folder / "blobs"
    shutil.rmtree(blobs, ignore_errors=True)
    blobs.write_text("in the way")
    yield
    blobs.unlink()


@pytest.fixture
def catalog(machine: Machine) -> FaultyCatalog:
    """The machine's catalog, which can be taken away, and is not waited for."""
    database = machine.system.catalog.database
    machine.system.settings = machine.settings._replace(patience=timedelta(0))
    return FaultyCatalog(database)


def taken_away(catalog: FaultyCatalog) -> OnOutput:
    """Take the catalog away when the command prints something."""
    return lambda _stream, _data: setattr(catalog, "down_from", 0)


def capture(machine: Machine, name: str = "run") -> tuple[int, tuple[str, ...]]:
    """How many checkpoints were stored, and what is left."""
    found = capture_left(machine.system, CaptureJobRequest(name))
    return found.stored, found.left


def has_captured(machine: Machine, count: int) -> bool:
    """Whether a job has so many checkpoints, whole or not."""
    return len(captures(machine, "run")) >= count


def left_of_job(machine: Machine, job: TrainingJob) -> set[str]:
    """Files and folders of a job's ended attempts on this machine."""
    folder = machine.settings.jobs_path / job.id
    return {path.relative_to(folder).as_posix() for path in folder.glob("*/*")}


def test_what_the_store_did_not_take_is_stored_by_the_next_run_though_the_trainer_had_deleted_it(
    machine: Machine,
) -> None:
    with refusing_store(machine):
        first = run(machine, f"{BOTH}\n{DELETE_FIRST}")
    assert (first.status, contents(machine)) == (JobStatus.FAILED, [])
    job = run(machine, f"step = 15; {SAVE}")
    assert job.status is JobStatus.SUCCEEDED
    assert contents(machine) == [(f"checkpoint-{step}", trainer_files(step)) for step in (5, 10, 15)]
    assert [one.status for one in captures(machine, "run")] == [CheckpointStatus.AVAILABLE] * 3
    assert left_of_job(machine, job) == {"attempt-1/log.txt", "attempt-2/log.txt"}
    check_nothing_is_torn(machine)


def test_what_the_store_did_not_take_is_stored_by_a_capture_of_the_job_once(machine: Machine) -> None:
    with refusing_store(machine):
        run(machine, f"{BOTH}\n{DELETE_FIRST}")
        stored, left = capture(machine)
        assert stored == 0
        assert left[0].startswith("checkpoint 'checkpoint-5' could not be stored: ")
    assert capture(machine) == (2, ())
    assert contents(machine) == [(f"checkpoint-{step}", trainer_files(step)) for step in (5, 10)]
    job = inspect_job(machine.system, "run")
    assert (job.status, job.reason) == (JobStatus.SUCCEEDED, ""), "it had failed for this alone"
    assert left_of_job(machine, job) == {"attempt-1/log.txt"}
    assert capture(machine) == (0, ())
    assert len(captured(machine)) == 2


def test_a_folder_of_no_known_layout_that_was_whole_once_is_stored_later(new_machine: NewMachine) -> None:
    machine = new_machine(quiet_period="1s")
    with refusing_store(machine):
        run(machine, "save(output() / 'odd', unknown_files(3)); time.sleep(2.5); shutil.rmtree(output() / 'odd')")
    assert capture(machine) == (1, ())
    assert contents(machine) == [("odd", unknown_files(3))]


def test_what_is_stored_later_is_not_called_torn_and_removed(machine: Machine) -> None:
    with refusing_store(machine):
        run(machine, "save(output() / 'odd', unknown_files(3))")
    progress = Notes()
    assert capture_left(machine.system, CaptureJobRequest("run"), progress=progress).stored == 1
    assert contents(machine) == [("odd", unknown_files(3))]
    assert [one for one in progress.messages if "not captured" in one or "removed" in one] == []


def test_a_job_that_runs_is_captured_by_its_runner_alone(machine: Machine) -> None:
    def look(_stream: str, data: bytes) -> None:
        if b"ready" in data:
            with pytest.raises(ConflictError, match="captures what it writes itself"):
                capture(machine)
            os.kill(os.getpid(), signal.SIGTERM)

    run(machine, WAIT, on_output=look)


def test_what_a_killed_runner_left_is_captured_without_another_run(machine: Machine) -> None:
    kill_a_runner(machine, f"\nstep = 5; {SAVE}\n")
    stored, left = capture(machine)
    assert (stored + len(captured(machine)) >= 1, left) == (True, ())
    assert contents(machine) == [("checkpoint-5", trainer_files(5))]
    assert left_of_job(machine, inspect_job(machine.system, "run")) == {"attempt-1/log.txt"}


def test_files_of_no_known_layout_that_were_being_written_are_kept_and_said(machine: Machine) -> None:
    kill_a_runner(machine, "(output() / 'odd').mkdir(); (output() / 'odd' / 'weights.custom').write_text('half')")
    notes = Notes()
    job = run(machine, "pass", progress=notes)
    kept = machine.settings.jobs_path / job.id / "attempt-1" / "unfinished"
    assert (kept / "odd" / "weights.custom").read_text() == "half"
    assert any(str(kept) in message for message in notes.messages)
    assert left_of_job(machine, job) == {"attempt-1/log.txt", "attempt-1/unfinished", "attempt-2/log.txt"}


def test_runners_killed_at_any_moment_leave_only_logs_after_the_next_run(machine: Machine) -> None:
    chance = random.Random(13)
    saves = "\n".join(
        f"step = {step}; {SAVE}; say('saved {step}'); time.sleep(0.02)\nif {step} > 2: "
        f"shutil.rmtree(output() / 'checkpoint-{step - 2}', ignore_errors=True)"
        for step in range(1, 30)
    )
    for _ in range(3):
        count = len(captures(machine, "run")) if machine.system.catalog.jobs.list() else 0
        enough = partial(has_captured, machine, count + chance.randrange(4))
        kill_a_runner(machine, f"say('ready')\n{saves}", until=enough)
    job = run(machine, "step = 40; " + SAVE)
    assert job.status is JobStatus.SUCCEEDED
    assert left_of_job(machine, job) == {f"attempt-{number}/log.txt" for number in range(1, 5)}
    check_nothing_is_torn(machine)
    for name, files in contents(machine):
        assert files == trainer_files(int(name.removeprefix("checkpoint-")))


# A catalog that is away at the end.


def test_an_end_that_could_not_be_recorded_is_kept_and_recorded_by_a_capture(
    machine: Machine, catalog: FaultyCatalog
) -> None:
    def take_away(_stream: str, data: bytes) -> None:
        if b"saved" in data:
            wait_until(lambda: len(captured(machine)) == 1)
            catalog.down_from = 0

    job = run(machine, f"step = 5; {SAVE}; say('saved'); time.sleep(1); sys.exit(3)", on_output=take_away)
    assert (job.status, job.exit_code) == (JobStatus.FAILED, 3)
    raw = machine.system.catalog.jobs.get_by_id(job.id)
    assert (raw.status, raw.exit_code) == (JobStatus.INTERRUPTED, None)
    known = inspect_job(machine.system, "run")
    assert (known.status, known.exit_code, known.reason) == (JobStatus.FAILED, 3, "the command ended with exit code 3")
    catalog.down_from = None
    assert capture(machine) == (0, ())
    assert machine.system.catalog.jobs.get_by_id(job.id)._replace(updated_at=known.updated_at) == known


def test_a_success_that_could_not_be_recorded_is_not_run_again(machine: Machine, catalog: FaultyCatalog) -> None:
    job = run(machine, "say('ready'); time.sleep(0.5)", on_output=taken_away(catalog))
    assert job.status is JobStatus.SUCCEEDED
    catalog.down_from = None
    assert run(machine, "exit(1)", reuse_succeeded=True).status is JobStatus.SUCCEEDED
    with pytest.raises(ConflictError, match="already succeeded"):
        run(machine, "exit(1)")
    assert machine.system.catalog.jobs.get_by_id(job.id).attempt == 1


def test_a_catalog_that_is_away_at_the_end_is_waited_for_once_and_not_for_each_step(
    machine: Machine, catalog: FaultyCatalog
) -> None:
    notes = Notes()
    text = f"say('ready'); time.sleep(1)\nfor step in range(1, 6): {SAVE}"
    job = run(machine, text, on_output=taken_away(catalog), progress=notes)
    assert (job.status, job.exit_code) == (JobStatus.FAILED, 0)
    given_up = [note for note in notes.messages if "not waited for any more" in note]
    assert len([note for note in given_up if "checkpoint 'checkpoint-" in note]) == 5
    assert len([note for note in notes.messages if note.startswith("the job's end could not be recorded")]) == 1
    catalog.down_from = None
    assert capture(machine) == (5, ())
    assert inspect_job(machine.system, "run").status is JobStatus.SUCCEEDED


# A full disk.


@needs_tmpfs
def test_a_store_without_room_is_tried_again_while_the_job_runs(new_machine: NewMachine, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1024) as disk:
        machine = new_machine(store=str(disk.folder / "store"))

        def make_room(_stream: str, data: bytes) -> None:
            if b"saved" in data:
                wait_until(lambda: any("no space is left" in one.reason for one in captures(machine, "run")))
                disk.grow(16 * 1024)
                (tmp_path / "grown").touch()

        text = "save(output() / 'checkpoint-5', {'extra.bin': os.urandom(2 * 1024 * 1024)} | trainer_files(5))"
        job = run(machine, f"{text}; say('saved'); wait_for(Path({str(tmp_path / 'grown')!r}))", on_output=make_room)
        assert job.status is JobStatus.SUCCEEDED, job.reason
        assert [(one.name, one.status) for one in captures(machine, "run")] == [
            ("checkpoint-5", CheckpointStatus.AVAILABLE)
        ]


@needs_tmpfs
def test_what_a_full_store_did_not_take_until_the_end_is_stored_by_the_next_run(
    new_machine: NewMachine, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 1024) as disk:
        machine = new_machine(store=str(disk.folder / "store"))
        text = "save(output() / 'checkpoint-5', {'extra.bin': os.urandom(2 * 1024 * 1024)} | trainer_files(5))"
        first = run(machine, text)
        assert (first.status, first.exit_code) == (JobStatus.FAILED, 0)
        assert "no space is left" in "".join(one.reason for one in captures(machine, "run"))
        disk.grow(16 * 1024)
        assert run(machine, "pass").status is JobStatus.SUCCEEDED
        assert [(one.name, one.status) for one in captures(machine, "run")] == [
            ("checkpoint-5", CheckpointStatus.AVAILABLE)
        ]


# A directory that the user named, used again.


def test_the_next_attempt_may_use_the_directory_again_and_captures_only_what_is_new(
    machine: Machine, tmp_path: Path
) -> None:
    run(machine, f"{BOTH}\nexit(1)", output_dir=tmp_path / "out")
    job = run(machine, f"step = 15; {SAVE}", output_dir=tmp_path / "out", checkpoint="latest")
    assert job.status is JobStatus.SUCCEEDED
    assert contents(machine) == [(f"checkpoint-{step}", trainer_files(step)) for step in (5, 10, 15)]
    assert not list(tmp_path.glob(".*pins*"))


def test_what_is_in_the_directory_and_was_not_stored_is_stored_before_the_command_begins(
    machine: Machine, tmp_path: Path
) -> None:
    with refusing_store(machine):
        run(machine, f"{BOTH}\n{DELETE_FIRST}\nexit(1)", output_dir=tmp_path / "out")
    job = run(machine, "pass", output_dir=tmp_path / "out", checkpoint="latest")
    assert contents(machine) == [(f"checkpoint-{step}", trainer_files(step)) for step in (5, 10)]
    assert job.input_checkpoint_id == captured(machine)[1].id
    assert not list(tmp_path.glob(".*pins*"))


def test_a_directory_that_another_running_job_uses_is_refused(machine: Machine, tmp_path: Path) -> None:
    def look(_stream: str, data: bytes) -> None:
        if b"ready" in data:
            with pytest.raises(ConflictError, match="is running with the output directory"):
                run(machine, "pass", name="other", output_dir=tmp_path / "out")
            os.kill(os.getpid(), signal.SIGTERM)

    run(machine, WAIT, output_dir=tmp_path / "out", on_output=look)
    assert [job.name for job in machine.system.catalog.jobs.list()] == ["run"]


def test_a_directory_of_another_job_that_is_not_empty_is_refused(machine: Machine, tmp_path: Path) -> None:
    run(machine, f"step = 5; {SAVE}", output_dir=tmp_path / "out")
    with pytest.raises(UsageError, match="is not empty"):
        run(machine, "pass", name="other", output_dir=tmp_path / "out")


# Deleting.


def test_what_is_not_stored_is_stored_before_its_job_is_deleted(machine: Machine) -> None:
    with refusing_store(machine):
        job = run(machine, f"step = 5; {SAVE}")
        with pytest.raises(ConflictError, match="has left what is not stored"):
            delete_job(machine.system, DeleteJobRequest("run", keep_checkpoints=True))
        assert inspect_job(machine.system, "run").id == job.id
    delete_job(machine.system, DeleteJobRequest("run", keep_checkpoints=True))
    (kept,) = [one for one in machine.checkpoints(CheckpointStatus.AVAILABLE) if one.job_id == job.id]
    assert machine.fetched(kept.id) == trainer_files(5)
    assert not list(machine.settings.jobs_path.iterdir())


def test_what_is_not_stored_goes_with_its_job_where_the_user_says_so(machine: Machine) -> None:
    with refusing_store(machine):
        run(machine, f"step = 5; {SAVE}")
        delete_job(machine.system, DeleteJobRequest("run", discard=True))
    assert machine.system.catalog.jobs.list() == []
    assert not list(machine.settings.jobs_path.iterdir())
