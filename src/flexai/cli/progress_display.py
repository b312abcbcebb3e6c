"""Showing progress: a bar on a terminal, elsewhere a line every 30 seconds and one at the end, or events for a program.

Reports come from many threads, once for each block of bytes, so they only add to counters that belong to the
reporting thread; a thread of our own adds them up when it draws.
"""

from __future__ import annotations

import enum
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from flexai.checkpoints.documents import human_size, short_size
from flexai.checkpoints.progress import NoProgress
from flexai.checkpoints.storage.retry import telling_of_retries
from flexai.cli import terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LINE_INTERVAL = 30.0
"""Seconds between two lines where there is no terminal."""
EVENT_INTERVAL = 1.0
"""Seconds between two events of a stage."""
BRIEF = 1.0
"""Seconds below which a stage ends before a person wonders: it gets neither a bar nor a line at its end.

A person's thoughts do not wander in that time (Nielsen, Usability Engineering, 1993), and a bar would cost the import
of rich.
"""
_RATE_WINDOW = 10.0
_MAX_NOTES = 20


@dataclass(slots=True)
class _Counters:
    moved: int = 0
    skipped: int = 0
    files: int = 0


class Tally:
    """Sums that many threads add to without waiting for each other."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._all: list[_Counters] = []

    def add(self, moved: int, skipped: int, files: int) -> None:
        """Add to the counters of the calling thread."""
        try:
            counters: _Counters = self._local.counters
        except AttributeError:
            counters = self._local.counters = _Counters()
            self._all.append(counters)
        counters.moved += moved
        counters.skipped += skipped
        counters.files += files

    def totals(self) -> _Counters:
        """The sums over all threads."""
        every = list(self._all)
        return _Counters(
            moved=sum(counters.moved for counters in every),
            skipped=sum(counters.skipped for counters in every),
            files=sum(counters.files for counters in every),
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """How far a stage is."""

    verb: str
    moved: int
    skipped: int
    files: int
    total_bytes: int
    total_files: int
    seconds: float
    rate: float
    """Bytes moved a second, lately."""

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
    def seconds_left(self) -> float | None:
        """How long the rest takes at this rate; None where that is not known."""
        rest = self.total_bytes - self.done
        return rest / self.rate if self.rate >= 1 and rest > 0 else None

    def line(self) -> str:
        """All of it in one line, for a log."""
        parts = [f"{human_size(self.done, digits=1)} of {human_size(self.total_bytes, digits=1)}"]
        parts[0] += f" ({self.fraction:.0%})"
        parts.append(f"{self.files} of {terminal.count(self.total_files, 'file')}")
        if self.skipped:
            parts.append(f"{human_size(self.skipped, digits=1)} already there")
        if self.rate:
            parts.append(f"{human_size(int(self.rate), digits=1)}/s")
        if self.seconds_left is not None:
            parts.append(f"{clock(self.seconds_left)} left")
        return f"{self.verb}: {', '.join(parts)}"

    def last_line(self) -> str:
        """What was done in all."""
        size, count = human_size(self.done, digits=1), terminal.count(self.files, "file")
        if not self.is_whole:
            size = f"{size} of {human_size(self.total_bytes, digits=1)}"
            count = f"{self.files} of {terminal.count(self.total_files, 'file')}"
        parts = [size, count]
        if self.skipped:
            parts.append(f"{human_size(self.skipped, digits=1)} already there")
        if self.moved > 0 and self.seconds >= 1:
            parts.append(f"{human_size(int(self.moved / self.seconds), digits=1)}/s")
        return f"{self.verb}: {', '.join(parts)} in {clock(self.seconds)}"

    def event(self, kind: str) -> dict[str, Any]:
        """All of it for a program: sizes in bytes, times in seconds, ``secondsLeft`` null where it is not known."""
        left = self.seconds_left
        return {
            "event": kind,
            "verb": self.verb,
            "movedBytes": max(0, self.moved),
            "skippedBytes": max(0, self.skipped),
            "totalBytes": self.total_bytes,
            "files": self.files,
            "totalFiles": self.total_files,
            "bytesPerSecond": round(self.rate),
            "seconds": round(self.seconds, 3),
            "secondsLeft": None if left is None else round(left, 1),
        }

    @property
    def is_whole(self) -> bool:
        """Whether all of it is done."""
        return self.done >= self.total_bytes and self.files >= self.total_files

    def figures(self, width: int) -> str:
        """What stands right of the bar, as much of it as fits into ``width`` columns."""
        done, total = short_size(self.done), short_size(self.total_bytes)
        number, _, unit = done.partition(" ")
        sizes = f"{number}/{total}" if total.endswith(f" {unit}") else f"{done}/{total}"
        parts = [f"{self.fraction:>4.0%}", sizes]
        parts.append(f"{short_size(int(self.rate))}/s" if self.rate else "")
        parts.append(clock(self.seconds_left) if self.seconds_left is not None else "")
        parts.append(f"{self.files}/{terminal.count(self.total_files, 'file')}")
        parts.append(f"{short_size(self.skipped)} kept" if self.skipped else "")
        shown = ""
        for part in filter(None, parts):
            longer = f"{shown}  {part}" if shown else part
            if len(longer) > width:
                break
            shown = longer
        return shown


def clock(seconds: float) -> str:
    """Seconds as a clock shows them: ``0:42``, ``12:05``, ``1:07:30``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class ProgressForm(enum.StrEnum):
    """How progress is shown."""

    BAR = "bar"
    LINES = "lines"
    JSON = "json"
    NONE = "none"


def wanted_form(can_draw: bool) -> ProgressForm:
    """How the user wants progress to be shown: what was asked for, or else what suits who reads it.

    That is a bar for a person before a terminal; elsewhere events where the result is JSON as well, and else lines.
    """
    wanted = terminal.verbosity.progress
    if wanted != terminal.AUTO:
        return ProgressForm(wanted)
    if can_draw:
        return ProgressForm.BAR
    return ProgressForm.JSON if terminal.verbosity.for_program else ProgressForm.LINES


class ShownProgress:
    """Progress as a person, a log or a program sees it; one stage at a time."""

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        form: ProgressForm | None = None,
        line_interval: float = LINE_INTERVAL,
        event_interval: float = EVENT_INTERVAL,
    ) -> None:
        """``form`` by default as the user wants it; a bar is drawn only where a terminal can."""
        self._stream = stream or sys.stderr
        can_draw = self._stream.isatty() and terminal.has_cursor()
        form = form or wanted_form(can_draw)
        self._form = ProgressForm.LINES if form is ProgressForm.BAR and not can_draw else form
        self._line_interval = line_interval
        self._event_interval = event_interval
        self._tally = Tally()
        self._verb = ""
        self._total_bytes = self._total_files = 0
        self._began = 0.0
        self._samples: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._console: Console | None = None
        self._notes = 0
        self._was_shown = False

    def begin(self, verb: str, *, total_bytes: int, total_files: int) -> None:
        """A stage begins; one that is still going on ends."""
        self.end()
        self._tally = Tally()
        self._verb, self._total_bytes, self._total_files = verb, total_bytes, total_files
        self._began = time.monotonic()
        self._samples = [(self._began, 0)]
        self._stop = threading.Event()
        self._was_shown = False
        if self._form is ProgressForm.JSON:
            self._tell(self.snapshot().event("begin"))
        run = {
            ProgressForm.BAR: self._show_bar,
            ProgressForm.LINES: self._show_lines,
            ProgressForm.JSON: self._show_events,
        }.get(self._form)
        # Without one to draw, the stage still has an end to wait for.
        self._thread = threading.Thread(target=run or self._stop.wait, name="progress", daemon=True)
        self._thread.start()

    def advance(self, *, moved: int = 0, skipped: int = 0, files: int = 0) -> None:
        """More is done."""
        self._tally.add(moved, skipped, files)

    def note(self, message: str) -> None:
        """Show something worth knowing, above the bar; after many of them only where the user wants to read more."""
        if self._form is ProgressForm.JSON:
            self._tell({"event": "note", "message": message})
            return
        self._notes += 1
        if self._notes > _MAX_NOTES and not terminal.verbosity.verbose:
            if self._notes == _MAX_NOTES + 1:
                self._print("more of these are left out: --verbose shows them")
            return
        self._print(message)

    def end(self) -> None:
        """The stage is over; says what was done, unless that took no time worth a line."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        last = self.snapshot()
        if self._form is ProgressForm.JSON:
            self._tell(last.event("end") | {"secondsLeft": 0.0 if last.is_whole else None, "complete": last.is_whole})
        elif self._form is not ProgressForm.NONE and (self._was_shown or last.seconds >= BRIEF):
            self._print(last.last_line())

    def snapshot(self) -> Snapshot:
        """How far the stage is now."""
        totals, present = self._tally.totals(), time.monotonic()
        self._samples.append((present, totals.moved))
        while len(self._samples) > 2 and self._samples[1][0] < present - _RATE_WINDOW:
            del self._samples[0]
        since, before = self._samples[0]
        return Snapshot(
            verb=self._verb,
            moved=totals.moved,
            skipped=totals.skipped,
            files=totals.files,
            total_bytes=self._total_bytes,
            total_files=self._total_files,
            seconds=present - self._began,
            rate=max(0.0, (totals.moved - before) / (present - since)) if present > since else 0.0,
        )

    def _show_lines(self) -> None:
        while not self._stop.wait(self._line_interval):
            self._was_shown = True
            self._print(self.snapshot().line())

    def _show_events(self) -> None:
        while not self._stop.wait(self._event_interval):
            self._tell(self.snapshot().event("progress"))

    def _show_bar(self) -> None:
        if self._stop.wait(BRIEF):
            return
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=self._stream)
        self._was_shown = True
        with Live(get_renderable=self._bar, console=self._console, refresh_per_second=8, transient=True):
            self._stop.wait()
        self._console = None

    def _bar(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        assert self._console is not None
        now = self.snapshot()
        width = self._console.width
        # The bar needs the room more than a name that the user has just typed.
        verb = now.verb if len(now.verb) <= width // 6 else f"{now.verb[: width // 6 - 1]}…"
        figures = now.figures(width - len(verb) - 12)
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True, justify="right")
        bar.add_row(Text(terminal.printable(verb)), ProgressBar(total=1.0, completed=now.fraction), Text(figures))
        return bar

    def _tell(self, event: dict[str, Any]) -> None:
        terminal.say(json.dumps(event))

    def _print(self, text: str) -> None:
        if self._console is not None:
            self._console.print(terminal.printable(text), markup=False, highlight=False, soft_wrap=True)
        else:
            terminal.say(text)


class Notes(NoProgress):
    """Progress of which only the remarks are shown: a training command has the terminal to itself."""

    def note(self, message: str) -> None:
        """Show a remark."""
        terminal.say(message)


@contextmanager
def shown_progress(form: ProgressForm | None = None) -> Iterator[ShownProgress]:
    """Progress on standard error while the block works, however it ends; by default as the user wants it."""
    progress = ShownProgress(form=form)
    try:
        with telling_of_retries(progress.note):
            yield progress
    finally:
        progress.end()
