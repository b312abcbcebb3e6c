"""How an operation tells what it has done so far.

An operation reports to a :class:`Progress`; a terminal bar, a log line and a Prefect artifact are three of
them. Reports are counters pushed by the transfer (never polled), so they cost next to nothing.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What an operation reports to. Called from many threads at once."""

    def begin(self, verb: str, *, total_bytes: int, total_files: int) -> None:
        """A stage begins: ``verb`` says what it does (``"push"``), the totals how much there is."""

    def advance(self, *, moved: int = 0, skipped: int = 0, files: int = 0) -> None:
        """More is done: bytes moved, bytes that needed no move, and files finished since the last call."""

    def note(self, message: str) -> None:
        """Something a person would want to know: a retry, a file that was kept."""

    def end(self) -> None:
        """The stage is over, well or not."""


class NoProgress:
    """Reports nothing."""

    def begin(self, verb: str, *, total_bytes: int, total_files: int) -> None:
        """Do nothing."""

    def advance(self, *, moved: int = 0, skipped: int = 0, files: int = 0) -> None:
        """Do nothing."""

    def note(self, message: str) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""
