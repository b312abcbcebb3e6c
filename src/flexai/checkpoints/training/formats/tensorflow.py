"""The rule for TensorFlow: a checkpoint's index ends with a table's footer and tells how long each data file is.

`PREFIX.index` is a table of LevelDB's layout (`leveldb/doc/table_format.md`) with a `BundleEntryProto` for each tensor
(`tensorflow/core/protobuf/tensor_bundle.proto`); the tensors are in `PREFIX.data-N-of-M`. The index is written last
(`tensorflow/core/util/tensor_bundle/tensor_bundle.cc`, `MergeBundles`). A `saved_model.pb` is one message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from flexai.checkpoints.training.formats.content import Content, RangeStream, content_of
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError, shown

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
_TRAILER = 5
MAX_READ = 64 * 1024 * 1024
"""Bytes that are read of one file."""
_MAX_FIELDS = 100_000
_MAX_SHARDS = 99_999
_SHARD_ID, _OFFSET, _SIZE = 3, 4, 5
_NUM_SHARDS = 1


class _BrokenError(Exception):
    """What is read is no such table or message."""


def check_index(folder: CheckpointFolder, path: str) -> None:
    """Return when the index and all of its data files are whole. Raises NotWholeError, CannotTellError."""
    prefix = path.removesuffix(".index")
    content = content_of(folder, path)
    footer = content.read(max(0, content.size - _FOOTER), _FOOTER)
    if len(footer) < _FOOTER or struct.unpack_from("<Q", footer, _FOOTER - 8)[0] != _MAGIC:
        if any(other.startswith(f"{prefix}.data-") for other in folder.files):
            raise NotWholeError(f"{shown(path)} does not end as a table does, so it is cut off")
        raise CannotTellError(f"{shown(path)} is no index of TensorFlow")
    try:
        shards, ends = _bundle(content, footer)
    except _BrokenError:
        raise NotWholeError(f"{shown(path)} holds a table that does not add up") from None
    if not 0 < shards <= _MAX_SHARDS:
        raise NotWholeError(f"{shown(path)} tells of {shards} data files")
    for number in range(shards):
        shard = f"{prefix}.data-{number:05d}-of-{shards:05d}"
        if shard not in folder.files:
            raise NotWholeError(f"{shown(path)} names {shown(shard)}, which is not there")
        if folder.files[shard] < ends.get(number, 0):
            raise NotWholeError(f"{shown(shard)} is shorter than {shown(path)} says")


def check_saved_model(folder: CheckpointFolder, path: str) -> None:
    """Return when `saved_model.pb` is one whole message with a graph. Raises NotWholeError, CannotTellError."""
    content = content_of(folder, path)
    left = MAX_READ

    def spend(count: int) -> None:
        nonlocal left
        left -= count
        if left < 0:
            raise CannotTellError(f"{shown(path)} is too long to be read to its end")

    stream = RangeStream(content, spend)
    has_graph = False
    for _ in range(_MAX_FIELDS):
        if stream.position == content.size:
            break
        try:
            tag = _stream_number(stream)
            if tag & 7 != 2:
                _stream_number(stream)
            elif not stream.skip(_stream_number(stream)):
                raise _BrokenError
        except _BrokenError:
            raise NotWholeError(f"{shown(path)} ends inside a field, so it is cut off") from None
        has_graph |= tag >> 3 == 2  # `meta_graphs` (`tensorflow/core/protobuf/saved_model.proto`)
    if not has_graph:
        raise NotWholeError(f"{shown(path)} holds no graph")


def _stream_number(stream: RangeStream) -> int:
    found = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            break
        found |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return found
    raise _BrokenError


def _bundle(content: Content, footer: bytes) -> tuple[int, dict[int, int]]:
    """How many data files there are, and where the last tensor of each ends."""
    table = _Table(content)
    _, position = _number(footer, 0)
    _, position = _number(footer, position)
    shards, ends = 0, dict[int, int]()
    for _, handle in table.block(footer, position):
        for key, value in table.block(handle):
            fields = dict(_fields(value))
            if not key:
                shards = fields.get(_NUM_SHARDS, 0)
            else:
                shard = fields.get(_SHARD_ID, 0)
                ends[shard] = max(ends.get(shard, 0), fields.get(_OFFSET, 0) + fields.get(_SIZE, 0))
    return shards, ends


class _Table:
    """A table that is read within bounds."""

    def __init__(self, content: Content) -> None:
        self._content = content
        self._left = MAX_READ

    def block(self, handle: bytes, at: int = 0) -> Iterator[tuple[bytes, bytes]]:
        """The keys and values of the block that a handle leads to."""
        start, at = _number(handle, at)
        size, _ = _number(handle, at)
        self._spend(size)
        data = self._content.read(start, size + _TRAILER)
        if len(data) != size + _TRAILER or size < 4:
            raise _BrokenError
        if data[size] != 0:
            raise CannotTellError("the index is compressed, so it was not read")
        end = size - 4 - 4 * int(struct.unpack_from("<L", data, size - 4)[0])
        key, at = b"", 0
        while at < end:
            shared, at = _number(data, at)
            fresh, at = _number(data, at)
            length, at = _number(data, at)
            if shared > len(key) or at + fresh + length > end:
                raise _BrokenError
            key = key[:shared] + data[at : at + fresh]
            self._spend(len(key) + 16)
            at += fresh
            yield key, data[at : at + length]
            at += length
        if at != end:
            raise _BrokenError

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise CannotTellError("the index is longer than is read")


def _fields(message: bytes) -> Iterator[tuple[int, int]]:
    """The whole numbers of a message of protocol buffers, by their fields' numbers."""
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _number(message, at)
            yield tag >> 3, value
        elif kind == 2:
            length, at = _number(message, at)
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            raise _BrokenError
    if at != len(message):
        raise _BrokenError


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, and where it ends."""
    found = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, at
    raise _BrokenError
