"""Training jobs: run a command with managed capture, look at jobs, stop them, read their logs, delete them."""

from __future__ import annotations

import codecs
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from flexai.checkpoints.catalog.database import batches
from flexai.checkpoints.catalog.jobs import BegunJob
from flexai.checkpoints.catalog.leases import LeaseKeeper
from flexai.checkpoints.documents import Document
from flexai.checkpoints.errors import CheckpointError, ConflictError, NotFoundError
from flexai.checkpoints.local_paths import absolute
from flexai.checkpoints.models import Checkpoint, JobStatus, TrainingJob
from flexai.checkpoints.names import parse_job_reference, parse_name, parse_reference
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.store_owner import check_before_training, write_due_records
from flexai.checkpoints.service.support.job_captures import OnCaptured
from flexai.checkpoints.service.support.job_plan import JobPlan
from flexai.checkpoints.service.support.job_rest import fetch_rest, list_rest
from flexai.checkpoints.service.support.job_run import Attempt, ignore
from flexai.checkpoints.service.support.leftovers import (
    Taken,
    record_all_stored,
    record_end,
    take_over,
)
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.training_requests import CaptureJobRequest, DeleteJobRequest, TrainingRequest
from flexai.checkpoints.training.job_files import as_it_ended, is_here, job_folder
from flexai.checkpoints.training.job_log import read_log
from flexai.checkpoints.training.launchers import this_node
from flexai.checkpoints.training.output_dir import place_beside
from flexai.checkpoints.training.preemption import Preemption
from flexai.checkpoints.training.reports import Reports
from flexai.checkpoints.training.runner import (
    OnOutput,
    OtherWriter,
    SetHandler,
    SignalRelay,
    pass_through,
    without_long_collections,
)

__all__ = [
    "capture_left",
    "captured_document",
    "delete_job",
    "fetch_rest",
    "inspect_job",
    "job_log",
    "list_rest",
    "run_training",
    "stop_job",
    "watch_directory",
]


_NOTICING_SECONDS = 3.0
"""How long a helper may take to notice that its training was killed."""


def run_training(
    system: System,
    request: TrainingRequest,
    *,
    on_output: OnOutput | None = None,
    on_captured: OnCaptured | None = None,
    progress: Progress | None = None,
    set_handler: SetHandler = signal.signal,
) -> TrainingJob:
    """Run a command as a training job, capture its checkpoints while it runs, and return the job as it ended.

    The command gets FLEXAI_OUTPUT_CHECKPOINT_DIR and, with a checkpoint to start from, FLEXAI_INPUT_CHECKPOINT_DIR and
    FLEXAI_INPUT_CHECKPOINT in its environment. ``on_output`` is handed what the command prints, instead of our own
    standard output and error. ``on_captured`` is handed each checkpoint once it is available, in a thread that
    captures: it should not take long.
    Signals that reach this process are passed on. INT, TERM and HUP ask for the end: the command has the request's
    ``grace`` to save and end in, before it is killed; a second one kills it at once. All others are the command's own
    matter. TERM, and the request's ``preempt_signal``, say that this machine goes away: the grace is then also the time
    in which what is saved has to be stored, the newest first. ``set_handler`` sets the handlers, as ``signal.signal``.

    A command that fails is no error here: the job says so (``status``, ``exit_code``, ``reason``).

    Raises UsageError for an output folder that is not empty and not this job's, JobExistsError for a job that has
    succeeded (but with ``reuse_succeeded``), ConflictError for one that is running and for another
    catalog's store, NotFoundError for a checkpoint that is not there, JobFailedError for a command that cannot be
    started, InterruptedByUserError for a signal before the command began, and what the catalog and the store raise.
    """
    progress = progress or Progress()
    # First: what the job began with may be gone by now.
    known = system.catalog.jobs.find(parse_name(request.name, what="training job name"))
    if known is not None:
        known = record_end(system, known)
        if request.reuse_succeeded and known.status is JobStatus.SUCCEEDED:
            return known
    check_before_training(system)
    plan = JobPlan.of(system, request)
    return _run(
        system,
        plan,
        plan.begin(system),
        on_output=on_output or pass_through,
        on_captured=on_captured or ignore,
        progress=progress,
        set_handler=set_handler,
    )


def watch_directory(
    system: System,
    request: CaptureJobRequest,
    *,
    writer: OtherWriter | None = None,
    on_captured: OnCaptured | None = None,
    progress: Progress | None = None,
) -> TrainingJob:
    """Capture what another program writes to a directory until a signal, or a stop of the job; returns it as it ended.

    The job is made, or begins its next attempt. What is in the directory already is captured too, unless an attempt
    before has done so; of a ``writer`` that reports it is what that says. At the end, what is whole is captured and
    nothing is removed but links of our own.

    Raises UsageError for what is no directory, JobExistsError for a job that has succeeded, ConflictError for one that
    is running, for a directory that a running job uses and for another catalog's store, and what the catalog and the
    store raise.
    """
    known = system.catalog.jobs.find(parse_name(request.reference, what="training job name"))
    if known is not None:
        record_end(system, known)
    check_before_training(system)
    writer = writer or OtherWriter()
    began = time.monotonic()
    while True:
        try:
            plan = JobPlan.of_watch(system, request, writer)
            begun = plan.begin(system)
            break
        except ConflictError:
            # The training that was killed has a helper, which notices that and then stores what is left.
            is_awaited = _is_ending(request) or time.monotonic() - began < _NOTICING_SECONDS
            if not writer.reports or writer.is_gone or not is_awaited:
                raise
            time.sleep(0.1)
    return _run(
        system, plan, begun, on_output=pass_through, on_captured=on_captured or ignore, progress=progress or Progress()
    )


def _is_ending(request: CaptureJobRequest) -> bool:
    node = this_node(request.node_rank, request.nodes, {})
    return Reports(place_beside(absolute(request.watch), "reports", node)).are_ending()


def _run(
    system: System,
    plan: JobPlan,
    begun: BegunJob,
    *,
    on_output: OnOutput,
    on_captured: OnCaptured,
    progress: Progress,
    set_handler: SetHandler = signal.signal,
) -> TrainingJob:
    job_id = begun.job.id
    with (
        LeaseKeeper(lambda: system.catalog.jobs.renew(job_id, begun.lease)),
        without_long_collections(),
        SignalRelay(Preemption(plan.grace, is_grace_given=plan.is_grace_given), plan.notice, set_handler) as relay,
    ):
        return Attempt(
            system,
            plan,
            begun,
            relay,
            on_output=on_output,
            on_captured=on_captured,
            progress=progress,
        ).run()


def inspect_job(system: System, reference: str) -> TrainingJob:
    """The training job of a NAME or UUID, as far as this machine knows; NotFoundError where there is none."""
    return as_it_ended(system.catalog.jobs.get(parse_job_reference(reference)))


class Captured(NamedTuple):
    """What became of what a job's attempts had left on this machine."""

    job: TrainingJob
    stored: int
    """Checkpoints that were stored now."""
    left: tuple[str, ...]
    """What could not be stored yet, and why: a sentence for each."""


def capture_left(
    system: System,
    request: CaptureJobRequest,
    *,
    on_captured: OnCaptured | None = None,
    progress: Progress | None = None,
) -> Captured:
    """Store what a job's attempts have left on this machine, and record how the last one ended.

    An attempt leaves something when its runner dies, and when the store or the catalog is away, or full, until after
    the end of the training. Where nothing is left nothing happens.

    Raises NotFoundError where there is no such job, ConflictError while it runs, and what the catalog raises.
    """
    job = inspect_job(system, request.reference)
    taken = _take_over(system, job, on_captured=on_captured or ignore, progress=progress or Progress())
    job = system.catalog.jobs.get_by_id(job.id)
    return Captured(job if taken.left else record_all_stored(system, job), taken.stored, tuple(taken.left))


def captured_document(captured: Captured) -> Document:
    """What ``training capture`` tells, for programs."""
    job = captured.job
    return {"name": job.name, "id": job.id, "stored": captured.stored, "left": list(captured.left)}


def _take_over(system: System, job: TrainingJob, *, on_captured: OnCaptured, progress: Progress) -> Taken:
    def check() -> None:
        present = system.catalog.jobs.get_by_id(job.id)
        if not present.status.is_final:
            raise ConflictError(
                f"training job {job.name!r} is {present.status}, and captures what it writes itself",
                hint=f"wait for its end, or stop it first: flexai training stop {job.name}",
            )
        record_end(system, present)

    return take_over(
        system,
        job,
        before=job.attempt + 1,
        grace=system.settings.grace.total_seconds(),
        tell=progress.note,
        on_captured=on_captured,
        check=check,
    )


def stop_job(system: System, reference: str) -> TrainingJob:
    """Ask for a job's stop, wherever it runs, and return it as it is then; its runner notices within a second or two.

    A job whose runner is gone becomes ``interrupted``; one that has ended stays as it is. Raises NotFoundError where
    there is none.
    """
    stopped = system.catalog.jobs.request_stop(parse_job_reference(reference))
    write_due_records(system)
    return stopped


def job_log(system: System, reference: str, *, follow: bool = False) -> Iterator[str]:
    """Yield what a job's last attempt printed, in pieces of text; with ``follow`` until the job ends.

    On the machine that runs it a job's log can be read at once, elsewhere when the job has ended. Raises NotFoundError
    where there is no job or no log, ConflictError where the log is on another machine and the job still runs.
    """
    job = inspect_job(system, reference)
    path = Path(job.log_path)
    if is_here(job) and path.is_file():
        return read_log(path, is_over=(lambda: _has_ended(system, job)) if follow else (lambda: True))
    if not job.status.is_final:
        raise ConflictError(
            f"training job {job.name!r} runs on {job.host}, and its log can be read elsewhere only when it has ended",
            hint=f"read it on {job.host}, or wait for the job's end",
        )
    return _stored_log(system, job)


def delete_job(
    system: System,
    request: DeleteJobRequest,
    *,
    on_deleted: Callable[[Checkpoint], object] = lambda _: None,
    progress: Progress | None = None,
) -> TrainingJob:
    """Delete a job that has ended, with its log and, unless they are to be kept, the checkpoints that it wrote.

    Its name is free afterwards. Output that was not captured goes with it, except in a directory that the user named.
    ``on_deleted`` is called with each checkpoint that was deleted. Before anything goes, what is whole and could not be
    stored so far is stored: it becomes one of the job's checkpoints, which stay, or can be brought back for a while.

    Raises NotFoundError where there is none, ConflictError while it runs, while one of its checkpoints is in use, and
    where one that would go is protected, or what the job has left here cannot be stored (but with ``discard``),
    NotYoursError where another user made it (but with ``force``).
    """
    progress = progress or Progress()
    job = inspect_job(system, request.reference)
    if not request.force:
        system.owner.check_made(f"training job {job.name!r}", job.creator_user_id, job.creator)
    if not job.status.is_final:
        raise ConflictError(
            f"training job {job.name!r} is {job.status}", hint=f"stop it first: flexai training stop {job.name}"
        )
    if not request.discard:
        taken = _take_over(system, job, on_captured=ignore, progress=progress)
        if taken.left:
            raise ConflictError(
                f"training job {job.name!r} has left what is not stored: {taken.left[0]}",
                hint="try again when the store can take it, or delete it as well with --discard",
            )
    if not request.keep_checkpoints:
        written = system.catalog.checkpoints.of_job(job.id)
        # Before the first one goes: half of a job is of no use.
        if protected := [checkpoint.id for checkpoint in written if checkpoint.is_protected]:
            raise ConflictError(
                f"training job {job.name!r} wrote {len(protected)} protected checkpoint{'s'[: len(protected) > 1]}",
                hint=f"keep its checkpoints with --keep-checkpoints, or: flexai checkpoint unprotect {protected[0]}",
            )

        def refused(_: str, error: CheckpointError) -> None:
            # One that another process has just deleted is no obstacle.
            if not isinstance(error, NotFoundError):
                raise error

        for batch in batches(checkpoint.id for checkpoint in written):
            references = {str(checkpoint_id): parse_reference(checkpoint_id) for checkpoint_id in batch}
            for gone in system.catalog.checkpoints.delete_each(references, refused=refused):
                on_deleted(gone)
    deleted = system.catalog.jobs.delete(parse_job_reference(job.id))
    write_due_records(system)
    system.store.delete_log(job.id)
    system.store.delete_files(job.id)
    folder = job_folder(system.settings.jobs_path, job.id)
    if folder.is_dir():
        try:
            shutil.rmtree(folder)
        except OSError as error:
            progress.note(f"{folder} could not be removed: {error.strerror}")
    return deleted


def _has_ended(system: System, job: TrainingJob) -> bool:
    try:
        present = system.catalog.jobs.get_by_id(job.id)
    except NotFoundError:
        return True
    return present.status.is_final or present.attempt != job.attempt


def _stored_log(system: System, job: TrainingJob) -> Iterator[str]:
    blocks = system.store.read_log(job.id)
    decode: Callable[..., str] = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
    try:
        first = next(blocks, None)
    except NotFoundError:
        raise NotFoundError(
            f"the log of training job {job.name!r} was not stored", hint=f"it may still be on {job.host}"
        ) from None

    def texts() -> Iterator[str]:
        if first is not None:
            yield decode(bytes(first))
        for block in blocks:
            yield decode(bytes(block))
        yield decode(b"", final=True)

    return filter(None, texts())
