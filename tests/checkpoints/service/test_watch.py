"""Capturing a directory that another program writes to."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from flexai.checkpoints.errors import ConflictError, InvalidNameError, UsageError
from flexai.checkpoints.models import JobStatus, TrainingJob
from flexai.checkpoints.service.training import inspect_job, job_log, list_rest, stop_job, watch_directory
from flexai.checkpoints.service.training_requests import CaptureJobRequest
from tests.checkpoints.training.trainers import save, trainer_files
from tests.support.machine import Machine
from tests.support.small_disk import needs_tmpfs, small_disk
from tests.support.training import WAIT, Notes, captured, contents, run, wait_until


def watch(machine: Machine, directory: Path, act: Callable[[], object], name: str = "run") -> TrainingJob:
    """Watch a directory while ``act`` runs, and end the watching by SIGTERM."""
    notes = Notes()

    def other() -> None:
        wait_until(lambda: any(message.startswith("watching ") for message in notes.messages))
        try:
            act()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    writer = threading.Thread(target=other)
    writer.start()
    try:
        return watch_directory(machine.system, CaptureJobRequest(name, str(directory)), progress=notes)
    finally:
        writer.join()


def test_what_another_program_writes_is_captured_until_the_watching_is_stopped(
    machine: Machine, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    save(out / "checkpoint-5", trainer_files(5))

    def write() -> None:
        save(out / "checkpoint-10", trainer_files(10))
        (out / "metrics.csv").write_text("step,loss")
        wait_until(lambda: len(captured(machine)) == 2)
        save(out / "checkpoint-15", trainer_files(15))

    job = watch(machine, out, write)
    assert (job.status, job.exit_code, job.reason) == (JobStatus.STOPPED, None, "preempted by SIGTERM: stored step 15")
    assert job.command == (f"(watching {out})",)
    assert contents(machine) == [(f"checkpoint-{step}", trainer_files(step)) for step in (5, 10, 15)]
    assert {path.name for path in out.iterdir()} == {"checkpoint-5", "checkpoint-10", "checkpoint-15", "metrics.csv"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [one.path for one in list_rest(machine.system, job.id)] == ["metrics.csv"]
    assert f"[flexai] watching {out}" in "".join(job_log(machine.system, "run"))


def test_a_later_watching_goes_on_and_captures_nothing_twice(machine: Machine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    watch(machine, out, lambda: save(out / "checkpoint-5", trainer_files(5)))
    save(out / "checkpoint-10", trainer_files(10))
    job = watch(machine, out, lambda: save(out / "checkpoint-15", trainer_files(15)))
    assert job.attempt == 2
    assert contents(machine) == [(f"checkpoint-{step}", trainer_files(step)) for step in (5, 10, 15)]


@needs_tmpfs
def test_a_volume_of_its_own_is_watched_and_what_its_writer_deletes_is_kept(machine: Machine, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with small_disk(out, 8 * 1024):

        def write() -> None:
            for count, step in enumerate((5, 10), 1):
                save(out / f"checkpoint-{step}", trainer_files(step))
                wait_until(partial(lambda count: len(captured(machine)) == count, count))
                shutil.rmtree(out / f"checkpoint-{step}")

        assert watch(machine, out, write).lost == 0
        assert contents(machine) == [(f"checkpoint-{step}", trainer_files(step)) for step in (5, 10)]
        assert list(out.iterdir()) == []
    assert "cannot be pinned" not in "".join(job_log(machine.system, "run"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_watching_is_stopped_like_a_job(machine: Machine, tmp_path: Path) -> None:
    notes = Notes()

    def stop() -> None:
        wait_until(lambda: any(message.startswith("watching ") for message in notes.messages))
        stop_job(machine.system, "run")

    stopper = threading.Thread(target=stop)
    stopper.start()
    job = watch_directory(machine.system, CaptureJobRequest("run", str(tmp_path / "out")), progress=notes)
    stopper.join()
    assert (job.status, job.reason) == (JobStatus.STOPPED, "stopped on request")


def test_a_directory_whose_job_captures_it_itself_is_not_watched(machine: Machine, tmp_path: Path) -> None:
    def look(_stream: str, data: bytes) -> None:
        if b"ready" in data:
            for name in ("run", "other"):
                with pytest.raises(ConflictError, match="is running with the output directory"):
                    watch_directory(machine.system, CaptureJobRequest(name, str(tmp_path / "out")))
            os.kill(os.getpid(), signal.SIGTERM)

    run(machine, WAIT, output_dir=tmp_path / "out", on_output=look)
    assert inspect_job(machine.system, "run").attempt == 1


def test_what_cannot_be_watched_is_refused(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be used"):
        watch_directory(machine.system, CaptureJobRequest("run", str(tmp_path / "file")))
    with pytest.raises(InvalidNameError):
        CaptureJobRequest("a b", str(tmp_path))
    assert machine.system.catalog.jobs.list() == []
