"""The members of a zip archive, by every directory that a reader could believe.

Readers differ: Python's `zipfile` moves offsets by what stands before the archive, PyTorch's (miniz) does not; one
believes the local header, another the directory. A hostile archive shows each of them another content. So every end
record is followed, every directory that it can mean is read, and a member is looked into by each of its headers.
What the readings do not agree on is said. Record layouts: PKWARE APPNOTE.TXT, sections 4.3.7 to 4.3.16 and 4.5.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from flexai.checkpoints.training.formats.content import Content, ContentRange

MAX_DIRECTORY = 16 * 1024 * 1024
MAX_MEMBERS = 50_000
_MAX_ENDS = 8
_MAX_COMMENT = 0xFFFF
_IN_ZIP64 = 0xFFFFFFFF
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_SLACK = 30 + 0x100
"""Bytes between two members that padding and a data descriptor explain (PyTorch pads to 64)."""


@dataclass(frozen=True, slots=True)
class Member:
    """One reading of one member."""

    name: str
    header: int
    """Where its local header is, in the file."""
    method: int
    """0 stored, 8 deflated."""
    packed: int
    """Bytes in the archive."""
    unpacked: int
    encrypted: bool


@dataclass(slots=True)
class ArchiveListing:
    """What an archive holds, and what is wrong with it."""

    members: list[Member] = field(default_factory=list)
    flaws: dict[str, None] = field(default_factory=dict)

    def add(self, flaw: str) -> None:
        """Note a flaw, once."""
        self.flaws[flaw] = None


def list_members(content: Content) -> ArchiveListing | None:
    """All members by all directories; None where the content is no zip archive. Raises NotWholeError."""
    listing = ArchiveListing()
    tail_start = max(0, content.size - _MAX_COMMENT - _END.size)
    tail = content.read(tail_start, content.size - tail_start)
    ends = list(_ends(tail))
    begins = content.read(0, 4) == b"PK\x03\x04"
    if not ends:
        if not begins:
            return None
        listing.add("a zip archive without an end")
        return listing
    if len(ends) > _MAX_ENDS:
        listing.add("a zip archive with many ends")
    *_, comment = _END.unpack_from(tail, ends[0])
    if ends[0] + _END.size + comment != len(tail):
        listing.add("a zip archive that does not end with its end")
    found: dict[Member, None] = {}
    for end in ends[:_MAX_ENDS]:
        for start, size, shift in dict.fromkeys(_directories(content, tail, tail_start, end)):
            if size > MAX_DIRECTORY:
                listing.add(f"a zip directory of {size} bytes, which was not read")
                continue
            entries = list(_entries(content.read(start, size), shift, listing))
            if entries and shift and end == ends[0]:
                listing.add("a zip archive behind other content")
            found |= dict.fromkeys(entries)
    if not found and not begins:
        return None  # an end record by chance
    listing.members = sorted(found, key=lambda member: member.header)
    if not found:
        listing.add("a zip archive without a directory")
    if len(found) != len({member.header for member in found}):
        listing.add("a zip archive with directories that do not agree")
    _find_hidden(listing)
    return listing


def readings(content: Content, member: Member, listing: ArchiveListing) -> list[tuple[Member, ContentRange]]:
    """A member as the directory tells it, and as its local header does where that differs; with the packed bytes."""
    head = content.read(member.header, _LOCAL.size) if member.header >= 0 else b""
    if len(head) < _LOCAL.size or not head.startswith(b"PK\x03\x04"):
        listing.add("a zip directory that names what is not there")
        return []
    _, _, flags, method, _, _, _, packed, unpacked, name_length, extra_length = _LOCAL.unpack(head)
    start = member.header + _LOCAL.size + name_length + extra_length
    name = content.read(member.header + _LOCAL.size, name_length).decode("utf-8", "replace")
    # Sizes stand behind the data where bit 3 is set, or in the zip64 field.
    told = not flags & 8 and packed != _IN_ZIP64 and unpacked != _IN_ZIP64
    local = Member(
        name,
        member.header,
        method,
        packed if told else member.packed,
        unpacked if told else member.unpacked,
        bool(flags & 1),
    )
    differs = local != member
    if differs:
        listing.add("a zip archive whose headers do not agree with its directory")
    both = [member, local] if differs else [member]
    return [(each, ContentRange.within(content, start, each.packed)) for each in both]


def _ends(tail: bytes) -> Iterator[int]:
    """Where end records are, from the last to the first."""
    found = tail.rfind(b"PK\x05\x06")
    while found >= 0:
        if found + _END.size <= len(tail):
            yield found
        found = tail.rfind(b"PK\x05\x06", 0, found)


def _directories(content: Content, tail: bytes, tail_start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Where the directory of an end record can be, its bytes, and by how much its offsets are moved then."""
    _, _, _, _, _, size, start, _ = _END.unpack_from(tail, end)
    place = tail_start + end
    # As it says, and right before the end, whatever stands before the archive.
    yield start, size, 0
    if place >= size:
        yield place - size, size, place - size - start
    locator_at = place - _LOCATOR.size
    if locator_at < 0:
        return
    locator = content.read(locator_at, _LOCATOR.size)
    if locator[:4] != b"PK\x06\x07":
        return
    told = _LOCATOR.unpack(locator)[2]
    for record_at in dict.fromkeys((told, locator_at - _END64.size)):
        record = content.read(record_at, _END64.size) if 0 <= record_at <= content.size else b""
        if len(record) == _END64.size and record[:4] == b"PK\x06\x06":
            wide_size, wide_start = _END64.unpack(record)[8:]
            yield wide_start, wide_size, 0
            if record_at >= wide_size:
                yield record_at - wide_size, wide_size, record_at - wide_size - wide_start


def _entries(directory: bytes, shift: int, listing: ArchiveListing) -> Iterator[Member]:
    position = count = 0
    while position + _ENTRY.size <= len(directory):
        fields = _ENTRY.unpack_from(directory, position)
        if fields[0] != b"PK\x01\x02":
            break
        count += 1
        if count > MAX_MEMBERS:
            listing.add(f"a zip archive of more than {MAX_MEMBERS} members")
            return
        name_end = position + _ENTRY.size + fields[10]
        extra_end = name_end + fields[11]
        name = directory[position + _ENTRY.size : name_end].decode("utf-8", "replace")
        sizes = _wide(fields, directory[name_end:extra_end])
        position = extra_end + fields[12]
        if sizes is None:
            listing.add("a zip directory with a damaged entry")
            continue
        packed, unpacked, header = sizes
        yield Member(name, header + shift, fields[4], packed, unpacked, bool(fields[3] & 1))


def _wide(fields: tuple[int, ...], extra: bytes) -> tuple[int, int, int] | None:
    """Packed size, unpacked size and offset, from the zip64 field where they do not fit."""
    packed, unpacked, offset = fields[8], fields[9], fields[16]
    numbers: list[int] = []
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            body = extra[position + 4 : position + 4 + length]
            numbers = [number for (number,) in struct.iter_unpack("<Q", body[: len(body) // 8 * 8])]
            break
        position += 4 + length
    try:
        unpacked = numbers.pop(0) if unpacked == _IN_ZIP64 else unpacked
        packed = numbers.pop(0) if packed == _IN_ZIP64 else packed
        offset = numbers.pop(0) if offset == _IN_ZIP64 else offset
    except IndexError:
        return None
    return packed, unpacked, offset


def _find_hidden(listing: ArchiveListing) -> None:
    """Say where bytes lie that no member accounts for."""
    position = 0
    for member in listing.members:
        if member.header - position > _SLACK:
            listing.add(f"a zip archive with {member.header - position} bytes that its directory does not name")
            return
        position = max(position, member.header + _LOCAL.size + len(member.name.encode()) + member.packed)
