"""A progress that a test can ask, and a stage that is half done."""

from __future__ import annotations

from flexai.checkpoints.progress import CountingProgress, StageProgress

GIB = 1024**3
HALFWAY = StageProgress(
    verb="push mistral-500",
    moved=2 * GIB,
    skipped=GIB // 2,
    files=3,
    total_bytes=5 * GIB,
    total_files=10,
    seconds=20.0,
    rate=120 * 1024**2,
)


class Counter(CountingProgress):
    """Adds up what an operation reports."""

    def __init__(self) -> None:
        super().__init__()
        self.stages: list[tuple[str, int, int]] = []
        self.notes: list[str] = []
        self.ended = 0

    def begin(self, verb: str, *, total_bytes: int, total_files: int) -> None:
        """Note a stage and its totals."""
        self.stages.append((verb, total_bytes, total_files))

    def note(self, message: str) -> None:
        """Keep a message."""
        self.notes.append(message)

    def end(self) -> None:
        """Count the end."""
        self.ended += 1
