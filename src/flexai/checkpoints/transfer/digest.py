"""Digests: BLAKE3 of every part, and of a file by its parts.

A file's digest is the BLAKE3 of its parts' digests, one after the other; the digest of a file of one part is that
part's, which is what ``b3sum`` prints. So ranges fetched in parallel verify one by one, and a transfer that goes on
where it stopped verifies too. BLAKE3: https://github.com/BLAKE3-team/BLAKE3-specs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from blake3 import blake3

from flexai.checkpoints.settings import DEFAULT_PART_SIZE
from flexai.checkpoints.storage.protocol import Block, Body

MAX_PARTS = 10_000
"""S3's limit for one upload: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html."""

_SPREAD = 32
"""Parts that keep as many connections busy as a transfer has by default."""
_LEAST_SPREAD = 16 * 1024**2
"""Bytes of a part below which the way to the first byte is most of its time."""


def part_size_for(size: int, *, part_size: int = DEFAULT_PART_SIZE, max_parts: int = MAX_PARTS) -> int:
    """The part size in bytes for a file of ``size`` bytes: ``part_size``, doubled until the parts are few enough."""
    while size > part_size * max_parts:
        part_size *= 2
    return part_size


def spread_part_size(size: int, part_size: int, *, least: int = _LEAST_SPREAD) -> int:
    """The bytes of a part of a new file: ``part_size``, halved until a network's connections all have some of it.

    It follows the file's size alone, so that equal files have equal parts, and is not made less than ``least``.
    """
    while size < part_size * _SPREAD and part_size // 2 >= least:
        part_size //= 2
    return part_size


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a file."""

    number: int
    """From 1."""
    offset: int
    """Bytes from the file's beginning."""
    size: int
    """Bytes."""


def parts_of(size: int, part_size: int) -> Sequence[Part]:
    """Cut a file of ``size`` bytes into parts; an empty file is one empty part."""
    return list(parts_from(0, size, part_size)) if size else [Part(number=1, offset=0, size=0)]


def parts_from(start: int, size: int, part_size: int) -> Iterator[Part]:
    """Yield the parts of ``size`` bytes from ``start`` on, where one of them begins."""
    for number, offset in enumerate(range(start, size, part_size), start=start // part_size + 1):
        yield Part(number=number, offset=offset, size=min(part_size, size - offset))


class PartLimits(Protocol):
    """What a storage asks of an upload's parts."""

    @property
    def min_part_size(self) -> int:
        """Bytes of a part at least, but for the last."""

    @property
    def max_parts(self) -> int:
        """How many parts an upload has at most."""


def join_parts(size: int, part_size: int, limits: PartLimits) -> Sequence[Sequence[Part]]:
    """The parts in which a file is uploaded: each is as many of the file's own as a storage's limits ask for.

    So every part of the upload can be verified by the digests of the file's. They are numbered from 1, in this order.
    """
    parts = parts_of(size, part_size)
    joined = max(-(-limits.min_part_size // part_size), -(-len(parts) // limits.max_parts))
    return [parts[start : start + joined] for start in range(0, len(parts), joined)]


def digest_each(
    parts: Iterable[Part], blocks: Iterable[Block], settle: Callable[[Part, bytes], None]
) -> Iterator[Block]:
    """Yield the blocks of parts that follow each other, cut where a part ends; what comes after the last one as it is.

    ``settle`` is told of each part and its digest before the last of it is yielded; not of one that comes too short.
    """
    coming = iter(blocks)
    piece = rest = memoryview(b"")
    for part in parts:
        hasher, left = blake3(), part.size
        while left:
            if not rest:
                block = next(coming, None)
                if block is None:
                    return
                rest = block
            piece, rest = rest[:left], rest[left:]
            hasher.update(piece)
            left -= len(piece)
            if left:
                yield piece
        settle(part, hasher.digest())
        if part.size:
            yield piece
    # A body counts its last block when it is asked for another one.
    if rest:
        yield rest
    yield from coming


def digest_blocks(blocks: Iterable[Block]) -> bytes:
    """BLAKE3 of blocks one after the other: 32 bytes."""
    hasher = blake3()
    for block in blocks:
        hasher.update(block)
    return hasher.digest()


def digest_parts(parts: Sequence[bytes]) -> bytes:
    """A file's digest, 32 bytes, from its parts' digests."""
    if len(parts) == 1:
        return parts[0]
    return blake3(b"".join(parts)).digest()


class DigestingBody:
    """A body whose digest is taken while it is read; a retry that reads it again takes it anew."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._hasher = blake3()
        self.size = body.size

    def blocks(self) -> Iterator[Block]:
        """Yield the content, feeding the digest."""
        self._hasher.reset()
        for block in self._body.blocks():
            self._hasher.update(block)
            yield block

    @property
    def digest(self) -> bytes:
        """BLAKE3 of what the last reading yielded: 32 bytes."""
        return self._hasher.digest()
