"""How an operation tells what it has done so far.

An operation reports to a :class:`Progress`; a terminal bar, a log line and a Prefect artifact are three of
them. Reports are counters pushed by the transfer (never polled), so they cost next to nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.names import count


class Progress:
    """What an operation reports to, from many threads at once. This one shows nothing."""

    def begin(self, verb: str, *, total_bytes: int, total_files: int) -> None:
        """A stage begins: ``verb`` says what it does (``"push"``), the totals how much there is."""

    def advance(self, *, moved: int = 0, skipped: int = 0, files: int = 0) -> None:
        """More is done: bytes moved, bytes that needed no move, and files finished since the last call."""

    def note(self, message: str) -> None:
        """Something a person would want to know: a retry, a file that was kept."""

    def end(self) -> None:
        """The stage is over, well or not."""


@dataclass(frozen=True, slots=True)
class StageProgress:
    """How far a stage is; ``rate`` is the bytes that it moved a second, lately."""

    verb: str
    total_bytes: int
    total_files: int
    moved: int = 0
    skipped: int = 0
    files: int = 0
    seconds: float = 0.0
    rate: float = 0.0

    @property
    def done(self) -> int:
        """Bytes that are where they belong. A part that is tried again is taken back first, for a moment below zero."""
        return max(0, self.moved + self.skipped)

    @property
    def fraction(self) -> float:
        """How much is done, from 0 to 1: by bytes, or by files where there are none."""
        if self.total_bytes:
            return min(1.0, self.done / self.total_bytes)
        return min(1.0, self.files / self.total_files) if self.total_files else 1.0

    @property
    def is_whole(self) -> bool:
        """Whether all of it is done."""
        return self.done >= self.total_bytes and self.files >= self.total_files

    @property
    def seconds_left(self) -> float | None:
        """How long the rest takes at this rate; None where that is not known."""
        rest = self.total_bytes - self.done
        return rest / self.rate if self.rate >= 1 and rest > 0 else None

    def __str__(self) -> str:
        """How far it is, in one line."""
        parts = [*self._done_of_all(share=f" ({self.fraction:.0%})"), *self._skipped()]
        if self.rate:
            parts.append(f"{human_size(int(self.rate), digits=1)}/s")
        if self.seconds_left is not None:
            parts.append(f"{clock(self.seconds_left)} left")
        return f"{self.verb}: {', '.join(parts)}"

    def last_line(self) -> str:
        """What was done in all."""
        whole = (human_size(self.done, digits=1), count(self.files, "file"))
        parts = [*(whole if self.is_whole else self._done_of_all()), *self._skipped()]
        if self.moved > 0 and self.seconds >= 1:
            parts.append(f"{human_size(int(self.moved / self.seconds), digits=1)}/s")
        return f"{self.verb}: {', '.join(parts)} in {clock(self.seconds)}"

    def _done_of_all(self, *, share: str = "") -> tuple[str, str]:
        sizes = f"{human_size(self.done, digits=1)} of {human_size(self.total_bytes, digits=1)}"
        return sizes + share, f"{self.files} of {count(self.total_files, 'file')}"

    def _skipped(self) -> list[str]:
        return [f"{human_size(self.skipped, digits=1)} already there"] if self.skipped else []


class CountingProgress(Progress):
    """Counts what is done, over all stages and in the one that is going on, and passes everything on."""

    def __init__(self, progress: Progress | None = None) -> None:
        self.moved = 0
        """Bytes moved, over all stages."""
        self.skipped = 0
        """Bytes that needed no move, over all stages."""
        self.files = 0
        self._progress = progress or Progress()
        self._lock = threading.Lock()
        self._before = StageProgress("", 0, 0)
        """The stage, with what all of them had done when it began."""
        self._began = 0.0

    def begin(self, verb: str, *, total_bytes: int, total_files: int) -> None:
        """A stage begins."""
        self._progress.begin(verb, total_bytes=total_bytes, total_files=total_files)
        self._began = time.monotonic()
        with self._lock:
            self._before = StageProgress(verb, total_bytes, total_files, self.moved, self.skipped, self.files)

    def advance(self, *, moved: int = 0, skipped: int = 0, files: int = 0) -> None:
        """More is done."""
        with self._lock:
            self.moved += moved
            self.skipped += skipped
            self.files += files
        self._progress.advance(moved=moved, skipped=skipped, files=files)

    def note(self, message: str) -> None:
        """Something worth knowing."""
        self._progress.note(message)

    def end(self) -> None:
        """The stage is over."""
        self._progress.end()

    def stage(self) -> StageProgress:
        """How far the stage is now, with its mean rate once it has gone on for a second."""
        seconds = time.monotonic() - self._began
        with self._lock:
            moved, skipped, files = self.moved, self.skipped, self.files
        before = self._before
        moved -= before.moved
        return replace(
            before,
            moved=moved,
            skipped=skipped - before.skipped,
            files=files - before.files,
            seconds=seconds,
            rate=moved / seconds if moved > 0 and seconds >= 1 else 0.0,
        )


class CalledProgress(CountingProgress):
    """Calls a function when a stage begins, while it goes on, and when it ends; never twice at one time.

    The function is called from the threads that do the work. What it raises ends the operation.
    """

    def __init__(
        self, call: Callable[[StageProgress], object], progress: Progress | None = None, *, interval: float = 0.1
    ) -> None:
        """``interval`` is how many seconds are between two calls at least, within a stage."""
        super().__init__(progress)
        self._call = call
        self._interval = interval
        self._calling = threading.Lock()
        self._called = 0.0
        self._is_open = False

    def begin(self, verb: str, *, total_bytes: int, total_files: int) -> None:
        """A stage begins; one that is still going on ends."""
        self.end()
        super().begin(verb, total_bytes=total_bytes, total_files=total_files)
        self._is_open = True
        self._tell()

    def advance(self, *, moved: int = 0, skipped: int = 0, files: int = 0) -> None:
        """More is done."""
        super().advance(moved=moved, skipped=skipped, files=files)
        if time.monotonic() - self._called >= self._interval and self._calling.acquire(blocking=False):
            try:
                self._call_now()
            finally:
                self._calling.release()

    def end(self) -> None:
        """The stage is over."""
        if self._is_open:
            self._is_open = False
            super().end()
            self._tell()

    def _tell(self) -> None:
        with self._calling:
            self._call_now()

    def _call_now(self) -> None:
        self._called = time.monotonic()
        self._call(self.stage())


def clock(seconds: float) -> str:
    """Seconds as a clock shows them: ``0:42``, ``12:05``, ``1:07:30``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
