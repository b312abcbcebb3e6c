"""The safetensors rule: a file is whole when its header accounts for every byte of it.

The format and the checks follow huggingface/safetensors, `safetensors/src/tensor.rs` (`Metadata::validate`):
eight bytes of header length, a JSON header of at most 100 MB, then tensors back to back, without holes, to
the end of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexai.checkpoints.foreign_json import MAX_DOCUMENT, TooMuchError, parse_json
from flexai.checkpoints.training.formats.folder import CheckpointFolder, RangedFiles, read_exactly
from flexai.checkpoints.training.formats.json_object import read_object
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError, shown

MAX_HEADER = 100_000_000
"""Bytes of header at most, the format's own limit: the length field must never drive an allocation."""

BITS = (
    {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
    | dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
    | dict.fromkeys(("I16", "U16", "F16", "BF16"), 16)
    | dict.fromkeys(("I32", "U32", "F32"), 32)
    | dict.fromkeys(("I64", "U64", "F64", "C64"), 64)
)


def read_tensor_names(folder: RangedFiles, path: str) -> frozenset[str]:
    """The names of the tensors in a whole safetensors file; raises what ``read_header`` raises."""
    return frozenset(read_header(folder, path))


def read_header(folder: RangedFiles, path: str) -> dict[str, Any]:
    """What a whole safetensors file's header says of each tensor. Raises NotWholeError with the first flaw found.

    Raises CannotTellError for a header that is longer, or has more parts, than is read here.
    """
    size = folder.files[path]
    if size < 8:
        raise NotWholeError(f"{shown(path)} is {'empty' if size == 0 else 'too short for a safetensors file'}")
    length = int.from_bytes(read_exactly(folder, path, 0, 8), "little")
    if length > MAX_HEADER:
        raise NotWholeError(f"{shown(path)} announces a header of {length} bytes, more than safetensors allows")
    if 8 + length > size:
        raise NotWholeError(f"{shown(path)} ends inside its header")
    if length > MAX_DOCUMENT:
        raise CannotTellError(f"{shown(path)} has a header of {length // 1024**2} MiB, which was not read")
    header = _parsed(path, read_exactly(folder, path, 8, length))
    _check_layout(path, header, size - 8 - length)
    return header


def read_weight_map(folder: CheckpointFolder, path: str) -> dict[str, frozenset[str]]:
    """The shards that an index (`*.index.json`) promises: path in the folder -> the tensors it should hold.

    The map's values are data from the writer: each must be a bare file name that the folder lists beside the
    index. A value with a path in it is refused and never opened. Raises NotWholeError or CannotTellError.
    """
    weight_map = read_object(folder, path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise NotWholeError(f"{shown(path)} has no weight_map")
    beside = path.rpartition("/")[0]
    shards: dict[str, set[str]] = {}
    missing: dict[str, None] = {}
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
            raise NotWholeError(f"{shown(path)} names {shown(repr(name))}, which is not a bare file name")
        shard = f"{beside}/{name}" if beside else name
        if shard not in folder.files:
            missing[name] = None
        shards.setdefault(shard, set()).add(tensor)
    if missing:
        first = next(iter(missing))
        raise NotWholeError(f"{shown(path)} promises {len(missing)} missing file(s), among them {shown(first)}")
    return {shard: frozenset(tensors) for shard, tensors in shards.items()}


def _parsed(path: str, data: bytes) -> dict[str, Any]:
    """The header's tensors, without its `__metadata__`."""
    try:
        header = parse_json(data, unique_keys=True)
    except TooMuchError as error:
        raise CannotTellError(f"{shown(path)} has a header that was not read: {error}") from None
    except ValueError as error:
        raise NotWholeError(f"{shown(path)} has a header that is not valid JSON: {error}") from None
    if not data.startswith(b"{") or not isinstance(header, dict):
        raise NotWholeError(f"{shown(path)} has a header that is not a JSON object")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise NotWholeError(f"{shown(path)} has a header whose __metadata__ is not a map of strings")
    return header


def _check_layout(path: str, header: Mapping[str, Any], data_size: int) -> None:
    ranges = sorted((*_offsets(path, name, entry), name) for name, entry in header.items())
    position = 0
    for start, end, name in ranges:
        if start != position or end < start:
            flaw = "overlaps another" if start < position else "leaves a hole before it"
            raise NotWholeError(f"{shown(path)}: tensor {shown(name)} {flaw}")
        if end > data_size:
            raise NotWholeError(f"{shown(path)} ends inside tensor {shown(name)}")
        _check_shape(path, name, header[name], end - start)
        position = end
    if position != data_size:
        raise NotWholeError(f"{shown(path)} is {data_size - position} bytes longer than its header says")


def _offsets(path: str, name: str, entry: object) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    if isinstance(offsets, list) and len(offsets) == 2 and all(_is_count(offset) for offset in offsets):
        return offsets[0], offsets[1]
    raise NotWholeError(f"{shown(path)}: tensor {shown(name)} has no valid data_offsets")


def _check_shape(path: str, name: str, entry: Mapping[str, Any], size: int) -> None:
    dtype, shape = entry.get("dtype"), entry.get("shape")
    if not isinstance(dtype, str) or not isinstance(shape, list) or not all(_is_count(side) for side in shape):
        raise NotWholeError(f"{shown(path)}: tensor {shown(name)} has no valid dtype and shape")
    if dtype not in BITS:
        return  # the format gains types; its offsets alone already account for every byte
    bits = 0 if 0 in shape else BITS[dtype]
    for side in shape:
        bits *= side
        if bits > 8 * size:
            break  # so that absurd shapes cannot make absurd integers
    if bits != 8 * size:
        raise NotWholeError(f"{shown(path)}: tensor {shown(name)} has {size} bytes, not what its shape needs")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
