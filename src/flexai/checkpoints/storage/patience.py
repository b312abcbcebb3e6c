"""How long a command, or the end of a job, waits for a catalog or a store that is away."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from flexai.checkpoints.errors import StorageError, StorageUnavailableError
from flexai.checkpoints.storage.retry import tell_of_retries, wait_after

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0

_in_a_hurry: ContextVar[bool] = ContextVar("flexai_in_a_hurry", default=False)


@contextmanager
def without_waiting() -> Iterator[None]:
    """Let no patience wait in the block: what is away is said to be so at once."""
    token = _in_a_hurry.set(True)
    try:
        yield
    finally:
        _in_a_hurry.reset(token)


class Patience:
    """Runs from the first failure to its end, unless a step succeeds in between. Used from several threads."""

    def __init__(self, seconds: float, *, once: bool = False) -> None:
        """``seconds`` is how long all steps together wait for something that is away.

        A step that succeeds makes it whole again, or with ``once`` only keeps what is left for the next failure.
        """
        self._seconds = seconds
        self._once = once
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

        What its tries wait for is taken from the patience. Raises StorageError, and does not begin, where all of that
        is spent.
        """
        if self.is_over:
            raise StorageError("what it needs has been away for too long, and is not waited for any more")
        before = wait_after.get() or _sleep

        def wait(error: StorageUnavailableError, seconds: float) -> None:
            self.failed()
            if self.is_over:
                raise error
            before(error, min(seconds, max(self.left, 0.0)))

        token = wait_after.set(wait)
        try:
            yield
        except StorageUnavailableError:
            self.failed()
            raise
        finally:
            wait_after.reset(token)
        self.succeeded()

    def failed(self) -> bool:
        """Count from now on that something is away; whether it was not before."""
        is_first = self._ends_at == math.inf
        if is_first:
            self._ends_at = time.monotonic() + self._seconds
        return is_first

    def succeeded(self) -> None:
        """Count no longer."""
        if self._once and self.is_over:
            return  # there is none for another failure
        if self._once:
            self._seconds = self.left
        self._ends_at = math.inf

    def wait(self, error: StorageUnavailableError, failures: int) -> None:
        """Wait after a failure, the ``failures``-th one in a row, and say so once; raises it where nothing is left."""
        if _in_a_hurry.get() or (self.failed() and self._seconds <= 0) or self.is_over:
            raise error
        if failures == 1:
            tell_of_retries(f"{error.message}; waiting for it")
        pause = min(_LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * float(2 ** min(failures - 1, 8)))
        (wait_after.get() or _sleep)(error, min(pause, max(self.left, 0.0)))


def _sleep(_error: StorageUnavailableError, seconds: float) -> None:
    time.sleep(seconds)
