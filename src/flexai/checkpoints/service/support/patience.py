"""How long the end of a job waits for a catalog or a store that is away: once, however many of its steps meet that."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from flexai.checkpoints.errors import StorageError, StorageUnavailableError


class Patience:
    """Runs from the first failure to its end, unless a step succeeds in between. Used from several threads."""

    def __init__(self, seconds: float) -> None:
        """``seconds`` is how long all steps together wait for something that is away."""
        self._seconds = seconds
        self._ends_at = math.inf

    @property
    def left(self) -> float:
        """Seconds that may still be waited; zero or less where it is over."""
        return min(self._seconds, self._ends_at - time.monotonic())

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be waited for any more."""
        return self._ends_at < math.inf and self.left <= 0

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Do a step that raises StorageUnavailableError where something is away.

        Raises StorageError, and does not begin, where all patience is spent.
        """
        if self.is_over:
            raise StorageError("what it needs has been away for too long, and is not waited for any more")
        try:
            yield
        except StorageUnavailableError:
            self.failed()
            raise
        self._ends_at = math.inf

    def failed(self) -> None:
        """Count from now on that something is away, where it was not before."""
        if self._ends_at == math.inf:
            self._ends_at = time.monotonic() + self._seconds
