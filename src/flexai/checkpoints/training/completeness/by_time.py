"""When a unit that a trainer writes is a whole checkpoint: what depends on time.

What its files say is answered by ``by_format``; here is what the trainer does. Each look brings the listing of the
output directory up to date, pins what is new and compares with the look before. A unit is handed over

- at once where its format says that nothing more will come and no process has a file of it open for writing. Where the
  system cannot tell the latter, two looks in a row must see the same. Of a folder that its trainer may write over, the
  file that its layout writes last must have been closed last, so that it speaks of the content that is there;
- after the quiet period where that cannot be told: no known format, or one without a last-written file;
- from its pins where the trainer deletes or replaces it first: no process writes to it again, and it is judged by all
  that was ever seen of it. A folder that loses files is never judged by what is left while it is being deleted;
- by ``sweep`` when the command has ended.

Where the trainer itself reports what it saves, nothing is handed over before the sweep.

What the format's rules call torn is never handed over. Content that was handed over is not handed over again. A
version that was whole and could not be kept is counted: ``Watch.lost``.
"""

from __future__ import annotations

import math
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from flexai.checkpoints.patterns import IGNORE_FILE
from flexai.checkpoints.storage.beneath import GONE, Beneath
from flexai.checkpoints.training.completeness.by_format import (
    Completeness,
    JudgeFolder,
    completeness,
    is_temporary_path,
)
from flexai.checkpoints.training.completeness.candidates import Candidate, Fate, Found, found_in, title_of
from flexai.checkpoints.training.formats.facts import step_in_name
from flexai.checkpoints.training.formats.verdict import Outcome
from flexai.checkpoints.training.notices import Notices
from flexai.checkpoints.training.output_dir import Excluded, OutputTree, Stamp, Stamps
from flexai.checkpoints.training.pins import Pins, PinSet
from flexai.checkpoints.training.reports import Reports
from flexai.checkpoints.training.units import COPY, ROOT, Unit, Units, find_units, is_checkpoint_name, note_of

_SETTLE_SECONDS = 0.5
"""How long a checkpoint file whose name tells no number waits for files beside it that would make it a part of a
folder (``last/model.safetensors``, then ``last/optimizer.bin``)."""
_PATIENCE = 6
"""Quiet periods for a folder of a known layout whose last file is missing: gathering a large optimizer's state takes
a while in which nothing is written, but not every trainer that uses a layout writes all of its files."""
_MOST_TOLD = 20
"""Lost versions that are told one by one."""
_MOST_LEFT_OUT = 10_000
"""Paths that are excluded and told of."""
_SOONEST_SECONDS = 0.02
_LATEST_SECONDS = 1.0
"""Time between two looks at what is not settled: the longer nothing has happened, the longer."""


def _by_age(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates in the order in which they were written last, which is to be that of their captures.

    The clocks of file systems tick slowly: of equal times a ``last.ckpt`` comes after what it may be a copy of, and
    else the step in the name decides.
    """

    def age(one: Candidate) -> tuple[int, bool, int, str]:
        is_copy = COPY.fullmatch(posixpath.basename(one.unit.name)) is not None
        return one.written, is_copy, step_in_name(one.unit.name) or 0, one.unit.name

    return sorted(candidates, key=age)


class Watch:
    """The checkpoints of one output directory, from look to look. Used by one thread at a time."""

    def __init__(
        self,
        output: Path,
        pins: Pins,
        *,
        quiet_period: float,
        take: Callable[[Found], object],
        note: Callable[[str], None],
        secure: Callable[[Found], object] = Found.secure,
        before_listing: Callable[[str], object] = lambda _place: None,
        has_more: Callable[[], bool] = lambda: False,
        reports: Reports | None = None,
        judge: JudgeFolder = completeness,
        excluded: Excluded | None = None,
    ) -> None:
        """``quiet_period`` is in seconds; ``take`` is handed each checkpoint; ``note`` is told what is not captured.

        ``secure`` has a checkpoint copied; ``before_listing`` is called with each folder before it is listed;
        ``has_more`` says whether something has happened since the look began. ``reports`` is where the trainer
        may report what it saves: where it does, nothing is handed over until ``sweep``, nor counted as lost.
        ``judge`` says what a unit's files tell; ``excluded`` what is not taken, where that is more than a folder's own.
        """
        self._output = output
        self._beneath = Beneath(output)
        self._excluded = excluded or Excluded(output)
        self._excluded_version = self._excluded.version
        self._tree = OutputTree(self._beneath, before=before_listing, excluded=self._excluded)
        self._pins = pins
        self._quiet_period = quiet_period
        self._take = take
        self._note = note
        self._secure = secure
        self._has_more = has_more
        self._reports = reports
        self._completeness = judge
        self._units = Units()
        self._candidates: dict[str, Candidate] = {}
        self._peeked: dict[str, tuple[Stamp | None, bytes]] = {}
        self._taken: dict[str, Stamp] = {}
        """All content that was handed over and is still there."""
        self._single: dict[Stamp, str] = {}
        """Files that were handed over as a checkpoint by themselves, and their paths, which are its name."""
        self._pointers: dict[str, str] = {}
        self._told: set[str] = set()
        self._left_out: dict[str, None] = {}
        self._is_noticed = False
        """Whether the system told what has happened since the last look."""
        self.lost: list[str] = []
        """Versions that were whole once and could not be kept: a sentence for each."""

    @property
    def pointers(self) -> Mapping[str, str]:
        """Files and links that point at a unit, and the unit's name."""
        return self._units.pointers | self._pointers

    def look(self, now: float, notices: Notices | None = None) -> None:
        """Look once, ``now`` being the present in seconds. Raises OSError.

        ``notices`` say what has happened since the last look; without them all is looked at.
        """
        notices = notices or Notices(is_all_changed=True)
        self._is_noticed = bool(notices.places)
        has_changed = bool(self._tree.refresh(None if notices.is_all_changed else notices.places))
        if self._has_other_patterns() or has_changed:
            self._units = find_units(self._tree, self._peek)
            self._tell_notes()
            self._note_left_out()
            self._taken = {path: stamp for path, stamp in self._taken.items() if self._tree.stamp(path) == stamp}
        units = self._units.units
        self._count_unseen(notices)
        gone = [self._candidates.pop(name) for name in [name for name in self._candidates if name not in units]]
        # Everything is pinned before anything is judged: reading many headers takes a while.
        for unit in units.values():
            self._update(unit, now, notices.closed)
        for candidate in _by_age(gone):
            self._vanished(candidate)
        for candidate in _by_age(one for one in self._candidates.values() if self._is_open(one)):
            self._hand_over_if_whole(candidate, now)

    def pause(self, now: float) -> float:
        """Seconds until the next look is due, where nothing is noticed before; infinite where all is settled."""
        if self._is_told:
            return math.inf
        waits = [now - candidate.changed_at for candidate in self._candidates.values() if self._is_open(candidate)]
        return min(max(min(waits) / 5, _SOONEST_SECONDS), _LATEST_SECONDS) if waits else math.inf

    def know(self, found: Found) -> None:
        """Take in what the trainer has reported, so that it is not handed over as well."""
        self._taken |= found.originals

    def sweep(self, now: float, *, is_clean: bool) -> None:
        """Hand over what is whole, now that the command has ended; ``is_clean`` says that it succeeded.

        After a failure what was being written may be torn, and only its format can tell that it is not.
        """
        if self._is_told:
            self._reports = None
            for candidate in self._candidates.values():
                candidate.closings.clear()  # of what was reported
        for candidate in _by_age(self._candidates.values()):
            if candidate.fullest and (self._take_fullest(candidate, stays=is_clean) or not is_clean):
                continue  # what is left of a deletion that was cut off is no checkpoint
            if not candidate.is_taken(candidate.files):
                self._sweep(candidate, is_clean or now - candidate.changed_at >= self._quiet_period)

    def take_leftover(self, pins: PinSet) -> None:
        """Hand over what a runner that died had pinned, of a unit that the trainer has deleted since.

        When the trainer began to delete it is not known, so only the last-written file of its format shows that it was
        whole. What the output directory still has is left to ``look`` and ``sweep``.
        """
        for found in found_in(pins.adopt(self._excluded), pins):
            if not found.is_still_in(self._output):
                verdict = completeness(found.as_written)
                is_folder = found.unit.place == found.unit.name
                if verdict.outcome is Outcome.WHOLE and (verdict.conclusive or not is_folder):
                    self._take(found)

    def is_settled(self) -> bool:
        """Whether nothing that was handed over has turned out to have changed."""
        return not any(one.found and one.found.fate is Fate.CHANGED for one in self._candidates.values())

    @property
    def _is_told(self) -> bool:
        """Whether the trainer itself says what it saves."""
        return self._reports is not None and self._reports.are_expected()

    def release(self) -> None:
        """Let go of what was not handed over: it is where the trainer put it, and is not looked at any more."""
        for candidate in self._candidates.values():
            candidate.pins.release()
            self._drop_kept(candidate)

    def rest(self) -> list[str]:
        """The files that belong to no unit, but for unfinished ones and pointers: logs and the like."""
        owned = {path for unit in self._units.units.values() for path in _paths(unit)}
        owned |= self.pointers.keys() | self._units.unfinished
        files = self._tree.wanted_files()
        return sorted(path for path, _ in files if path not in owned and not is_temporary_path(path))

    def temporary(self) -> list[str]:
        """The files that lie in folders with temporary names, or have such names."""
        return sorted(path for path, _ in self._tree.wanted_files() if is_temporary_path(path))

    def files(self) -> dict[str, Stamp]:
        """Every file of the output directory that is not excluded."""
        return dict(self._tree.wanted_files())

    def left_out(self) -> list[str]:
        """What was seen and is excluded, from the top: files, and folders with a final ``/``; in order."""
        return sorted(self._left_out)

    # Looking.

    def _has_other_patterns(self) -> bool:
        """Whether the ignore file is another one since the last look; what it names now is let go of."""
        self._excluded.refresh()
        if self._excluded_version == self._excluded.version:
            return False
        self._excluded_version = self._excluded.version
        self._left_out.clear()
        for candidate in self._candidates.values():
            gone = [path for path in candidate.pins.paths() if self._excluded.name(path)]
            if any(path in candidate.files for path in gone):
                # Not deleted by its trainer: what it has lost was never to be taken.
                self._drop_kept(candidate)
                candidate.fullest = None
                candidate.files = {path: stamp for path, stamp in candidate.files.items() if path not in gone}
                candidate.pins.drop(gone)
        return True

    def _note_left_out(self) -> None:
        for path, _ in self._tree.files():
            if len(self._left_out) < _MOST_LEFT_OUT and self._excluded.name(path) and path != IGNORE_FILE:
                self._left_out[self._excluded.top(path)] = None

    def _peek(self, path: str, size: int) -> bytes:
        stamp = self._tree.stamp(path)
        known = self._peeked.get(path)
        if known is None or known[0] != stamp:
            known = self._peeked[path] = (stamp, self._beneath.peek(path, 4096))
        return known[1][:size]

    def _tell_notes(self) -> None:
        sentences = [note_of(path, why) for path, why in self._units.notes.items()]
        for sentence in filter(None, (*sentences, self._excluded.flaw)):
            if sentence not in self._told:
                self._told.add(sentence)
                self._note(sentence)

    def _is_open(self, candidate: Candidate) -> bool:
        """Whether there is content that has not been handed over."""
        return bool(candidate.files) and not candidate.is_taken(candidate.files)

    def _new(self, unit: Unit, now: float) -> Candidate:
        return Candidate(unit=unit, pins=self._pins.new_set(), changed_at=now)

    def _update(self, unit: Unit, now: float, closed: Mapping[str, int]) -> None:
        """Compare a unit with the look before, and pin what is new."""
        new = {path: stamp for path in _paths(unit) if (stamp := self._tree.stamp(path)) is not None}
        candidate = self._candidates.get(unit.name)
        if candidate is None:
            candidate = self._candidates[unit.name] = self._new(unit, now)
        if candidate.found and candidate.found.fate is Fate.CHANGED:
            self._lose(candidate.title, "it was rewritten before it could be stored")
            for path in candidate.taken:
                self._taken.pop(path, None)
            candidate.taken, candidate.found, candidate.files = {}, None, {}
            candidate.is_rewritten = True
        old = candidate.files
        if candidate.kept and any(new.get(path) != stamp for path, stamp in old.items()):
            self._take_kept(candidate)
        present = {stamp.file for stamp in new.values()}
        if old and new and unit.name != ROOT and not any(stamp.file in present for stamp in old.values()):
            # Every file is another one, so this is another checkpoint in a place of the same name.
            self._vanished(candidate, stays=True)
            taken = candidate.taken
            candidate = self._candidates[unit.name] = self._new(unit, now)
            candidate.taken, old = taken, {}
        is_lost = any(path not in new and stamp.file not in present for path, stamp in old.items())
        is_altered = any(old.get(path) != stamp for path, stamp in new.items())
        excluded = self._excluded_in(unit)
        unfinished = self._unfinished_in(unit)
        candidate.count_closings(closed, new)
        if not is_lost and not is_altered and candidate.unfinished == unfinished and unit == candidate.unit:
            candidate.looks += 1
            if candidate.excluded != excluded:
                # What is not taken is waited for by no quiet period, but its layout's last file may be among it.
                candidate.unit, candidate.excluded, candidate.verdict = unit, excluded, None
            return
        candidate.unit, candidate.unfinished, candidate.excluded = unit, unfinished, excluded
        if is_lost and not is_altered and unit.name != ROOT:
            self._shrink(candidate, new)
        else:
            self._grow(candidate, new)
        candidate.looks, candidate.changed_at, candidate.verdict = 1, now, None

    def _excluded_in(self, unit: Unit) -> dict[str, Stamp]:
        places = {path: posixpath.join(unit.place, path) for path in unit.excluded if path not in unit.texts}
        return {path: stamp for path, place in places.items() if (stamp := self._tree.stamp(place)) is not None}

    def _unfinished_in(self, unit: Unit) -> dict[str, Stamp]:
        if unit.place != unit.name:
            return {}
        prefix = f"{unit.name}/" if unit.name else ""
        return {
            path: stamp
            for path in self._units.unfinished
            if path.startswith(prefix) and (stamp := self._tree.stamp(path)) is not None
        }

    def _count_unseen(self, notices: Notices) -> None:
        """Count what came and went between two looks."""
        gone = {path for path in notices.arrived if path not in self._tree.folders and path not in self._candidates}
        for path, count in notices.closed.items():
            if self._tree.stamp(path) is not None or path in self._candidates or self._excluded.name(path):
                continue
            folder = next((one for one in _folders_of(path) if one in self._candidates), None)
            if folder is not None:
                candidate = self._candidates[folder]
                candidate.has_missed |= path not in (candidate.fullest or (candidate.files,))[0]
                continue
            named = [one for one in _folders_of(path) if is_checkpoint_name(one, is_folder=True)]
            if named and named[-1] not in self._tree.folders:
                gone.add(named[-1])  # it was listed while it was empty, and has been filled and deleted since
            elif is_checkpoint_name(path):
                self._lose(title_of(path), "it was deleted too soon after it was written", count)
        for path in sorted(gone):
            if is_checkpoint_name(path, is_folder=True) and not self._excluded.name(path, is_folder=True):
                self._lose(title_of(path), "it was deleted too soon after it was written")

    def _grow(self, candidate: Candidate, new: dict[str, Stamp]) -> None:
        for path, stamp in new.items():
            before = candidate.files.get(path)
            if before and (before.file != stamp.file or stamp.size < before.size):
                candidate.is_rewritten = True
        if candidate.taken and candidate.files:
            candidate.is_rewritten = True
        candidate.fullest = None
        self._drop_kept(candidate)
        candidate.files = candidate.pins.refresh(self._beneath, new)
        if new.keys() - candidate.files.keys():
            if not (candidate.unit.is_rewritten and candidate.closings):  # which are counted with what comes next
                self._lose(candidate.title, "it was deleted before it could be pinned")
                candidate.closings.clear()
            candidate.pins.release()
            candidate.files = {}
        for path, text in candidate.unit.texts.items():
            candidate.pins.write(posixpath.join(candidate.unit.place, path), text)

    def _shrink(self, candidate: Candidate, new: dict[str, Stamp]) -> None:
        # The pins of what is gone stay: if this is the folder's deletion, they hold the checkpoint that it was.
        if candidate.fullest is None and not candidate.is_taken(candidate.files):
            candidate.fullest = (candidate.files, candidate.looks)
        candidate.files = new

    # Judging.

    def _hand_over_if_whole(self, candidate: Candidate, now: float) -> None:
        if self._is_known(candidate) or candidate.is_too_young() or self._is_told:
            return
        try:
            if candidate.is_being_written():
                return
        except OSError as error:
            if error.errno in GONE:
                return  # the next look misses it
            raise
        if candidate.unit.is_rewritten and self._has_more():
            return  # it may be about this one: the next look knows
        verdict = self._judge(candidate)
        if verdict.outcome is Outcome.PARTIAL:
            return
        age = now - candidate.changed_at
        if self._is_conclusive(candidate, verdict):
            waits = _SETTLE_SECONDS if candidate.unit.place and candidate.unit.is_rewritten else 0.0
            if candidate.is_folder or age >= waits:
                self._hand_over(candidate)
            return
        patience = _PATIENCE if verdict.rule and verdict.outcome is Outcome.UNKNOWN else 1
        if verdict.outcome is Outcome.WHOLE and candidate.is_all_new() and age >= 2 * _SETTLE_SECONDS:
            patience = 0
        if age < self._quiet_period * patience:
            may_be_whole = verdict.outcome is Outcome.WHOLE or not verdict.rule
            may_be_whole = may_be_whole and (not candidate.is_rewritten or candidate.is_all_new())
            if may_be_whole and candidate.unit.is_rewritten and age >= 2 * _SETTLE_SECONDS and not candidate.fullest:
                self._keep(candidate)
            return
        # Where files were lost, all of them rather than those that are left: the deletion may only have stalled.
        if not (candidate.fullest and self._take_fullest(candidate, stays=True)):
            self._hand_over(candidate)

    def _is_conclusive(self, candidate: Candidate, verdict: Completeness) -> bool:
        """Whether nothing more will come."""
        if candidate.unfinished or candidate.fullest:
            return False
        may_be_mixed = len(candidate.files) > 1 and (candidate.unit.is_rewritten or candidate.is_rewritten)
        if not candidate.is_folder:
            return verdict.outcome is Outcome.WHOLE and not may_be_mixed
        return verdict.conclusive and (not may_be_mixed or candidate.is_ended())

    def _is_known(self, candidate: Candidate) -> bool:
        """Whether this content was handed over already, as a part of another checkpoint or under another name."""
        is_known = all(self._taken.get(path) == stamp for path, stamp in candidate.files.items())
        if not candidate.is_folder and len(candidate.files) == 1:
            ((path, stamp),) = candidate.files.items()
            other = self._single.get(stamp, path)
            if other != path and self._tree.stamp(other) == stamp:
                self._pointers[path] = other
                is_known = True
        if is_known:
            candidate.taken = dict(candidate.files)
            candidate.pins.release()
        return is_known

    def _judge(self, candidate: Candidate) -> Completeness:
        if candidate.verdict is None:
            candidate.verdict = self._completeness(self._found(candidate, candidate.files).as_written)
        return candidate.verdict

    def _sweep(self, candidate: Candidate, is_settled: bool) -> None:
        if self._is_known(candidate):
            return
        verdict = self._judge(candidate)
        if verdict.outcome is Outcome.PARTIAL:
            self._note(f"{candidate.title} is not whole, so it was not captured: {verdict.reason}")
        elif (
            is_settled
            or self._is_conclusive(candidate, verdict)
            or (verdict.outcome is Outcome.WHOLE and not candidate.is_rewritten)
        ):
            self._hand_over(candidate)
        else:
            self._note(f"{candidate.title} was still being written when the command ended, so it was not captured")

    # Handing over.

    def _keep(self, candidate: Candidate) -> None:
        """Copy what has settled: it is a version that was whole if it is written over next, and none if it grows."""
        if candidate.kept is None:
            found = self._found(candidate, candidate.files, may_be_rewritten=True)
            self._secure(found)
            candidate.kept = found
            candidate.pins = self._pins.new_set()
            candidate.files = candidate.pins.refresh(self._beneath, found.originals)

    def _take_kept(self, candidate: Candidate) -> None:
        found, candidate.kept = candidate.kept, None
        if found is not None:
            candidate.pins.release()
            self._take_found(candidate, found)

    def _drop_kept(self, candidate: Candidate) -> None:
        found, candidate.kept = candidate.kept, None
        if found is None:
            return
        if found.secured is None:
            found.pins.release()
        else:
            found.secured.add_done_callback(lambda _: found.pins.release())

    def _hand_over(self, candidate: Candidate) -> None:
        if candidate.kept:
            self._take_kept(candidate)
            return
        kept = {*candidate.files, *(posixpath.join(candidate.unit.place, text) for text in candidate.unit.texts)}
        candidate.pins.drop([path for path in candidate.pins.paths() if path not in kept])
        may_be_rewritten = candidate.unit.is_rewritten or candidate.is_rewritten
        self._take_found(candidate, self._found(candidate, candidate.files, may_be_rewritten=may_be_rewritten))

    def _take_found(self, candidate: Candidate, found: Found) -> None:
        files = found.originals
        candidate.found, candidate.taken, candidate.fullest = found, files, None
        self._lose_closings(candidate, candidate.take_closings() - 1)
        self._taken |= files
        candidate.pins = self._pins.new_set()
        if not candidate.is_folder and len(files) == 1:
            self._single[next(iter(files.values()))] = candidate.unit.name
        self._take(found)

    def _vanished(self, candidate: Candidate, *, stays: bool = False) -> None:
        """Save a checkpoint that was deleted, or whose files were all replaced (``stays``)."""
        files = candidate.fullest[0] if candidate.fullest else candidate.files
        if self._is_told:
            candidate.pins.release()
            self._drop_kept(candidate)
        elif not stays and files and all(self._tree.stamp(path) == stamp for path, stamp in files.items()):
            candidate.pins.release()  # it is a part of another unit now
            self._drop_kept(candidate)
        elif candidate.kept:
            self._take_kept(candidate)
        elif candidate.found and candidate.found.fate is Fate.CHANGED:
            self._lose(candidate.title, "it was deleted while it was being stored")
        elif not self._take_fullest(candidate, stays=stays):
            candidate.pins.release()
            is_counted = bool(files) and not stays
            self._lose_closings(candidate, candidate.take_closings() - is_counted)

    def _take_fullest(self, candidate: Candidate, *, stays: bool = False) -> bool:
        """Hand over all that was ever seen of a checkpoint that is being deleted, if that was the whole of it."""
        files, looks = candidate.fullest or (candidate.files, candidate.looks)
        if not files or candidate.is_taken(files):
            return False
        if not candidate.pins.holds(files):
            if not stays:
                self._lose(candidate.title, "it was deleted before it could be stored")
            return False
        last = {path: candidate.pins.stamp(path) for path in files}
        if any(candidate.pins.is_written(path) for path in files):
            return False
        verdict = self._completeness(self._found(candidate, last).as_written)
        # Seen twice as it was in the end, so no file was missing; or nothing could have come after it. A folder that
        # was being rewritten may have been half the one and half the other.
        was_seen_whole = (looks > 1 and last == files) or (verdict.conclusive and not stays)
        was_seen_whole = was_seen_whole and (not candidate.is_rewritten or candidate.is_ended())
        if verdict.outcome is Outcome.WHOLE:
            # The system told of each file that was closed, and the trainer had no more to write when it deleted them.
            knows_all = self._is_noticed and not candidate.has_missed and not candidate.is_rewritten
            was_seen_whole |= (knows_all and not stays) or (not candidate.is_folder and len(files) == 1)
        if verdict.outcome is Outcome.PARTIAL or not was_seen_whole:
            if (verdict.outcome is Outcome.WHOLE or candidate.has_missed) and not stays:
                self._lose(candidate.title, "it was deleted too soon after its last file was written")
            elif not stays:
                why = verdict.reason or "it was deleted too soon after its last file was written"
                self._note(f"{candidate.title} was deleted before it was seen whole: {why}")
            return False
        self._take_found(candidate, self._found(candidate, last, may_be_rewritten=stays and candidate.is_rewritten))
        return True

    def _found(self, candidate: Candidate, files: Stamps, *, may_be_rewritten: bool = False) -> Found:
        """A candidate with these files, as it is handed over and judged."""
        unit, pins = candidate.unit, candidate.pins
        place = f"{unit.place}/" if unit.place else ""
        stamps = {path.removeprefix(place): stamp for path, stamp in files.items()}
        stamps |= {text: pins.stamp(place + text) for text in unit.texts if text not in unit.excluded}
        texts = {text: pins.stamp(place + text) for text in unit.texts if text in unit.excluded}
        return Found(
            unit,
            dict(files),
            stamps,
            pins,
            may_be_rewritten=may_be_rewritten,
            excluded={**candidate.excluded, **texts},
            excluded_at=self._beneath.at,
        )

    def _lose_closings(self, candidate: Candidate, count: int) -> None:
        """Count versions that were written over; of what may be a copy they are those of its original."""
        place, name = posixpath.split(candidate.unit.name)
        beside = (posixpath.basename(one) for one in self._units.units if one and posixpath.dirname(one) == place)
        if not COPY.fullmatch(name) or all(map(COPY.fullmatch, beside)):
            self._lose(candidate.title, "it was written over too soon after it was written", count)

    def _lose(self, title: str, why: str, count: int = 1) -> None:
        if self._is_told:
            return
        for _ in range(count):
            sentence = f"a version of {title} is lost: {why}"
            self.lost.append(sentence)
            if len(self.lost) <= _MOST_TOLD:
                self._note(sentence)
            elif len(self.lost) == _MOST_TOLD + 1:
                self._note("more versions are lost; they are counted from here on")


def _folders_of(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _paths(unit: Unit) -> list[str]:
    return [posixpath.join(unit.place, path) for path in unit.files]
