"""Managed capture: what a training command writes becomes checkpoints of its job while it runs.

One thread watches the output directory and never waits for anything; another one stores what it finds, in the order
in which it was found.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias

from flexai.checkpoints.errors import CheckpointError, SourceChangedError, StorageUnavailableError, UsageError
from flexai.checkpoints.models import TrainingFacts
from flexai.checkpoints.training.completeness.by_time import Watch
from flexai.checkpoints.training.completeness.candidates import Fate, Found
from flexai.checkpoints.training.notices import FolderWatch, Notices
from flexai.checkpoints.training.output_dir import Stamp
from flexai.checkpoints.training.pins import Pins
from flexai.checkpoints.training.report_taker import ReportTaker
from flexai.checkpoints.training.reports import Reports

_LONGEST_RETRY_SECONDS = 30.0
_TRIES_AFTER_END = 5
_ROUNDS_AFTER_END = 3
_UNNOTICED_SECONDS = 5.0
"""How often all is looked at although nothing was noticed: a folder may have been mounted, a notice may be late."""
_BLIND_SECONDS = 0.1
"""The longest time between two looks where the system notices nothing."""
_REST_PER_LOOK = 4
"""A look is followed by a rest of at least this many times the processor time that it took."""
_FEWEST_SECONDS_PER_LOOK = 0.005
"""Notices of one save come in dozens: those that come in this time are looked at together."""

Store: TypeAlias = Callable[[Found, TrainingFacts], str | None]
"""Stores a found checkpoint. Returns the name of another one where it holds only that one's content.

Raises SourceChangedError where its files are no longer what was found.
"""
Note: TypeAlias = Callable[[str], None]
"""Is told what a person would want to know, from any thread."""


@dataclass(frozen=True, slots=True)
class CaptureReport:
    """What capture left undone."""

    failures: tuple[str, ...]
    """Whole checkpoints that the store did not take, and why."""
    uncaptured: tuple[str, ...]
    """Files of the output directory that should be in a checkpoint and are in no stored one."""
    is_pinned: bool
    """Whether pins are left, of checkpoints that were neither stored nor left where they were."""
    lost: tuple[str, ...] = ()
    """Versions that were whole once and could not be kept: a sentence for each."""
    rest: tuple[str, ...] = ()
    """Files of the output directory that belong to no checkpoint: logs and the like."""
    pointers: Mapping[str, str] = field(default_factory=dict)
    """Links and files that point at a checkpoint, by their paths below the output directory, and its name."""


class OutputCapture:
    """Captures the checkpoints of one output directory from ``start`` to ``finish``."""

    def __init__(
        self,
        output: Path,
        pins: Pins,
        *,
        quiet_period: float,
        store: Store,
        note: Note,
        reports: Reports | None = None,
        identify: Callable[[str], str] = lambda _name: "",
    ) -> None:
        """``quiet_period`` in seconds; ``store`` is called from one thread, ``note`` from several.

        ``reports`` is where the trainer may report what it saves, ``identify`` gives the UUID of what was stored last
        under a name.
        """
        self._output = output
        self._pins = pins
        self._storing = _Storing(store, note)
        self._note = note
        self._taker = (
            None
            if reports is None
            else ReportTaker(
                reports,
                patience=quiet_period,
                storing=self._storing,
                know=self._know,
                identify=identify,
                note=note,
            )
        )
        self._reported: SimpleQueue[Found] = SimpleQueue()
        self._notices: FolderWatch | None = None
        self._watch = Watch(
            output,
            pins,
            quiet_period=quiet_period,
            take=self._storing.add,
            note=note,
            secure=self._storing.secure,
            before_listing=self._watch_folder,
            has_more=lambda: self._notices is not None and self._notices.has_more(),
            reports=reports,
        )
        self._told: set[str] = set()
        self._stop = threading.Event()
        self._watcher = ThreadPoolExecutor(1, thread_name_prefix="capture-watch")
        self._watching: Future[None] | None = None

    def start(self) -> None:
        """Begin to watch: what is written from now on is seen."""
        try:
            self._notices = FolderWatch(self._output)
        except OSError:
            self._notices = None  # the watcher looks, then
        self._look(Notices(is_all_changed=True))
        self._watching = self._watcher.submit(self._run)
        if self._taker is not None:
            self._taker.start()

    def finish(self, *, is_clean: bool) -> CaptureReport:
        """Capture what is left now that the command has ended, and wait until all is stored.

        ``is_clean`` says that the command succeeded, so that nothing was cut off. Raises what the watching or the
        storing raised that it should not have.
        """
        notices = self._stop_watching()
        self._storing.hurry()
        if self._taker is not None:
            self._taker.finish()
            self._take_in_reported()
        for _ in range(_ROUNDS_AFTER_END):
            notices.is_all_changed = True
            self._watch.look(time.monotonic(), notices)
            notices = Notices()
            self._watch.sweep(time.monotonic(), is_clean=is_clean)
            self._storing.drain()
            if self._watch.is_settled():
                break
        self._watcher.shutdown()
        self._storing.close()
        if self._watching is not None:
            self._watching.result()
        report = _report(self._watch, self._storing, self._taker)
        self._watch.release()
        self._storing.release_refused(self._output)
        self._pins.remove_empty()
        return replace(report, is_pinned=report.is_pinned or self._pins.folder.exists())

    def abandon(self) -> None:
        """Stop at once and leave everything where it is; what is being stored in this moment is stored to its end."""
        self._stop_watching()
        self._watcher.shutdown()
        self._storing.abandon()
        if self._taker is not None:
            self._taker.abandon()

    def _stop_watching(self) -> Notices:
        """Returns what the watcher has not seen any more."""
        self._stop.set()
        if self._watching is not None:
            if self._notices is not None:
                self._notices.wake()
            wait([self._watching])
        if self._notices is None:
            return Notices()
        notices = self._notices.read()
        self._notices.close()
        self._notices = None
        return notices

    def _watch_folder(self, place: str) -> None:
        """Have a folder's changes noticed before it is listed, so that none is missed in between."""
        if self._notices is None or self._notices.has(place):
            return
        try:
            self._notices.add(place)
        except OSError as error:
            self._note(f"the system gives no notice of more folders ({error.strerror}): they are looked at instead")
            self._notices.close()
            self._notices = None

    def _run(self) -> None:
        looked_at_all = time.monotonic()
        used = pause = 0.0
        while True:
            notices = self._wait(pause, max(_REST_PER_LOOK * used, _FEWEST_SECONDS_PER_LOOK))
            if self._stop.is_set():
                return
            begun, before = time.monotonic(), time.thread_time()
            notices.is_all_changed |= begun - looked_at_all >= _UNNOTICED_SECONDS
            looked_at_all = begun if notices.is_all_changed else looked_at_all
            self._look(notices)
            used = time.thread_time() - before
            pause = min(self._watch.pause(time.monotonic()), _BLIND_SECONDS if self._notices is None else math.inf)

    def _know(self, found: Found) -> None:
        self._reported.put(found)

    def _take_in_reported(self) -> None:
        while not self._reported.empty():
            self._watch.know(self._reported.get())

    def _look(self, notices: Notices) -> None:
        self._take_in_reported()
        try:
            self._watch.look(time.monotonic(), notices)
        except OSError as error:
            # A file system that fails for a moment must not end the capture of a training that goes on for days.
            if str(error) not in self._told:
                self._told.add(str(error))
                self._note(f"the output directory could not be read for a moment: {error}")

    def _wait(self, pause: float, rest: float) -> Notices:
        """Wait until something is noticed, for at most ``pause`` seconds, and at least for ``rest``."""
        if self._stop.wait(rest):
            return Notices()
        if self._notices is None:
            self._stop.wait(max(0.0, pause - rest))
            return Notices(is_all_changed=True)
        self._notices.wait(min(pause, _UNNOTICED_SECONDS) - rest)
        return self._notices.read()


def salvage(
    output: Path,
    pins: Pins,
    *,
    store: Store,
    note: Note,
    reports: Reports | None = None,
    identify: Callable[[str], str] = lambda _name: "",
) -> CaptureReport:
    """Capture what a runner that died has left, in its output directory, among its pins and among the reports.

    Only what its format calls whole: the command may have been killed in the middle of a save. No
    process writes there any more.
    """
    storing = _Storing(store, note)
    storing.hurry()
    watch = Watch(output, pins, quiet_period=math.inf, take=storing.add, note=note)
    taker = None
    if reports is not None:
        taker = ReportTaker(reports, patience=0, storing=storing, know=watch.know, identify=identify, note=note)
        taker.finish()
    # What the trainer had deleted is older than what is there.
    for pin_set in pins.leftovers():
        watch.take_leftover(pin_set)
    watch.look(0)
    watch.sweep(0, is_clean=False)
    storing.drain()
    storing.close()
    report = _report(watch, storing, taker)
    if not report.is_pinned:
        pins.remove()
    return report


def _report(watch: Watch, storing: _Storing, taker: ReportTaker | None) -> CaptureReport:
    rest = watch.rest()
    pointers = {**watch.pointers, **storing.pointers}
    known = {*rest, *pointers}
    for folder in sorted({path.partition("/")[0] for path in watch.temporary() if "/" in path and path[0] != "."}):
        storing.note(f"folder {folder!r} has the name of an unfinished checkpoint, so it was not captured")
    return CaptureReport(
        failures=tuple(storing.failures),
        uncaptured=tuple(
            sorted(
                path for path, stamp in watch.files().items() if path not in known and storing.stored.get(path) != stamp
            )
        ),
        is_pinned=bool(storing.failures),
        lost=(*watch.lost, *(taker.lost if taker else ())),
        rest=tuple(rest),
        pointers=pointers,
    )


class _Storing:
    """Stores found checkpoints one after the other, in a thread of its own."""

    def __init__(self, store: Store, note: Note) -> None:
        self._store = store
        self.note = note
        self._hurry = threading.Event()
        self._securer = ThreadPoolExecutor(1, thread_name_prefix="capture-copy")
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="capture-store")
        self._futures: list[Future[None]] = []
        self.stored: dict[str, Stamp] = {}
        """The files that are stored, by their paths below the output directory."""
        self.pointers: dict[str, str] = {}
        """Files that hold only what another checkpoint holds, and its name."""
        self.failures: list[str] = []
        self._refused: list[Found] = []

    def add(self, found: Found) -> Future[None]:
        """Store a checkpoint when its turn comes; what its trainer may write over is copied before."""
        self._futures = [future for future in self._futures if not future.done() or future.exception()]
        if found.may_be_rewritten and found.secured is None and not self._hurry.is_set():
            self.secure(found)
        future = self._executor.submit(self._run, found)
        self._futures.append(future)
        return future

    def secure(self, found: Found) -> None:
        """Copy what the trainer may write over, beside all else."""
        found.secured = self._securer.submit(self._secure, found)

    def hurry(self) -> None:
        """Do not wait long for a store that is not there: the caller waits for the end."""
        self._hurry.set()

    def drain(self) -> None:
        """Wait until everything is stored or given up."""
        wait(self._futures)

    def close(self) -> None:
        """End the threads, and raise what they raised."""
        self._securer.shutdown()
        self._executor.shutdown()
        for future in self._futures:
            future.result()

    def abandon(self) -> None:
        """Forget what is waiting."""
        self._hurry.set()
        for executor in (self._securer, self._executor):
            executor.shutdown(wait=False, cancel_futures=True)

    def release_refused(self, output: Path) -> None:
        """Remove the pins of what no store would take, except where they are all that is left of it."""
        for found in self._refused:
            if found.is_still_in(output):
                found.pins.release()

    def _secure(self, found: Found) -> bool:
        try:
            return found.secure()
        except OSError as error:
            # It is stored from where it is, and is lost only where it is written over before that.
            self.note(f"{found.title} could not be copied before it is stored: {error.strerror}")
            return True

    def _run(self, found: Found) -> None:
        is_secured = found.secured is None or found.secured.result()
        found.fate = self._try_to_store(found) if is_secured else Fate.CHANGED
        if found.fate in {Fate.LOST, Fate.REFUSED}:
            return  # its pins stay for another try
        if found.fate is Fate.STORED:
            self.stored |= found.originals
        found.pins.release()

    def _try_to_store(self, found: Found) -> Fate:
        delay = 1.0
        tries_left = _TRIES_AFTER_END
        while True:
            try:
                facts = found.facts()
                if not found.is_unchanged():
                    return Fate.CHANGED
                same = self._store(found, facts)
                if same is not None:
                    self.pointers |= dict.fromkeys(found.originals, same)
                return Fate.STORED
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
        found.error = error.message
        self.note(failure)
        return Fate.LOST
