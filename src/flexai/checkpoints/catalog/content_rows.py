"""The rows of contents: which there are, how they are read, and what is written of a new one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Select, select

from flexai.checkpoints.catalog.database import Database
from flexai.checkpoints.catalog.tables import blobs, contents
from flexai.checkpoints.contents import NewContent
from flexai.checkpoints.errors import ConflictError

IS_SOUND = contents.c.is_damaged.is_(False)

BATCH = 500
"""Values in one statement: databases limit them (SQLite: 32,766)."""

T = TypeVar("T")

COLUMNS = (
    contents.c.id,
    contents.c.blob_id,
    contents.c.start,
    contents.c.size,
    contents.c.part_size,
    contents.c.digest,
    contents.c.part_digests,
    contents.c.checksums,
    contents.c.origin,
)


def stored_contents(store_id: str, condition: ColumnElement[bool]) -> Select[Any]:
    """The contents of a store's blobs that are all there."""
    return (
        select(*COLUMNS)
        .join(blobs, blobs.c.id == contents.c.blob_id)
        .where(blobs.c.store_id == store_id, blobs.c.status == "stored", condition)
    )


def locked(query: Select[Any], database: Database) -> Select[Any]:
    """The query, locking the blobs' rows until the transaction ends; on SQLite the transaction is alone anyway."""
    return query.with_for_update(of=blobs) if database.is_postgresql else query


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
    }


def taken(what: str) -> ConflictError:
    """The error for what gc, or another process, was faster to give up."""
    return ConflictError(f"{what} was given up meanwhile", hint="run the same command again")


def batches(values: Iterable[T]) -> Iterator[list[T]]:
    """Values in as many as one statement takes."""
    iterator = iter(values)
    while batch := list(islice(iterator, BATCH)):
        yield batch
