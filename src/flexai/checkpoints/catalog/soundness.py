"""Soundness: when contents were last verified, which of them are damaged, and what comes in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Exists, case, delete, exists, func, insert, or_, select, text, update

from flexai.checkpoints.catalog.content_rows import (
    COLUMNS,
    IS_SOUND,
    batches,
    locked,
    stored_contents,
    taken,
    values_of,
)
from flexai.checkpoints.catalog.database import MIGRATION_LOCK, Database
from flexai.checkpoints.catalog.tables import blob_references, blobs, checkpoints, contents, files
from flexai.checkpoints.catalog.times import to_text
from flexai.checkpoints.contents import NewContent, StoredContent
from flexai.checkpoints.models import CheckpointStatus, now

REPAIR_LOCK = MIGRATION_LOCK + 2
"""PostgreSQL advisory lock held while a content is replaced."""


@dataclass(frozen=True, slots=True)
class Verification:
    """How much of what checkpoints need was verified, and when."""

    contents: int
    size: int
    """Bytes."""
    unverified_size: int
    """Bytes that were not read since they were stored."""
    damaged: int
    """Contents."""
    oldest: str
    """The oldest of the last verifications, ISO 8601; empty where there was none."""


class Soundness:
    """What is known of the soundness of one managed store's contents."""

    def __init__(self, database: Database, store_id: str) -> None:
        self._database = database
        self.store_id = store_id

    def least_recently_verified(self, *, before: datetime, limit: int) -> list[StoredContent]:
        """Contents that a checkpoint needs and that were not verified since a time: the longest ago come first.

        What has never been verified comes before all others; neighbours in a pack come together.
        """
        time = to_text(before)
        query = (
            stored_contents(
                self.store_id, or_(contents.c.verified_at.is_(None), contents.c.verified_at < time) & _is_used()
            )
            .order_by(contents.c.verified_at.asc().nulls_first(), contents.c.blob_id, contents.c.start)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [StoredContent.of_row(row) for row in connection.execute(query)]

    def damaged(self) -> list[StoredContent]:
        """Contents that a checkpoint needs and that a verification found damaged."""
        query = stored_contents(self.store_id, ~IS_SOUND & _is_used()).order_by(contents.c.id)
        with self._database.reading() as connection:
            return [StoredContent.of_row(row) for row in connection.execute(query)]

    def verification(self) -> Verification:
        """How much of what checkpoints need was verified, and when."""
        is_needed = (blobs.c.store_id == self.store_id, blobs.c.status == "stored", _is_used())
        query = (
            select(
                func.count(),
                func.coalesce(func.sum(contents.c.size), 0),
                func.coalesce(func.sum(case((contents.c.verified_at.is_(None), contents.c.size), else_=0)), 0),
                func.coalesce(func.sum(case((~IS_SOUND, 1), else_=0)), 0),
                func.min(contents.c.verified_at),
            )
            .select_from(contents.join(blobs, blobs.c.id == contents.c.blob_id))
            .where(*is_needed)
        )
        with self._database.reading() as connection:
            count, size, unverified, damaged, oldest = connection.execute(query).one()
        return Verification(int(count), int(size), int(unverified), int(damaged), oldest or "")

    def record_verification(self, *, damaged: Set[int], sound: Set[int]) -> None:
        """Record which contents are damaged, so that no push relies on them, and which are not (any more)."""
        time = to_text(now())
        for is_damaged, ids in ((True, damaged), (False, sound)):
            for batch in batches(sorted(ids)):
                with self._database.writing() as connection:
                    connection.execute(
                        update(contents).where(contents.c.id.in_(batch)).values(is_damaged=is_damaged, verified_at=time)
                    )

    def add_content(self, blob_id: str, new: NewContent) -> StoredContent:
        """Describe a range of a stored blob, just read and compared, as a content; ConflictError where gc took it."""
        values = values_of(blob_id, new) | {"verified_at": to_text(now())}
        with self._database.writing() as connection:
            is_stored = select(blobs.c.id).where(blobs.c.id == blob_id, blobs.c.status == "stored")
            if connection.execute(locked(is_stored, self._database)).first() is None:
                raise taken(f"blob {blob_id}")
            content_id = connection.execute(insert(contents).values(**values).returning(contents.c.id)).scalar_one()
            row = connection.execute(select(*COLUMNS).where(contents.c.id == content_id)).one()
            return StoredContent.of_row(row)

    def replace_content(
        self,
        checkpoint_id: str,
        old: StoredContent,
        new: StoredContent,
        *,
        write_manifest: Callable[[Sequence[str]], None],
    ) -> bool:
        """Let the files of a checkpoint that have one content have another; False where none has it any more.

        ``write_manifest`` is called with the paths of those files while nobody else replaces anything, and before the
        catalog says so; it must not write to the catalog. The checkpoint must refer to the new content's blob already
        (see :meth:`hold`). Its reference to the old one goes unless it needs that for something else.

        Raises ConflictError where the checkpoint does not refer to the new blob.
        """
        with self._database.writing() as connection:
            if self._database.is_postgresql:
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": REPAIR_LOCK})
            mine = (files.c.checkpoint_id == checkpoint_id, files.c.content_id == old.id)
            paths = sorted(connection.execute(select(files.c.path).where(*mine)).scalars())
            if not paths:
                return False
            held = select(blob_references.c.blob_id).where(
                blob_references.c.checkpoint_id == checkpoint_id, blob_references.c.blob_id == new.blob_id
            )
            if connection.execute(held).first() is None:
                raise taken(f"blob {new.blob_id}")
            write_manifest(paths)
            connection.execute(update(files).where(*mine).values(content_id=new.id))
            _release(connection, checkpoint_id, old.blob_id)
            return True

    def release(self, checkpoint_id: str, blob_id: str) -> None:
        """Take back a reference to a blob that no file of the checkpoint lies in."""
        with self._database.writing() as connection:
            _release(connection, checkpoint_id, blob_id)

    def release_abandoned(self, *, before: datetime, writer_id: str | None = None) -> None:
        """Take back the references to blobs that a repair began before a time, and of which nothing came.

        They are those of an available checkpoint: a push's own unfinished blobs are referred to by one that is not
        available yet. With ``writer_id`` only those of this checkpoint.
        """
        abandoned = (
            select(blobs.c.id)
            .join(checkpoints, checkpoints.c.id == blobs.c.writer_id)
            .where(
                blobs.c.store_id == self.store_id,
                blobs.c.status == "writing",
                blobs.c.created_at < to_text(before),
                checkpoints.c.status.in_([CheckpointStatus.AVAILABLE, CheckpointStatus.DELETING]),
            )
        )
        if writer_id is not None:
            abandoned = abandoned.where(blobs.c.writer_id == writer_id)
        with self._database.writing() as connection:
            connection.execute(delete(blob_references).where(blob_references.c.blob_id.in_(abandoned)))


def _release(connection: Connection, checkpoint_id: str, blob_id: str) -> None:
    is_needed = (
        select(files.c.path)
        .join(contents, contents.c.id == files.c.content_id)
        .where(files.c.checkpoint_id == checkpoint_id, contents.c.blob_id == blob_id)
    )
    if connection.execute(is_needed.limit(1)).first() is None:
        connection.execute(
            delete(blob_references).where(
                blob_references.c.checkpoint_id == checkpoint_id, blob_references.c.blob_id == blob_id
            )
        )


def _is_used() -> Exists:
    return exists().where(files.c.content_id == contents.c.id)
