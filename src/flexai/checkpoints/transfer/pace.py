"""How fast a transfer may go: how many of its tasks run at a time, and how many bytes a second.

Computed from what has happened so far; nothing here waits or knows threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

FIRST_WIDTH = min(4, max(2, os.cpu_count() or 1))
"""Tasks at a time at first: enough to fill a fast network from one process, but no more than there are cores.

Where the network is not what they wait for, more of them only wait for each other: four on two cores took a tenth
longer. Where it is, more follow within a second.
"""
_WINDOW = 0.5
"""Seconds over which bytes are counted before they are compared with the seconds before."""
_GAIN = 1.05
"""How much more a step has to move to be worth keeping."""
_PATIENCE = 8
"""Windows between a step that gained nothing and the next try."""


class Width:
    """How many tasks run at a time: more while more of them move more bytes, fewer when a provider says so.

    Steps up are half as many again, and taken back where they gained nothing, which is also what a rise in latency
    looks like. A provider that says "slow down" halves it, as TCP does with its window (RFC 5681).
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``most`` tasks at a time, never more."""
        self.most = most
        self.now = min(most, FIRST_WIDTH)
        self._clock = clock
        self._began = clock()
        self._bytes = 0
        self._before = self.now
        self._rate = 0.0
        self._wait = 0

    def moved(self, size: int) -> None:
        """Count bytes that have moved; at the end of a window the width is looked at anew."""
        self._bytes += size
        elapsed = self._clock() - self._began
        if elapsed < _WINDOW:
            return
        rate = self._bytes / elapsed
        self._restart()
        if self._wait > 0:
            self._wait -= 1
            self._rate = rate
        elif self.now > self._before and rate < self._rate * _GAIN:
            self.now, self._wait = self._before, _PATIENCE
        else:
            self._before, self._rate = self.now, rate
            self.now = min(self.most, self.now + max(1, self.now // 2))

    def slow_down(self) -> None:
        """Halve the width: the provider is overloaded."""
        self.now = self._before = max(1, self.now // 2)
        self._wait = _PATIENCE
        self._restart()

    def _restart(self) -> None:
        self._began, self._bytes = self._clock(), 0


class Bandwidth:
    """A limit in bytes a second, shared by all tasks of a transfer."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        """``limit`` bytes a second; 0 for none."""
        self._limit = limit
        self._clock = clock
        self._free_at = clock()

    def take(self, size: int) -> float:
        """Take a turn for ``size`` bytes; returns how many seconds to wait for it."""
        if not self._limit:
            return 0.0
        now = self._clock()
        wait = max(0.0, self._free_at - now)
        self._free_at = max(self._free_at, now) + size / self._limit
        return wait
