"""The rows of contents: which there are, how they are read, and what is written of a new one."""

from __future__ import annotations

import json
from typing import Any

from flexai.checkpoints.contents import NewContent
from flexai.checkpoints.errors import ConflictError

CONTENT = "t.id, t.blob_id, t.start, t.size, t.part_size, t.digest, t.part_digests, t.checksums, t.origin"
"""The columns that ``StoredContent.of_row`` reads, of contents called ``t``."""

STORED = "FROM contents t JOIN blobs b ON b.id = t.blob_id WHERE b.store_id = :store_id AND b.status = 'stored'"
"""The contents ``t`` of a store's blobs ``b`` that are all there; more conditions can follow."""

SOUND = "t.is_damaged = FALSE"


def values_of(blob_id: str, content: NewContent) -> dict[str, Any]:
    """What is written of a content that lies in a blob."""
    return {
        "blob_id": blob_id,
        "start": content.start,
        "size": content.size,
        "part_size": content.part_size,
        "digest": None if content.digest is None else content.digest.hex(),
        "part_digests": content.part_digests,
        "checksums": json.dumps(dict(content.checksums)) if content.checksums else "{}",
        "origin": content.origin or None,
        "is_damaged": False,
    }


def taken(what: str) -> ConflictError:
    """The error for what gc, or another process, was faster to give up."""
    return ConflictError(f"{what} was given up meanwhile", hint="run the same command again")
