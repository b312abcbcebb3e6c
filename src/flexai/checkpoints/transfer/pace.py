"""How fast a transfer may go: how many of its tasks run at a time, and how many bytes a second.

Computed from what has happened so far; nothing here waits or knows threads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

CORES = os.cpu_count() or 1
FIRST_WIDTH = min(4, max(2, CORES))
"""Tasks at a time at first: enough to fill a fast network from one process, but no more than there are cores.

Where the network is not what they wait for, more of them only wait for each other: four on two cores took a tenth
longer. Where it is, the others follow with the first look.
"""
LOOK = 0.05
"""Seconds between two looks at the width."""
FIRST_LOOK = 0.02
"""Seconds before the first ones: in fewer a near service would hardly have answered."""
FIRST_LOOKS = 0.2
"""Seconds in which these come: as long as what begins a transfer may hide that it waits for a network."""
_WORKING = 0.75
"""The share of the processor's time at which more tasks are given up on: what is left is the others' on a machine."""
_FULL = 0.95
"""The share above which fewer of them do the same."""
_PROOF = 1.0
"""Seconds after which a wider transfer has to move more than the one before."""
_GAIN = 1.1
"""How much more."""
_PATIENCE = 5.0
"""Seconds between a step that gained nothing and the next try."""
_BURST = 3
"""Refusals in a row, at least, that say that a provider is overloaded."""
_BURST_SHARE = 4
"""Of so many tasks at a time one has to be refused: of many, some are by chance."""
_FORGIVEN = 1 / 8
"""Refusals that are made up for by a task that ends well: more than one of nine has to be refused."""
_LEAST = 2
"""Tasks at a time that an overloaded provider is left with."""
_CALM = 0.5
"""Seconds without a word from an overloaded provider after which half as many tasks again may run."""


class Width:
    """How many tasks run at a time: all that may where the network is what they wait for, few where the processor is.

    What tells is the processor time of this process by the time that passed: connections cost little, and what
    digests and copies for them takes cores. A step that moves no more than before is taken back, for a thin line is
    not helped by many connections. A provider that says "slow down" to a good part of the requests halves the width, as
    TCP does (RFC 5681). One that refuses a few by chance does not: what ends well makes up for them, as in the retry
    quota of AWS's SDKs (https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html).
    """

    def __init__(
        self,
        most: int,
        clock: Callable[[], float] = time.monotonic,
        processor: Callable[[], float] = time.process_time,
        cores: int = CORES,
    ) -> None:
        """``most`` tasks at a time, never more; ``processor`` tells the seconds that this process has worked."""
        self.most = most
        self.now = min(most, FIRST_WIDTH)
        self._clock = clock
        self._processor = processor
        self._cores = cores
        self._ceiling = most
        """What an overloaded provider leaves."""
        self._calm_at = 0.0
        """When the ceiling rises again."""
        self._refusals = 0.0
        """Those that were not made up for."""
        self._tries_at = 0.0
        """When a step up may be tried again."""
        self._before = self.now
        """What is gone back to where a step up gains nothing."""
        self._rate = 0.0
        """Bytes a second before it; 0 where none are known."""
        self._is_unproven = False
        self._moved = 0
        self._is_held = False
        self.pause = FIRST_LOOK
        """Seconds from one look to the next."""
        self._began = self._since = clock()
        self._settled_at = self._began + FIRST_LOOKS
        self._worked = processor()

    def moved(self, size: int) -> None:
        """Count bytes that have moved."""
        self._moved += size

    def hold(self) -> None:
        """Grow no more until the next look: it is our own limit that tasks wait for."""
        self._is_held = True

    def look(self) -> None:
        """Look whether more tasks would help, or fewer; does nothing within ``pause`` of the last time."""
        now, elapsed = self._clock(), self._clock() - self._began
        if elapsed < self.pause:
            return
        self.pause = FIRST_LOOK if now < self._settled_at else LOOK
        worked = self._processor()
        share = (worked - self._worked) / elapsed / self._cores
        is_held, self._is_held = self._is_held, False
        self._began, self._worked = now, worked
        if self._ceiling < self.most and now >= self._calm_at:
            self._ceiling = min(self.most, self._ceiling + max(1, self._ceiling // 2))
            self._calm_at = now + _CALM
        if self._is_unproven and now - self._since >= _PROOF:
            self._is_unproven = False
            if self._moved < self._rate * _GAIN * (now - self._since):
                self.now, self._tries_at = min(self._before, self.now), now + _PATIENCE
                self._restart(now)
        if share > _FULL and self.now > FIRST_WIDTH:
            self.now = max(FIRST_WIDTH, self.now * 3 // 4)
        elif not is_held and now >= self._tries_at:
            # As many more as the processor has time for, by what those take that run now.
            self._step_up(now, int(self.now * _WORKING / max(share, _WORKING / self.most)))

    def ended(self) -> None:
        """Count a task that ended well."""
        self._refusals = max(0.0, self._refusals - _FORGIVEN)

    def refused(self) -> None:
        """Count a refusal, and halve the width where there are many: the provider is overloaded.

        Tasks that are told so together are told once. Two are left, as of TCP's segments (RFC 5681, equation 4): each
        that is refused waits by itself.
        """
        now = self._clock()
        if now < self._calm_at - _CALM / 2:
            return
        self._refusals += 1
        if self._refusals < max(_BURST, self.now / _BURST_SHARE):
            return
        self._refusals = 0.0
        self.now = self._ceiling = max(min(self.now, _LEAST), self.now // 2)
        self._is_unproven = False
        self._calm_at = now + _CALM
        self._restart(now)

    def _step_up(self, now: float, wanted: int) -> None:
        width = min(wanted, self._ceiling)
        if width <= self.now:
            return
        if not self._is_unproven:
            self._is_unproven = True
            self._before, self._rate = self.now, self._moved / max(now - self._since, LOOK)
            self._restart(now)
        self.now = width

    def _restart(self, now: float) -> None:
        self._since, self._moved = now, 0


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
