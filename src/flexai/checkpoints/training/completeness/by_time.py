"""When a folder that a trainer writes is a whole checkpoint: one look after the other, nothing in between.

What its files say is answered by ``by_format``; here is all that depends on time. Each look lists the output directory,
pins what is new and compares with the look before. Looks come quickly while something changes (``LookPace``). A
checkpoint is handed over

- as soon as two looks in a row see the same and the format's last-written file is there, where the folder has only
  ever grown;
- after the quiet period where that cannot be told: no known format, a format without such a file, a folder that is
  being rewritten (its old last-written file says nothing about the new content), and the output directory's root;
  after several where the format has such a file and it is missing;
- from its pins where the trainer deletes the folder first: no process writes to it again, and it is judged by all
  that was ever seen of it. A folder that loses files is never judged by what is left while it is being deleted;
- by ``sweep`` when the command has ended.

What the format's rules call torn is never handed over, nor is a folder with a link or a special file in it.
Content that was handed over is not handed over again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from flexai.checkpoints.storage.beneath import GONE, Beneath
from flexai.checkpoints.training.completeness.by_format import Completeness, completeness
from flexai.checkpoints.training.formats.facts import step_in_name
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.verdict import Outcome
from flexai.checkpoints.training.output_dir import (
    ROOT,
    Listing,
    OutputListing,
    Stamp,
    Stamps,
    list_checkpoint,
    list_output,
)
from flexai.checkpoints.training.pins import Pins, PinSet

_ACTIVE_SECONDS = 0.02
"""Time between two looks while something changes."""
_IDLE_SECONDS = 0.1
"""Time between two looks while nothing does."""
_ACTIVE_FOR_SECONDS = 1.0
"""How long after a change something counts as changing."""
_REST_PER_LOOK = 4
"""A look is followed by a rest of at least this many times the processor time that it took."""

_FULL_LOOK_SECONDS = 1.0
"""How often the files of a checkpoint are looked at whose present content has been handed over."""

_PATIENCE = 6
"""Quiet periods for a folder of a known layout whose last file is missing: gathering a large optimizer's state takes
a while in which nothing is written, but not every trainer that uses a layout writes all of its files."""


class Fate(Enum):
    """What became of a checkpoint that was handed over."""

    WAITING = "waiting"
    STORED = "stored"
    CHANGED = "changed"
    """Its files changed before they were stored: it is no checkpoint any more."""
    LOST = "lost"
    """It could not be stored."""


@dataclass(slots=True, eq=False)
class Found:
    """A whole checkpoint: its files, what they must still be, and the pins that hold them."""

    name: str
    stamps: Stamps
    pins: PinSet
    fate: Fate = Fate.WAITING

    @property
    def title(self) -> str:
        """What to call it in a sentence."""
        return title_of(self.name)

    @property
    def files(self) -> dict[str, Path]:
        """Where each file can be read."""
        return {path: self.pins.local_path(path) for path in self.stamps}

    @property
    def folder(self) -> CheckpointFolder:
        """The checkpoint as rules and readers of formats see it."""
        return _folder(self.name, self.stamps, self.pins)

    def is_still_in(self, output: Path) -> bool:
        """Whether the output directory still has all of it."""
        try:
            return all(Stamp.of((output / self.name / path).lstat()) == stamp for path, stamp in self.stamps.items())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_unchanged(self) -> bool:
        """Whether every file is still what it was when the checkpoint was found."""
        try:
            return all(Stamp.of(self.pins.local_path(path).lstat()) == stamp for path, stamp in self.stamps.items())
        except FileNotFoundError:
            return False


def title_of(name: str) -> str:
    """What to call a captured checkpoint in a sentence."""
    return f"checkpoint {name!r}" if name != ROOT else "the checkpoint in the output directory's root"


@dataclass(slots=True, eq=False)
class _Candidate:
    """A folder that is, or will be, a checkpoint."""

    name: str
    pins: PinSet
    changed_at: float
    folder: Stamp | None = None
    files: dict[str, Stamp] = field(default_factory=dict)
    unfinished: dict[str, Stamp] = field(default_factory=dict)
    looks: int = 0
    """How many looks in a row have seen it as it is."""
    fullest: tuple[dict[str, Stamp], int] | None = None
    """While it only loses files: what it held before, and how many looks had seen that."""
    is_rewritten: bool = False
    verdict: Completeness | None = None
    refusal: str = ""
    taken: Stamps = field(default_factory=dict)
    """The content that was handed over last."""
    found: Found | None = None
    next_full_look: float = 0.0

    @property
    def title(self) -> str:
        return title_of(self.name)

    @property
    def written(self) -> int:
        """When it was written last, in nanoseconds since the epoch."""
        return max((stamp.written for stamp in self.files.values()), default=0)

    def is_taken(self, files: Stamps) -> bool:
        """Whether these files have all been handed over."""
        return all(self.taken.get(path) == stamp for path, stamp in files.items())


class LookPace:
    """How long to wait before the next look: ``pause``, in seconds."""

    def __init__(self, time: float) -> None:
        self.pause = _ACTIVE_SECONDS
        self._changed_at = time

    def looked(self, time: float, *, used: float, has_changed: bool) -> None:
        """Note a look that began at ``time`` and took ``used`` seconds of the processor."""
        if has_changed:
            self._changed_at = time
        is_active = time - self._changed_at < _ACTIVE_FOR_SECONDS
        self.pause = max(_ACTIVE_SECONDS if is_active else _IDLE_SECONDS, _REST_PER_LOOK * used)


def _by_age(candidates: Iterable[_Candidate]) -> list[_Candidate]:
    """Candidates in the order in which they were written last, which is to be that of their captures.

    The clocks of file systems tick slowly, so a step in the name decides between equal times.
    """
    return sorted(candidates, key=lambda one: (one.written, step_in_name(one.name) or 0, one.name))


def _folder(name: str, files: Stamps, pins: PinSet) -> CheckpointFolder:
    return CheckpointFolder(name, {path: stamp.size for path, stamp in files.items()}, pins.at)


class Watch:
    """The checkpoints of one output directory, from look to look. Used by one thread at a time."""

    def __init__(
        self,
        output: Path,
        pins: Pins,
        *,
        quiet_period: float,
        take: Callable[[Found], None],
        note: Callable[[str], None],
    ) -> None:
        """``quiet_period`` is in seconds; ``take`` is handed each checkpoint; ``note`` is told what is not captured."""
        self._output = output
        self._tree = Beneath(output)
        self._pins = pins
        self._quiet_period = quiet_period
        self._take = take
        self._note = note
        self._candidates: dict[str, _Candidate] = {}

    def look(self, time: float, *, closely: bool = False) -> bool:
        """Look once, ``time`` being the present in seconds; returns whether anything has changed. Raises OSError.

        What has been handed over is looked at file by file only now and then, or when asked to look ``closely``.
        """
        if closely:
            for candidate in self._candidates.values():
                candidate.next_full_look = time
        listing = list_output(self._output)
        is_gone = [name for name in self._candidates if name != ROOT and name not in listing.folders]
        gone = [self._candidates.pop(name) for name in is_gone]
        changed = bool(gone)
        # Everything is pinned before anything is judged: reading many headers takes a while.
        for name, folder in listing.folders.items():
            changed |= self._look_at_folder(name, folder, time)
        changed |= self._look_at_root(listing, time)
        for candidate in _by_age(gone):
            self._vanished(candidate)
        for candidate in _by_age(self._candidates.values()):
            self._hand_over_if_whole(candidate, time)
        return changed

    def sweep(self, time: float, *, is_clean: bool) -> None:
        """Hand over what is whole, now that the command has ended; ``is_clean`` says that it succeeded.

        After a failure what was being written may be torn, and only its format can tell that it is not.
        """
        for candidate in _by_age(self._candidates.values()):
            if candidate.refusal:
                continue
            if candidate.fullest and (self._take_fullest(candidate, folder_stays=is_clean) or not is_clean):
                continue  # what is left of a deletion that was cut off is no checkpoint
            if not candidate.is_taken(candidate.files):
                self._sweep(candidate, is_clean or time - candidate.changed_at >= self._quiet_period)

    def take_leftover(self, found: Found) -> None:
        """Hand over what a runner that died had pinned, of a folder that the trainer has deleted since.

        When the trainer began to delete it is not known, so only the last-written file of its format shows that it was
        whole. What the output directory still has is left to ``look`` and ``sweep``.
        """
        if found.name != ROOT and found.stamps and not found.is_still_in(self._output):
            verdict = completeness(found.folder)
            if verdict.outcome is Outcome.WHOLE and verdict.conclusive:
                self._take(found)

    def is_settled(self) -> bool:
        """Whether nothing that was handed over has turned out to have changed."""
        return not any(
            candidate.found and candidate.found.fate is Fate.CHANGED for candidate in self._candidates.values()
        )

    def _sweep(self, candidate: _Candidate, is_settled: bool) -> None:
        verdict = self._judge(candidate)
        if verdict.outcome is Outcome.PARTIAL:
            self._note(f"{candidate.title} is not whole, so it was not captured: {verdict.reason}")
        elif is_settled or (verdict.outcome is Outcome.WHOLE and not candidate.is_rewritten):
            self._hand_over(candidate)
        else:
            self._note(f"{candidate.title} was still being written when the command ended, so it was not captured")

    def _look_at_folder(self, name: str, folder: Stamp, time: float) -> bool:
        candidate = self._candidates.get(name)
        if candidate and candidate.folder and candidate.folder.file != folder.file:
            self._vanished(candidate)  # deleted and made again since the last look
            candidate = None
        if candidate is None:
            candidate = self._candidates[name] = self._new(name, time)
        elif self._is_done_with(candidate) and candidate.folder == folder and time < candidate.next_full_look:
            return False
        candidate.folder = folder
        candidate.next_full_look = time + _FULL_LOOK_SECONDS
        try:
            listing = list_checkpoint(self._tree, name)
        except OSError as error:
            if error.errno in GONE:
                return True  # gone since it was listed: the next look misses it
            if not isinstance(error, PermissionError):
                raise
            listing = Listing(refusal=f"it cannot be read: {error.strerror}")
        if not name.isprintable():
            listing.refusal = "its name has characters that cannot be shown"
        return self._update(candidate, listing, time)

    def _look_at_root(self, listing: OutputListing, time: float) -> bool:
        if ROOT not in self._candidates:
            if not listing.root.files:
                return False
            self._candidates[ROOT] = self._new(ROOT, time)
        return self._update(self._candidates[ROOT], listing.root, time)

    def _new(self, name: str, time: float) -> _Candidate:
        return _Candidate(name=name, pins=self._pins.new_set(name), changed_at=time)

    def _is_done_with(self, candidate: _Candidate) -> bool:
        waiting_or_stored = candidate.found is None or candidate.found.fate is not Fate.CHANGED
        return bool(candidate.files) and candidate.is_taken(candidate.files) and waiting_or_stored

    def _update(self, candidate: _Candidate, listing: Listing, time: float) -> bool:
        """Compare a folder with the look before, and pin what is new."""
        if listing.refusal:
            return self._refuse(candidate, listing.refusal)
        candidate.refusal = ""
        if candidate.found and candidate.found.fate is Fate.CHANGED:
            candidate.taken, candidate.found, candidate.files = {}, None, {}
            candidate.is_rewritten = True
        old, new = candidate.files, listing.files
        present = {stamp.file for stamp in new.values()}
        if old and new and candidate.name != ROOT and not any(stamp.file in present for stamp in old.values()):
            # Every file is another one, so this is another checkpoint in a folder of the same name.
            self._vanished(candidate, folder_stays=True)
            fresh = self._new(candidate.name, time)
            fresh.folder, fresh.next_full_look = candidate.folder, candidate.next_full_look
            self._candidates[candidate.name] = candidate = fresh
            old = {}
        is_lost = any(path not in new and stamp.file not in present for path, stamp in old.items())
        is_altered = any(old.get(path) != stamp for path, stamp in new.items())
        if not is_lost and not is_altered and candidate.unfinished == listing.unfinished:
            candidate.looks += 1
            return False
        if is_altered or candidate.name == ROOT:
            self._grow(candidate, listing)
        elif is_lost:
            self._shrink(candidate, listing)
        candidate.unfinished = listing.unfinished
        candidate.looks, candidate.changed_at, candidate.verdict = 1, time, None
        return True

    def _refuse(self, candidate: _Candidate, refusal: str) -> bool:
        if candidate.refusal == refusal:
            return False
        candidate.refusal = refusal
        candidate.pins.release()
        candidate.files, candidate.fullest = {}, None
        self._note(f"{candidate.title} is not captured: {refusal}")
        return True

    def _grow(self, candidate: _Candidate, listing: Listing) -> None:
        old = candidate.files
        for path, stamp in listing.files.items():
            before = old.get(path)
            if before and (before.file != stamp.file or stamp.size < before.size):
                candidate.is_rewritten = True
        if candidate.taken:
            candidate.is_rewritten = True
        candidate.fullest = None
        candidate.files = candidate.pins.refresh(self._tree, candidate.name, listing.files)

    def _shrink(self, candidate: _Candidate, listing: Listing) -> None:
        # The pins of what is gone stay: if this is the folder's deletion, they hold the checkpoint that it was.
        if candidate.fullest is None and not candidate.is_taken(candidate.files):
            candidate.fullest = (candidate.files, candidate.looks)
        candidate.files = listing.files

    def _hand_over_if_whole(self, candidate: _Candidate, time: float) -> None:
        if not candidate.files or candidate.looks < 2 or candidate.is_taken(candidate.files):
            return
        verdict = self._judge(candidate)
        if verdict.outcome is Outcome.PARTIAL:
            return
        has_ended = (
            verdict.conclusive
            and candidate.name != ROOT
            and not candidate.is_rewritten
            and not candidate.fullest
            and not candidate.unfinished
        )
        patience = _PATIENCE if verdict.rule and verdict.outcome is Outcome.UNKNOWN else 1
        is_quiet = time - candidate.changed_at >= self._quiet_period * patience
        # Where files were lost, all of them rather than those that are left: the deletion may only have stalled.
        if is_quiet and candidate.fullest and self._take_fullest(candidate, folder_stays=True):
            return
        if has_ended or is_quiet:
            self._hand_over(candidate)

    def _judge(self, candidate: _Candidate) -> Completeness:
        if candidate.verdict is None:
            candidate.verdict = self._completeness(candidate, candidate.files)
        return candidate.verdict

    def _completeness(self, candidate: _Candidate, files: Stamps) -> Completeness:
        return completeness(_folder(candidate.name, files, candidate.pins))

    def _hand_over(self, candidate: _Candidate) -> None:
        candidate.pins.drop([path for path in candidate.pins.paths() if path not in candidate.files])
        self._take_files(candidate, candidate.files)

    def _take_files(self, candidate: _Candidate, files: Stamps) -> None:
        found = Found(candidate.name, dict(files), candidate.pins)
        candidate.found, candidate.taken, candidate.fullest = found, found.stamps, None
        candidate.pins = self._pins.new_set(candidate.name)
        self._take(found)

    def _vanished(self, candidate: _Candidate, *, folder_stays: bool = False) -> None:
        """Save a checkpoint whose folder was deleted, or whose files were all replaced."""
        if candidate.found and candidate.found.fate is Fate.CHANGED:
            self._note(f"{candidate.title} was deleted while it was being stored")
        elif not self._take_fullest(candidate, folder_stays=folder_stays):
            candidate.pins.release()

    def _take_fullest(self, candidate: _Candidate, *, folder_stays: bool = False) -> bool:
        """Hand over all that was ever seen of a checkpoint that is being deleted, if that was the whole of it."""
        files, looks = candidate.fullest or (candidate.files, candidate.looks)
        if not files or candidate.is_taken(files):
            return False
        if not candidate.pins.holds(files):
            if not folder_stays:
                self._note(f"{candidate.title} was deleted before it could be stored")
            return False
        last = {path: Stamp.of(candidate.pins.local_path(path).lstat()) for path in files}
        verdict = self._completeness(candidate, last)
        # Seen twice as it was in the end, so no file was missing; or its last-written file is there. A folder that was
        # being rewritten may have been half the one and half the other.
        was_seen_whole = (looks > 1 and last == files) or (verdict.conclusive and not folder_stays)
        was_seen_whole = was_seen_whole and not candidate.is_rewritten
        if verdict.outcome is Outcome.PARTIAL or not was_seen_whole:
            if not folder_stays:
                why = verdict.reason or "it was deleted too soon after its last file was written"
                self._note(f"{candidate.title} was deleted before it was seen whole: {why}")
            return False
        self._take_files(candidate, last)
        return True
