"""A unit on its way to becoming a captured checkpoint: what is known of it from look to look."""

from __future__ import annotations

import posixpath
import re
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from flexai.checkpoints.models import TrainingFacts
from flexai.checkpoints.storage.beneath import GONE, Folder
from flexai.checkpoints.training.completeness.by_format import Completeness
from flexai.checkpoints.training.formats.facts import read_facts
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.output_dir import OutputTree, Stamp, Stamps
from flexai.checkpoints.training.pins import PinSet
from flexai.checkpoints.training.units import ROOT, Unit, find_units

_CLOCK_SECONDS = 0.015
"""How coarse the times of a file system are, at most: what is written twice within it may have equal stamps."""

_CLOSED_TWICE = re.compile(r".*\.(h5|hdf5|txt)", re.IGNORECASE)
"""Files that are closed twice for one save: Keras opens what h5py wrote once more, and LightGBM's Python appends to
what its library wrote (``Booster.save_model``)."""
_WRITTEN_LAST = re.compile(
    r"trainer_state\.json|training_args\.bin|\.metadata|.*\.index.*\.json|adapter_config\.json|_CHECKPOINT_METADATA"
    r"|commit_success\.txt|random_states_\d+\.pkl"
)


class Fate(Enum):
    """What became of a checkpoint that was handed over."""

    WAITING = "waiting"
    STORED = "stored"
    CHANGED = "changed"
    """Its files changed before they were stored: it is no checkpoint any more."""
    LOST = "lost"
    """It could not be stored."""
    REFUSED = "refused"
    """No store would take it."""


def _as_told(facts: TrainingFacts) -> TrainingFacts:
    return facts


@dataclass(slots=True, eq=False)
class Found:
    """A whole checkpoint: its files, what they must still be, and the pins that hold them."""

    unit: Unit
    originals: Stamps
    """What its files were in the output directory, by their paths there."""
    stamps: dict[str, Stamp]
    """What the files that hold its content must still be, by their paths in the checkpoint."""
    pins: PinSet
    may_be_rewritten: bool = False
    """Whether the trainer may yet write into these very files."""
    secured: Future[bool] | None = None
    """The copying of what it may write into, where that goes on beside the watching."""
    over: Callable[[TrainingFacts], TrainingFacts] = _as_told
    """What its trainer has reported, put over what its files tell."""
    fate: Fate = Fate.WAITING
    error: str = ""
    """Why it could not be stored."""
    excluded: Stamps = field(default_factory=dict)
    """What was there of its unit and is not taken, by the paths in the checkpoint."""
    excluded_at: Callable[[str], tuple[Folder, str]] | None = None
    """Finds that by the paths in the output directory, where it is not pinned."""

    @property
    def name(self) -> str:
        """The unit's name."""
        return self.unit.name

    @property
    def title(self) -> str:
        """What to call it in a sentence."""
        return title_of(self.name)

    @property
    def files(self) -> dict[str, Path]:
        """Where each file can be read."""
        return {path: self.pins.local_path(self._in_output(path)) for path in self.stamps}

    @property
    def folder(self) -> CheckpointFolder:
        """The checkpoint as readers of formats see it: what it holds."""
        return _folder(self.unit, self.stamps, self.pins)

    @property
    def as_written(self) -> CheckpointFolder:
        """All that its trainer wrote of it, by which it is judged, also what is not taken."""
        if not self.excluded:
            return self.folder
        sizes = {path: stamp.size for path, stamp in (*self.stamps.items(), *self.excluded.items())}

        def at(path: str) -> tuple[Folder, str]:
            is_apart = path in self.excluded and path not in self.unit.texts
            return (self.excluded_at if is_apart and self.excluded_at else self.pins.at)(self._in_output(path))

        return CheckpointFolder(self.unit.name, sizes, at, excluded=self.excluded.keys())

    def facts(self) -> TrainingFacts:
        """What is known of it."""
        return self.over(read_facts(self.folder))

    def secure(self) -> bool:
        """Copy what the trainer may rewrite; False where it has done so already. Raises OSError."""
        if self.may_be_rewritten:
            for path in self.unit.files:
                owned = self.pins.own(self._in_output(path), self.stamps[path])
                if owned is None:
                    return False
                self.stamps[path] = owned
            self.may_be_rewritten = False
        return True

    def is_still_in(self, output: Path) -> bool:
        """Whether the output directory still has all of it, be it that what is pinned of it is a copy."""
        try:
            return all(Stamp.of((output / path).lstat()).is_copy_of(stamp) for path, stamp in self.originals.items())
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_unchanged(self) -> bool:
        """Whether every file is still what it was when the checkpoint was found."""
        try:
            return all(self.pins.stamp(self._in_output(path)) == stamp for path, stamp in self.stamps.items())
        except OSError as error:
            if error.errno in GONE:
                return False
            raise

    def _in_output(self, path: str) -> str:
        return posixpath.join(self.unit.place, path)


def found_in(tree: OutputTree, pins: PinSet) -> Iterator[Found]:
    """The units of an output directory, or of a set of pins, whose files that set holds. Raises OSError."""
    for unit in find_units(tree, pins.peek).units.values():
        paths = {path: posixpath.join(unit.place, path) for path in unit.files}
        stamps = {path: stamp for path, place in paths.items() if (stamp := tree.stamp(place)) is not None}
        originals = {paths[path]: stamp for path, stamp in stamps.items()}
        stamps |= hold_texts(unit, pins)
        if originals:
            yield Found(unit, originals, stamps, pins, excluded=excluded_of(unit, tree, pins))


def hold_texts(unit: Unit, pins: PinSet) -> dict[str, Stamp]:
    """Hold the files that point at a unit, and return those that are taken. Raises OSError."""
    for path, text in unit.texts.items():
        pins.write(posixpath.join(unit.place, path), text)
    return {path: pins.stamp(posixpath.join(unit.place, path)) for path in unit.texts if path not in unit.excluded}


def excluded_of(unit: Unit, tree: OutputTree, pins: PinSet) -> dict[str, Stamp]:
    """What is there of a unit and is not taken, by the paths in the unit; its texts are held. Raises OSError."""
    places = {path: posixpath.join(unit.place, path) for path in unit.excluded}
    found = {path: pins.stamp(place) for path, place in places.items() if path in unit.texts}
    others = ((path, tree.stamp(place)) for path, place in places.items() if path not in unit.texts)
    return found | {path: stamp for path, stamp in others if stamp is not None}


def title_of(name: str) -> str:
    """What to call a captured checkpoint in a sentence."""
    return f"checkpoint {name!r}" if name != ROOT else "the checkpoint in the output directory's root"


@dataclass(slots=True, eq=False)
class Candidate:
    """A unit that is, or will be, a checkpoint. Files go by their paths in the output directory."""

    unit: Unit
    pins: PinSet
    changed_at: float
    files: dict[str, Stamp] = field(default_factory=dict)
    excluded: Stamps = field(default_factory=dict)
    """What is there of it and is not taken, but for texts; by the paths in the unit."""
    unfinished: dict[str, Stamp] = field(default_factory=dict)
    has_missed: bool = False
    """Whether a file of it was written and deleted between two looks."""
    closings: dict[str, int] = field(default_factory=dict)
    """How often its files were closed since it was handed over last, where the system tells."""
    last_closed: str = ""
    """The file of it that was closed last, where the system tells."""
    looks: int = 0
    """How many looks in a row have seen it as it is."""
    fullest: tuple[dict[str, Stamp], int] | None = None
    """While it only loses files: what it held before, and how many looks had seen that."""
    is_rewritten: bool = False
    verdict: Completeness | None = None
    taken: Stamps = field(default_factory=dict)
    """The content that was handed over last."""
    found: Found | None = None
    kept: Found | None = None
    """What it was when it had settled, copied in case it is written over before it is known to be whole."""

    @property
    def title(self) -> str:
        return title_of(self.unit.name)

    @property
    def is_folder(self) -> bool:
        return self.unit.place == self.unit.name

    @property
    def written(self) -> int:
        """When it was written last, in nanoseconds since the epoch."""
        return max((stamp.written for stamp in self.files.values()), default=0)

    def is_taken(self, files: Stamps) -> bool:
        """Whether these files have all been handed over."""
        return all(self.taken.get(path) == stamp for path, stamp in files.items())

    def is_all_new(self) -> bool:
        """Whether every file is another one than in the version before."""
        return bool(self.taken) and all(self.taken.get(path) != stamp for path, stamp in self.files.items())

    def is_ended(self) -> bool:
        """Whether the file that its layout writes last was written after all others."""
        youngest = self.last_closed or max(self.files, key=lambda path: self.files[path].written)
        if not self.last_closed and sum(stamp.written == self.written for stamp in self.files.values()) > 1:
            return False  # the clock does not tell
        return bool(_WRITTEN_LAST.fullmatch(posixpath.basename(youngest)))

    def count_closings(self, closed: Mapping[str, int], files: Stamps) -> None:
        """Note which of its files were closed, in this order."""
        for path, count in closed.items():
            if path in files:
                self.last_closed = path
                self.closings[path] = self.closings.get(path, 0) + count

    def take_closings(self) -> int:
        """How many versions were complete since it was handed over last, as far as the system told; begins anew.

        A name that tells a number is not written over: a second closing of such a file has completed it, as where a
        library appends to what another one wrote.
        """
        ends = [
            (count + 1) // 2 if _CLOSED_TWICE.fullmatch(path) else count
            for path, count in self.closings.items()
            if not self.is_folder or _WRITTEN_LAST.fullmatch(posixpath.basename(path))
        ]
        self.closings.clear()
        return max(ends, default=0) if self.unit.is_rewritten else min(len(ends), 1)

    def is_too_young(self) -> bool:
        """Whether it may be written over, and so soon that its stamps would not show it."""
        age = time.time_ns() - self.written
        return (self.unit.is_rewritten or self.is_rewritten) and 0 <= age < _CLOCK_SECONDS * 1e9

    def is_being_written(self) -> bool:
        """Whether a process has a file of it open, or may have: then two looks must see the same."""
        answers = {self.pins.is_written(path) for path in self.files}
        return True in answers or (None in answers and self.looks < 2)


def _folder(unit: Unit, stamps: Stamps, pins: PinSet) -> CheckpointFolder:
    """``stamps`` go by the paths in the unit."""
    sizes = {path: stamp.size for path, stamp in stamps.items()}
    return CheckpointFolder(unit.name, sizes, lambda path: pins.at(posixpath.join(unit.place, path)))
