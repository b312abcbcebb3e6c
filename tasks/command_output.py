"""What a training command prints, as log lines of its run."""

from __future__ import annotations

import logging
import re
import threading
import time
from types import TracebackType
from typing import Literal

from flexai.tasks.options import Logger, current_watcher

BURST_LINES = 200
"""Lines that are logged at once, however fast they come."""
LINES_PER_SECOND = 10.0
"""Lines that are logged in the long run: a Prefect API stores each of them in its database."""
LINE_LENGTH = 2000
"""Characters of a line that are logged."""

_LINE_END = re.compile(rb"\r\n|\n|\r")
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")


class LoggedOutput:
    """Hands what a command prints to a logger, line by line, and leaves lines out where they come too fast.

    A progress bar draws the same line again and again: each drawing counts as a line.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger
        self._on_output = current_watcher().on_output
        self._lock = threading.Lock()
        self._rest: dict[str, bytes] = {}
        self._allowance = float(BURST_LINES)
        self._counted_at = time.monotonic()
        self._left_out = 0

    def __call__(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        """Take what was printed."""
        self._on_output(stream, data)
        with self._lock:
            *lines, rest = _LINE_END.split(self._rest.get(stream, b"") + data)
            # A line without an end must not grow for ever.
            self._rest[stream] = rest[-LINE_LENGTH * 4 :]
            for line in lines:
                self._log(line)

    def __enter__(self) -> LoggedOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            for rest in self._rest.values():
                self._log(rest)
            self._rest.clear()
            self._tell_left_out()

    def _log(self, line: bytes) -> None:
        text = _COLOURS.sub("", line.decode(errors="replace")).rstrip()
        if not text:
            return
        present = time.monotonic()
        self._allowance = min(BURST_LINES, self._allowance + (present - self._counted_at) * LINES_PER_SECOND)
        self._counted_at = present
        if self._allowance < 1:
            self._left_out += 1
            return
        self._allowance -= 1
        self._tell_left_out()
        self._logger.log(logging.INFO, "%s", text if len(text) <= LINE_LENGTH else f"{text[:LINE_LENGTH]}…")

    def _tell_left_out(self) -> None:
        if self._left_out:
            self._logger.info("(%d lines of output are left out here)", self._left_out)
            self._left_out = 0
