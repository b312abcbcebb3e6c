"""A progress that a test can ask."""

from __future__ import annotations

import threading


class Counter:
    """Adds up what an operation reports."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, int]] = []
        self.notes: list[str] = []
        self.moved = self.skipped = self.files = self.ended = 0
        self._lock = threading.Lock()

    def begin(self, verb: str, *, total_bytes: int, total_files: int) -> None:
        """Note a stage and its totals."""
        self.stages.append((verb, total_bytes, total_files))

    def advance(self, *, moved: int = 0, skipped: int = 0, files: int = 0) -> None:
        """Add up."""
        with self._lock:
            self.moved += moved
            self.skipped += skipped
            self.files += files

    def note(self, message: str) -> None:
        """Keep a message."""
        self.notes.append(message)

    def end(self) -> None:
        """Count the end."""
        self.ended += 1
