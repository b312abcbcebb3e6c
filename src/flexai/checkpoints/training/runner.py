"""Running a training command: its processes, its output, its signals and its end."""

from __future__ import annotations

import contextlib
import gc
import math
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, ClassVar, Literal, Protocol, TypeAlias, TypeVar

from flexai.checkpoints.errors import InterruptedByUserError, JobFailedError, UsageError
from flexai.checkpoints.settings import WITHHELD_VARIABLE
from flexai.checkpoints.training import guard
from flexai.checkpoints.training.job_log import JobLog
from flexai.checkpoints.training.preemption import Preemption
from flexai.checkpoints.training.processes import handlers_of, is_group_alive

S = TypeVar("S", bound="Stoppable")

CHECK_SECONDS = 1.0
"""How often the runner asks whether the job is to be stopped."""

_LINGER_SECONDS = 2.0
"""How long what the command started may go on printing after the command's own end."""
_READ_BYTES = 64 * 1024
_POLL_SECONDS = 0.05

_STOPPING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
"""Signals that ask for the end of a job."""
_OURS = frozenset(
    {
        *(signal.SIGKILL, signal.SIGSTOP),  # no process can handle these
        *(signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),  # a shell holds or continues its own jobs by them
        *(signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ),  # about a child, a pipe or a file of this process
        signal.SIGURG,  # about a lease that capture has held for a moment (``notices.is_written``)
        *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS),
    }
)
"""Signals that are about the process that gets them; the last row says that it does not work."""
PASSED_SIGNALS = frozenset(signal.valid_signals()) - _STOPPING - _OURS
"""Signals that mean what the command makes of them: USR1, USR2, CONT, QUIT, WINCH, ALRM, XCPU, PWR, the real-time ones.

Schedulers announce by them that a job will end soon (``sbatch --signal``, submitit, Lightning), so that it saves.
"""
NOTICES = PASSED_SIGNALS | _STOPPING
"""Signals by which the runner may be told that this machine goes away; SIGTERM always says so."""

Stream: TypeAlias = Literal["stdout", "stderr"]
SetHandler: TypeAlias = Callable[[int, Any], Any]
"""Sets a signal's handler and returns the one before."""
OnOutput: TypeAlias = Callable[[Stream, bytes], None]
"""Is handed what a command prints, as it prints it, from a thread of the runner."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    exit_code: int
    """As a shell reports it: 128 + N for a command that signal N ended."""
    signal_name: str
    """The signal that ended it; empty where it ended by itself."""


def signal_name(number: int) -> str:
    """What a signal is called; real-time ones as ``kill -l`` calls them."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"


def notice_of(name: str) -> int:
    """The signal of a name such as ``USR1`` or ``SIGUSR1``; UsageError for none that can give notice."""
    word = name.upper()
    for number in NOTICES:
        if signal_name(number) in {word, f"SIG{word}"}:
            return number
    raise UsageError(f"{name!r} is no signal that can give notice", hint="name one such as USR1, USR2, or INT")


def pass_through(stream: Stream, data: bytes) -> None:
    """Print what a command prints, on our own standard output or error."""
    target = sys.stdout if stream == "stdout" else sys.stderr
    if target is None or target.closed:
        return
    buffer = getattr(target, "buffer", None)
    if buffer is None:
        target.write(data.decode(errors="replace"))
    else:
        target.flush()
        buffer.write(data)
    target.flush()


class TrainingCommand:
    """A running command, in a session and a process group of its own.

    The thread that makes it waits for it: signals are sent from that thread (a handler in the main thread, or the
    waiting itself), so none is ever sent to a process id that has been given up.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        log: JobLog,
        on_output: OnOutput,
        grace: float,
    ) -> None:
        """Start the command; ``grace`` is how many seconds it has to end in once it was told to.

        Raises JobFailedError where it cannot be started.
        """
        self.was_stopped = False
        """Whether it was told to end before it ended."""
        self.was_outlived = False
        """Whether what it had started had to be told to end after it."""
        self._grace = grace
        self._is_told = False
        """Whether it was told to end by a signal that asks for that."""
        self._kill_at = math.inf
        self._is_reaped = False
        control_read, self._control = os.pipe()
        report_read, report_write = os.pipe()
        launcher = [sys.executable, "-I", "-S", guard.__file__, str(control_read), str(report_write), str(grace)]
        try:
            self._process = subprocess.Popen(
                [*launcher, *command],
                # A background session cannot read a terminal: it would wait for ever, or fail.
                stdin=subprocess.DEVNULL if os.isatty(0) else None,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(environment),
                pass_fds=(control_read, report_write),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._control)
            os.close(report_read)
            raise
        finally:
            os.close(control_read)
            os.close(report_write)
        self.pid = self._process.pid
        with os.fdopen(report_read, "rb") as report:
            failure = report.read()
        if failure:
            self._discard()
            raise JobFailedError(
                f"the command {command[0]!r} cannot be started: {os.strerror(int(failure)).lower()}",
                hint="check the command after '--': it is searched for in PATH and run as it is, without a shell",
            )
        self._output = _Output(self._process, log, on_output)
        self._ended = threading.Event()
        threading.Thread(target=self._wait_for_end, name="command-wait", daemon=True).start()

    @property
    def is_over(self) -> bool:
        """Whether the command and all that it has started are over."""
        return self._is_reaped

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the whole process group, and SIGKILL when the grace time is over, or at the second call.

        Called by signal handlers: takes no lock.
        """
        if self._is_told:
            self._signal(signal.SIGKILL)
            return
        self._is_told = True
        self.end_by(min(self._kill_at, time.monotonic() + self._grace))
        self._signal(number)

    def end_by(self, deadline: float) -> None:
        """Have it end by a time of the monotonic clock, when it gets SIGKILL; it is told nothing now.

        Called by signal handlers: takes no lock.
        """
        self._kill_at = deadline
        self.was_stopped = self.was_stopped or not self._ended.is_set()

    def pass_on(self, number: int, *, unhandled: bool = True) -> None:
        """Send a signal to those processes of the command that handle it; where none does, to the command itself.

        With ``unhandled`` being False it is sent to no other, for most of these signals end a process that does not
        expect them. Never to the group: a shell that waits for the trainer would die, and with it the training; workers
        that inherited the trainer's handler would save as well.
        SIGCONT alone is for all, as it wakes those that were held. Called by signal handlers: takes no lock.
        """
        if number == signal.SIGCONT:
            self._signal(number)
        elif not self._is_reaped:
            for pid in handlers_of(self.pid, number) or [self.pid] * unhandled:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)

    def wait(self, should_stop: Callable[[], bool]) -> Ended:
        """Wait for the end of the command and of all it has started; ``should_stop`` is asked once a second."""
        while not self._ended.wait(self._next_check()):
            self._kill_if_due()
            if not self._is_told and should_stop():
                self.stop()
        return self._end()

    def kill(self) -> None:
        """End the command at once, and all it has started; one that has been waited for is no more."""
        if self._is_reaped:
            return
        self._signal(signal.SIGKILL)
        self._ended.wait()
        self._end()

    def _next_check(self) -> float:
        return min(CHECK_SECONDS, max(0.01, self._kill_at - time.monotonic()))

    def _kill_if_due(self) -> None:
        if time.monotonic() >= self._kill_at or self._output.has_failed():
            self._signal(signal.SIGKILL)

    def _end(self) -> Ended:
        is_alone = not self._is_told and self._wait_for_rest(time.monotonic() + _LINGER_SECONDS)
        if not is_alone:
            if not self._is_told:
                self.was_outlived = True
                self.stop()
            # What the command has started may go on saving: a shell that a stop ends at once had a trainer.
            self._wait_for_rest(self._kill_at + _LINGER_SECONDS)
        # No process may write to the output directory any more.
        self._signal(signal.SIGKILL)
        try:
            self._output.close()
        finally:
            self._is_reaped = True
            code = self._process.wait()
            with contextlib.suppress(BrokenPipeError):
                os.write(self._control, b".")
            os.close(self._control)
        if code < 0:
            return Ended(128 - code, signal_name(-code))
        return Ended(code, "")

    def _wait_for_rest(self, deadline: float) -> bool:
        """Wait for the end of the command's group, and then a while for its output; False where the group lives on."""
        while is_group_alive(self.pid):
            if time.monotonic() >= deadline:
                return False
            self._kill_if_due()
            time.sleep(_POLL_SECONDS)
        # A process that has left the group may hold the output for ever.
        self._output.wait(_LINGER_SECONDS)
        return True

    def _wait_for_end(self) -> None:
        if hasattr(os, "waitid"):
            # Not reaped yet, so that its id, which is its group's as well, cannot become another process's.
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        else:
            self._process.wait()
        self._ended.set()

    def _signal(self, number: int) -> None:
        if not self._is_reaped:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _discard(self) -> None:
        self._process.wait()
        self._is_reaped = True
        os.close(self._control)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


class _Output:
    """Hands what the command prints to the log and onwards, from a thread of its own."""

    def __init__(self, process: subprocess.Popen[bytes], log: JobLog, on_output: OnOutput) -> None:
        self._log = log
        self._on_output = on_output
        self._streams: dict[Stream, IO[bytes]] = {}
        if process.stdout is not None and process.stderr is not None:
            self._streams = {"stdout": process.stdout, "stderr": process.stderr}
        self._deaf: set[Stream] = set()
        self._stop_read, self._stop_write = os.pipe()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="command-output")
        self._pumping = self._executor.submit(self._pump)

    def has_failed(self) -> bool:
        """Whether the receiver of the output has raised something."""
        return self._pumping.done() and self._pumping.exception() is not None

    def wait(self, seconds: float) -> bool:
        """Wait until no process holds the streams any more; False where one still does after the time."""
        return bool(wait([self._pumping], timeout=seconds).done)

    def close(self) -> None:
        """Read what is left and let go of the streams; raises what a receiver has raised."""
        os.write(self._stop_write, b".")
        self._executor.shutdown()
        for descriptor in (self._stop_read, self._stop_write):
            os.close(descriptor)
        for stream in self._streams.values():
            stream.close()
        self._pumping.result()

    def _pump(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._stop_read, selectors.EVENT_READ)
            for name, stream in self._streams.items():
                selector.register(stream, selectors.EVENT_READ, name)
            deadline = math.inf
            while len(selector.get_map()) > 1 and time.monotonic() < deadline:
                ready = selector.select()
                for key, _ in ready:
                    if key.data is None:
                        # Told to stop: what has arrived is read; a process that never stops is not waited for.
                        deadline = min(deadline, time.monotonic() + _LINGER_SECONDS)
                        continue
                    data = os.read(key.fd, _READ_BYTES)
                    if data:
                        self._hand_on(key.data, data)
                    else:
                        selector.unregister(key.fileobj)
                if all(key.data is None for key, _ in ready):
                    return

    def _hand_on(self, stream: Stream, data: bytes) -> None:
        self._log.write(data)
        if stream in self._deaf:
            return
        try:
            self._on_output(stream, data)
        except OSError:
            self._deaf.add(stream)  # our own output has no reader any more; the training goes on


class Stoppable(Protocol):
    """What signals are passed on to."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended, so that there is nothing left to stop."""

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Have it end."""

    def pass_on(self, number: int, *, unhandled: bool = True) -> None:
        """Let it have a signal that stops nothing, ``unhandled`` also where nothing of it handles that."""

    def end_by(self, deadline: float) -> None:
        """Wait for its end until a time of the monotonic clock, and no longer."""


class OtherWriter:
    """A program that another process has started: it is told nothing, and what ends is the watching of its output."""

    reports: ClassVar = False
    """Whether it says itself what it saves, and how it ends."""

    def __init__(self) -> None:
        self.is_over = False
        self.command: tuple[str, ...] = ()
        """Its own command line, where that is known."""
        self.status = "stopped"
        """How it ended, as it said: ``succeeded``, ``failed`` or ``stopped``; empty where it died."""
        self.reason = ""
        self.resume: Callable[[str], Any] = lambda _checkpoint: None
        """Fetches what it starts from, and gives what to answer."""

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have died."""
        return False

    def stop(self, _number: int = signal.SIGTERM) -> None:
        """End the waiting. Called by signal handlers: takes no lock."""
        self.is_over = True

    def pass_on(self, _number: int, *, unhandled: bool = True) -> None:
        """Nothing: the signal was meant for this process."""

    def end_by(self, _deadline: float) -> None:
        """Nothing: it ends with the first word."""

    def wait(self, should_stop: Callable[[], bool]) -> None:
        """Wait until it is stopped; ``should_stop`` is asked once a second."""
        asked = time.monotonic()
        while not self.is_over:
            time.sleep(_POLL_SECONDS)
            if time.monotonic() - asked >= CHECK_SECONDS:
                asked = time.monotonic()
                self.is_over = self.is_over or should_stop()


class SignalRelay:
    """Passes the signals that reach this process on to the command, as long as there is one.

    Those that ask for an end stop it; the others (``PASSED_SIGNALS``) are the command's alone, and stop nothing. Works
    in the main thread only, where Python runs handlers; elsewhere signals are left to their owner. SIGTERM, and the
    signal that a user names for it, say also that this machine goes away: they give ``preemption`` the notice.
    """

    def __init__(
        self,
        preemption: Preemption | None = None,
        notice: int = signal.SIGTERM,
        set_handler: SetHandler = signal.signal,
    ) -> None:
        """``notice`` is the signal that says so beside SIGTERM; ``set_handler`` sets handlers as ``signal.signal``."""
        self._set_handler = set_handler
        self.preemption = preemption or Preemption()
        self.received: list[int] = []
        """Those that asked for an end."""
        self.preempted_by = ""
        """The signal that gave the notice."""
        self._notices = {signal.SIGTERM, notice}
        self._command: Stoppable | None = None
        self._is_starting = False
        self._passed: list[int] = []
        """Those that asked for no end while the command was starting."""
        self._previous: dict[int, Any] = {}

    def start(self, make: Callable[[], S]) -> S:
        """Make the command and pass signals on to it from now on, a stop that came meanwhile included."""
        self._is_starting = True
        try:
            self._command = made = make()
        finally:
            self._is_starting = False
        if self.received:
            made.stop(self.received[-1])
        else:
            # The command may have run, and handled them, before it was known here; or it may handle none yet, which is
            # as before it begins.
            for number in self._passed:
                made.pass_on(number, unhandled=number in self._notices)
        self._set_deadline()
        return made

    def __enter__(self) -> SignalRelay:
        if threading.current_thread() is threading.main_thread():
            for number in _STOPPING:
                # What is ignored stays ignored: that is how `nohup` and shells protect background jobs.
                if signal.getsignal(number) not in {signal.SIG_IGN, None}:
                    self._previous[number] = self._set_handler(number, self._stop)
            for number in PASSED_SIGNALS:
                # What this process handles itself (Prefect's timeouts are SIGALRM) is not meant for the command.
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._previous[number] = self._set_handler(number, self._pass_on)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            self._set_handler(number, handler)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        is_notice = self._is_first_notice(number)
        if self._command is not None:
            self._command.pass_on(number)
            self._set_deadline()
        elif self._is_starting:
            self._passed.append(number)
        # Before the command begins there is nothing that could handle it.
        elif is_notice:
            raise InterruptedByUserError(f"preempted by {signal_name(number)} before the command began")

    def _stop(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP and self.received:
            return  # systemd and closing terminals send it behind another one: no second wish
        is_notice = self._is_first_notice(number)
        self.received.append(number)
        name = signal_name(number)
        if self._is_starting:
            return  # half a command could be neither signalled nor ended
        if self._command is None:
            verb = "preempted" if self.preempted_by else "stopped"
            raise InterruptedByUserError(f"{verb} by {name} before the command began")
        if not self._command.is_over:
            self._command.stop(number)
            self._set_deadline()
        elif len(self.received) > 1 and not is_notice:
            # The first one is no reason to lose the last checkpoints.
            raise InterruptedByUserError(f"stopped by {name} while the last checkpoints were being stored")

    def _set_deadline(self) -> None:
        if self._command is not None and self.preemption.is_noticed:
            self._command.end_by(self.preemption.ends_at)

    def _is_first_notice(self, number: int) -> bool:
        """Whether a signal says, and none has said before, that this machine goes away: then the notice is given."""
        if number not in self._notices or self.preempted_by:
            return False
        self.preempted_by = signal_name(number)
        self.preemption.give()
        return True


@contextlib.contextmanager
def without_long_collections() -> Iterator[None]:
    """Keep Python's garbage collector off what is there already while a job runs.

    A collection of all that imported packages have made stops every thread, where Prefect is loaded for some tenths of
    a second: long enough for a quick trainer to write and delete a checkpoint unseen.
    """
    is_ours = gc.get_freeze_count() == 0
    if is_ours:
        gc.freeze()
    try:
        yield
    finally:
        if is_ours:
            gc.unfreeze()


def end_orphan(pid: int, grace: float, is_same: Callable[[], bool]) -> None:
    """End a command whose runner is gone, and wait until it is; ``is_same`` says whether the id is still its own."""
    if not is_same():
        return
    guard.end_group(pid, grace)
    while is_same():
        time.sleep(0.05)


def command_environment(env: Mapping[str, str], places: Mapping[str, Path | str | None]) -> dict[str, str]:
    """The environment of a command: ours, the user's variables, and the places that we set (or unset, where None).

    Of ours without the variable that a caller has set for itself alone: see ``settings.WITHHELD_VARIABLE``.
    """
    environment = dict(os.environ)
    environment.pop(environment.pop(WITHHELD_VARIABLE, ""), None)
    # Python holds back what it prints to a pipe; a log that is empty for an hour is of no use.
    environment.setdefault("PYTHONUNBUFFERED", "1")
    environment |= env
    for name, place in places.items():
        environment.pop(name, None)
        if place is not None:
            environment[name] = str(place)
    return environment
