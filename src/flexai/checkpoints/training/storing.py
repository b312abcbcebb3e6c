"""Storing found checkpoints, one after the other, beside the watching: in order, or the newest first."""

from __future__ import annotations

import bisect
import posixpath
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

from flexai.checkpoints.errors import (
    CheckpointError,
    PostponedError,
    SourceChangedError,
    StorageUnavailableError,
    UsageError,
)
from flexai.checkpoints.models import TrainingFacts
from flexai.checkpoints.training.completeness.candidates import Fate, Found
from flexai.checkpoints.training.output_dir import Stamp
from flexai.checkpoints.training.preemption import Preemption
from flexai.checkpoints.training.units import COPY
from flexai.checkpoints.transfer.crew import give_way

_LONGEST_RETRY_SECONDS = 30.0
_TRIES_AFTER_END = 5
_LOOK_SECONDS = 0.1
"""How often what waits looks whether notice was given, or the deadline has come: a signal's handler wakes no thread."""
_LAST_LOOK_SECONDS = 1.0
"""How long a transfer may take to give up once the deadline has come."""

Store: TypeAlias = Callable[[Found, TrainingFacts], str | None]
"""Stores a found checkpoint. Returns the name of another one where it holds only that one's content.

Raises SourceChangedError where its files are no longer what was found.
"""
Announce: TypeAlias = Callable[[Found], object]
"""Gives a found checkpoint its place in the order of all, before a later one is stored."""
Note: TypeAlias = Callable[[str], None]
"""Is told what a person would want to know, from any thread."""


class Storing:
    """Stores found checkpoints one after the other, in a thread of its own.

    They are stored in the order in which they were found. Once notice was given that this machine goes away, the one
    that was found last comes first, and one that is on its way gives way to it: what has arrived of it stays, and is
    continued when its turn comes again. At the deadline what is not stored is given up, and its pins stay.
    """

    def __init__(
        self,
        store: Store,
        note: Note,
        preemption: Preemption | None = None,
        announce: Announce = lambda _found: None,
    ) -> None:
        """``store`` and ``announce`` are called from one thread."""
        self._store = store
        self._announce = announce
        self.note = note
        self._preemption = preemption or Preemption()
        self._hurry = threading.Event()
        self._securer = ThreadPoolExecutor(1, thread_name_prefix="capture-copy")
        self._changed = threading.Condition()
        self._waiting: list[tuple[int, Found]] = []
        """In the order in which they were found, by their numbers."""
        self._current: tuple[int, Found] | None = None
        self._count = 0
        self._is_closed = self._is_abandoned = False
        # A daemon: a store that answers no more must not keep this process at its deadline.
        self._thread = threading.Thread(target=self._work, name="capture-store", daemon=True)
        self._errors: list[BaseException] = []
        self.stored: dict[str, Stamp] = {}
        """The files that are stored, by their paths below the output directory."""
        self.pointers: dict[str, str] = {}
        """Files that hold only what another checkpoint holds, and its name."""
        self.failures: list[str] = []
        self.postponed: list[Found] = []
        """What the deadline left unstored."""
        self._refused: list[Found] = []
        self._thread.start()

    def add(self, found: Found) -> None:
        """Store a checkpoint when its turn comes; what its trainer may write over is copied before."""
        if found.may_be_rewritten and found.secured is None and not self._hurry.is_set():
            self.secure(found)
        with self._changed:
            self._waiting.append((self._count, found))
            self._count += 1
            self._changed.notify_all()

    def secure(self, found: Found) -> None:
        """Copy what the trainer may write over, beside all else."""
        found.secured = self._securer.submit(self._secure, found)

    def hurry(self) -> None:
        """Do not wait long for a store that is not there: the caller waits for the end."""
        self._hurry.set()

    def settle(self, found: Found, seconds: float) -> bool:
        """Whether a checkpoint is stored or given up; waits for some seconds until it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_settled(found), seconds)

    @property
    def takes_all(self) -> bool:
        """Whether all that there is should be added, without a wait for each: since notice was given, or at the end."""
        return self._preemption.is_noticed or self._is_closed

    def drain(self) -> None:
        """Wait until everything is stored or given up; at the deadline all else is."""
        with self._changed:
            while self._is_busy and not self._preemption.is_over:
                self._changed.wait(_LOOK_SECONDS)
            self._changed.wait_for(lambda: not self._is_busy, _LAST_LOOK_SECONDS)
            rest, self._waiting = self._waiting, []
            if self._current is not None:
                rest.append(self._current)
        for _, found in rest:
            self._postpone(found)

    def close(self) -> None:
        """End the threads, and raise what they raised."""
        self._end()
        self._securer.shutdown(wait=not self._preemption.is_over, cancel_futures=True)
        if self._current is None:
            self._thread.join()
        if self._errors:
            raise self._errors[0]

    def abandon(self) -> None:
        """Forget what is waiting, and give up what is on its way: what has arrived of it stays."""
        self._is_abandoned = True
        with self._changed:
            self._waiting.clear()
        self._end()
        self._securer.shutdown(wait=False, cancel_futures=True)
        self._thread.join(_LAST_LOOK_SECONDS)

    def release_refused(self, output: Path) -> None:
        """Remove the pins of what no store would take, except where they are all that is left of it."""
        for found in self._refused:
            if found.is_still_in(output):
                found.pins.release()

    @property
    def _is_busy(self) -> bool:
        return bool(self._waiting) or self._current is not None

    def _is_settled(self, found: Found) -> bool:
        return found.fate is not Fate.WAITING and (self._current is None or self._current[1] is not found)

    def _end(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    # In the thread that stores.

    def _work(self) -> None:
        give_way.set(self._give_way)
        while self._take_next():
            assert self._current is not None
            number, found = self._current
            try:
                self._run(found)
            except PostponedError:
                with self._changed:
                    if not self._is_closed:
                        bisect.insort(self._waiting, (number, found), key=itemgetter(0))
            except BaseException as error:  # noqa: BLE001 - raised where all is closed; until then others are stored
                found.fate = Fate.LOST
                self._errors.append(error)
            with self._changed:
                self._current = None
                self._changed.notify_all()

    def _take_next(self) -> bool:
        """Take what is to be stored now; False where there is nothing any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            while self._preemption.is_over and not self._is_closed:
                self._changed.wait(_LOOK_SECONDS)  # until it is given up, or has a last moment
            if not self._waiting:
                return False
            self._current = self._waiting.pop(self._newest() if self._preemption.is_noticed else 0)
        return True

    def _newest(self) -> int:
        """Which of those that wait was found last, but for a copy: it comes after what it is a copy of."""
        *earlier, (_, last) = self._waiting
        originals = [place for place, (_, found) in enumerate(earlier) if _may_be_copy(last, found)]
        return originals[-1] if originals else -1

    def _give_way(self) -> None:
        """Raise PostponedError where something later is to be stored first, or nothing is to be stored any more."""
        if self._is_abandoned:
            raise PostponedError("its job was interrupted")
        self._preemption.check()
        if self._preemption.is_noticed and self._current is not None:
            with self._changed:
                number, found = self._current
                if any(later > number and not _may_be_copy(other, found) for later, other in self._waiting[-1:]):
                    raise PostponedError("a later save is stored first")

    def _run(self, found: Found) -> None:
        is_secured = found.secured is None or self._is_secured(found)
        found.fate = self._try_to_store(found) if is_secured else Fate.CHANGED
        if found.fate in {Fate.LOST, Fate.REFUSED}:
            return  # its pins stay for another try
        if found.fate is Fate.STORED:
            self.stored |= found.originals
        found.pins.release()

    def _is_secured(self, found: Found) -> bool:
        assert found.secured is not None
        while not wait([found.secured], _LOOK_SECONDS).done:
            self._give_way()
        return found.secured.result()

    def _secure(self, found: Found) -> bool:
        try:
            return found.secure()
        except OSError as error:
            # It is stored from where it is, and is lost only where it is written over before that.
            self.note(f"{found.title} could not be copied before it is stored: {error.strerror}")
            return True

    def _try_to_store(self, found: Found) -> Fate:
        delay = 1.0
        tries_left = _TRIES_AFTER_END
        while True:
            try:
                self._announce_earlier()
                facts = found.facts()
                if not found.is_unchanged():
                    return Fate.CHANGED
                same = self._store(found, facts)
                if same is not None:
                    self.pointers |= dict.fromkeys(found.originals, same)
                return Fate.STORED
            except PostponedError:
                raise
            except (SourceChangedError, StorageUnavailableError) as error:
                if not found.is_unchanged():
                    return Fate.CHANGED
                failure = error
            except UsageError as error:
                self.note(f"{found.title} cannot be captured: {error.message}")
                found.error = error.message
                self._refused.append(found)
                return Fate.REFUSED
            except CheckpointError as error:
                return self._fail(found, error)
            if self._hurry.is_set() and not self._preemption.is_noticed:
                tries_left -= 1
                if tries_left == 0:
                    return self._fail(found, failure)
            self._pause(delay)
            delay = min(delay * 2, _LONGEST_RETRY_SECONDS)

    def _announce_earlier(self) -> None:
        """Have what is stored later take its place before what is stored now."""
        if self._preemption.is_noticed and self._current is not None:
            with self._changed:
                earlier = [found for number, found in self._waiting if number < self._current[0]]
            for found in earlier:
                self._announce(found)

    def _pause(self, seconds: float) -> None:
        """Wait before another try; a second where the caller waits for the end, or this machine goes away."""
        began = time.monotonic()
        while time.monotonic() - began < seconds:
            self._give_way()
            if self._hurry.is_set() or self._preemption.is_noticed:
                seconds = min(seconds, 1.0)
            time.sleep(_LOOK_SECONDS)

    def _postpone(self, found: Found) -> None:
        found.error = "the time before this machine goes away was over"
        found.fate = Fate.LOST
        self.postponed.append(found)
        self.failures.append(f"{found.title} could not be stored: {found.error}")

    def _fail(self, found: Found, error: CheckpointError) -> Fate:
        failure = f"{found.title} could not be stored: {error.message}"
        self.failures.append(failure)
        found.error = error.message
        self.note(failure)
        return Fate.LOST


def _may_be_copy(found: Found, other: Found) -> bool:
    """Whether a checkpoint may hold only what another one beside it holds, as ``last.ckpt`` does."""
    (place, name), (other_place, other_name) = posixpath.split(found.name), posixpath.split(other.name)
    is_so_named = COPY.fullmatch(name) is not None and COPY.fullmatch(other_name) is None
    return is_so_named and place == other_place and _size(found) == _size(other)


def _size(found: Found) -> int:
    return sum(stamp.size for stamp in found.stamps.values())
