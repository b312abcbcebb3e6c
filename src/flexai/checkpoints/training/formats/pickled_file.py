"""A file that `torch.save`, `pickle` or a framework's zip archive made: its object in stand-ins, and its numbers.

    file = PickledFile(folder, "epoch=0-step=100.ckpt")
    file.value                      # a `Table`, where the file holds a dict
    file.number(table.get("loss"))  # also of a tensor with one element, whose bytes lie in the archive

Nothing is unpickled (`pickles.py`). The file is read by ranges: its head and its end, which hold the description of
all but huge ones, and then single numbers. So two requests do where it lies in a bucket.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from flexai.checkpoints.training.formats.content import ContentRange, RangeStream, unpacked
from flexai.checkpoints.training.formats.folder import RangedFiles, read_exactly
from flexai.checkpoints.training.formats.pickle_values import (
    MAX_BYTES,
    UNKNOWN,
    Budget,
    Global,
    Made,
    Persistent,
    PickleLimitError,
    Table,
)
from flexai.checkpoints.training.formats.pickles import follow
from flexai.checkpoints.training.formats.zip_members import ArchiveListing, Member, list_members, readings

_HEAD = 256 * 1024
_TAIL = 128 * 1024
_IN_MEMORY = 8 * 1024 * 1024
"""Bytes of a description that is read at once, enough for 100,000 tensors; a longer one is read piece by piece."""
_MOST_KEPT = 24 * 1024 * 1024
"""Bytes of values that are kept of a file, by the count of `pickle_values.py`."""
_MOST_TENSORS = 1_000_000
_DEEPEST = 16
_LEGACY = 0x1950A86A20F9469CFC6C
"""What PyTorch wrote first before 1.6, in a pickle of its own (`torch/serialization.py`, MAGIC_NUMBER)."""

# By the names of torch's storages and dtypes and by numpy's codes: the dtype, and the struct code of one element.
_KINDS = {
    "Float": ("float32", "f"),
    "Double": ("float64", "d"),
    "Half": ("float16", "e"),
    "BFloat16": ("bfloat16", ""),
    "Long": ("int64", "q"),
    "Int": ("int32", "i"),
    "Short": ("int16", "h"),
    "Char": ("int8", "b"),
    "Byte": ("uint8", "B"),
    "Bool": ("bool", "?"),
    "ComplexFloat": ("complex64", ""),
    "ComplexDouble": ("complex128", ""),
}
_CODES = {dtype: code for dtype, code in _KINDS.values() if code}
_NUMPY = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "u8": "Q", "u4": "I", "u1": "B"}
_WRAPPED = frozenset({"_rebuild_parameter", "_rebuild_parameter_with_state"})


class Tensor(NamedTuple):
    """What a file says of a tensor."""

    dtype: str
    """As PyTorch calls it: ``bfloat16``; empty where it is not told."""
    shape: tuple[int, ...]
    storage: str = ""
    """The name of its bytes in the archive."""
    offset: int = 0
    """Elements before its first one there."""
    is_dense: bool = False
    """Whether its elements lie there one after the other, in the order of its indices."""


class PickledFile:
    """One such file. Raises NotWholeError where it cannot be read."""

    def __init__(self, folder: RangedFiles, path: str) -> None:
        self.content = _EndsOf(folder, path)
        self._listing = list_members(self.content) or ArchiveListing()
        self._members = _outermost(self._listing.members)
        self._prefix = ""
        self._starts: dict[str, tuple[int, int] | None] = {}
        self.value = self._read()

    @property
    def head(self) -> bytes:
        """Its first bytes, none of an empty file."""
        return self.content.read(0, min(_HEAD, self.content.size))

    @property
    def members(self) -> Mapping[str, Member]:
        """What is in it, where it is an archive."""
        return self._members

    def member(self, name: str, limit: int) -> bytes | None:
        """The bytes of a member; None where there is none, and where it has more than `limit` or cannot be unpacked."""
        reading, packed = self._found(name)
        if reading is None or packed is None or max(reading.unpacked, packed.size) > limit:
            return None
        if reading.method == 0:
            return packed.read(0, packed.size)
        pieces: list[bytes] = []
        for piece in unpacked("deflate", packed):
            pieces.append(piece)
            if sum(map(len, pieces)) > limit:
                return None
        return b"".join(pieces)

    def number(self, value: object) -> int | float | None:
        """A finite number: as it is, of an array, or of a tensor with one element; None for anything else."""
        found = self._number(value)
        return found if found is not None and not isinstance(found, bool) and math.isfinite(found) else None

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, by the keys that lead to it (``state_dict.layer.weight``)."""
        pending: list[tuple[str, object, int]] = [("", self.value, 0)]
        left = _MOST_TENSORS
        while pending and left > 0:
            left -= 1
            name, value, depth = pending.pop()
            if (tensor := tensor_of(value)) is not None:
                yield name, tensor
            elif depth < _DEEPEST:
                inner = [(f"{name}.{key}" if name else str(key), found, depth + 1) for key, found in items_of(value)]
                pending += reversed(inner)

    def start_of(self, tensor: Tensor, size: int) -> int | None:
        """Where the `size` bytes of a tensor begin in the file; None where they do not lie there as they are."""
        count = math.prod(tensor.shape)
        if not tensor.is_dense or not tensor.storage or not count or size % count:
            return None
        if tensor.storage not in self._starts:
            self._starts[tensor.storage] = self._place_of(tensor.storage)
        place, start = self._starts[tensor.storage], tensor.offset * (size // count)
        return place[0] + start if place is not None and 0 <= start <= place[1] - size else None

    def _place_of(self, storage: str) -> tuple[int, int] | None:
        """Where the bytes of a storage begin, and how many they are; None where they are packed, or big-endian."""
        reading, packed = self._found(f"{self._prefix}data/{storage}")
        if reading is None or packed is None or reading.method:
            return None
        is_big = self.member(f"{self._prefix}byteorder", limit=16) == b"big"
        return None if is_big else (packed.start, packed.size)

    def _read(self) -> object:
        name = next((name for name in self._members if name == "data.pkl" or name.endswith("/data.pkl")), None)
        if name is not None:
            self._prefix = name.removesuffix("data.pkl")
            data = self.member(name, _IN_MEMORY)
            reading, packed = self._found(name)
            if data is not None:
                return self._follow(ContentRange.of(data))
            return UNKNOWN if packed is None or reading is None or reading.method else self._follow(packed)
        if self._members or self.content.read(0, 1) != b"\x80":
            return UNKNOWN
        return self._follow(ContentRange(self.content.read, 0, self.content.size))

    def _found(self, name: str) -> tuple[Member | None, ContentRange | None]:
        """A member and its bytes as they lie in the archive; nothing for one that no reader here unpacks."""
        member = self._members.get(name)
        if member is None or member.encrypted or member.method not in {0, 8}:
            return None, None
        return next(iter(readings(self.content, member, self._listing)), (None, None))

    def _follow(self, content: ContentRange) -> object:
        budget = Budget(kept=_MOST_KEPT)

        def spend(count: int) -> None:
            budget.bytes -= count
            if budget.bytes < 0:
                raise PickleLimitError(f"more than {MAX_BYTES // 1024**2} MiB of it would have to be read")

        stream = RangeStream(content, spend)
        value = follow(stream, budget).value
        if value == _LEGACY:
            for _ in range(3):  # the protocol's version, what wrote it, and then the object itself
                value = follow(stream, budget).value
        return value

    def _number(self, value: object) -> int | float | None:
        if isinstance(value, int | float):
            return value
        if (array := _numpy_scalar(value)) is not None:
            return _unpacked_number(*array)
        tensor = tensor_of(value)
        if tensor is None or math.prod(tensor.shape) != 1 or not tensor.storage or not 0 <= tensor.offset < 2**20:
            return None
        size = 2 if tensor.dtype == "bfloat16" else struct.calcsize(_CODES.get(tensor.dtype, ""))
        data = self.member(f"{self._prefix}data/{tensor.storage}", limit=2**20)
        if data is None or not size:
            return None
        data = data[tensor.offset * size : (tensor.offset + 1) * size]
        is_big = self.member(f"{self._prefix}byteorder", limit=16) == b"big"
        if tensor.dtype == "bfloat16":  # the first half of a float32
            return _unpacked_number("f", data + b"\0\0" if is_big else b"\0\0" + data, is_big)
        return _unpacked_number(_CODES[tensor.dtype], data, is_big)


def _outermost(members: Sequence[Member]) -> dict[str, Member]:
    """The members by their names, without those of archives that are members themselves."""
    found: dict[str, Member] = {}
    end = 0
    for member in sorted(members, key=lambda member: member.header):
        if member.header >= end:
            found.setdefault(member.name, member)
            end = member.header + len(member.name.encode()) + member.packed
    return found


def items_of(value: object) -> list[tuple[object, object]]:
    """What a dict, a list, a tuple or an object holds, by its keys, numbers or attributes."""
    if isinstance(value, Made):
        value = value.state
    if isinstance(value, Table):
        return value.pairs
    return list(enumerate(value)) if isinstance(value, list | tuple) else []


def get(value: object, *keys: str) -> object:
    """What lies under keys of dicts, or attributes of objects, in one another; UNKNOWN where that is nothing."""
    for key in keys:
        if isinstance(value, Made):
            value = value.state
        value = value.get(key) if isinstance(value, Table) else UNKNOWN
    return value


def tensor_of(value: object) -> Tensor | None:
    """The tensor that a call makes (`torch/_utils.py`, `torch/_tensor.py`); None for another value."""
    for _ in range(4):
        if not (isinstance(value, Made) and isinstance(value.callable, Global) and isinstance(value.arguments, tuple)):
            return None
        name, arguments = value.callable.name, value.arguments
        if not value.callable.module.startswith("torch.") or not arguments:
            return None
        if name == "_rebuild_from_type_v2" and len(arguments) > 2:
            value = Made(arguments[0], arguments[2])
        elif name in _WRAPPED:
            value = arguments[0]
        elif name.startswith("_rebuild_tensor") and len(arguments) > 2:
            return _tensor(arguments)
        else:
            return None
    return None


def sizes(value: object) -> tuple[int, ...] | None:
    """A shape: a tuple of whole numbers, or a `torch.Size` of one."""
    if isinstance(value, Made) and isinstance(value.arguments, tuple) and value.arguments:
        value = value.arguments[0]
    if isinstance(value, tuple | list) and all(isinstance(side, int) and 0 <= side < 2**63 for side in value):
        return tuple(value)
    return None


def dtype_of(value: object) -> str:
    """A dtype's name; empty where the value is none."""
    is_torch = isinstance(value, Global) and value.module == "torch" and not value.name.endswith("Storage")
    return value.name if is_torch and isinstance(value, Global) else ""


def _tensor(arguments: tuple[object, ...]) -> Tensor | None:
    storage, offset, shape = arguments[0], arguments[1], sizes(arguments[2])
    if not isinstance(storage, Persistent) or not isinstance(storage.id, tuple) or shape is None:
        return None
    kind, key = storage.id[1:3] if len(storage.id) > 2 else (None, "")
    name = kind.name.removesuffix("Storage") if isinstance(kind, Global) else ""
    # `_rebuild_tensor_v3` names the dtype, because its storage has none.
    dtype = _KINDS[name][0] if name in _KINDS else next(filter(None, map(dtype_of, arguments)), "")
    return Tensor(
        dtype,
        shape,
        key if isinstance(key, str) else "",
        offset if isinstance(offset, int) else 0,
        len(arguments) > 3 and _is_dense(shape, sizes(arguments[3])),
    )


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> bool:
    """Whether a tensor's strides are those of one that lies in a row; where a side is 1, its stride says nothing."""
    if strides is None or len(strides) != len(shape):
        return False
    step = 1
    for side, stride in zip(reversed(shape), reversed(strides), strict=True):
        if side != 1 and stride != step:
            return False
        step *= side
        if step >= 2**63:
            return False  # so that absurd shapes cannot make absurd integers
    return True


def _numpy_scalar(value: object) -> tuple[str, bytes, bool] | None:
    """The struct code, the bytes and their order of `numpy.core.multiarray.scalar(dtype, bytes)`."""
    if not (isinstance(value, Made) and isinstance(value.callable, Global) and value.callable.name == "scalar"):
        return None
    match value.arguments:
        case (Made(arguments=(str() as name, *_), state=state), bytes() as data) if name in _NUMPY:
            return _NUMPY[name], data, isinstance(state, tuple) and len(state) > 1 and state[1] == ">"
    return None


def _unpacked_number(code: str, data: bytes, is_big: bool) -> int | float | None:
    layout = struct.Struct((">" if is_big else "<") + code)
    if len(data) != layout.size:
        return None
    found: int | float = layout.unpack(data)[0]
    return found


class _EndsOf:
    """A file whose head and end are read once, and kept."""

    def __init__(self, folder: RangedFiles, path: str) -> None:
        self._folder = folder
        self._path = path
        self.size = folder.files[path]
        if self.size <= _HEAD + _TAIL:
            self._kept = {0: read_exactly(folder, path, 0, self.size)}
        else:
            tail = self.size - _TAIL
            self._kept = {0: read_exactly(folder, path, 0, _HEAD), tail: read_exactly(folder, path, tail, _TAIL)}

    def read(self, start: int, length: int) -> bytes:
        """See `Content.read`."""
        length = max(0, min(length, self.size - start))
        for at, data in self._kept.items():
            if at <= start and start + length <= at + len(data):
                return data[start - at : start - at + length]
        return read_exactly(self._folder, self._path, start, length) if length and start >= 0 else b""
