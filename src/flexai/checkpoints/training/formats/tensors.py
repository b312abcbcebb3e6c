"""The tensors in a file: their names, types, shapes and sizes, from headers alone.

A file is read by ranges and never unpickled: a safetensors file's header, the description in what ``torch.save`` wrote
and in DCP's ``.metadata``, and numpy's headers, also those in an ``.npz``. Where a tensor's bytes begin is told too, if
they lie in the file as they are: little-endian, in the order of the indices, neither packed nor spread.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from flexai.checkpoints.training.formats.content import ContentRange, unpacked
from flexai.checkpoints.training.formats.folder import RangedFiles, read_exactly
from flexai.checkpoints.training.formats.pickled_file import PickledFile
from flexai.checkpoints.training.formats.pickled_state import read_dcp
from flexai.checkpoints.training.formats.safetensors import BITS, read_header
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError, shown
from flexai.checkpoints.training.formats.zip_members import list_members, readings

_WORDS = {
    "BOOL": "bool",
    "BF16": "bfloat16",
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    "C64": "complex64",
}
_BITS = {word: BITS[code] for code, word in _WORDS.items()} | {"complex128": 128}
_KINDS = {"f": "float", "i": "int", "u": "uint", "b": "bool", "c": "complex"}
_NUMPY_MAGIC = b"\x93NUMPY"
_NUMPY_HEADER = re.compile(
    rb"\{'descr': '([<>|=])([fiubc])(\d{1,2})', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), \}\s*"
)
_HEADER = 64 * 1024
"""Bytes of numpy's header that are read."""
_READABLE = re.compile(r".*\.(safetensors|pt|pth|ckpt|bin|pkl|pickle|tar|npy|npz)|(__\d+)?\.metadata", re.IGNORECASE)


class TensorInfo(NamedTuple):
    """What a file's header says of one tensor."""

    name: str
    dtype: str
    """As PyTorch calls it, such as ``bfloat16``; in the file's own words where PyTorch has none."""
    shape: tuple[int, ...]
    size: int | None
    """Bytes; None where the type does not tell them."""
    start: int | None = None
    """Where they begin in the file; None where that was not asked for, or they do not lie there as they are."""


def may_hold_tensors(path: str) -> bool:
    """Whether a file's name is of a kind whose tensors can be told."""
    return _READABLE.fullmatch(path.rpartition("/")[2]) is not None


def read_tensors(files: RangedFiles, path: str, *, located: bool = False) -> list[TensorInfo]:
    """The tensors in a file, in the order of the file; none where it holds nothing that is one.

    With ``located`` each has its ``start``; where a trainer's archive holds them, that takes a short reading for each.

    Raises NotWholeError for a file that is damaged, CannotTellError for a header that is longer than is read here.
    """
    name = path.rpartition("/")[2].lower()
    if name.endswith(".safetensors"):
        header = read_header(files, path)
        # They lie one after the other up to the file's end.
        data = files.files[path] - max((entry["data_offsets"][1] for entry in header.values()), default=0)
        return [_of_safetensors(tensor, entry, data if located else None) for tensor, entry in header.items()]
    if name.endswith(".metadata"):
        entries = read_dcp(files, path)
        if entries is None:
            raise CannotTellError(f"{shown(path)} could not be followed")
        return [_info(tensor, found.dtype, found.shape) for tensor, found in entries.items() if found is not None]
    if name.endswith(".npy"):
        head = read_exactly(files, path, 0, min(files.files[path], _HEADER))
        return [_of_numpy(name.removesuffix(".npy"), head, path, (0, files.files[path]) if located else None)]
    if name.endswith(".npz"):
        return list(_of_npz(files, path, located=located))
    file = PickledFile(files, path)
    told = [(_info(tensor, found.dtype, found.shape), found) for tensor, found in file.tensors()]
    if not located:
        return [info for info, _ in told]
    return [info if info.size is None else info._replace(start=file.start_of(found, info.size)) for info, found in told]


def _info(name: str, dtype: str, shape: tuple[int, ...]) -> TensorInfo:
    bits = _BITS.get(dtype)
    return TensorInfo(name, dtype, shape, None if bits is None else math.prod(shape) * bits // 8)


def _of_safetensors(name: str, entry: dict[str, object], data: int | None) -> TensorInfo:
    # The header has been checked: these are what the format says.
    dtype, shape, offsets = str(entry["dtype"]), entry["shape"], entry["data_offsets"]
    assert isinstance(shape, list) and isinstance(offsets, list)
    start = None if data is None else data + offsets[0]
    return TensorInfo(name, _WORDS.get(dtype, dtype.lower()), tuple(shape), offsets[1] - offsets[0], start)


def _of_npz(files: RangedFiles, path: str, *, located: bool) -> Iterator[TensorInfo]:
    content = ContentRange(lambda start, length: files.read(path, start, length), 0, files.files[path])
    listing = list_members(content)
    if listing is None:
        raise NotWholeError(f"{shown(path)} is no zip archive, or is cut off")
    for member in listing.members:
        if member.encrypted or member.method not in {0, 8} or not member.name.endswith(".npy"):
            continue
        for reading, packed in readings(content, member, listing)[:1]:
            pieces = unpacked("deflate", packed)
            head = packed.read(0, min(packed.size, _HEADER)) if reading.method == 0 else next(iter(pieces), b"")
            place = (packed.start, packed.size) if located and reading.method == 0 else None
            yield _of_numpy(member.name.removesuffix(".npy"), head, path, place)


def _of_numpy(name: str, head: bytes, path: str, place: tuple[int, int] | None) -> TensorInfo:
    """The array that a header tells; ``place`` is where the array's own file begins in the file, and its bytes."""
    begin = 10 if head[6:7] == b"\x01" else 12
    length = int.from_bytes(head[8:begin], "little")
    header = _NUMPY_HEADER.fullmatch(head[begin : begin + length]) if head.startswith(_NUMPY_MAGIC) else None
    if header is None:
        raise CannotTellError(f"{shown(path)} holds no plain array")
    order, kind, width = header[1], header[2], int(header[3])
    dtype = "bool" if kind == b"b" else f"{_KINDS[kind.decode()]}{8 * width}"
    shape = tuple(int(side) for side in header[5].replace(b",", b" ").split())
    is_plain = order in {b"<", b"|"} and (header[4] == b"False" or len(shape) < 2)
    size = math.prod(shape) * width
    is_there = place is not None and is_plain and begin + length + size <= place[1]
    return TensorInfo(name, dtype, shape, size, place[0] + begin + length if place and is_there else None)
