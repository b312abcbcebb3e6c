"""Takes what a trainer reports, one after the other, and has it stored."""

from __future__ import annotations

import math
import os
import posixpath
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace

from flexai.checkpoints.storage.beneath import Beneath
from flexai.checkpoints.training.completeness.by_format import JudgeFolder, completeness
from flexai.checkpoints.training.completeness.candidates import Fate, Found, excluded_of, hold_texts, title_of
from flexai.checkpoints.training.formats.verdict import Outcome
from flexai.checkpoints.training.notices import FolderWatch
from flexai.checkpoints.training.output_dir import Excluded, OutputTree, Stamp
from flexai.checkpoints.training.pins import PinSet
from flexai.checkpoints.training.reports import Report, ReportOutcome, Reports
from flexai.checkpoints.training.storing import Storing
from flexai.checkpoints.training.units import Unit, find_units, note_of

_UNNOTICED_SECONDS = 5.0
"""How often the folder is looked at although nothing was noticed: it may have been removed and made anew."""
_LOOK_SECONDS = 0.1
"""How often the folder is looked at where the system notices nothing."""


@dataclass(slots=True, eq=False)
class _Save:
    """What was saved once: the reports on it, of all ranks, and the checkpoint that they make."""

    reports: list[Report]
    found: Found
    is_whole: bool
    came: float = field(default_factory=time.monotonic)


class ReportTaker:
    """Has reports stored as they come, from ``start`` to ``finish``; or those that are left, by ``finish`` alone."""

    def __init__(
        self,
        reports: Reports,
        *,
        patience: float,
        storing: Storing,
        know: Callable[[Found], object],
        identify: Callable[[str], str],
        note: Callable[[str], None],
        judge: JudgeFolder = completeness,
        excluded: Excluded | None = None,
    ) -> None:
        """``patience`` is how many seconds the reports of other ranks are waited for, where the format tells nothing.

        ``know`` is handed what was reported, ``identify`` gives the UUID of the checkpoint of a name, ``note``
        is told what a person would want to know, ``judge`` says what files tell of a checkpoint. All are called from
        the taker's thread. ``excluded`` says what is not taken.
        """
        self._excluded = excluded or Excluded()
        self._reports = reports
        self._patience = patience
        self._storing = storing
        self._know = know
        self._identify = identify
        self._note = note
        self._judge = judge
        self._tree = Beneath(reports.folder)
        self._saves: list[_Save] = []
        self._seen: set[str] = set()
        self._told: set[str] = set()
        """Those of which it is told what became of them, though they may stay."""
        self._done: dict[tuple[str, int | None], set[Stamp]] = {}
        """The files of what was stored last, by path and step: a rank may report them once more."""
        self._handed: list[tuple[_Save, ExitStack]] = []
        """What waits for its turn to be stored, since notice was given that this machine goes away; and held."""
        self._stop = threading.Event()
        self._notices: FolderWatch | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="capture-reports")
        self._taking: Future[None] | None = None
        self.lost: list[str] = []
        """Saves that were reported and could not be kept: a sentence for each."""

    def start(self) -> None:
        """Begin to take what is reported."""
        with suppress(OSError):  # the taker looks, then
            self._notices = FolderWatch(self._reports.folder)
            self._notices.add("")
        self._taking = self._thread.submit(self._run)

    def finish(self) -> None:
        """Take what is left, and wait until it is stored or has failed."""
        self.abandon()
        if self._taking is not None:
            self._taking.result()
        self._see()
        while self._saves:
            self._take(self._next(is_last_call=True) or self._saves[0])
        if self._handed:
            self._storing.drain()
            self._settle_handed()

    def settle(self) -> None:
        """Wait until all that is reported by now is stored or given up."""
        while set(self._reports.names()) - self._told:
            time.sleep(_LOOK_SECONDS)

    def abandon(self) -> None:
        """Stop; what is being stored in this moment is stored to its end, and the rest is left where it is."""
        self._stop.set()
        if self._notices is not None:
            self._notices.wake()
        self._thread.shutdown()
        if self._notices is not None:
            self._notices.close()
            self._notices = None

    def _run(self) -> None:
        while not self._stop.is_set():
            self._see()
            self._settle_handed()
            save = self._next()
            if save is not None:
                self._take(save)
            else:
                self._wait()

    def _wait(self) -> None:
        pause = self._patience / 4 if self._saves else math.inf
        if self._handed:
            pause = _LOOK_SECONDS
        if self._notices is None:
            self._stop.wait(min(pause, _LOOK_SECONDS))
            return
        ends_at = time.monotonic() + min(pause, _UNNOTICED_SECONDS)
        # That the folder was opened is noticed too: by our own looks at it.
        while not self._stop.is_set() and (left := ends_at - time.monotonic()) > 0:
            self._notices.wait(left)
            notices = self._notices.read()
            if notices.places or notices.is_all_changed:
                return

    # Seeing.

    def _see(self) -> None:
        """Take in what was reported since the last call; what the trainer may write over next is copied at once."""
        for name in self._reports.names():
            if name in self._seen:
                continue
            self._seen.add(name)
            try:
                report = self._reports.read(name)
            except ValueError as error:
                why = f"a report in {self._reports.folder} cannot be read, so it is left there: {error}"
                self._note(why)
                self._tell(ReportOutcome(name, name, None, "", why))
                continue
            if report is not None:
                self._enter(report)

    def _enter(self, report: Report) -> None:
        if self._is_stored(report):
            self._settle_one(report, "")
            return
        self._excluded.refresh()  # it may have been written just before the save
        for path in report.left_out:
            if not self._excluded.name(path):
                self._note(note_of(path, "it is no file"))
        save = self._of_other_ranks(report)
        try:
            if save is not None:
                self._join(save, report)
            else:
                found = self._found(report)
                save = _Save([report], found, is_whole=False)
                self._saves.append(save)
            self._know(save.found)
            verdict = self._judge(save.found.as_written)
            if len(save.found.stamps) == 1:
                save.is_whole = completeness(save.found.as_written).outcome is Outcome.WHOLE
            else:
                save.is_whole = verdict.outcome is Outcome.WHOLE and verdict.conclusive
            save.came = time.monotonic()
            if not save.found.secure():
                self._saves.remove(save)
                self._fail(save, "it was written over before it could be copied", is_lost=True)
        except OSError as error:
            if save is not None and save in self._saves:
                self._saves.remove(save)
            self._fail(save or _Save([report], self._found(report), is_whole=False), error.strerror or str(error))

    def _is_stored(self, report: Report) -> bool:
        """Whether another rank has reported the same, and that is stored."""
        return set(report.originals.values()) <= self._done.get((report.path, report.step), set())

    def _of_other_ranks(self, report: Report) -> _Save | None:
        for save in self._saves:  # each rank reports in the order of the saves
            first = save.reports[0]
            is_same = (first.path, first.step) == (report.path, report.step)
            if is_same and report.ranks > 1 and report.rank not in {one.rank for one in save.reports}:
                return save
        return None

    def _join(self, save: _Save, report: Report) -> None:
        """Add what another rank holds of the same save."""
        first = save.reports[0]
        originals = dict(first.originals)
        for path, stamp in report.originals.items():
            known = originals.get(path)
            if known is not None and known.written > stamp.written:
                continue  # this rank saw a file that another one was still writing
            originals[path] = stamp
            held, other = first.files / path, report.files / path
            if (known is None or known.file != stamp.file) and other.exists():
                held.parent.mkdir(parents=True, exist_ok=True)
                held.unlink(missing_ok=True)
                os.link(other, held)
        merged = replace(
            first,
            originals=originals,
            metrics=dict(report.metrics) | dict(first.metrics),
            is_linked=first.is_linked or report.is_linked,
        )
        save.reports[0] = merged
        save.reports.append(report)
        save.found = self._found(merged)

    def _found(self, report: Report) -> Found:
        """The checkpoint that a report holds. Raises OSError."""
        pins = PinSet(self._tree, report.files, lambda _error: None)
        tree = pins.adopt(self._excluded)
        held = dict(tree.files())
        missing = {path: stamp for path, stamp in report.originals.items() if path not in held}
        if missing:
            held = pins.refresh(Beneath(report.output), held | missing)
        # Where it is the trainer's own file that is held, it must still be what was reported.
        held |= {path: one for path, one in report.originals.items() if path in held and held[path].file == one.file}
        unit = self._unit(report, tree if not missing else None, pins)
        paths = {path: posixpath.join(unit.place, path) for path in unit.files}
        stamps = {path: held[place] for path, place in paths.items() if place in held}
        stamps |= hold_texts(unit, pins)
        return Found(
            unit,
            {place: report.originals[place] for place in paths.values() if place in report.originals},
            stamps,
            pins,
            may_be_rewritten=report.is_linked,
            over=report.over,
            excluded=excluded_of(unit, tree, pins),
        )

    def _unit(self, report: Report, tree: OutputTree | None, pins: PinSet) -> Unit:
        """What the trainer saved is the unit; the names tell only which files beside it belong to it."""
        place, name = posixpath.split(report.path)
        if list(report.originals) == [report.path]:
            is_excluded = self._excluded.name(report.path)
            return Unit(report.path, place, () if is_excluded else (name,), excluded=(name,) if is_excluded else ())
        if tree is not None:
            units = find_units(tree, pins.peek)
            for path, why in units.notes.items():
                self._note(note_of(path, why))
            if (unit := units.units.get(report.path)) is not None:
                return unit
        prefix = f"{report.path}/" if report.path else ""
        inside = sorted(path.removeprefix(prefix) for path in report.originals if path.startswith(prefix))
        excluded = tuple(path for path in inside if self._excluded.name(prefix + path))
        kept = tuple(path for path in inside if path not in excluded)
        return Unit(report.path, report.path, kept, excluded=excluded)

    # Taking.

    def _next(self, *, is_last_call: bool = False) -> _Save | None:
        """What to store next: in the order of the saves, those for which more ranks are waited for left out."""
        now = time.monotonic()
        ready = [
            save
            for save in self._saves
            if is_last_call
            or save.is_whole
            or len(save.reports) >= save.reports[0].ranks
            or now - save.came >= self._patience
        ]
        if not ready:
            return None
        return ready[0]

    def _take(self, save: _Save) -> None:
        self._saves.remove(save)
        first = save.reports[0]
        with ExitStack() as held:
            if not held.enter_context(self._reports.held(first)):
                return  # the trainer has dropped it for a newer one
            if all(map(self._is_stored, save.reports)):
                for report in save.reports:
                    self._settle_one(report, "")
                return
            verdict = self._judge(save.found.as_written)
            if not save.found.originals:
                is_excluded = bool(save.found.unit.excluded)
                why = "all of it is excluded" if is_excluded else "it holds no file that a checkpoint can have"
                self._fail(save, why)
            elif verdict.outcome is Outcome.PARTIAL:
                self._fail(save, f"it is not whole: {verdict.reason}")
            else:
                self._storing.add(save.found)
                while (
                    not (is_settled := self._storing.settle(save.found, _LOOK_SECONDS)) and not self._storing.takes_all
                ):
                    self._see()  # what may be written over is copied meanwhile
                if is_settled:
                    self._settle(save)
                else:
                    self._handed.append((save, held.pop_all()))

    def _settle_handed(self) -> None:
        for save, held in list(self._handed):
            if self._storing.settle(save.found, 0):
                self._handed.remove((save, held))
                with held:
                    self._settle(save)

    def _settle(self, save: _Save) -> None:
        found, first = save.found, save.reports[0]
        if found.fate is Fate.STORED:
            self._done[first.path, first.step] = set(first.originals.values())
            for report in save.reports:
                self._settle_one(report, "")
        elif found.fate is Fate.CHANGED:
            self._fail(save, "it was written over before it could be stored", is_lost=True)
        else:
            for report in save.reports:
                self._tell_of(report, found.error)
            if found.fate is Fate.REFUSED and found.is_still_in(first.output):
                for report in save.reports:
                    self._reports.remove(report.name)

    def _fail(self, save: _Save, why: str, *, is_lost: bool = False) -> None:
        sentence = f"{title_of(save.found.name)}, which the trainer reported, was not captured: {why}"
        self._note(sentence)
        if is_lost:
            self.lost.append(sentence)
        for report in save.reports:
            self._settle_one(report, why)

    def _settle_one(self, report: Report, error: str) -> None:
        self._tell_of(report, error)
        self._reports.remove(report.name)

    def _tell_of(self, report: Report, error: str) -> None:
        checkpoint = "" if error else self._identify(report.path)
        self._tell(ReportOutcome(report.name, report.path, report.step, checkpoint, error))

    def _tell(self, outcome: ReportOutcome) -> None:
        self._told.add(outcome.report)
        with suppress(OSError):  # the trainer may be gone, and its folder with it
            self._reports.tell(outcome)
