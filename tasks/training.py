"""Training jobs, as tasks."""

from __future__ import annotations

import contextvars
import queue
import re
import shlex
import signal
import threading
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import Any

from prefect.exceptions import TerminationSignal
from prefect.utilities import engine
from prefect.utilities.engine import is_prefect_sigterm_handler_installed

from flexai.checkpoints.documents import Document, captured_list_document, deleted_job_document, job_document
from flexai.checkpoints.errors import InterruptedByUserError, JobFailedError, StorageUnavailableError
from flexai.checkpoints.models import Checkpoint, CheckpointStatus, JobStatus, TrainingJob, now
from flexai.checkpoints.names import parse_name
from flexai.checkpoints.service.inspect import captured_rows
from flexai.checkpoints.service.looking import look_at_catalog
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.training import Captured, capture_left, captured_document, delete_job, watch_directory
from flexai.checkpoints.service.training import run_training as run_command
from flexai.checkpoints.service.training_requests import CaptureJobRequest, DeleteJobRequest, TrainingRequest
from flexai.tasks.change_reports import Reporter
from flexai.tasks.command_output import LoggedOutput
from flexai.tasks.direct import task
from flexai.tasks.options import ONCE, QUICK, TAGS, Logger, load_connection, open_system, run_logger, takes, telling
from flexai.tasks.run_progress import RunProgress

_STOPPED_BY = re.compile(r"(stopped|preempted) by (SIG\w+)")
"""How a job's reason begins when its runner got a signal."""
PATIENCE_SECONDS = 20.0
"""How long the end of a run waits for the reports about it."""


class Aside:
    """Does one thing after the other in a thread of its own, in the context that it was made in.

    So a training does not wait for an API that is slow to take reports.
    """

    def __init__(self, logger: Logger, *, patience: float = PATIENCE_SECONDS) -> None:
        self._logger = logger
        self._patience = patience
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        # A daemon: where the API hangs, the work is done all the same.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="aside", daemon=True)
        self._thread.start()

    def do(self, act: Callable[[], object]) -> None:
        """Have something done, soon."""
        self._queue.put(act)

    def close(self) -> None:
        """Wait a while for what is still to be done."""
        self._queue.put(None)
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._logger.warning("Prefect was not told of everything, because it takes too long")

    def _run(self) -> None:
        while (act := self._queue.get()) is not None:
            try:
                act()
            except Exception:
                # A report that fails must not end the reports to come, nor the training that they are about.
                self._logger.exception("a report to Prefect has failed")

    def __enter__(self) -> Aside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@task(
    name="run-training",
    description="Run a training command and capture the checkpoints that it writes.",
    tags=TAGS | {"training"},
    task_run_name="train {name}",
    **ONCE,
)
@takes(TrainingRequest)
def run_training(request: TrainingRequest) -> Document:
    """Run a command as a training job, and return the job's document once it has succeeded.

    Nothing of this is tried again by itself: the next run of the same name trains again, as the job's next attempt.
    What the command prints is logged, thinned out where it is too much; ``flexai training logs NAME`` has it all.
    Prefect does not record the arguments of a task.

    Raises:
        CheckpointError: JobFailedError for a command that did not succeed, and what
            ``flexai.checkpoints.service.training.run_training`` raises.
    """
    logger = run_logger()
    with telling(logger), open_system() as system, LoggedOutput(logger) as output:
        reporter = Reporter(system, logger)
        logger.info("training job %r: %s", request.name, shlex.join(request.command))
        began = now()
        known = system.catalog.jobs.find(parse_name(request.name, what="training job name"))
        lost_before = 0 if known is None else known.lost
        try:
            with Aside(logger) as aside:
                job = run_command(
                    system,
                    request,
                    on_output=output,
                    on_captured=lambda captured: aside.do(lambda: reporter.captured(captured)),
                    progress=RunProgress(logger),
                    set_handler=_set_handler,
                )
        except InterruptedByUserError as error:
            _pass_on_signal(error.message)
            raise
        was_run = job.ended_at is None or job.ended_at >= began
        if was_run:
            _tell_failures(system, reporter, job, began)
            if job.lost > lost_before:
                reporter.lost(job, job.lost - lost_before)
            reporter.job_ended(job.id)
            reporter.catalog()
        if job.status is JobStatus.STOPPED:
            _pass_on_signal(job.reason)
        if job.status is not JobStatus.SUCCEEDED:
            reason = job.reason or f"exit code {job.exit_code}"
            raise JobFailedError(
                f"training job {job.name!r} {job.status}: {reason}",
                hint=f"flexai training logs {job.name} shows what it printed",
                job=job,
            )
    logger.info(
        "training job %r %s (attempt %d)",
        job.name,
        "succeeded" if was_run else "had succeeded before and was not run again",
        job.attempt,
    )
    return job_document(job)


def _tell_failures(system: System, reporter: Reporter, job: TrainingJob, began: datetime) -> None:
    """Tell of the checkpoints that this attempt wrote and that could not be stored.

    Where the catalog is away, so that the job's end is not recorded yet, that has been said.
    """
    try:
        written = system.catalog.checkpoints.of_job(job.id)
    except StorageUnavailableError:
        return
    for checkpoint in written:
        if checkpoint.status is CheckpointStatus.FAILED and checkpoint.created_at >= began:
            reporter.failed(checkpoint, "capture", checkpoint.reason)


def _set_handler(number: int, handler: Any) -> Any:
    """Set a signal's handler; one in the place of Prefect's own passes for that.

    Prefect's engine accepts that its run is cancelled, or scheduled again, only while it sees its own handler of TERM.
    Without its answer the process that executes the run kills it at once, without any notice.
    """
    with engine._prefect_sigterm_bridge_lock:
        if number == signal.SIGTERM and is_prefect_sigterm_handler_installed():
            engine._prefect_sigterm_handler = handler
        return signal.signal(number, handler)


def _pass_on_signal(reason: str) -> None:
    """Let Prefect have the signal that ended a job: it tells a cancelled or terminated run from a failed one."""
    received = _STOPPED_BY.match(reason)
    if received is None:
        return
    is_preempted = received[1] == "preempted"
    if received[2] == signal.SIGINT.name and not is_preempted:
        raise KeyboardInterrupt
    if is_prefect_sigterm_handler_installed():
        # By whichever signal the notice came: for Prefect the machine goes away.
        raise TerminationSignal(signal=signal.SIGTERM if is_preempted else signal.Signals[received[2]])


@task(
    name="list-training-checkpoints",
    description="List the checkpoints that a training job wrote.",
    tags=TAGS | {"training"},
    task_run_name="list checkpoints of {job}",
    **QUICK,
)
def list_training_checkpoints(job: str) -> list[Document]:
    """Return a job's checkpoints in the order of their capture, as ``flexai training checkpoints --json`` prints them.

    Args:
        job: NAME or UUID of the training job.

    Raises:
        CheckpointError: NotFoundError where there is no such job.
    """
    with telling(run_logger()), look_at_catalog(load_connection) as catalog:
        rows, _ = captured_rows(catalog, job)
    return captured_list_document(rows)


@task(
    name="capture-training-job",
    description="Store what a training job's attempts have left on this machine.",
    tags=TAGS | {"training"},
    task_run_name="capture training job {reference}",
    # Not tried again by itself: it tells what is left, and the next call goes on from there.
    **ONCE,
)
@takes(CaptureJobRequest)
def capture_training_job(request: CaptureJobRequest) -> Document:
    """Store what could not be stored while a training job ran, on the machine that ran it; or watch a directory.

    Returns:
        ``name`` and ``id`` of the job, ``stored``, how many checkpoints were stored, and ``left``, a sentence for each
        thing that could not be stored yet.

    Raises:
        CheckpointError: NotFoundError where there is no such job, ConflictError while it runs.
    """
    logger = run_logger()
    with telling(logger), open_system() as system:
        reporter = Reporter(system, logger)
        progress = RunProgress(logger)
        if request.watch:
            stored: list[Checkpoint] = []
            with Aside(logger) as aside:

                def tell(checkpoint: Checkpoint) -> None:
                    stored.append(checkpoint)
                    aside.do(lambda: reporter.captured(checkpoint))

                job = watch_directory(system, request, on_captured=tell, progress=progress)
            captured = Captured(job, len(stored), ())
        else:
            captured = capture_left(system, request, on_captured=reporter.captured, progress=progress)
        reporter.catalog()
    logger.info("stored %d checkpoints of training job %r", captured.stored, captured.job.name)
    for sentence in captured.left:
        logger.warning(sentence)
    return captured_document(captured)


@task(
    name="delete-training-job",
    description="Delete a training job that has ended, with its log and the checkpoints that it wrote.",
    tags=TAGS | {"delete"},
    task_run_name="delete training job {reference}",
    # Not tried again: where only the log was left to delete, the next try would find no job.
    **ONCE,
)
@takes(DeleteJobRequest)
def delete_training_job(request: DeleteJobRequest) -> Document:
    """Delete a training job; ``flexai checkpoint undelete ID`` brings back its checkpoints for a while.

    Returns:
        ``name`` and ``id`` of the job, and ``deletedCheckpoints``, how many went with it.

    Raises:
        CheckpointError: NotFoundError where there is none, ConflictError while it runs, while one of its checkpoints is
            in use, and where one that would go is protected.
    """
    logger = run_logger()
    gone: list[str] = []
    with telling(logger), open_system() as system:
        reporter = Reporter(system, logger)

        def tell(checkpoint: Checkpoint) -> None:
            gone.append(checkpoint.id)
            reporter.deleted(checkpoint)

        job = delete_job(system, request, on_deleted=tell, progress=RunProgress(logger))
        reporter.catalog()
    logger.info("deleted training job %r and %d checkpoints", job.name, len(gone))
    return deleted_job_document(job, len(gone))
