"""Managed capture: what a training command writes becomes checkpoints of its job while it runs.

One thread watches the output directory and never waits for anything; another one stores what it finds
(``storing.py``).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue

from flexai.checkpoints.training.completeness.by_format import JudgeFolder, completeness
from flexai.checkpoints.training.completeness.by_time import Watch
from flexai.checkpoints.training.completeness.candidates import Found
from flexai.checkpoints.training.notices import FolderWatch, Notices
from flexai.checkpoints.training.output_dir import Excluded
from flexai.checkpoints.training.pins import Pins
from flexai.checkpoints.training.preemption import Preemption
from flexai.checkpoints.training.report_taker import ReportTaker
from flexai.checkpoints.training.reports import Reports
from flexai.checkpoints.training.storing import Announce, Note, Store, Storing
from flexai.checkpoints.training.units import ROOT

_ROUNDS_AFTER_END = 3
_UNNOTICED_SECONDS = 5.0
"""How often all is looked at although nothing was noticed: a folder may have been mounted, a notice may be late."""
_BLIND_SECONDS = 0.1
"""The longest time between two looks where the system notices nothing."""
_REST_PER_LOOK = 4
"""A look is followed by a rest of at least this many times the processor time that it took."""
_FEWEST_SECONDS_PER_LOOK = 0.005
"""Notices of one save come in dozens: those that come in this time are looked at together."""


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
    postponed: tuple[Found, ...] = ()
    """Those of the failures for which the time was over before this machine goes away."""
    pointers: Mapping[str, str] = field(default_factory=dict)
    """Links and files that point at a checkpoint, by their paths below the output directory, and its name."""
    left_out: tuple[str, ...] = ()
    """What is excluded, from the top: files, and folders with a final ``/``."""


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
        preemption: Preemption | None = None,
        announce: Announce = lambda _found: None,
        judge: JudgeFolder = completeness,
        excluded: Excluded | None = None,
    ) -> None:
        """``quiet_period`` in seconds; ``store`` and ``announce`` are called from one thread, ``note`` from several.

        ``reports`` is where the trainer may report what it saves, ``identify`` gives the UUID of what was stored last
        under a name. ``judge`` says what files tell of a checkpoint, ``excluded`` what is not captured.
        """
        excluded = excluded or Excluded(output)
        self._output = output
        self._pins = pins
        self._preemption = preemption or Preemption()
        self._storing = Storing(store, note, self._preemption, announce)
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
                judge=judge,
                excluded=excluded,
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
            judge=judge,
            excluded=excluded,
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

    def settle_reports(self) -> None:
        """Wait until all that is reported by now is stored or given up."""
        if self._taker is not None:
            self._taker.settle()

    def finish(self, *, is_clean: bool) -> CaptureReport:
        """Capture what is left now that the command has ended, and wait until all is stored.

        ``is_clean`` says that the command succeeded, so that nothing was cut off. Raises what the watching or the
        storing raised that it should not have.
        """
        self._preemption.allow_last_seconds()
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
        """Stop at once and leave everything where it is; what has arrived of what is being stored stays."""
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
            pause = min(self._watch.pause(time.monotonic()), _BLIND_SECONDS if self._is_blind else math.inf)

    @property
    def _is_blind(self) -> bool:
        """Whether nothing tells of changes: the system has no notices, or the trainer has removed the directory."""
        return self._notices is None or not self._notices.has(ROOT)

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
        if self._is_blind:
            self._stop.wait(max(0.0, pause - rest))
        elif self._notices is not None:
            self._notices.wait(min(pause, _UNNOTICED_SECONDS) - rest)
        notices = Notices() if self._notices is None else self._notices.read()
        notices.is_all_changed |= self._is_blind
        return notices


def salvage(
    output: Path,
    pins: Pins,
    *,
    store: Store,
    note: Note,
    reports: Reports | None = None,
    identify: Callable[[str], str] = lambda _name: "",
    judge: JudgeFolder = completeness,
    excluded: Excluded | None = None,
    stored: Iterable[Found] = (),
) -> CaptureReport:
    """Capture what a runner that died has left, in its output directory, among its pins and among the reports.

    Only what ``judge`` calls whole: the command may have been killed in the middle of a save. No process writes there
    any more. ``excluded`` says what is not captured, ``stored`` what is stored already.
    """
    excluded = excluded or Excluded(output)
    storing = Storing(store, note)
    storing.hurry()
    watch = Watch(output, pins, quiet_period=math.inf, take=storing.add, note=note, judge=judge, excluded=excluded)
    for found in stored:
        watch.know(found)
        storing.stored |= found.originals
    taker = None
    try:
        if reports is not None:
            taker = ReportTaker(
                reports,
                patience=0,
                storing=storing,
                know=watch.know,
                identify=identify,
                note=note,
                judge=judge,
                excluded=excluded,
            )
            taker.finish()
        # What the trainer had deleted is older than what is there.
        for pin_set in pins.leftovers():
            watch.take_leftover(pin_set)
        watch.look(0)
        watch.sweep(0, is_clean=False)
        storing.drain()
    except BaseException:
        storing.abandon()
        raise
    storing.close()
    report = _report(watch, storing, taker)
    if not report.is_pinned:
        pins.remove()
    return report


def _report(watch: Watch, storing: Storing, taker: ReportTaker | None) -> CaptureReport:
    rest = watch.rest()
    pointers = {**watch.pointers, **storing.pointers}
    known = {*rest, *pointers}
    for folder in sorted({path.partition("/")[0] for path in watch.temporary() if "/" in path and path[0] != "."}):
        storing.note(f"folder {folder!r} has the name of an unfinished checkpoint, so it was not captured")
    return CaptureReport(
        failures=tuple(storing.failures),
        postponed=tuple(storing.postponed),
        uncaptured=tuple(
            sorted(
                path for path, stamp in watch.files().items() if path not in known and storing.stored.get(path) != stamp
            )
        ),
        is_pinned=bool(storing.failures),
        lost=(*watch.lost, *(taker.lost if taker else ())),
        rest=tuple(rest),
        pointers=pointers,
        left_out=tuple(watch.left_out()),
    )
