"""Comparing a source with what the manifest beside it claims that it is, while it is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.storage.protocol import Block, Body
from flexai.checkpoints.transfer.digest import Part, digest_each, parts_from
from flexai.checkpoints.transfer.sources import FileSource

if TYPE_CHECKING:
    from flexai.checkpoints.manifest import FileEntry


@dataclass(frozen=True, slots=True)
class ClaimedBody:
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
        claim = self.source.claim
        if claim is None or claim.digest is None:
            yield from self.body.blocks()
            return
        part_size, digests = _parts(claim)
        parts = parts_from(self.start, claim.size, part_size)

        def check(part: Part, digest: bytes) -> None:
            if digest.hex() != digests[part.number - 1]:
                raise IntegrityError(
                    f"{self.source.path!r} does not match the digest in the manifest of its export",
                    hint="run the same command again; if that does not help, "
                    "export the checkpoint again with --overwrite",
                )

        yield from digest_each(parts, self.body.blocks(), check)


def joined_part_size(source: FileSource, part_size: int, *, min_part_size: int) -> int:
    """The bytes of a part in which to store a source: those of the manifest's parts, joined where they are too small.

    Without a manifest it is ``part_size``, or the least that the store takes.
    """
    claim = source.claim
    if claim is None or not claim.parts:
        return max(part_size if claim is None else claim.part_size, min_part_size)
    return claim.part_size * max(1, -(-min_part_size // claim.part_size))


def _parts(claim: FileEntry) -> tuple[int, Sequence[str]]:
    assert claim.digest is not None
    return (claim.part_size, claim.parts) if claim.parts else (max(claim.size, 1), (claim.digest,))
