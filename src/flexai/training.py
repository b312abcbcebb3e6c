"""In the training process: say what was saved, and go on training.

    from flexai.training import Run

    with Run("my-run", output_dir="out") as run:
        model, first = load(run.resume_path()) if run.resume_path() else (Model(), 0)
        for step in range(first, 1000):
            ...
            torch.save(model.state_dict(), f"out/step-{step}.pt")
            run.saved(f"out/step-{step}.pt", step=step, metrics={"eval_loss": 0.4})

A process of its own stores what was saved, at low priority, so that the training waits for no store.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import posixpath
import select
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from flexai import trackers
from flexai.checkpoints import errors
from flexai.checkpoints.arguments import taken
from flexai.checkpoints.errors import CheckpointError, JobFailedError, UsageError
from flexai.checkpoints.local_paths import absolute
from flexai.checkpoints.models import Node
from flexai.checkpoints.names import parse_name
from flexai.checkpoints.service.training_requests import (
    INPUT_UNIT_VARIABLE,
    JOB_VARIABLE,
    OUTPUT_VARIABLE,
    REPORTS_VARIABLE,
    CaptureJobRequest,
)
from flexai.checkpoints.training.launchers import this_node
from flexai.checkpoints.training.output_dir import place_beside
from flexai.checkpoints.training.reports import ReportOutcome, Reports, ReportWriter, checked_metrics, checked_step

__all__ = ["Run"]

MOST_WAITING = 8
"""Saves of one process that may wait to be stored, unless a Run is told otherwise."""
HOUR = 3600.0
_STARTS = 3
"""How often the helper process is started again where it dies."""
_POLL_SECONDS = 0.01
_FULL_SECONDS = HOUR
"""How long ``saved`` waits for room at most while nothing is stored."""
_ANSWER_BYTES = 64 * 1024
_TOO_LATE = "what the training goes on from was not there in time"
_RANKS_BEGIN_WITHIN = 5.0
"""Seconds after the first rank has its answer in which the others begin, at the latest."""
_LOG, _INPUT = "helper.log", "input.json"
_RANKS = (("LOCAL_RANK", "LOCAL_WORLD_SIZE"), ("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"))
"""Where torchrun and Open MPI tell a process which of this machine's it is, and how many there are."""


class Run:
    """A training job whose checkpoints the training process itself reports.

    Below ``flexai training run`` it tells that command (:meth:`current`); elsewhere it starts a helper process of its
    own. Each rank of this machine may make one: they report for one job.

    Used from any thread. ``saved`` never raises: what goes wrong there is a RuntimeWarning, and an error of
    ``wait(check=True)``.

    Args:
        name: The training job's name.
        output_dir: The directory below which the training saves.
        on_full: What ``saved`` does where too many saves wait to be stored: ``"wait"`` for one of them, or ``"skip"``
            the oldest, so that the newest are kept. Where nothing is stored for an hour, it waits no longer: a save is
            not captured then, until there is room again.
        most_waiting: How many saves of one process may wait.
        exclude: Patterns of what of the output directory is not captured, as in a ``.gitignore``; the directory's own
            are in its ``.flexaiignore``. Below ``flexai training run`` that command's ``--exclude`` counts instead,
            and patterns are a RuntimeWarning.

    Raises:
        UsageError: InvalidNameError for the name; a directory without a name, a bound of less than 1, an ``on_full``
            that is none, an empty pattern, or an argument of another type.
        ConflictError: A run of another job is at work with that output directory.
        OSError: The folder for the reports cannot be made.

    Example:
        >>> run = Run("docs-run", output_dir=tmp / "out")
        >>> _ = (tmp / "out" / "step-5.npz").write_bytes(weights)
        >>> run.saved(tmp / "out" / "step-5.npz", step=5, metrics={"eval_loss": 0.4})
        >>> run.close()
    """

    _node: Node | None = None
    """Which of several machines this is."""
    _exclude: Sequence[str] = ()

    def __init__(
        self,
        name: str,
        output_dir: str | os.PathLike[str],
        *,
        on_full: Literal["wait", "skip"] = "wait",
        most_waiting: int = MOST_WAITING,
        exclude: str | Iterable[str] = (),
    ) -> None:
        _taken("name", name, str)
        _taken("output_dir", output_dir, str | os.PathLike)
        exclude = _taken("exclude", exclude, str | Iterable[str])
        if not os.fspath(output_dir):
            raise UsageError("output_dir is empty", hint="name a directory; '.' is the working directory")
        self.name: str = parse_name(name, what="training job name")
        """The training job's name; below ``flexai training run`` that of its job."""
        request = CaptureJobRequest(name, "watched", exclude=[exclude] if isinstance(exclude, str) else list(exclude))
        self._exclude = request.exclude
        output = absolute(output_dir)
        output.mkdir(parents=True, exist_ok=True)
        with suppress(UsageError):  # what is told only by half is no number of machines
            self._node = this_node(None, None, os.environ)
        self._begin(output, place_beside(output, "reports", self._node), on_full, most_waiting)
        if self._rank == 0 and not self._is_below_runner:
            try:
                self._writer.expect()
            except BaseException:
                self._writer.close()
                raise
            (self._reports / _INPUT).unlink(missing_ok=True)
            self._start_helper()
            atexit.register(self._close_at_exit)
        elif self._exclude and self._rank == 0:
            message = "the exclude of a Run counts for nothing below flexai training run: give its --exclude"
            warnings.warn(f"training job {self.name!r}: {message}", RuntimeWarning, stacklevel=2)

    @classmethod
    def current(cls, *, on_full: Literal["wait", "skip"] = "wait", most_waiting: int = MOST_WAITING) -> Run | None:
        """The run of the ``flexai training run`` that this process is below; None where it is below none."""
        reports, output = os.environ.get(REPORTS_VARIABLE), os.environ.get(OUTPUT_VARIABLE)
        if not reports or not output:
            return None
        run = cls.__new__(cls)
        run._begin(Path(output), Path(reports), on_full, most_waiting)
        return run

    def _begin(self, output: Path, reports: Path, on_full: str, most_waiting: int) -> None:
        if on_full not in {"wait", "skip"}:
            raise UsageError(f"on_full is {on_full!r}", hint="it is 'wait' or 'skip'")
        if _taken("most_waiting", most_waiting, int) < 1:
            raise UsageError(f"most_waiting is {most_waiting}", hint="at least 1 save has to wait for its storing")
        self.output_dir = output
        """The directory below which the training saves."""
        self._is_below_runner = REPORTS_VARIABLE in os.environ
        if self._is_below_runner:
            reports = Path(os.environ[REPORTS_VARIABLE])
            self.name = os.environ[JOB_VARIABLE]
        self._reports = reports
        self._on_full = on_full
        self._most_waiting = most_waiting
        self._rank, self._ranks = _this_rank()
        self._writer = ReportWriter(reports, output, job=self.name, rank=self._rank, ranks=self._ranks)
        self._lock = threading.RLock()  # a signal's handler may save while its thread does
        self._pid = os.getpid()
        self._began = time.time()
        self._helper: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._saved: dict[int, str] = {}
        self._failures: list[str] = []
        self._asking = threading.Lock()
        self._answer: bytes | None = None
        """What has come of an answer of the helper's that is awaited; None where it was asked nothing."""
        self._full_until = math.inf
        """When ``saved`` waits no longer for room, on the monotonic clock."""
        self._is_closed = False

    def saved(
        self, path: str | os.PathLike[str], *, step: int | None = None, metrics: Mapping[str, float] | None = None
    ) -> None:
        """Say that a checkpoint is saved: a file or a folder below the output directory.

        Returns within milliseconds, whatever its size: its files are held by links, so that the training may delete
        them. A file whose name tells no number may be written over: it is cloned where the file system can, copied
        where it is small, and else copied by the helper as soon as it can; where the training is faster than that, the
        save is lost, and that is said.

        Args:
            path: What was saved. A link means what it leads to.
            step: The training's step. One that is no whole number, or that no database holds, is left out, with a
                warning.
            metrics: What was measured at that step, by name. A value that is not finite is left out; so is what is no
                number, with a warning.
        """
        with self._lock:
            try:
                if self._is_closed:
                    raise UsageError("the run is closed")
                _taken("path", path, str | os.PathLike)
                self._look()
                self._make_room()
                number, told = self._told(str(path), step, metrics)
                place = self._writer.write(path, step=number, metrics=told)
            except (CheckpointError, OSError, ValueError, TypeError) as error:
                self._fail(f"{str(path)!r} was not captured: {error}")
                return
            if number is not None:
                self._saved[number] = place

    def _told(self, path: str, step: Any, metrics: Any) -> tuple[int | None, dict[str, float]]:
        """What a save's step and metrics are; one that cannot be told is left out, with a warning: the save counts."""
        number: int | None = None
        told: dict[str, float] = {}
        try:
            number = None if step is None else checked_step(step)
        except Exception as error:  # noqa: BLE001 - whatever the trainer's own type raises must not end the training
            self._warn(f"the step of {path!r} is left out: {error}")
        try:
            found = dict(metrics or {})
        except Exception as error:  # noqa: BLE001 - as above
            found = {}
            self._warn(f"the metrics of {path!r} are left out: {error}")
        for name, value in found.items():
            try:
                told |= checked_metrics({name: value})
            except Exception as error:  # noqa: BLE001 - as above
                self._warn(f"a metric of {path!r} is left out, {name!r}: {error}")
        return number, told

    def wait(self, timeout: float | None = HOUR, *, check: bool = False) -> bool:
        """Wait until all that this process has reported is stored, or has failed; an hour at most.

        Args:
            timeout: Seconds to wait at most; with None without end.
            check: Raise where a save was not captured since the last check.

        Returns:
            Whether nothing waits any more.

        Raises:
            JobFailedError: With ``check``, what was not captured and why.
        """
        deadline = _until(timeout)
        while True:
            with self._lock:
                self._look()
                is_done = not self._writer.waiting()
            if is_done or time.monotonic() >= deadline or self._is_alone():
                break
            time.sleep(_POLL_SECONDS)
        trackers.wait(deadline)
        with self._lock:
            self._look()
            failures, self._failures = self._failures, [] if check else self._failures
        if check and failures:
            raise JobFailedError("; ".join(failures), hint=f"flexai training logs {self.name} tells more")
        return is_done

    def resume_path(self, timeout: float | None = 4 * HOUR) -> Path | None:
        """What the training goes on from: the file or folder that its framework loads; None to start from scratch.

        It is what ``--checkpoint latest`` gives: the checkpoint of this job with the highest step that is not known to
        be unfit, fetched to this machine, after all that an earlier run has left here is stored.

        Args:
            timeout: Seconds to wait for that at most, four hours where left out; with None without end. What is
                fetched by then stays, and another call goes on.

        Raises:
            ConflictError: Checkpoints are there, and a training can go on from none of them.
            CheckpointError: What fetching it raises.
            JobFailedError: The helper process is gone, or has not answered in that time.
        """
        if self._is_below_runner:
            found = os.environ.get(INPUT_UNIT_VARIABLE)
            return Path(found) if found else None
        answer = (self._ask if self._rank == 0 else self._overhear)(_until(timeout))
        if "error" in answer:
            kind = getattr(errors, answer["error"], CheckpointError)
            raise kind(answer["message"], hint=answer["hint"])
        return None if answer["path"] is None else Path(answer["path"])

    def url(self, step: int) -> str:
        """The address of the checkpoint that was reported for a step: ``flexai://my-run/step-500``.

        Raises:
            KeyError: This process has reported none for it.
        """
        return self._url(self._saved[step])

    def close(self, status: str = "succeeded", reason: str = "", *, timeout: float | None = 24 * HOUR) -> None:
        """Wait until all is stored, and end the job; a later call does nothing.

        Where that takes longer than a day, it warns, and the helper process goes on with it by itself.

        Args:
            status: How the training ended: ``succeeded``, ``failed`` or ``stopped``.
            reason: Why, where it did not succeed.
            timeout: Seconds to wait at most, a day where left out; with None without end.

        Raises:
            UsageError: The status is none of these.
        """
        if status not in {"succeeded", "failed", "stopped"}:
            raise UsageError(f"{status!r} is no way in which a training ends", hint="succeeded, failed or stopped")
        deadline = _until(timeout)
        if os.getpid() != self._pid:
            return  # a forked process; a thread that it has not may hold the lock for ever
        with self._lock:
            if self._is_closed:
                return
            self._look()
            self._is_closed = True
            atexit.unregister(self._close_at_exit)
            if self._helper is None:
                self._writer.close()
                return
            self._say({"status": status, "reason": reason})
            with suppress(BrokenPipeError):  # it has died
                _stream(self._helper.stdin).close()
            try:
                self._helper.wait(_left(deadline))
            except subprocess.TimeoutExpired:
                self._fail(f"not all is stored after {timeout:g} s; the helper process goes on with it")
                return
            _stream(self._helper.stdout).close()
            for outcome in self._writer.outcomes():
                self._take_in(outcome)
            trackers.wait(deadline)
            self._writer.close()
            if not Reports(self._reports).remove_empty():
                self._fail(f"not all is stored; flexai training capture {self.name} tries again: {self._log_end()}")

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.close()
        elif isinstance(error, KeyboardInterrupt):
            self.close("stopped", "stopped by SIGINT")
        else:
            self.close("failed", _said(error))

    # The saves.

    def _url(self, path: str) -> str:
        return f"flexai://{posixpath.join(self.name, path or '.')}"

    def _make_room(self) -> None:
        """Wait, or skip the oldest, where too many saves wait to be stored.

        Raises JobFailedError where no process stores them, or none has become stored for an hour.
        """
        while len(waiting := self._writer.waiting()) >= self._most_waiting:
            if self._on_full == "skip" and (dropped := next(filter(self._writer.drop, waiting), None)):
                self._fail(f"the save {dropped} was skipped: {self._most_waiting} others wait to be stored")
                continue
            if self._is_alone():
                raise JobFailedError("too many saves wait, and no process stores them")
            self._full_until = min(self._full_until, time.monotonic() + _FULL_SECONDS)
            if time.monotonic() >= self._full_until:
                raise JobFailedError(f"too many saves wait, and none was stored for {_FULL_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)
            self._look()
        self._full_until = math.inf

    def _look(self) -> None:
        """Take in what became of earlier saves, and start the helper again where it has died."""
        for outcome in self._writer.outcomes():
            self._take_in(outcome)
            self._full_until = math.inf
        helper = self._helper
        if helper is None or self._is_closed or os.getpid() != self._pid or helper.poll() is None:
            return
        self._helper = None
        if self._starts <= _STARTS:
            self._fail(f"the helper process ended with {helper.returncode}, and was started again: {self._log_end()}")
            self._start_helper()
        else:
            self._fail(f"the helper process ended too often: {self._log_end()}")

    def _take_in(self, outcome: ReportOutcome) -> None:
        if outcome.error:
            self._fail(f"{outcome.path!r} was not captured: {outcome.error}")
        elif outcome.checkpoint:
            trackers.tell(self.name, outcome.step, self._url(outcome.path), outcome.checkpoint)

    def _fail(self, message: str) -> None:
        self._failures.append(message)
        self._warn(message)

    def _warn(self, message: str) -> None:
        warnings.warn(f"training job {self.name!r}: {message}", RuntimeWarning, stacklevel=4)

    def _is_alone(self) -> bool:
        """Whether the process is gone that would store what this one has reported."""
        return self._rank == 0 and self._helper is None and not self._is_below_runner

    # The helper.

    def _start_helper(self) -> None:
        self._starts += 1
        self._answer = None  # a helper that has died answers no more
        command = [sys.executable, "-P", "-m", "flexai.cli", "training", "capture", self.name, "--trainer"]
        rank, total = self._node or (0, 1)
        command += ["--node-rank", str(rank), "--nodes", str(total)]
        command += [f"--exclude={pattern}" for pattern in self._exclude]
        with (self._reports / _LOG).open("ab") as log:
            self._helper = subprocess.Popen(
                [*command, "--watch", str(self.output_dir)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                # Ctrl-C is for the training, which says to the helper how it ends.
                start_new_session=True,
            )
        self._say({"command": sys.orig_argv})

    def _say(self, word: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):
            stream = _stream(None if self._helper is None else self._helper.stdin)
            stream.write(json.dumps(word).encode() + b"\n")
            stream.flush()

    def _ask(self, deadline: float) -> dict[str, Any]:
        """Have the helper fetch what the training starts from, and tell the other ranks."""
        with self._asking:
            try:
                line = self._answered(deadline)
            except JobFailedError as error:
                answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
                line = json.dumps(answer).encode()
            place = self._reports / _INPUT
            beside = place.with_suffix(".new")
            beside.write_bytes(line)
            beside.replace(place)
            told: dict[str, Any] = json.loads(line)
            return told

    def _answered(self, deadline: float) -> bytes:
        """What the helper answers, by the deadline; to what it was asked before, where it has not answered that yet."""
        with self._lock:
            helper = self._helper
            if helper is not None and self._answer is None:
                self._answer = b""
                self._say({"resume": "latest"})
        while helper is not None and self._answer is not None:
            pipe = _stream(helper.stdout).fileno()
            if not select.select([pipe], [], [], _left(deadline))[0]:
                raise JobFailedError(_TOO_LATE, hint="call it again, with a longer timeout: what was fetched stays")
            if not (read := os.read(pipe, _ANSWER_BYTES)):
                break
            self._answer += read
            if read.endswith(b"\n"):
                line, self._answer = self._answer, None
                return line
        self._answer = None
        raise JobFailedError(f"the helper process ended: {self._log_end()}")

    def _overhear(self, deadline: float) -> dict[str, Any]:
        """What the helper has answered the first rank, which may still have to ask it."""
        place = self._reports / _INPUT
        while time.monotonic() < deadline:
            # An answer from before is one to a training that was killed.
            with suppress(FileNotFoundError):
                if place.stat().st_mtime > self._began - _RANKS_BEGIN_WITHIN:
                    answer: dict[str, Any] = json.loads(place.read_bytes())
                    return answer
            time.sleep(_POLL_SECONDS)
        raise JobFailedError(_TOO_LATE, hint="the first rank of this machine has to call resume_path as well")

    def _close_at_exit(self) -> None:
        has_failed = hasattr(sys, "last_value")  # the interpreter ends by an error
        self.close("failed" if has_failed else "succeeded", _said(sys.last_value) if has_failed else "")

    def _log_end(self) -> str:
        """The last error that the helper has told, or its last line."""
        try:
            lines = (self._reports / _LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            return "it has said nothing"
        told = [line for line in lines if line.startswith("error: ")] or lines
        return told[-1] if told else "it has said nothing"


def _this_rank() -> tuple[int, int]:
    """Which of this machine's ranks this process is, and how many there are."""
    for rank, ranks in _RANKS:
        if os.environ.get(rank, "").isdigit():
            return int(os.environ[rank]), int(os.environ.get(ranks) or 1)
    return 0, 1


def _until(timeout: float | None) -> float:
    """When so many seconds are over, on the monotonic clock. Raises UsageError for what is no number."""
    _taken("timeout", timeout, float | None)
    if timeout is None:
        return math.inf
    if math.isnan(timeout):
        raise UsageError("timeout is no number", hint="give seconds, or None to wait without end")
    return time.monotonic() + timeout


def _taken(name: str, value: Any, kind: Any) -> Any:
    return taken(name, value, kind, hint="help(flexai.training.Run) tells what it takes")


def _left(deadline: float) -> float | None:
    """Seconds until then; None where there is no end."""
    return None if deadline == math.inf else max(0.0, deadline - time.monotonic())


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


def _said(error: BaseException | None) -> str:
    return f"the training failed: {type(error).__name__}: {error}".partition("\n")[0]
