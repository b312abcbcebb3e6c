"""The rule for pickles: one that can be followed to its STOP, and whose bytes are all there behind it, is whole.

Nothing is unpickled (`pickles.py`). Before 1.6 PyTorch wrote a magic number, a version, a description of the machine,
the object and the names of its storages as pickles, and then each storage: eight bytes of length and its elements
(`torch/serialization.py`, `_legacy_save`). DCP's `.metadata` is a pickle that says which bytes of which file each
tensor has (`torch/distributed/checkpoint/filesystem.py`, `_StorageInfo`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from flexai.checkpoints.training.formats.content import Content, ContentStream, RangeStream, content_of, unpacked
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.pickle_values import Budget, Global, Made, Persistent, Table
from flexai.checkpoints.training.formats.pickles import follow
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError, shown

MAX_INSTRUCTIONS = 500_000
"""Of all pickles in one file; about a second."""
MAX_READ = 64 * 1024 * 1024
"""Bytes that are read of one file. What is jumped over does not count."""
MAX_PACKED = 32 * 1024 * 1024
MAX_UNPACKED = 128 * 1024 * 1024
"""Bytes of a compressed file, before and after: to find its end, all of it must be unpacked."""
_MAX_VALUES = 2_000_000
_LEGACY = 0x1950A86A20F9469CFC6C
_ELEMENT = {
    **dict.fromkeys(("Bool", "Byte", "Char", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4"), 1),
    **dict.fromkeys(("Short", "Half", "BFloat16"), 2),
    **dict.fromkeys(("Int", "Float", "QInt32"), 4),
    **dict.fromkeys(("Long", "Double", "ComplexFloat"), 8),
    "ComplexDouble": 16,
}
"""Bytes of an element, by the names of PyTorch's storages."""


def begins_as_pickle(head: bytes) -> bool:
    """Whether a file that begins so can be a pickle of protocol 2 or later."""
    return len(head) > 1 and head[0] == 0x80 and 1 < head[1] < 6


def check_pickle(content: Content, path: str) -> None:
    """Return when the file is whole: pickles to its end, or PyTorch's format before 1.6.

    Raises NotWholeError, and CannotTellError for one that has too many instructions, or other bytes behind a pickle.
    """
    spend = _bounded(path, MAX_READ)
    stream, budget = RangeStream(content, spend), Budget(instructions=MAX_INSTRUCTIONS)
    value = _followed(stream, budget, path)
    if value == _LEGACY:
        _check_legacy(stream, budget, content, path)
        return
    while stream.position < content.size:
        if content.read(stream.position, 1) != b"\x80":
            raise CannotTellError(f"{shown(path)} goes on behind its pickle")
        _followed(stream, budget, path)


def check_compressed(kind: str, content: Content, path: str) -> None:
    """Return when compressed content has its end, which its format adds when the writer closes it.

    Raises NotWholeError, and CannotTellError for a longer one than is unpacked here.
    """
    if content.size > MAX_PACKED:
        raise CannotTellError(f"{shown(path)} is compressed and too long to be unpacked")
    spend = _bounded(path, MAX_UNPACKED)
    try:
        for piece in unpacked(kind, content):
            spend(len(piece))
    except NotWholeError as flaw:
        raise NotWholeError(f"{shown(path)}: {flaw}") from None


def check_dcp_metadata(folder: CheckpointFolder, path: str) -> None:
    """Return unless DCP's metadata is torn, or names a file that is missing or too short. Raises NotWholeError.

    What is no pickle, or too long to be followed, is believed by being there: its writer renames it into place.
    """
    beside = path.rpartition("/")[0]
    for name, end in dcp_storage(folder, path).items():
        # Data from the writer, used for comparison only: never joined to a path that is opened.
        file = f"{beside}/{name}".lstrip("/")
        if file not in folder.files:
            raise NotWholeError(f"{shown(path)} names {shown(name)}, which is not there")
        if folder.files[file] < end:
            raise NotWholeError(f"{shown(file)} is shorter than {shown(path)} says")


def dcp_storage(folder: CheckpointFolder, path: str) -> dict[str, int]:
    """The files that DCP's metadata speaks of, and up to which byte; nothing where that cannot be told.

    Raises NotWholeError for metadata that is torn.
    """
    content = content_of(folder, path)
    if content.read(0, 1) != b"\x80":
        return {}
    try:
        budget = Budget(instructions=MAX_INSTRUCTIONS)
        return _storage_ends(_followed(RangeStream(content, _bounded(path, MAX_READ)), budget, path))
    except CannotTellError:
        return {}


def _bounded(path: str, limit: int) -> Callable[[int], None]:
    left = limit

    def spend(count: int) -> None:
        nonlocal left
        left -= count
        if left < 0:
            raise CannotTellError(f"{shown(path)} is too long to be read to its end")

    return spend


def _followed(stream: ContentStream, budget: Budget, path: str) -> object:
    seen = follow(stream, budget, joblib=True, records=True)
    if seen.limit:
        raise CannotTellError(f"{shown(path)} was not followed to its end: {seen.limit}")
    if seen.broken:
        raise NotWholeError(f"{shown(path)} holds a pickle that breaks off: {seen.broken}")
    return seen.value


def _check_legacy(stream: ContentStream, budget: Budget, content: Content, path: str) -> None:
    _followed(stream, budget, path)
    _followed(stream, budget, path)
    value = _followed(stream, budget, path)
    keys = _followed(stream, budget, path)
    sizes: dict[object, int] = {}
    for storage in _storages(value):
        match storage.id:
            case ("storage", Global(name=name), str() as key, _, int() as count, None) if name.endswith("Storage"):
                width = _ELEMENT.get(name.removesuffix("Storage"))
                if width is None or not 0 <= count < 2**60:
                    raise CannotTellError(f"{shown(path)} has a storage of an unknown kind")
                sizes[key] = 8 + count * width
            case ("module", *_):
                continue
            case _:
                raise CannotTellError(f"{shown(path)} has a storage of an unknown kind")
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in sizes for key in keys):
        raise CannotTellError(f"{shown(path)} has storages that are not described")
    missing = stream.position + sum(sizes[key] for key in keys) - content.size
    if missing > 0:
        raise NotWholeError(f"{shown(path)} lacks {missing} bytes of its storages")
    if missing < 0:
        raise CannotTellError(f"{shown(path)} goes on behind its storages")


def _storages(value: object) -> Iterator[Persistent]:
    """Every storage that an object refers to."""
    pending, seen = [value], set[int]()
    while pending:
        value = pending.pop()
        if not isinstance(value, Made | Table | Persistent | list | tuple) or id(value) in seen:
            continue
        seen.add(id(value))
        if len(seen) > _MAX_VALUES:
            raise CannotTellError("the object has more parts than are looked at")
        if isinstance(value, Persistent):
            yield value
        elif isinstance(value, Made):
            pending += [value.callable, value.arguments, value.state]
        elif isinstance(value, Table):
            pending += [part for pair in value.pairs for part in pair]
        else:
            pending += value


def _storage_ends(metadata: object) -> dict[str, int]:
    """Up to which byte each file is spoken of; nothing where the metadata is not such as DCP writes."""
    ends: dict[str, int] = {}
    state = metadata.state if isinstance(metadata, Made) else None
    stored = state.get("storage_data") if isinstance(state, Table) else None
    for _, place in stored.pairs if isinstance(stored, Table) else ():
        told = place.state if isinstance(place, Made) else None
        if isinstance(told, Table):
            match told.get("relative_path"), told.get("offset"), told.get("length"):
                case str() as name, int() as offset, int() as length:
                    ends[name] = max(ends.get(name, 0), offset + length)
    return ends
