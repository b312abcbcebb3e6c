"""Showing progress: a bar on a terminal, elsewhere a line every 30 seconds and one at the end, or events for a program.

Reports come from many threads, once for each block of bytes, so they only add to counters that belong to the
reporting thread; a thread of our own adds them up when it draws.
"""

from __future__ import annotations

import enum
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TextIO

from flexai.checkpoints.documents import short_size
from flexai.checkpoints.names import printable
from flexai.checkpoints.progress import CountingProgress, Progress, StageProgress, clock
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


def event_of(stage: StageProgress, kind: str) -> dict[str, Any]:
    """A stage for a program: sizes in bytes, times in seconds, ``secondsLeft`` null where it is not known."""
    left = stage.seconds_left
    return {
        "event": kind,
        "verb": stage.verb,
        "movedBytes": max(0, stage.moved),
        "skippedBytes": max(0, stage.skipped),
        "totalBytes": stage.total_bytes,
        "files": stage.files,
        "totalFiles": stage.total_files,
        "bytesPerSecond": round(stage.rate),
        "seconds": round(stage.seconds, 3),
        "secondsLeft": None if left is None else round(left, 1),
    }


def figures_of(stage: StageProgress, width: int) -> str:
    """What stands right of the bar, as much of it as fits into ``width`` columns."""
    done, total = short_size(stage.done), short_size(stage.total_bytes)
    number, _, unit = done.partition(" ")
    parts = [
        f"{stage.fraction:>4.0%}",
        f"{number}/{total}" if total.endswith(f" {unit}") else f"{done}/{total}",
        f"{short_size(int(stage.rate))}/s" if stage.rate else "",
        clock(stage.seconds_left) if stage.seconds_left is not None else "",
        f"{stage.files}/{terminal.count(stage.total_files, 'file')}",
        f"{short_size(stage.skipped)} kept" if stage.skipped else "",
    ]
    shown = ""
    for part in filter(None, parts):
        longer = f"{shown}  {part}" if shown else part
        if len(longer) > width:
            break
        shown = longer
    return shown


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


class ShownProgress(CountingProgress):
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
        super().__init__()
        self._stream = stream or sys.stderr
        can_draw = self._stream.isatty() and terminal.has_cursor()
        form = form or wanted_form(can_draw)
        self._form = ProgressForm.LINES if form is ProgressForm.BAR and not can_draw else form
        self._line_interval = line_interval
        self._event_interval = event_interval
        self._samples: list[tuple[float, int]] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._console: Console | None = None
        self._notes = 0
        self._was_shown = False

    def begin(self, verb: str, *, total_bytes: int, total_files: int) -> None:
        """A stage begins; one that is still going on ends."""
        self.end()
        super().begin(verb, total_bytes=total_bytes, total_files=total_files)
        self._samples = [(self._began, 0)]
        self._stop = threading.Event()
        self._was_shown = False
        if self._form is ProgressForm.JSON:
            self._tell(event_of(self.stage(), "begin"))
        run = {
            ProgressForm.BAR: self._show_bar,
            ProgressForm.LINES: self._show_lines,
            ProgressForm.JSON: self._show_events,
        }.get(self._form)
        # Without one to draw, the stage still has an end to wait for.
        self._thread = threading.Thread(target=run or self._stop.wait, name="progress", daemon=True)
        self._thread.start()

    def note(self, message: str) -> None:
        """Show something worth knowing, above the bar; after many of them only where the user wants to read more."""
        if self._form is ProgressForm.JSON:
            self._tell({"event": "note", "message": message})
            return
        self._notes += 1
        if self._notes > terminal.MOST_LINES and not terminal.verbosity.verbose:
            if self._notes == terminal.MOST_LINES + 1:
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
        last = self.stage()
        if self._form is ProgressForm.JSON:
            self._tell(
                event_of(last, "end") | {"secondsLeft": 0.0 if last.is_whole else None, "complete": last.is_whole}
            )
        elif self._form is not ProgressForm.NONE and (self._was_shown or last.seconds >= BRIEF):
            self._print(last.last_line())

    def stage(self) -> StageProgress:
        """How far the stage is now, with the rate of late."""
        stage = super().stage()
        present = self._began + stage.seconds
        self._samples.append((present, stage.moved))
        while len(self._samples) > 2 and self._samples[1][0] < present - _RATE_WINDOW:
            del self._samples[0]
        since, before = self._samples[0]
        return replace(stage, rate=max(0.0, (stage.moved - before) / (present - since)) if present > since else 0.0)

    def _show_lines(self) -> None:
        while not self._stop.wait(self._line_interval):
            self._was_shown = True
            self._print(str(self.stage()))

    def _show_events(self) -> None:
        while not self._stop.wait(self._event_interval):
            self._tell(event_of(self.stage(), "progress"))

    def _show_bar(self) -> None:
        if self._stop.wait(BRIEF):
            return
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=terminal.behind(self._stream))
        self._was_shown = True
        live = Live(get_renderable=self._bar, console=self._console, refresh_per_second=8, transient=True)
        # It takes what others print meanwhile, and reads escape sequences in it.
        with live, terminal.guarded():
            self._stop.wait()
        self._console = None

    def _bar(self) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        assert self._console is not None
        now = self.stage()
        width = self._console.width
        # The bar needs the room more than a name that the user has just typed.
        room = width // 8
        verb = now.verb if len(now.verb) <= room else f"{now.verb[: room - 1]}…"
        figures = figures_of(now, width - len(verb) - 12)
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(no_wrap=True)
        bar.add_column(ratio=1)
        bar.add_column(no_wrap=True, justify="right")
        bar.add_row(Text(printable(verb)), ProgressBar(total=1.0, completed=now.fraction), Text(figures))
        return bar

    def _tell(self, event: dict[str, Any]) -> None:
        terminal.say(json.dumps(event))

    def _print(self, text: str) -> None:
        if self._console is not None:
            self._console.print(printable(text), markup=False, emoji=False, highlight=False, soft_wrap=True)
        else:
            terminal.say(text)


class Notes(Progress):
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
