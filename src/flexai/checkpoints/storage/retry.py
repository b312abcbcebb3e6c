"""One policy for trying again, for every store.

SDKs have policies of their own, each with other errors, waits and limits; they are switched off, so that a failure is
tried again here alone. Only ``StorageUnavailableError`` is: a refused credential does not get better, and no room is
made within seconds (``StorageFullError``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, TypeVar

from flexai.checkpoints.errors import StorageFullError, StorageUnavailableError

T = TypeVar("T")

LEAST_BYTES = 64 * 1024
"""Bytes that arrive within the read timeout, unless the answer ends: with that of 60 s, about 1 KiB/s. A try that
brings as many has got further."""

wait_after: ContextVar[Callable[[StorageUnavailableError, float], None] | None] = ContextVar(
    "flexai_wait_after", default=None
)
"""Waits after a failure for some seconds, in place of the policy's own sleep; what it raises ends the work."""


_TELL_EVERY = 5.0
"""Seconds: many parts that fail at once are one thing to tell."""


_tell: ContextVar[Callable[[str], None]] = ContextVar("flexai_tell_of_retries", default=lambda _message: None)


@contextmanager
def telling_of_retries(note: Callable[[str], None]) -> Iterator[None]:
    """Have ``note`` told, now and then, of failures within the block that did not pass with the first wait."""
    lock, next_at = threading.Lock(), 0.0

    def tell(message: str) -> None:
        nonlocal next_at
        with lock:
            if time.monotonic() < next_at:
                return
            next_at = time.monotonic() + _TELL_EVERY
        note(message)

    token = _tell.set(tell)
    try:
        yield
    finally:
        _tell.reset(token)


def tell_of_retries(message: str) -> None:
    """Tell whom ``telling_of_retries`` names, if any."""
    _tell.get()(message)


def _random() -> float:
    import random  # few commands meet a failure

    return random.random()


class RetryPolicy(NamedTuple):
    """How often and after which waits something is tried again.

    The wait is drawn evenly from zero to a limit that grows fourfold with each failure ("full jitter":
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), so that many clients of a service that
    says "slow down" do not come back all at once. Most failures are of one request alone: the second try comes soon.
    """

    attempts: int = 8
    """Tries in all, the first included."""
    base_delay: float = 0.1
    """Seconds: the limit of the first wait."""
    max_delay: float = 20.0
    """Seconds: no wait of our own is longer."""
    max_retry_after: float = 120.0
    """Seconds: no wait that a service asks for is longer."""
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = _random
    """From 0 to 1."""

    def delay(self, failures: int, error: StorageUnavailableError) -> float:
        """Seconds to wait after so many failures, the last one being ``error``."""
        # Beyond 4 ** 16 the limit is reached whatever the base; a float overflows at 2 ** 1024.
        limit = min(self.max_delay, self.base_delay * float(4 ** min(failures - 1, 16)))
        return max(self.random() * limit, min(error.retry_after, self.max_retry_after))


class Attempts:
    """The tries of one operation."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._arrived = 0

    def failed(self, error: StorageUnavailableError) -> None:
        """Wait after a failure; raises it again where it was the last try."""
        self._failures += 1
        self._arrived = 0
        if self._failures >= self._policy.attempts or isinstance(error, StorageFullError):
            raise error
        if self._failures > 1:
            tell_of_retries(f"{error.message}; trying again ({self._failures + 1} of {self._policy.attempts})")
        seconds = self._policy.delay(self._failures, error)
        if (wait := wait_after.get()) is not None:
            wait(error, seconds)
        else:
            self._policy.sleep(seconds)

    def progressed(self) -> None:
        """Start counting anew: the operation has got further than before."""
        self._failures = 0

    def arrived(self, count: int) -> None:
        """Take bytes for progress once one try has brought ``LEAST_BYTES``: a server may send one with each."""
        self._arrived += count
        if self._arrived >= LEAST_BYTES:
            self.progressed()


def retrying(operation: Callable[[], T], policy: RetryPolicy) -> T:
    """Do an operation, again after a passing failure, and return its result.

    Raises the last StorageUnavailableError when the tries are used up, and any other error at once.
    """
    attempts = Attempts(policy)
    while True:
        try:
            return operation()
        except StorageUnavailableError as error:
            attempts.failed(error)
