"""One attempt at a training job, from its first entry in the catalog to its end."""

from __future__ import annotations

import os
import posixpath
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from flexai.checkpoints.catalog.jobs import BegunJob
from flexai.checkpoints.choosing import Choice, best, check_is_told, latest, metric_for
from flexai.checkpoints.documents import human_size
from flexai.checkpoints.errors import (
    CheckpointError,
    ConflictError,
    InterruptedByUserError,
    JobFailedError,
    NotFoundError,
    SourceChangedError,
    SourceError,
    StorageUnavailableError,
    UsageError,
)
from flexai.checkpoints.models import Checkpoint, CheckpointStatus, JobStatus, TrainingFacts, TrainingJob
from flexai.checkpoints.names import Id, Name, parse_name, parse_reference
from flexai.checkpoints.paths import parse_path
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.capture import capture
from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.support.commit import same_content
from flexai.checkpoints.service.support.logged_metrics import LoggedMetrics
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.training_requests import INPUT_VARIABLE, OUTPUT_VARIABLE, TrainingRequest
from flexai.checkpoints.storage.files import read_blocks
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.training.code_commit import find_code_commit
from flexai.checkpoints.training.completeness.candidates import Found
from flexai.checkpoints.training.job_files import AttemptPlaces, BrokenAttempt, broken_attempts
from flexai.checkpoints.training.job_log import JobLog
from flexai.checkpoints.training.managed_capture import CaptureReport, OutputCapture, salvage
from flexai.checkpoints.training.pins import Pins
from flexai.checkpoints.training.runner import (
    Ended,
    OnOutput,
    SignalRelay,
    TrainingCommand,
    command_environment,
    signal_name,
)
from flexai.checkpoints.transfer.sources import LocalSource

NODE = "0"
"""One process runs a job's command, on one machine: its checkpoints are node 0's."""

OnCaptured: TypeAlias = Callable[[Checkpoint], None]
"""Is handed a captured checkpoint, from the thread that captured it."""

_POINTER = re.compile(r"(?:.*[-_.])?(?:(?P<last>last|latest)|best|newest|current|final)(?:[-_.].*)?", re.IGNORECASE)
"""Names of files that may be copies of a checkpoint beside them; the last one even where its bytes differ."""
_MAX_REASONS = 5
_MAX_STORED_LOG = 256 * 1024**2
"""Bytes of a log's end that are stored for other machines."""
_FINISH_TRIES = 6


def ignore(_captured: Checkpoint) -> None:
    """Ignore a captured checkpoint."""


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What is to be run, with all that is known before the job begins."""

    name: Name
    command: tuple[str, ...]
    checkpoint: str
    input_id: Id | None
    """The checkpoint to start from, where that is known before the job begins."""
    env: Mapping[str, str] = field(repr=False)
    output_dir: Path | None
    grace: float
    """Seconds that the command has to end in once it was told to."""

    @classmethod
    def of(cls, system: System, request: TrainingRequest) -> JobPlan:
        """Look up what a request needs. Raises NotFoundError for a missing checkpoint, UsageError for an output folder
        that is not empty.
        """
        checkpoint = request.checkpoint
        parsed = parse_name(request.name, what="training job name")
        input_id = None
        choice = Choice.read(checkpoint)
        if checkpoint and choice is None:
            input_id = system.available(checkpoint).id
        if choice is not None and choice.is_best and system.catalog.jobs.find(parsed) is None:
            raise NotFoundError(
                f"training job {parsed!r} has no checkpoints yet, so none is its best",
                hint="start from another checkpoint, or from scratch without --checkpoint",
            )
        return cls(
            name=parsed,
            command=tuple(request.command),
            checkpoint=checkpoint,
            input_id=input_id,
            env=request.environment(),
            output_dir=_check_output(request.output_dir) if request.output_dir else None,
            grace=(system.settings.grace if request.grace is None else request.grace).total_seconds(),
        )

    def begin(self, system: System) -> BegunJob:
        """Enter the job, or its next attempt, in the catalog."""

        def layout(job_id: Id, attempt: int) -> tuple[str, str]:
            places = AttemptPlaces.of(system.settings.jobs_path, job_id, attempt, self.output_dir)
            return str(places.output), str(places.log)

        return system.catalog.jobs.begin(
            self.name,
            owner=system.owner,
            command=self.command,
            env_names=tuple(self.env),
            layout=layout,
            code_commit=find_code_commit(Path.cwd()),
        )


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
        self._on_output = on_output
        self._on_captured = on_captured
        self._progress = progress
        self._places = AttemptPlaces.of(system.settings.jobs_path, begun.job.id, begun.job.attempt, request.output_dir)
        self._log: JobLog | None = None
        self._ended: Ended | None = None
        self._remarks: list[str] = []
        self._captured: dict[str, Checkpoint] = {}
        self._metrics = LoggedMetrics(system, begun.job.id, self._places.output, since=begun.job.started_at)
        self._failed: set[str] = set()
        self._stop_requested = False

    def run(self) -> TrainingJob:
        """Run the command, capture what it writes, and return the job as it ended."""
        try:
            self._places.make()
            self._places.mark_running()
            self._salvage()
            with closing(JobLog(self._places.log)) as self._log:
                environment = command_environment(
                    self._request.env, {OUTPUT_VARIABLE: self._places.output, INPUT_VARIABLE: self._fetch_input()}
                )
                was_stopped, report = self._run_command(environment)
                self._metrics.add()
                self._clean(report)
                status, reason = self._outcome(report, was_stopped=was_stopped)
                self._log.note(f"the job has {status}" + (f": {reason}" if reason else ""))
            self._store_log()
            return self._finish(status, reason)
        except BaseException as error:
            self._record(error)
            raise

    # Before the command.

    def _salvage(self) -> None:
        """Capture what earlier attempts left whose runners died."""
        if self._job.attempt > 1:
            self._delete(self._system.catalog.checkpoints.cut_off(self._job.id))
        for broken in broken_attempts(self._system.settings.jobs_path, self._job.id, before=self._job.attempt):
            broken.end_command(self._request.grace)
            salvaged = _Salvaged(self._system, self._job, broken, self._on_captured, self._progress)
            try:
                report = salvage(
                    broken.places.output,
                    Pins(broken.places.pins, self._progress.note),
                    store=salvaged.store,
                    note=self._progress.note,
                )
                LoggedMetrics(self._system, self._job.id, broken.places.output, since=broken.started_at).add()
                broken.places.clean(keep_output=bool(report.uncaptured))
            except OSError as error:
                self._progress.note(f"{broken.name} could not be looked through for checkpoints: {error}")
                continue
            if not report.failures:
                broken.places.mark_ended()
            if report.uncaptured:
                self._progress.note(f"{broken.name} left files that are no whole checkpoint: {broken.places.output}")

    def _fetch_input(self) -> Path | None:
        input_id, choice = self._request.input_id, Choice.read(self._request.checkpoint)
        if input_id is None:
            if choice is None:
                return None
            chosen = choose_checkpoint(self._system, self._job, choice)
            if chosen is None:
                self._tell("there is no checkpoint to continue from yet, so the command starts from scratch")
                return None
            input_id = chosen.id
        self._job = self._system.catalog.jobs.set_input(self._job.id, self._lease, input_id)
        request = FetchRequest(input_id, str(self._places.input))
        report = fetch(self._system, request, progress=self._progress, private=True)
        self._tell(f"the command starts from checkpoint {report.checkpoint.name or '.'!r} ({input_id})")
        return self._places.input

    # The command.

    def _run_command(self, environment: Mapping[str, str]) -> tuple[bool, CaptureReport]:
        watching = OutputCapture(
            self._places.output,
            Pins(self._places.pins, self._remark),
            quiet_period=self._system.settings.quiet_period.total_seconds(),
            store=self._store,
            note=self._remark,
        )
        watching.start()
        try:
            try:
                command = self._relay.start(lambda: self._start(environment))
            except JobFailedError:
                self._clean(watching.finish(is_clean=False))
                raise
            try:
                self._places.mark_running(command.pid)
                self._ended = command.wait(self._should_stop)
            except BaseException:
                command.kill()
                raise
            return command.was_stopped, watching.finish(is_clean=self._ended.exit_code == 0)
        except BaseException:
            watching.abandon()
            raise

    def _start(self, environment: Mapping[str, str]) -> TrainingCommand:
        assert self._log is not None
        return TrainingCommand(
            self._request.command, environment, log=self._log, on_output=self._on_output, grace=self._request.grace
        )

    def _should_stop(self) -> bool:
        try:
            self._stop_requested = self._system.catalog.jobs.stop_requested(self._job.id, self._lease)
        except StorageUnavailableError:
            return False  # a database that is away for a while is no reason to end a training
        return self._stop_requested

    def _store(self, found: Found, facts: TrainingFacts) -> str | None:
        earlier = self._captured.get(found.name)
        if earlier is not None and _has_content(self._system, earlier.id, found):
            return None  # written again, but nothing in it has changed
        if (same := self._twin(found, facts)) is not None:
            return same
        try:
            checkpoint = _capture(self._system, self._job, found, facts)
        except StorageUnavailableError:
            self._failed.add(found.name)
            raise
        self._captured[found.name] = checkpoint
        if found.name in self._failed:
            self._delete(
                checkpoint
                for checkpoint in self._system.catalog.checkpoints.of_job(self._job.id)
                if checkpoint.status is CheckpointStatus.FAILED and checkpoint.name == found.name
            )
        files = "1 file" if checkpoint.file_count == 1 else f"{checkpoint.file_count} files"
        self._tell(f"captured {found.title} ({files}, {human_size(checkpoint.size)}) as {checkpoint.id}")
        self._metrics.add_now_and_then()
        self._on_captured(checkpoint)
        return None

    def _twin(self, found: Found, facts: TrainingFacts) -> str | None:
        """The captured checkpoint beside a file of which that file is a copy, as ``last.ckpt`` and ``best.pt`` are."""
        path = posixpath.basename(found.name)
        named = _POINTER.fullmatch(path)
        if named is None or list(found.stamps) != [path]:
            return None
        place = posixpath.dirname(found.name)
        beside = [
            one for name, one in self._captured.items() if posixpath.dirname(name) == place and name != found.name
        ]
        for one in reversed(beside):
            if named["last"] and facts.step is not None and facts.step == one.facts.step:
                return one.name
            its_path = posixpath.basename(one.name)
            if one.size == found.stamps[path].size and _has_content(self._system, one.id, found, path=its_path):
                return one.name
        return None

    def _delete(self, captures: Iterable[Checkpoint]) -> None:
        """Delete what is left of captures that were cut off, or that failed before another try did not."""
        for checkpoint in captures:
            # One that another process has continued or deleted meanwhile is left to it.
            with suppress(ConflictError, NotFoundError):
                self._system.catalog.checkpoints.delete(parse_reference(checkpoint.id))

    # After the command.

    def _clean(self, report: CaptureReport) -> None:
        keep_output = bool(report.uncaptured)
        if keep_output and not self._places.is_users_output:
            self._remark(f"what was not captured is kept in {self._places.output}")
        if report.is_pinned:
            self._remark(f"what could not be stored is kept in {self._places.pins}")
        try:
            self._places.clean(keep_output=keep_output)
            self._places.mark_ended()
        except OSError as error:
            self._remark(f"{error.filename} could not be removed: {error.strerror}")

    def _outcome(self, report: CaptureReport, *, was_stopped: bool) -> tuple[JobStatus, str]:
        assert self._ended is not None
        assert self._log is not None
        reasons = list(self._remarks)
        if self._log.failure:
            reasons.append(self._log.failure)
        status = JobStatus.SUCCEEDED
        if was_stopped:
            status = JobStatus.STOPPED
            names = [signal_name(number) for number in self._relay.received]
            reasons.insert(0, f"stopped by {names[0]}" if names and not self._stop_requested else "stopped on request")
        elif self._ended.signal_name:
            status = JobStatus.FAILED
            hint = ", often a sign of too little memory" if self._ended.signal_name == "SIGKILL" else ""
            reasons.insert(0, f"the command was ended by {self._ended.signal_name}{hint}")
        elif self._ended.exit_code:
            status = JobStatus.FAILED
            reasons.insert(0, f"the command ended with exit code {self._ended.exit_code}")
        elif report.failures:
            status = JobStatus.FAILED
            reasons.insert(0, "the command succeeded, but not all of its checkpoints could be stored")
        return status, _joined(reasons)

    def _store_log(self) -> None:
        try:
            self._system.store.write_log(self._job.id, _LogEnd(self._places.log))
        except (CheckpointError, OSError) as error:
            self._progress.note(f"the log could not be stored for other machines: {error}")

    def _finish(self, status: JobStatus, reason: str) -> TrainingJob:
        exit_code = None if self._ended is None else self._ended.exit_code
        for delay in [2.0**number for number in range(_FINISH_TRIES)]:
            try:
                return self._system.catalog.jobs.finish(
                    self._job.id, self._lease, status=status, exit_code=exit_code, reason=reason
                )
            except StorageUnavailableError as error:
                self._progress.note(f"the job's end could not be recorded yet: {error.message}")
                time.sleep(delay)
        return self._system.catalog.jobs.finish(
            self._job.id, self._lease, status=status, exit_code=exit_code, reason=reason
        )

    def _record(self, error: BaseException) -> None:
        """Record why the attempt broke off; the error itself goes on."""
        is_interrupted = isinstance(error, InterruptedByUserError | KeyboardInterrupt)
        status = JobStatus.FAILED
        if is_interrupted:
            status = JobStatus.STOPPED if self._ended is None else JobStatus.INTERRUPTED
        message = error.message if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
        with suppress(OSError):
            self._places.clean(keep_output=True)
        try:
            self._finish(status, _joined([message, *self._remarks]))
        except CheckpointError as second:
            error.add_note(f"the job's end could not be recorded: {second.message}")

    def _tell(self, message: str) -> None:
        if self._log is not None:
            self._log.note(message)
        self._progress.note(message)

    def _remark(self, message: str) -> None:
        """Something that belongs in the job's reason as well."""
        self._remarks.append(message)
        self._tell(message)


@dataclass(frozen=True, slots=True)
class _Salvaged:
    """Stores what a broken attempt left, unless it is stored already."""

    system: System
    job: TrainingJob
    broken: BrokenAttempt
    on_captured: OnCaptured
    progress: Progress

    def store(self, found: Found, facts: TrainingFacts) -> None:
        alike = [
            checkpoint
            for checkpoint in self.system.catalog.checkpoints.of_job(self.job.id)
            if checkpoint.name == found.name and checkpoint.status is CheckpointStatus.AVAILABLE
        ]
        if any(_has_content(self.system, checkpoint.id, found) for checkpoint in alike):
            return
        if any(checkpoint.created_at >= self.broken.started_at for checkpoint in alike):
            # Captured by that attempt and different now: a mixture of two saves looks as whole as either of them.
            raise SourceError("it was being written again when its runner died")
        checkpoint = _capture(self.system, self.job, found, facts)
        self.progress.note(f"captured {found.title} of {self.broken.name}, whose runner died, as {checkpoint.id}")
        self.on_captured(checkpoint)


def choose_checkpoint(system: System, job: TrainingJob, choice: Choice) -> Checkpoint | None:
    """The latest or the best checkpoint of a job that is not known to be unfit; None where none is the latest.

    Raises NotFoundError where none is the best, UsageError for a metric that none of them tells.
    """
    fit = [
        checkpoint
        for checkpoint in system.catalog.checkpoints.of_job(job.id)
        if checkpoint.status is CheckpointStatus.AVAILABLE and not checkpoint.facts.is_unfit
    ]
    if not choice.is_best:
        return latest(fit, lambda checkpoint: checkpoint.facts.step)
    told = [checkpoint.facts for checkpoint in fit]
    if told:
        check_is_told(choice.metric, told)
    found = best(fit, metric_for(choice.metric, told), lambda checkpoint: checkpoint.facts)
    if found is None:
        what = f"that tells its {choice.metric}" if choice.metric else "with an eval loss"
        raise NotFoundError(
            f"training job {job.name!r} has no resumable checkpoint {what}, so none is its best",
            hint=f"flexai training checkpoints {job.name} shows what there is; 'latest' takes the latest",
        )
    return found


def _capture(system: System, job: TrainingJob, found: Found, facts: TrainingFacts) -> Checkpoint:
    return capture(
        system,
        job=job,
        name=found.name,
        node=NODE,
        files=found.files,
        facts=facts,
        identities={path: stamp.identity for path, stamp in found.stamps.items()},
    )


def _has_content(system: System, checkpoint_id: Id, found: Found, *, path: str = "") -> bool:
    """Whether a checkpoint holds the same; ``path`` is what the only file is called in it."""
    files = {path or name: (local, found.stamps[name]) for name, local in found.files.items()}
    try:
        sources = [LocalSource.of(parse_path(name), local, local.lstat()) for name, (local, _) in files.items()]
    except FileNotFoundError as error:
        raise SourceChangedError(f"{found.title} vanished before it was stored") from error
    if any(source.identity != files[source.path][1].identity for source in sources):
        raise SourceChangedError(f"{found.title} changed before it was stored")
    return same_content(system, str(checkpoint_id), sources)


def _check_output(output_dir: str) -> Path:
    path = Path(os.path.abspath(Path(output_dir).expanduser()))  # noqa: PTH100
    hint = "name a directory that is empty or not there yet"
    try:
        if any(path.iterdir()):
            raise UsageError(f"the output directory {path} is not empty", hint=hint)
    except FileNotFoundError:
        return path
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UsageError(f"the output directory {path} cannot be used: {reason}", hint=hint) from error
    return path


def _joined(reasons: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(reasons))
    left_out = len(distinct) - _MAX_REASONS
    return "; ".join(distinct[:_MAX_REASONS]) + (f"; and {left_out} more in the log" if left_out > 0 else "")


class _LogEnd:
    """A log as it is stored: all of it, or its end where it is very long."""

    def __init__(self, path: Path) -> None:
        self._path = path
        size = path.stat().st_size
        self._start = max(0, size - _MAX_STORED_LOG)
        self._length = size - self._start
        self._head = f"[flexai] {self._start} bytes before this were not stored\n".encode() if self._start else b""
        self.size = len(self._head) + self._length

    def blocks(self) -> Iterator[Block]:
        """Yield the log from its start."""
        if self._head:
            yield memoryview(self._head)
        with self._path.open("rb") as file:
            yield from read_blocks(file.fileno(), self._start, self._length)
