"""The notice that this machine goes away, and until when what is whole has to be stored."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flexai.checkpoints.errors import PostponedError
from flexai.checkpoints.storage.retry import wait_after

END_VARIABLE = "SLURM_JOB_END_TIME"
"""When Slurm ends the job at the latest, in seconds since the epoch."""
LONGEST_NOTICE_SECONDS = 600.0
"""A notice that comes earlier before the end of Slurm's job is about another end: ``scancel``, a preemption."""
LAST_SECONDS = 5.0
"""How long what a command has written is stored after its end, though the deadline has come meanwhile."""
_STEP_SECONDS = 0.1


class Preemption:
    """Whether notice was given, and the deadline. Signal handlers give the notice, so nothing here takes a lock."""

    def __init__(self, grace: float = math.inf, *, is_grace_given: bool = False) -> None:
        """``grace`` is in seconds, from the notice to the deadline; without one a notice changes nothing.

        Unless a user has given it (``is_grace_given``), the end of the job that Slurm tells of counts, where it is
        near.
        """
        self._grace = grace
        self._is_grace_given = is_grace_given
        self.ends_at = math.inf
        """The deadline, on the monotonic clock."""

    def give(self) -> float:
        """Give the notice; the first one counts. Returns the deadline."""
        if not self.is_noticed:
            self.ends_at = time.monotonic() + self._seconds()
        return self.ends_at

    @property
    def is_noticed(self) -> bool:
        """Whether this machine goes away."""
        return self.ends_at < math.inf

    @property
    def is_over(self) -> bool:
        """Whether the deadline has come."""
        return time.monotonic() >= self.ends_at

    def allow_last_seconds(self) -> None:
        """The command has ended: give what it wrote last a moment, also where it has used all the time."""
        if self.is_noticed:
            self.ends_at = max(self.ends_at, time.monotonic() + LAST_SECONDS)

    def check(self) -> None:
        """Raise PostponedError once the deadline has come."""
        if self.is_over:
            raise PostponedError("the time before this machine goes away is over")

    @contextmanager
    def bounding_waits(self) -> Iterator[Callable[[], None]]:
        """Let this thread wait for a store until the deadline, and no longer, in the block; gives ``check``."""
        token = wait_after.set(self._wait)
        try:
            yield self.check
        finally:
            wait_after.reset(token)

    def _wait(self, _error: object, seconds: float) -> None:
        ends_at = time.monotonic() + seconds
        while (left := ends_at - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, _STEP_SECONDS))

    def _seconds(self) -> float:
        if self._is_grace_given:
            return self._grace
        try:
            left = float(os.environ.get(END_VARIABLE, "")) - time.time()
        except ValueError:
            return self._grace
        return left if 0 < left <= LONGEST_NOTICE_SECONDS else self._grace
