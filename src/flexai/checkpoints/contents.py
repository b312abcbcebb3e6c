"""Content as plain records: what is stored where, what has just been stored, what is still arriving.

A content is recorded with the size of its parts, so that it can be verified under any later setting of that size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DIGEST_SIZE = 32
"""Bytes of a BLAKE3 digest."""

CLAIMED = "claimed-blake3"
"""Among a content's checksums: the digest that a foreign manifest gives, until the content is first read."""


@dataclass(frozen=True, slots=True)
class NewContent:
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
    checksums: Mapping[str, str] = field(default_factory=dict)
    """The provider's own checksums by algorithm, in hex; its ``etag`` where it tells no other."""
    origin: str = ""
    """Which version of which provider's object this is, so that it need not be moved again; empty for local files."""

    def as_stored(self, content_id: int, blob_id: str) -> StoredContent:
        """The same, with the number that the catalog gave it and the blob that it lies in."""
        return StoredContent(
            id=content_id,
            blob_id=blob_id,
            start=self.start,
            size=self.size,
            part_size=self.part_size,
            digest=self.digest,
            part_digests=self.part_digests,
            checksums=self.checksums,
            origin=self.origin,
        )


@dataclass(frozen=True, slots=True)
class StoredContent:
    """Content in the managed store: which range of which blob, and what it must hash to."""

    id: int
    blob_id: str
    start: int
    size: int
    part_size: int
    digest: bytes | None
    part_digests: bytes
    checksums: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""

    @classmethod
    def of_row(cls, row: Sequence[Any]) -> StoredContent:
        """The content that a row of the catalog describes: the fields in their order, as the table has them."""
        content_id, blob_id, start, size, part_size, digest, part_digests, checksums, origin = row
        return cls(
            id=content_id,
            blob_id=blob_id,
            start=start,
            size=size,
            part_size=part_size,
            digest=None if digest is None else bytes.fromhex(digest),
            part_digests=bytes(part_digests),
            # Nearly all have none, and parsing that would take longer than all the rest.
            checksums={} if checksums == "{}" else json.loads(checksums),
            origin=origin or "",
        )

    def part_digest(self, number: int) -> bytes:
        """The digest of part ``number`` (from 1)."""
        return self.part_digests[(number - 1) * DIGEST_SIZE : number * DIGEST_SIZE]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a checkpoint and where its content lies."""

    path: str
    content: StoredContent


@dataclass(frozen=True, slots=True)
class ArrivedPart:
    """A part of an unfinished blob that the store has acknowledged."""

    number: int
    digest: bytes
    receipt: str


@dataclass(frozen=True, slots=True)
class UnfinishedBlob:
    """A blob that a push has begun: what a later try can go on with."""

    id: str
    path: str
    size: int
    part_size: int
    upload_id: str
    parts: Mapping[int, ArrivedPart]
    version: str = ""
    """Which version of a provider's object its parts are of; empty for a local file."""
