"""The zip rule, for what `torch.save` and `numpy.savez` write: a whole archive ends with its directory.

PyTorch has written zip archives since 1.6, always with zip64 records
(`caffe2/serialize/inline_container.cc`). Only the tail is read: the end record, the zip64 records before it,
and the central directory, which must fill the file exactly up to them. Record layouts: PKWARE APPNOTE.TXT,
sections 4.3.7 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from flexai.checkpoints.training.formats.folder import CheckpointFolder, read_exactly
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError, shown

MAX_DIRECTORY = 64 * 1024 * 1024
"""Bytes of central directory that are read at most; some 600,000 entries."""

_FIRST = b"PK\x03\x04"
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = 30
_MAX_COMMENT = 0xFFFF
_IN_ZIP64 = 0xFFFFFFFF


class _Directory(NamedTuple):
    entries: int
    size: int
    start: int


def check_archive(folder: CheckpointFolder, path: str) -> None:
    """Return when `path` is a whole zip archive.

    Raises NotWholeError when it starts as an archive and does not end as one, CannotTellError when it is none
    (PyTorch's format before 1.6 and the old tar format have no directory that could be checked).
    """
    size = folder.files[path]
    if size == 0:
        raise NotWholeError(f"{shown(path)} is empty")
    head = read_exactly(folder, path, 0, min(size, len(_FIRST)))
    if not _FIRST.startswith(head):
        raise CannotTellError(f"{shown(path)} is not a zip archive, so its end cannot be checked")
    directory = _find_directory(folder, path, size)
    if directory.size > MAX_DIRECTORY:
        raise CannotTellError(f"{shown(path)} has a directory of {directory.size} bytes, which was not read")
    listing = read_exactly(folder, path, directory.start, directory.size)
    if not _adds_up(listing, directory):
        raise NotWholeError(f"{shown(path)} has an archive directory that does not match its content")


def _find_directory(folder: CheckpointFolder, path: str, size: int) -> _Directory:
    torn = NotWholeError(f"{shown(path)} has no end record, so it is cut off")
    tail = read_exactly(folder, path, size - (length := min(size, _END.size + _MAX_COMMENT)), length)
    found = tail.rfind(b"PK\x05\x06")
    while found >= 0:
        # A comment reaches exactly to the end of the file; anything else is these four bytes by chance.
        if found + _END.size <= len(tail):
            _, disk, start_disk, _, entries, listing, start, comment = _END.unpack_from(tail, found)
            if found + _END.size + comment == len(tail):
                break
        found = tail.rfind(b"PK\x05\x06", 0, found)
    else:
        raise torn
    end = size - len(tail) + found
    located = _find_zip64(folder, path, end)
    if located is not None:
        return located
    if disk or start_disk or listing + start != end:
        raise torn
    return _Directory(entries, listing, start)


def _find_zip64(folder: CheckpointFolder, path: str, end: int) -> _Directory | None:
    """The zip64 directory when a locator stands before the end record at offset `end`."""
    if end < _LOCATOR.size:
        return None
    place = end - _LOCATOR.size
    signature, _, record, _ = _LOCATOR.unpack(read_exactly(folder, path, place, _LOCATOR.size))
    if signature != b"PK\x06\x07":
        return None
    if record + _END64.size <= place:
        signature, length, _, _, _, _, _, entries, listing, start = _END64.unpack(
            read_exactly(folder, path, record, _END64.size)
        )
        if signature == b"PK\x06\x06" and record + 12 + length == place and listing + start == record:
            return _Directory(entries, listing, start)
    raise NotWholeError(f"{shown(path)} has a zip64 record that does not match its end")


def _adds_up(listing: bytes, directory: _Directory) -> bool:
    """Whether the directory holds as many entries as announced, each with its data before the directory."""
    position = count = 0
    while position < len(listing):
        if position + _ENTRY.size > len(listing):
            return False
        fields = _ENTRY.unpack_from(listing, position)
        name, extra, comment = fields[10], fields[11], fields[12]
        extra_at = position + _ENTRY.size + name
        position = extra_at + extra + comment
        if fields[0] != b"PK\x01\x02" or position > len(listing):
            return False
        ends = _data_end(fields, listing[extra_at : extra_at + extra])
        if ends is None or ends > directory.start:
            return False
        count += 1
    return count == directory.entries


def _data_end(fields: tuple[int, ...], extra: bytes) -> int | None:
    """The least offset at which an entry's data can end, or None when its zip64 field is too short."""
    packed, unpacked, offset = fields[8], fields[9], fields[16]
    wide = _zip64_numbers(extra)
    try:
        # The numbers stand in this order, each only when its 32-bit field is saturated.
        if unpacked == _IN_ZIP64:
            wide.pop(0)
        packed = wide.pop(0) if packed == _IN_ZIP64 else packed
        offset = wide.pop(0) if offset == _IN_ZIP64 else offset
    except IndexError:
        return None
    return offset + _LOCAL + fields[10] + packed


def _zip64_numbers(extra: bytes) -> list[int]:
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            body = extra[position + 4 : position + 4 + length]
            return [number for (number,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
        position += 4 + length
    return []
