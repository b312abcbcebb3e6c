"""Comparing a source with what the manifest beside it says that it is, while it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blake3 import blake3

from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.storage.protocol import Block, Body
from flexai.checkpoints.transfer.sources import FileSource

if TYPE_CHECKING:
    from flexai.checkpoints.manifest import FileEntry


@dataclass(frozen=True, slots=True)
class ExpectedBody:
    """A range of a source, each part of which is compared with the digest that a manifest gives, if there is one.

    The range begins where one of the manifest's parts does, and ends where one does (see :func:`joined_part_size`).
    """

    source: FileSource
    body: Body
    start: int

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self.body.size

    def blocks(self) -> Iterator[Block]:
        """Yield the range; IntegrityError before the end of a part that is another one."""
        expected = self.source.expected
        if expected is None or expected.digest is None:
            yield from self.body.blocks()
            return
        part_size, digests = _parts(expected)
        number = self.start // part_size
        hasher, left = blake3(), min(part_size, expected.size - self.start)
        for block in self.body.blocks():
            rest = block
            while len(rest):
                piece = rest[:left]
                hasher.update(piece)
                rest, left = rest[len(piece) :], left - len(piece)
                if not left:
                    self._check(hasher.digest(), digests[number])
                    number += 1
                    hasher, left = blake3(), min(part_size, expected.size - number * part_size)
            yield block

    def _check(self, digest: bytes, expected: str) -> None:
        if digest.hex() != expected:
            raise IntegrityError(
                f"{self.source.path!r} does not match the digest in the manifest of its export",
                hint="run the same command again; if that does not help, export the checkpoint again with --overwrite",
            )


def joined_part_size(source: FileSource, part_size: int, *, min_part_size: int) -> int:
    """The bytes of a part in which to store a source: those of the manifest's parts, joined where they are too small.

    Without a manifest it is ``part_size``, or the least that the store takes.
    """
    expected = source.expected
    if expected is None or not expected.parts:
        return max(part_size if expected is None else expected.part_size, min_part_size)
    return expected.part_size * max(1, -(-min_part_size // expected.part_size))


def part_digests_of(expected: FileEntry) -> bytes:
    """The digests of the parts that a manifest gives, 32 bytes each; none where it gives none."""
    return b"" if expected.digest is None else b"".join(bytes.fromhex(digest) for digest in _parts(expected)[1])


def _parts(expected: FileEntry) -> tuple[int, Sequence[str]]:
    assert expected.digest is not None
    return (expected.part_size, expected.parts) if expected.parts else (max(expected.size, 1), (expected.digest,))
