"""One attempt at a training job, from its first entry in the catalog to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

from flexai.checkpoints.catalog.jobs import BegunJob
from flexai.checkpoints.choosing import Choice
from flexai.checkpoints.documents import Document, lost_versions
from flexai.checkpoints.errors import (
    CheckpointError,
    InterruptedByUserError,
    JobFailedError,
    StorageError,
    StorageUnavailableError,
)
from flexai.checkpoints.models import Checkpoint, JobStatus, TrainingFacts, TrainingJob, now
from flexai.checkpoints.names import Id
from flexai.checkpoints.own_folders import OwnFolders
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.store_owner import write_due_records
from flexai.checkpoints.service.support.job_captures import JobCaptures, OnCaptured
from flexai.checkpoints.service.support.job_end import (
    MAX_LAST_LOG,
    MAX_STORED_LOG,
    LogEnd,
    joined,
    outcome,
    what_is_durable,
)
from flexai.checkpoints.service.support.job_input import (
    captured_available,
    choose_checkpoint,
    fetch_input,
    known_flaws,
    shown,
)
from flexai.checkpoints.service.support.job_plan import JobPlan
from flexai.checkpoints.service.support.job_rest import store_rest
from flexai.checkpoints.service.support.leftovers import take_over, tell_left_out
from flexai.checkpoints.service.support.logged_metrics import LoggedMetrics
from flexai.checkpoints.service.support.parts import judge_part
from flexai.checkpoints.service.support.pointers import record_pointers
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.training_requests import (
    INPUT_UNIT_VARIABLE,
    INPUT_VARIABLE,
    JOB_VARIABLE,
    OUTPUT_VARIABLE,
    REPORTS_VARIABLE,
)
from flexai.checkpoints.storage.patience import Patience, without_waiting
from flexai.checkpoints.training.completeness.by_format import completeness
from flexai.checkpoints.training.completeness.candidates import Found
from flexai.checkpoints.training.job_files import AttemptEnd, AttemptPlaces
from flexai.checkpoints.training.job_log import JobLog
from flexai.checkpoints.training.managed_capture import CaptureReport, OutputCapture
from flexai.checkpoints.training.pins import Pins
from flexai.checkpoints.training.reports import Reports
from flexai.checkpoints.training.runner import (
    Ended,
    OnOutput,
    OtherWriter,
    SignalRelay,
    TrainingCommand,
    command_environment,
    signal_name,
)

_LONGEST_PAUSE_SECONDS = 30.0


def ignore(_captured: Checkpoint) -> None:
    """Ignore a captured checkpoint."""


class Attempt:
    """Runs a job's command once."""

    def __init__(
        self,
        system: System,
        request: JobPlan,
        begun: BegunJob,
        relay: SignalRelay,
        *,
        on_output: OnOutput,
        on_captured: OnCaptured,
        progress: Progress,
    ) -> None:
        self._system = system
        self._request = request
        self._job = begun.job
        self._lease = begun.lease
        self._relay = relay
        self._preemption = relay.preemption
        self._on_output = on_output
        self._on_captured = on_captured
        self._progress = progress
        self._came_again = begun.came_again
        self._places = AttemptPlaces.of(
            system.settings.jobs_path,
            begun.job.id,
            begun.job.attempt,
            request.output_dir,
            request.node,
            exclude=request.exclude,
        )
        self._excluded = self._places.excluded(OwnFolders.of(system.settings))
        self._log: JobLog | None = None
        self._ended: Ended | None = None
        self._remarks: list[str] = []
        self._captures = JobCaptures(
            system,
            begun.job,
            tell=self._tell,
            on_captured=self._captured,
            node=request.node,
            excluded=self._excluded,
        )
        self._metrics = LoggedMetrics(
            system, begun.job.id, self._places.output, since=begun.job.started_at, excluded=self._excluded
        )
        self._lost = 0
        self._has_left = False
        self._is_log_stored = False
        """Whether something of the attempt is still to be stored, or to be looked at by a person."""
        self._stop_requested = False
        self._patience = Patience(system.settings.patience.total_seconds(), once=True)
        """Of all that follows the command's end."""

    def run(self) -> TrainingJob:
        """Run the command, capture what it writes, and return the job as it ended."""
        try:
            if self._came_again:
                self._take_over(own=self._places)
            self._places.make()
            self._places.mark_running()
            Reports(self._places.reports).unmark_ending()
            with closing(JobLog(self._places.log)) as self._log:
                self._take_over()
                places: dict[str, Path | str | None] = {
                    OUTPUT_VARIABLE: self._places.output,
                    REPORTS_VARIABLE: self._places.reports,
                }
                places |= {JOB_VARIABLE: self._job.name}
                places |= self._fetch_input(self._request.checkpoint, self._request.input_id)
                environment = command_environment(self._request.env, places)
                was_stopped, report = self._run_command(environment)
                self._combine()
                if not self._patience.is_over:
                    self._metrics.add()
                self._record_pointers(report)
                self._tell_left(report)
                status, reason = self._outcome(report, was_stopped=was_stopped)
                self._mark_end(status, reason, is_swept=True)
                self._clean(report)
                self._log.note(f"the job has {status}" + (f": {reason}" if reason else ""))
        except BaseException as error:
            self._record(error)
            raise
        self._store_log()
        return self._finish(status, reason)

    # Before the command.

    def _take_over(self, own: AttemptPlaces | None = None) -> None:
        """Store what earlier attempts have left, and take in what is in the output directory already."""
        take_over(
            self._system,
            self._job,
            before=self._job.attempt,
            grace=self._request.grace,
            tell=self._tell,
            on_captured=self._on_captured,
            in_use=self._places.reports,
            own=own,
        )
        if self._places.is_users_output:
            self._captures.know()
        self._combine()

    def _combine(self, combine: Callable[[], None] | None = None) -> None:
        """Make available what all machines have brought their parts of, where the last one could not do so."""
        if self._request.node is None:
            return
        try:
            with self._patience.spent():
                (combine or self._captures.combine)()
        except StorageError as error:
            self._tell(f"parts of checkpoints could not be put together yet: {error.message}")

    def _fetch_input(self, what: str, input_id: Id | None) -> dict[str, Path | str | None]:
        """Fetch what the command starts from; the places of it that its environment tells, None where it has none."""
        choice, why = Choice.read(what), ""
        if choice is not None:
            captured = captured_available(self._system, self._job.id)
            chosen = choose_checkpoint(self._job.name, captured, choice, known_flaws(self._system, captured))
            if chosen is None:
                self._tell("there is no checkpoint to continue from yet, so the command starts from scratch")
            else:
                input_id, why = chosen.checkpoint.id, f": {chosen.why}"
                if chosen.passed_over:
                    self._tell(f"passed over {chosen.passed_over}")
        if self._request.node is not None:
            self._job, agreed = self._system.catalog.jobs.agree_on_input(self._job.id, self._lease, input_id)
            if agreed != input_id:
                input_id, why = agreed, ", as the job's other nodes do"
        if input_id is None:
            return {INPUT_VARIABLE: None, INPUT_UNIT_VARIABLE: None}
        if self._request.node is None:
            self._job = self._system.catalog.jobs.set_input(self._job.id, self._lease, input_id)
        self._captures.job = self._job
        checkpoint, directory, unit = fetch_input(self._system, input_id, self._places.input, self._progress)
        self._tell(f"the command starts from checkpoint {shown(checkpoint)}{why}")
        return {INPUT_VARIABLE: directory, INPUT_UNIT_VARIABLE: unit}

    # The command.

    def _run_command(self, environment: Mapping[str, str]) -> tuple[bool, CaptureReport]:
        watching = OutputCapture(
            self._places.output,
            Pins(self._places.pins, self._remark),
            quiet_period=self._system.settings.quiet_period.total_seconds(),
            store=self._store,
            note=self._remark,
            reports=Reports(self._places.reports),
            identify=self._captures.id_of,
            preemption=self._preemption,
            announce=self._captures.announce,
            judge=completeness if self._request.node is None else judge_part,
            excluded=self._excluded,
        )
        self._has_left = True
        watching.start()
        try:
            if self._request.writer is not None:
                return self._wait_for(self._request.writer, watching)
            try:
                command = self._relay.start(lambda: self._start(environment))
            except JobFailedError:
                report = watching.finish(is_clean=False)
                self._tell_left(report)
                self._clean(report)
                raise
            try:
                self._places.mark_running(command.pid)
                self._ended = command.wait(self._should_stop)
                self._system.catalog.database.patience = self._patience
            except BaseException:
                command.kill()
                raise
            if command.was_outlived:
                self._tell(
                    "what the command had started still ran when the command had ended, and was told to end as well:"
                    " a save of it may be missing"
                )
            return command.was_stopped, watching.finish(is_clean=self._ended.exit_code == 0)
        except BaseException:
            watching.abandon()
            raise

    def _wait_for(self, writer: OtherWriter, watching: OutputCapture) -> tuple[bool, CaptureReport]:
        """Capture what another program writes, or reports, until it ends or is watched no more."""
        writer.resume = partial(self._resume, watching)
        self._relay.start(lambda: writer)
        if not writer.reports:
            self._tell(f"watching {self._places.output} until a signal, or: flexai training stop {self._job.name}")
        writer.wait(self._should_stop)
        Reports(self._places.reports).mark_ending()
        is_told = bool(self._relay.received) or self._stop_requested
        if writer.status == JobStatus.STOPPED or (is_told and not writer.status):
            return True, watching.finish(is_clean=False)
        if not writer.status:
            self._remark("the training process ended without a word")
        elif writer.reason:
            self._remark(writer.reason)
        self._ended = Ended(int(writer.status != JobStatus.SUCCEEDED), "")
        self._system.catalog.database.patience = self._patience
        return False, watching.finish(is_clean=writer.status == JobStatus.SUCCEEDED)

    def _resume(self, watching: OutputCapture, checkpoint: str) -> Document:
        """Fetch what a training process starts from."""
        # One that was killed may have reported more.
        watching.settle_reports()
        try:
            place = self._fetch_input(checkpoint, None)[INPUT_UNIT_VARIABLE]
        except CheckpointError as error:
            return {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        return {"path": None if place is None else str(place)}

    def _store(self, found: Found, facts: TrainingFacts) -> str | None:
        """Store a found checkpoint; while the command runs a store that is away is waited for as long as it takes.

        So it is until the deadline, where this machine goes away.
        """
        if self._ended is None or self._preemption.is_noticed:
            return self._captures.store(found, facts)
        with self._patience.spent():
            return self._captures.store(found, facts)

    def _start(self, environment: Mapping[str, str]) -> TrainingCommand:
        assert self._log is not None
        return TrainingCommand(
            self._request.command, environment, log=self._log, on_output=self._on_output, grace=self._request.grace
        )

    def _should_stop(self) -> bool:
        try:
            with without_waiting():
                self._stop_requested = self._system.catalog.jobs.stop_requested(self._job.id, self._lease)
        except StorageUnavailableError:
            return False  # a database that is away for a while is no reason to end a training
        return self._stop_requested

    def _captured(self, checkpoint: Checkpoint) -> None:
        self._metrics.add_now_and_then()
        self._on_captured(checkpoint)

    # After the command.

    def _tell_left(self, report: CaptureReport) -> None:
        tell_left_out(report, self._places, self._excluded.own, self._tell)
        self._lost = len(report.lost)
        if self._lost:
            self._tell(lost_versions(self._lost))
        if report.uncaptured and not self._places.is_users_output:
            self._remark(f"what was not captured is kept in {self._places.output}")
        if report.is_pinned:
            self._remark(f"what could not be stored is kept in {self._places.pins}")

    def _clean(self, report: CaptureReport) -> None:
        has_left = bool(report.failures) or (bool(report.uncaptured) and not self._places.is_users_output)
        try:
            with self._preemption.bounding_waits() as check:
                self._captures.tell_secrets(report.rest)
                store_rest(self._system, self._job.id, self._places, report.rest, tell=self._tell, check=check)
        except (CheckpointError, OSError) as error:
            has_left = True
            self._tell(f"what the command wrote beside its checkpoints could not be stored yet: {error}")
        try:
            writer = self._request.writer
            # A trainer that lives still reads what became of its reports.
            is_read = writer is not None and writer.reports and bool(writer.status)
            self._places.clean(keep_output=has_left, keep_reports=is_read)
            self._has_left = has_left
        except OSError as error:
            self._tell(f"{error.filename} could not be removed: {error.strerror}")

    def _record_pointers(self, report: CaptureReport) -> None:
        try:
            with self._patience.spent():
                record_pointers(self._system, self._job.id, self._places.output, report.pointers)
        except StorageError as error:
            self._tell(f"what links and files call the checkpoints could not be recorded: {error.message}")

    def _outcome(self, report: CaptureReport, *, was_stopped: bool) -> tuple[JobStatus, str]:
        assert self._log is not None
        by, durable = self._relay.preempted_by, list[str]()
        if by:
            durable = what_is_durable(by, self._captures.latest, report, self._job.host)
        stopped = ""
        if was_stopped or self._ended is None:
            names = [signal_name(number) for number in self._relay.received]
            stopped = f"stopped by {names[0]}" if names and not self._stop_requested else "stopped on request"
        is_strict = self._request.is_strict
        status, first = outcome(self._ended, report, stopped=stopped, durable=durable, is_strict=is_strict)
        return status, joined([*first, *self._remarks, *filter(None, [self._log.failure])])

    def _store_log(self) -> None:
        if self._request.node is not None and self._request.node.rank:
            return  # the job's log is that of its first machine
        try:
            with self._preemption.bounding_waits() as check, self._patience.spent():
                limit = MAX_LAST_LOG if self._preemption.is_noticed else MAX_STORED_LOG
                self._system.store.write_log(self._job.id, LogEnd(self._places.log, limit=limit, check=check))
                self._is_log_stored = True
        except (CheckpointError, OSError) as error:
            self._progress.note(f"the log could not be stored for other machines: {error}")

    def _mark_end(self, status: JobStatus, reason: str, *, is_swept: bool) -> None:
        """Keep on this machine how the attempt ended, until the catalog knows and nothing is left."""
        end = AttemptEnd(status, self._exit_code, reason, lost=self._lost, ended_at=now(), is_swept=is_swept)
        try:
            self._places.mark_ended(end)
        except OSError as error:
            self._tell(f"how the attempt ended could not be noted in {self._places.folder}: {error.strerror}")

    def _finish(self, status: JobStatus, reason: str) -> TrainingJob:
        delay = 1.0
        while True:
            try:
                finished = self._system.catalog.jobs.finish(
                    self._job.id, self._lease, status=status, exit_code=self._exit_code, reason=reason, lost=self._lost
                )
                break
            except StorageUnavailableError as error:
                self._patience.failed()
                if self._patience.is_over or self._preemption.is_over:
                    self._progress.note(f"the job's end could not be recorded: {error.message}")
                    return self._keep_end(status, reason, self._job.lost + self._lost)
                self._progress.note(f"the job's end could not be recorded yet: {error.message}")
                time.sleep(min(delay, self._patience.left))
                delay = min(2 * delay, _LONGEST_PAUSE_SECONDS)
        ends = [one.status for one in finished.nodes]
        if ends and ends == [JobStatus.SUCCEEDED] * finished.node_count:
            self._combine(self._captures.combine_last)
        if self._is_log_stored:  # so the store answers
            write_due_records(self._system)
        if not self._has_left:
            try:
                self._places.unmark()
            except OSError as error:
                self._progress.note(f"{error.filename} could not be removed: {error.strerror}")
        return finished

    def _keep_end(self, status: JobStatus, reason: str, lost: int) -> TrainingJob:
        """Leave the end to be recorded to the next run, which finds it beside the attempt's log."""
        # A process that lives on works under it no more.
        self._lease.drop()
        way = f"flexai training capture {self._job.name}"
        self._progress.note(f"the job's end is kept on this machine; its next run records it, as does: {way}")
        return self._job._replace(status=status, exit_code=self._exit_code, reason=reason, lost=lost, ended_at=now())

    def _record(self, error: BaseException) -> None:
        """Record why the attempt broke off; the error itself goes on."""
        is_interrupted = isinstance(error, InterruptedByUserError | KeyboardInterrupt)
        status = JobStatus.FAILED
        if is_interrupted:
            status = JobStatus.STOPPED if self._ended is None else JobStatus.INTERRUPTED
        message = error.message if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
        reason = joined([message, *self._remarks])
        with suppress(OSError):
            self._places.clean(keep_output=self._has_left)
        self._mark_end(status, reason, is_swept=False)
        try:
            self._finish(status, reason)
        except CheckpointError as second:
            error.add_note(f"the job's end could not be recorded: {second.message}")

    @property
    def _exit_code(self) -> int | None:
        return None if self._ended is None else self._ended.exit_code

    def _tell(self, message: str) -> None:
        if self._log is not None:
            self._log.note(message)
        self._progress.note(message)

    def _remark(self, message: str) -> None:
        """Something that belongs in the job's reason as well."""
        self._remarks.append(message)
        self._tell(message)
