"""Content as plain records: what is stored where, what has just been stored, what is still arriving.

A content is recorded with the size of its parts, so that it can be verified under any later setting of that size.

Annotations are evaluated where they stand, as in ``models``.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

DIGEST_SIZE = 32
"""Bytes of a BLAKE3 digest."""

CLAIMED = "claimed-blake3"
"""Among a content's checksums: the digest that a foreign manifest gives, until the content is first read."""

NO_CHECKSUMS: Mapping[str, str] = {}
"""One for all contents without any, which nearly all are; it is never written to."""

RECOVERED = "recovered"
"""The origin of content whose digests are what the store's manifest gives, until a process has compared them."""

_COMPARED = frozenset({"crc32c", "md5", "sha1", "sha256", CLAIMED})


def is_unverified(digest: object, checksums: Mapping[str, str]) -> bool:
    """Whether nothing is known of a content that its bytes could be compared with: an ETag alone is not enough."""
    return digest is None and _COMPARED.isdisjoint(checksums)


class NewContent(NamedTuple):
    """Content that has just been stored: a range of a blob."""

    start: int
    """Bytes from the blob's beginning."""
    size: int
    """Bytes."""
    part_size: int
    """Bytes of each part but the last."""
    digest: bytes | None
    """The file's digest; None where the provider copied it and no process has read it yet."""
    part_digests: bytes
    """The parts' digests, 32 bytes each, one after the other; none where there is no digest."""
    checksums: Mapping[str, str] = NO_CHECKSUMS
    """The provider's own checksums by algorithm, in hex; its ``etag`` where it tells no other."""
    origin: str = ""
    """Which version of which provider's object this is, so that it need not be moved again; empty for local files."""

    def as_stored(self, content_id: int, blob_id: str) -> "StoredContent":
        """The same, with the number that the catalog gave it and the blob that it lies in."""
        return StoredContent(content_id, blob_id, *self)


class StoredContent(NamedTuple):
    """Content in the managed store: which range of which blob, and what it must hash to."""

    id: int
    blob_id: str
    start: int
    size: int
    part_size: int
    digest: bytes | None
    part_digests: bytes
    checksums: Mapping[str, str] = NO_CHECKSUMS
    origin: str = ""

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> Self:
        """The content that a row of the catalog describes: the fields in their order, as the table has them."""
        content_id, blob_id, start, size, part_size, digest, part_digests, checksums, origin = row
        own = None if digest is None else bytes.fromhex(digest)
        return cls(
            content_id,
            # Thousands lie in one blob: its id is kept once.
            sys.intern(blob_id),
            start,
            size,
            part_size,
            own,
            # Of a file of one part both are one.
            own if own is not None and own == part_digests else bytes(part_digests),
            # Nearly all have none, and parsing that would take longer than all the rest.
            NO_CHECKSUMS if checksums == "{}" else json.loads(checksums),
            origin or "",
        )

    def as_claim(self) -> Self:
        """The same, without the digests that no process has compared with its bytes: they become a claim."""
        if self.origin != RECOVERED or self.digest is None:
            return self
        return self._replace(digest=None, part_digests=b"", checksums={CLAIMED: self.digest.hex()})

    def part_digest(self, number: int) -> bytes:
        """The digest of part ``number`` (from 1)."""
        return self.part_digests[(number - 1) * DIGEST_SIZE : number * DIGEST_SIZE]


class StoredFile(NamedTuple):
    """A file of a checkpoint and where its content lies."""

    path: str
    content: StoredContent
    is_executable: bool = False
    """Whether its mode lets it be executed."""


class ArrivedPart(NamedTuple):
    """A part of an unfinished blob that the store has acknowledged."""

    number: int
    digest: bytes
    receipt: str


class UnfinishedBlob(NamedTuple):
    """A blob that a push has begun: what a later try can go on with."""

    id: str
    path: str
    size: int
    part_size: int
    upload_id: str
    parts: Mapping[int, ArrivedPart]
    version: str = ""
    """Which version of a provider's object its parts are of; empty for a local file."""
