"""Managed capture: what a training command writes becomes checkpoints of its job while it runs.

One thread watches the output directory and never waits for anything; another one stores what it finds, in the order
in which it was found.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from flexai.checkpoints.errors import CheckpointError, SourceChangedError, StorageUnavailableError, UsageError
from flexai.checkpoints.models import TrainingFacts
from flexai.checkpoints.training.completeness.by_time import Fate, Found, LookPace, Watch
from flexai.checkpoints.training.formats.facts import read_facts
from flexai.checkpoints.training.output_dir import Stamp, list_output, walk_files
from flexai.checkpoints.training.pins import Pins

_LONGEST_RETRY_SECONDS = 30.0
_TRIES_AFTER_END = 5
_ROUNDS_AFTER_END = 3

Store: TypeAlias = Callable[[Found, TrainingFacts], None]
"""Stores a found checkpoint; raises SourceChangedError where its files are no longer what was found."""
Note: TypeAlias = Callable[[str], None]
"""Is told what a person would want to know, from any thread."""


@dataclass(frozen=True, slots=True)
class CaptureReport:
    """What capture left undone."""

    failures: tuple[str, ...]
    """Whole checkpoints that the store did not take, and why."""
    uncaptured: tuple[str, ...]
    """Files of the output directory that are in no stored checkpoint."""
    is_pinned: bool
    """Whether pins are left, of checkpoints that were neither stored nor left where they were."""


class OutputCapture:
    """Captures the checkpoints of one output directory from ``start`` to ``finish``."""

    def __init__(self, output: Path, pins: Pins, *, quiet_period: float, store: Store, note: Note) -> None:
        """``quiet_period`` in seconds; ``store`` is called from one thread, ``note`` from several."""
        self._output = output
        self._pins = pins
        self._watch = Watch(output, pins, quiet_period=quiet_period, take=self._take, note=note)
        self._storing = _Storing(store, note)
        self._note = note
        self._stop = threading.Event()
        self._watcher = ThreadPoolExecutor(1, thread_name_prefix="capture-watch")
        self._watching: Future[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._watching = self._watcher.submit(self._run)

    def finish(self, *, is_clean: bool) -> CaptureReport:
        """Capture what is left now that the command has ended, and wait until all is stored.

        ``is_clean`` says that the command succeeded, so that nothing was cut off. Raises what the watching or the
        storing raised that it should not have.
        """
        self._stop_watching()
        self._storing.hurry()
        for _ in range(_ROUNDS_AFTER_END):
            self._watch.look(time.monotonic(), closely=True)
            self._watch.sweep(time.monotonic(), is_clean=is_clean)
            self._storing.drain()
            if self._watch.is_settled():
                break
        self._watcher.shutdown()
        self._storing.close()
        if self._watching is not None:
            self._watching.result()
        return self._report()

    def abandon(self) -> None:
        """Stop at once and leave everything where it is; what is being stored in this moment is stored to its end."""
        self._stop_watching()
        self._watcher.shutdown()
        self._storing.abandon()

    def _take(self, found: Found) -> None:
        self._storing.add(found)

    def _stop_watching(self) -> None:
        self._stop.set()
        if self._watching is not None:
            wait([self._watching])

    def _run(self) -> None:
        pace = LookPace(time.monotonic())
        told: set[str] = set()
        while not self._stop.wait(pace.pause):
            begun, used = time.monotonic(), time.thread_time()
            has_changed = False
            try:
                has_changed = self._watch.look(begun)
            except OSError as error:
                # A file system that fails for a moment must not end the capture of a training that goes on for days.
                if str(error) not in told:
                    told.add(str(error))
                    self._note(f"the output directory could not be read for a moment: {error}")
            pace.looked(begun, used=time.thread_time() - used, has_changed=has_changed)

    def _report(self) -> CaptureReport:
        uncaptured = self._storing.uncaptured(self._output)
        for name in list_output(self._output).temporary:
            if not name.startswith(".") and any(path.startswith(f"{name}/") for path in uncaptured):
                self._note(f"folder {name!r} has the name of an unfinished checkpoint, so it was not captured")
        self._storing.release_lost(self._output)
        self._pins.remove_empty()
        return CaptureReport(
            failures=tuple(self._storing.failures), uncaptured=uncaptured, is_pinned=self._pins.folder.exists()
        )


def salvage(output: Path, pins: Pins, *, store: Store, note: Note) -> CaptureReport:
    """Capture what a runner that died has left, in its output directory and among its pins.

    Only what its format calls whole: the command may have been killed in the middle of a save. No
    process writes there any more.
    """
    storing = _Storing(store, note)
    storing.hurry()
    leftovers = pins.leftovers()
    watch = Watch(output, pins, quiet_period=math.inf, take=storing.add, note=note)
    watch.look(0)
    # Those whose folders the trainer had deleted, which are older than what is there.
    for name, pin_set, files in leftovers:
        watch.take_leftover(Found(name, files, pin_set))
    watch.sweep(0, is_clean=False)
    storing.drain()
    storing.close()
    report = CaptureReport(
        failures=tuple(storing.failures), uncaptured=storing.uncaptured(output), is_pinned=bool(storing.failures)
    )
    if not report.is_pinned:
        pins.remove()
    return report


class _Storing:
    """Stores found checkpoints one after the other, in a thread of its own."""

    def __init__(self, store: Store, note: Note) -> None:
        self._store = store
        self._note = note
        self._hurry = threading.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="capture-store")
        self._futures: list[Future[None]] = []
        self.stored: dict[str, Stamp] = {}
        """The files that are stored, by their paths below the output directory."""
        self.failures: list[str] = []
        self._lost: list[Found] = []

    def add(self, found: Found) -> None:
        """Store a checkpoint when its turn comes."""
        self._futures = [future for future in self._futures if not future.done() or future.exception()]
        self._futures.append(self._executor.submit(self._run, found))

    def hurry(self) -> None:
        """Do not wait long for a store that is not there: the caller waits for the end."""
        self._hurry.set()

    def drain(self) -> None:
        """Wait until everything is stored or given up."""
        wait(self._futures)

    def close(self) -> None:
        """End the thread, and raise what it raised."""
        self._executor.shutdown()
        for future in self._futures:
            future.result()

    def abandon(self) -> None:
        """Forget what is waiting."""
        self._hurry.set()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def uncaptured(self, output: Path) -> tuple[str, ...]:
        """The files below an output directory that are not stored as they are."""
        if not output.is_dir():
            return ()
        try:
            return tuple(sorted(path for path, stamp in walk_files(output) if self.stored.get(path) != stamp))
        except OSError as error:
            return (f"{output}: {error.strerror}",)

    def release_lost(self, output: Path) -> None:
        """Remove the pins of what was not stored, except where they are all that is left of it."""
        for found in self._lost:
            if found.is_still_in(output):
                found.pins.release()

    def _run(self, found: Found) -> None:
        found.fate = self._try_to_store(found)
        if found.fate is Fate.LOST:
            self._lost.append(found)
            return
        if found.fate is Fate.STORED:
            prefix = f"{found.name}/" if found.name else ""
            self.stored |= {prefix + path: stamp for path, stamp in found.stamps.items()}
        found.pins.release()

    def _try_to_store(self, found: Found) -> Fate:
        delay = 1.0
        tries_left = _TRIES_AFTER_END
        while True:
            try:
                facts = read_facts(found.folder)
                if not found.is_unchanged():
                    return Fate.CHANGED
                self._store(found, facts)
                return Fate.STORED
            except (SourceChangedError, StorageUnavailableError) as error:
                if not found.is_unchanged():
                    return Fate.CHANGED
                failure = error
            except UsageError as error:
                self._note(f"{found.title} cannot be captured: {error.message}")
                return Fate.LOST
            except CheckpointError as error:
                return self._fail(found, error)
            if self._hurry.is_set():
                tries_left -= 1
                if tries_left == 0:
                    return self._fail(found, failure)
            if self._hurry.wait(delay):
                time.sleep(1.0)
            delay = min(delay * 2, _LONGEST_RETRY_SECONDS)

    def _fail(self, found: Found, error: CheckpointError) -> Fate:
        failure = f"{found.title} could not be stored: {error.message}"
        self.failures.append(failure)
        self._note(failure)
        return Fate.LOST
