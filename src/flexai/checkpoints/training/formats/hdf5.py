"""The HDF5 rule: the superblock says where the file ends, and whether a writer still has it open.

Keras writes `.h5` and `.weights.h5`. Layouts: HDF5 File Format Specification, version 3.0, section II.A; the search for
the signature at 0, 512, 1024, 2048, … is that section's as well. The library cuts a file to its end when it closes it.
"""

from __future__ import annotations

import struct

from flexai.checkpoints.training.formats.content import Content
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError, shown

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LARGEST_USER_BLOCK = 1024 * 1024
_LONGEST = 64
_OPEN = 0b101
"""Bit 0 of the consistency flags: open for writing; bit 2: open for one writer and many readers."""


def check_hdf5(content: Content, path: str) -> None:
    """Return when the file is a whole HDF5 file that its writer has closed. Raises NotWholeError, CannotTellError."""
    base = _superblock(content)
    if base is None:
        if not content.read(0, 512).strip(b"\0"):
            raise NotWholeError(f"{shown(path)} has no beginning yet")
        raise CannotTellError(f"{shown(path)} has no HDF5 signature")
    block = content.read(base, _LONGEST)
    torn = NotWholeError(f"{shown(path)} ends inside its superblock")
    if len(block) < 14:
        raise torn
    version, wide = block[8], block[13 if block[8] < 2 else 9]
    if version > 3 or wide not in (2, 4, 8):
        raise CannotTellError(f"{shown(path)} has an HDF5 superblock of an unknown kind")
    if version < 2:
        flags_at, addresses_at, end_at = 20, 24 + 4 * version, 2
    else:
        flags_at, addresses_at, end_at = 11, 12, 2
    place = addresses_at + end_at * wide
    if len(block) < place + wide:
        raise torn
    start, end = (_number(block, at, wide) for at in (addresses_at, place))
    if block[flags_at] & _OPEN:
        raise NotWholeError(f"{shown(path)} says that it is open for writing")
    # With a user block, versions of the library have counted the end from the file's start and from the base.
    if content.size not in (end, end + start, end + base):
        raise NotWholeError(f"{shown(path)} has {content.size} bytes, and its superblock says {end}")


def _superblock(content: Content) -> int | None:
    place = 0
    while place <= min(content.size, _LARGEST_USER_BLOCK):
        head = content.read(place, len(SIGNATURE))
        if head == SIGNATURE or (place == 0 and head and SIGNATURE.startswith(head)):
            return place
        place = max(512, 2 * place)
    return None


def _number(block: bytes, at: int, wide: int) -> int:
    layout = {2: "<H", 4: "<L", 8: "<Q"}[wide]
    found: int = struct.unpack_from(layout, block, at)[0]
    return found
