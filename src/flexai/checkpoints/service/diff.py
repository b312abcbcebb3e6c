"""Diff: what two checkpoints have in common, and what not: their files, and the tensors in them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from flexai.checkpoints.documents import Document, identity
from flexai.checkpoints.models import Checkpoint
from flexai.checkpoints.names import parse_reference

if TYPE_CHECKING:
    from flexai.checkpoints.contents import StoredFile
    from flexai.checkpoints.service.support.found_tensors import FoundTensors
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.training.formats.folder import RangedFiles
    from flexai.checkpoints.training.formats.tensors import TensorInfo

_PIECE = 4 * 1024 * 1024
"""Bytes of each side that are compared at once."""


@dataclass(frozen=True, slots=True)
class DiffRequest:
    """Two checkpoints to be compared.

    Args:
        before: NAME, UUID or JOB/PATH of the first.
        after: NAME, UUID or JOB/PATH of the second.
        tensors: Compare the tensors that the headers of the files tell as well.
        values: Compare the bytes of tensors too that have one name, type and shape; ``tensors`` goes without saying.

    Raises:
        UsageError: InvalidNameError for a reference.
    """

    before: str
    after: str
    tensors: bool = False
    values: bool = False

    def __post_init__(self) -> None:
        parse_reference(self.before)
        parse_reference(self.after)


class Change(StrEnum):
    """What became of a file or a tensor."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"
    SAME = "same"


class ComparedFile(NamedTuple):
    """A file as one of the two checkpoints has it."""

    size: int
    """Bytes."""
    digest: str
    """BLAKE3 in hex; empty where no process has read the content yet."""
    is_executable: bool
    """Whether its mode lets it be executed."""

    def to_dict(self) -> Document:
        """As the document has it."""
        return {"sizeBytes": self.size, "digest": self.digest, "isExecutable": self.is_executable}


class FileChange(NamedTuple):
    """A path, and what became of the file there."""

    path: str
    change: Change
    before: ComparedFile | None
    """None where it was added."""
    after: ComparedFile | None
    """None where it was removed."""

    def to_dict(self) -> Document:
        """As the document has it."""
        return {"path": self.path, "change": str(self.change)} | _both(self.before, self.after)


class ComparedTensor(NamedTuple):
    """A tensor as one of the two checkpoints has it."""

    path: str
    """Of its file."""
    dtype: str
    shape: tuple[int, ...]
    size: int | None
    """Bytes; None where the type does not tell them."""

    def to_dict(self) -> Document:
        """As the document has it."""
        return {"path": self.path, "dtype": self.dtype, "shape": list(self.shape), "sizeBytes": self.size}


class TensorChange(NamedTuple):
    """A tensor's name, and what became of it."""

    name: str
    change: Change
    """Whether it has another type, shape or, where they were compared, other values."""
    are_values_equal: bool | None
    """None where the values were not compared."""
    before: ComparedTensor | None
    """None where it was added."""
    after: ComparedTensor | None
    """None where it was removed."""

    def to_dict(self) -> Document:
        """As the document has it."""
        told = {"name": self.name, "change": str(self.change), "valuesEqual": self.are_values_equal}
        return told | _both(self.before, self.after)


def _both(before: ComparedFile | ComparedTensor | None, after: ComparedFile | ComparedTensor | None) -> Document:
    return {"before": before and before.to_dict(), "after": after and after.to_dict()}


class UntoldTensors(NamedTuple):
    """A file whose tensors cannot be told."""

    checkpoint: str
    """``before`` or ``after``: whose file it is."""
    path: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class DiffReport:
    """How two checkpoints differ."""

    before: Checkpoint
    after: Checkpoint
    files: tuple[FileChange, ...]
    """All files of both, in order of their paths."""
    tensors: tuple[TensorChange, ...] | None
    """All tensors of both, in order of their names; None where they were not asked for."""
    untold: tuple[UntoldTensors, ...]
    """Files whose tensors cannot be told."""

    def to_dict(self) -> Document:
        """What ``flexai checkpoint diff --json`` prints; sizes in bytes."""
        return {
            "before": identity(self.before),
            "after": identity(self.after),
            "files": [one.to_dict() for one in self.files],
            "tensors": None if self.tensors is None else [one.to_dict() for one in self.tensors],
            "tensorsNotRead": [one._asdict() for one in self.untold],
        }


def diff(system: System, request: DiffRequest) -> DiffReport:
    """Compare two checkpoints.

    Files are the same by their digests; content that has none yet is read. Tensors are matched by their names, those in
    files of one path first, so that one may move to another file.

    Raises NotFoundError and ConflictError for a checkpoint that is not there or not available, IntegrityError for
    content that is missing, and what the store raises.
    """
    (before, old), (after, new) = system.available_files(request.before), system.available_files(request.after)
    pair = _Pair(system, old, new)
    files = tuple(_compare_files(pair))
    if not (request.tensors or request.values):
        return DiffReport(before=before, after=after, files=files, tensors=None, untold=())
    same = {one.path for one in files if one.change is Change.SAME}
    found, later = pair.tensors(same, located=request.values)
    untold = [UntoldTensors("before", *one) for one in found.untold.items()]
    untold += [UntoldTensors("after", *one) for one in later.untold.items()]
    values = _Values(pair, same) if request.values else None
    tensors = tuple(_compare_tensors(found, later, values))
    return DiffReport(before=before, after=after, files=files, tensors=tensors, untold=tuple(untold))


class _Pair:
    """The files of the two checkpoints, which are read by range."""

    def __init__(self, system: System, old: Sequence[StoredFile], new: Sequence[StoredFile]) -> None:
        self.old, self.new = {one.path: one for one in old}, {one.path: one for one in new}
        self._system = system
        self._files: tuple[RangedFiles, RangedFiles] | None = None

    @property
    def files(self) -> tuple[RangedFiles, RangedFiles]:
        """Both checkpoints' files, to be read; the store is opened when that is first asked for."""
        if self._files is None:
            from flexai.checkpoints.service.support.code import stored_files

            store = self._system.store
            self._files = stored_files(store, list(self.old.values())), stored_files(store, list(self.new.values()))
        return self._files

    def tensors(self, same: set[str], *, located: bool) -> tuple[FoundTensors, FoundTensors]:
        """What the headers say of both; those of files that are the same are read once."""
        from flexai.checkpoints.service.support.found_tensors import find_tensors

        old, new = self.files
        found, later = find_tensors(old, located=located), find_tensors(new, but=same, located=located)
        both = {path: told for path, told in found.told.items() if path in same}
        return found, later._replace(told={**later.told, **both})

    def have_equal_ranges(self, old: tuple[str, int], new: tuple[str, int], size: int) -> bool:
        """Whether so many bytes are the same, in a file of the first from an offset and in one of the second."""
        (old_path, old_start), (new_path, new_start) = old, new
        for at in range(0, size, _PIECE):
            length = min(_PIECE, size - at)
            one = self.files[0].read(old_path, old_start + at, length)
            if one != self.files[1].read(new_path, new_start + at, length):
                return False
        return True


def _compare_files(pair: _Pair) -> Iterator[FileChange]:
    for path in sorted(pair.old.keys() | pair.new.keys()):
        old, new = pair.old.get(path), pair.new.get(path)
        if old is None or new is None:
            change = Change.ADDED if old is None else Change.REMOVED
        else:
            is_same = old.is_executable == new.is_executable and _have_equal_content(pair, old, new)
            change = Change.SAME if is_same else Change.CHANGED
        yield FileChange(path, change, old and _compared(old), new and _compared(new))


def _compared(file: StoredFile) -> ComparedFile:
    content = file.content.as_claim()
    return ComparedFile(content.size, content.digest.hex() if content.digest else "", file.is_executable)


def _have_equal_content(pair: _Pair, old: StoredFile, new: StoredFile) -> bool:
    one, other = old.content.as_claim(), new.content.as_claim()
    if one.size != other.size or (one.blob_id, one.start) == (other.blob_id, other.start):
        return one.size == other.size
    if one.digest is not None and other.digest is not None:
        return one.digest == other.digest
    return pair.have_equal_ranges((old.path, 0), (new.path, 0), one.size)


def _compare_tensors(found: FoundTensors, later: FoundTensors, values: _Values | None) -> Iterator[TensorChange]:
    old, new = _by_name(found.told), _by_name(later.told)
    for name in sorted(old.keys() | new.keys()):
        for one, other in _matched(old.get(name, []), new.get(name, [])):
            are_equal = None
            if one is None or other is None:
                change = Change.ADDED if one is None else Change.REMOVED
            elif (one[1].dtype, one[1].shape) != (other[1].dtype, other[1].shape):
                change = Change.CHANGED
            else:
                are_equal = values.are_equal(one, other) if values else None
                change = Change.CHANGED if are_equal is False else Change.SAME
            yield TensorChange(name, change, are_equal, one and _told(one), other and _told(other))


_Found = tuple[str, "TensorInfo"]
"""A tensor, after the path of its file."""


def _told(found: _Found) -> ComparedTensor:
    path, tensor = found
    return ComparedTensor(path, tensor.dtype, tensor.shape, tensor.size)


def _by_name(told: Mapping[str, Iterable[TensorInfo]]) -> dict[str, list[_Found]]:
    found: dict[str, list[_Found]] = defaultdict(list)
    for path, tensors in told.items():
        for tensor in tensors:
            found[tensor.name].append((path, tensor))
    return found


def _matched(old: Sequence[_Found], new: Sequence[_Found]) -> Iterator[tuple[_Found | None, _Found | None]]:
    """The tensors of one name in pairs: those in files of one path, then one that moved, where only one can have."""
    by_path: dict[str, deque[_Found]] = defaultdict(deque)
    left = []
    for one in new:
        by_path[one[0]].append(one)
    for one in old:
        if by_path[one[0]]:
            yield one, by_path[one[0]].popleft()
        else:
            left.append(one)
    rest = [one for several in by_path.values() for one in several]
    if len(left) == len(rest) == 1:
        yield left[0], rest[0]
        return
    for one in left:
        yield one, None
    for one in rest:
        yield None, one


@dataclass
class _Values:
    """Whether tensors have the same bytes. No more is read than the files hold, whatever their headers say."""

    pair: _Pair
    same: set[str]
    """Paths of files that are the same in both."""
    known: dict[tuple[str, int, str, int, int], bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.left = sum(file.content.size for file in self.pair.old.values())

    def are_equal(self, old: _Found, new: _Found) -> bool | None:
        """Whether two tensors of one type and shape are equal; None where that cannot be told."""
        (old_path, one), (new_path, other) = old, new
        if old_path == new_path and old_path in self.same and one == other:
            return True
        if one.size is None or one.size != other.size or one.start is None or other.start is None:
            return True if one.size == other.size == 0 else None
        key = (old_path, one.start, new_path, other.start, one.size)
        if key not in self.known:
            self.left -= one.size
            if self.left < 0:
                return None
            self.known[key] = self.pair.have_equal_ranges((old_path, one.start), (new_path, other.start), one.size)
        return self.known[key]
