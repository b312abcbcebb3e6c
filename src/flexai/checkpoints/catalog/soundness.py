"""Soundness: when contents were last verified, which of them are damaged, and what comes in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from flexai.checkpoints.catalog.blobs import (
    CONTENT_COLUMNS,
    SOUND,
    STORED,
    believe,
    taken,
    tell_damaged,
    tell_sound,
    values_of,
)
from flexai.checkpoints.catalog.changes import note, set_due
from flexai.checkpoints.catalog.checkpoint_rows import CHECKPOINT, checkpoint_of
from flexai.checkpoints.catalog.database import MIGRATION_LOCK, Database, Transaction, batches, each_begun_again
from flexai.checkpoints.contents import NewContent, StoredContent
from flexai.checkpoints.models import now, to_text

_USED = "EXISTS (SELECT 1 FROM files f WHERE f.content_id = t.id)"

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


@each_begun_again
class Soundness:
    """What is known of the soundness of one managed store's contents."""

    def __init__(self, database: Database, store_id: str) -> None:
        self._database = database
        self.store_id = store_id

    def least_recently_verified(self, *, before: datetime, limit: int) -> list[StoredContent]:
        """Contents that a checkpoint needs and that were not verified since a time: the longest ago come first.

        What has never been verified comes before all others; neighbours in a pack come together.
        """
        query = f"""
            SELECT {CONTENT_COLUMNS} {STORED} AND (t.verified_at IS NULL OR t.verified_at < :before) AND {_USED}
            ORDER BY t.verified_at ASC NULLS FIRST, t.blob_id, t.start LIMIT :limit
        """
        with self._database.reading() as transaction:
            rows = transaction.rows(query, store_id=self.store_id, before=to_text(before), limit=limit)
        return [StoredContent.of_row(row) for row in rows]

    def damaged(self, digests: Iterable[str] | None = None) -> list[StoredContent]:
        """Contents that a checkpoint needs and that were found damaged; with ``digests`` (hex) only those of them."""
        query = f"SELECT {CONTENT_COLUMNS} {STORED} AND NOT {SOUND} AND {_USED}"
        with self._database.reading() as transaction:
            if digests is None:
                rows = list(transaction.rows(query, store_id=self.store_id))
            else:
                # Mostly there is none, which one look by the digests' index tells; all that is used would be a scan.
                of_them = f"SELECT t.id FROM contents t WHERE t.digest IN :digests AND NOT {SOUND}"
                ids = [
                    content_id
                    for batch in batches(dict.fromkeys(digests))
                    for content_id in transaction.column(of_them, digests=batch)
                ]
                rows = [
                    row
                    for batch in batches(ids)
                    for row in transaction.rows(f"{query} AND t.id IN :ids", store_id=self.store_id, ids=batch)
                ]
        return sorted(map(StoredContent.of_row, rows), key=lambda content: content.id)

    def is_sound(self, checkpoint_id: str) -> bool:
        """Whether nothing that a checkpoint needs was found damaged."""
        query = f"""
            SELECT 1 FROM files f JOIN contents t ON t.id = f.content_id
            WHERE f.checkpoint_id = :checkpoint_id AND NOT {SOUND} LIMIT 1
        """
        with self._database.reading() as transaction:
            return transaction.row(query, checkpoint_id=checkpoint_id) is None

    def verification(self) -> Verification:
        """How much of what checkpoints need was verified, and when."""
        query = f"""
            SELECT COUNT(*), COALESCE(SUM(t.size), 0),
                COALESCE(SUM(CASE WHEN t.verified_at IS NULL THEN t.size ELSE 0 END), 0),
                COALESCE(SUM(CASE WHEN {SOUND} THEN 0 ELSE 1 END), 0),
                MIN(t.verified_at)
            {STORED} AND {_USED}
        """
        with self._database.reading() as transaction:
            found = transaction.row(query, store_id=self.store_id)
        count, size, unverified, damaged, oldest = found or (0, 0, 0, 0, None)
        return Verification(int(count), int(size), int(unverified), int(damaged), oldest or "")

    def count_elsewhere(self) -> int:
        """How many available checkpoints lie in other stores, of which nothing is known here."""
        query = """
            SELECT COUNT(*) FROM checkpoints
            WHERE status = 'available' AND deleted_at IS NULL AND store_id <> :store_id
        """
        with self._database.reading() as transaction:
            found = transaction.row(query, store_id=self.store_id)
        return int(found[0]) if found else 0

    def record_verification(self, *, damaged: Set[int], sound: Set[int]) -> None:
        """Record which contents are damaged, so that no push relies on them, and which are not (any more)."""
        time = to_text(now())
        healed: set[str] = set()
        needed = f"""
            SELECT DISTINCT f.checkpoint_id FROM contents t JOIN files f ON f.content_id = t.id
            WHERE t.id IN :ids AND NOT {SOUND}
        """
        for is_damaged, ids in ((True, damaged), (False, sound)):
            for batch in batches(sorted(ids)):
                with self._database.writing() as transaction:
                    if not is_damaged:
                        healed.update(transaction.column(needed, ids=batch))
                    new = {"is_damaged": is_damaged, "verified_at": time}
                    transaction.update("contents", new, "id IN :ids", ids=batch)
                    if not is_damaged:
                        believe(transaction, batch)
        with self._database.writing() as transaction:
            if damaged:
                tell_damaged(transaction)
            tell_sound(transaction, sorted(healed))

    def add_content(self, blob_id: str, new: NewContent) -> StoredContent:
        """Describe a range of a stored blob, just read and compared, as a content; ConflictError where gc took it."""
        row = values_of(blob_id, new) | {"verified_at": to_text(now())}
        with self._database.writing() as transaction:
            stored = f"SELECT id FROM blobs WHERE id = :id AND status = 'stored' {transaction.locking('FOR UPDATE')}"
            if transaction.row(stored, id=blob_id) is None:
                raise taken(f"blob {blob_id}")
            content_id = transaction.add("contents", row)
        return new.as_stored(content_id, blob_id)

    def replace_content(
        self,
        checkpoint_id: str,
        old: StoredContent,
        new: StoredContent,
        *,
        write_manifest: Callable[[Sequence[str]], None],
    ) -> bool:
        """Let the files of a checkpoint that have one content have another; False where none has it any more.

        ``write_manifest`` is called with the paths of those files while no other process replaces any, and before the
        catalog says so; it must not write to the catalog. The checkpoint must refer to the new content's blob already
        (see :meth:`hold`). Its reference to the old one goes unless it needs that for something else.

        Raises ConflictError where the checkpoint does not refer to the new blob.
        """
        mine = "checkpoint_id = :checkpoint_id AND content_id = :old_id"
        values = {"checkpoint_id": checkpoint_id, "old_id": old.id}
        with self._database.writing() as transaction:
            transaction.lock(REPAIR_LOCK)
            paths = sorted(transaction.column(f"SELECT path FROM files WHERE {mine}", **values))
            if not paths:
                return False
            held = "SELECT 1 FROM blob_references WHERE checkpoint_id = :checkpoint_id AND blob_id = :blob_id"
            if transaction.row(held, checkpoint_id=checkpoint_id, blob_id=new.blob_id) is None:
                raise taken(f"blob {new.blob_id}")
            write_manifest(paths)
            transaction.update("files", {"content_id": new.id}, mine, **values)
            release(transaction, checkpoint_id, old.blob_id)
            row = transaction.record(f"{CHECKPOINT} WHERE c.id = :id", id=checkpoint_id)
            if row is not None and row["part_of"] is None:
                titles = {checkpoint_id: checkpoint_of(row).title}
                note(transaction, self._database.actor, "repair", "checkpoint", titles, after={"repaired": paths})
                set_due(transaction, "checkpoint", [checkpoint_id])
            tell_sound(transaction, [checkpoint_id])
            return True

    def release(self, checkpoint_id: str, blob_id: str) -> None:
        """Take back a reference to a blob that no file of the checkpoint lies in."""
        with self._database.writing() as transaction:
            release(transaction, checkpoint_id, blob_id)

    def release_abandoned(self, *, before: datetime, writer_id: str | None = None) -> None:
        """Take back the references to blobs that a repair began before a time, and of which nothing came.

        They are those of an available checkpoint: a push's own unfinished blobs are referred to by one that is not
        available yet. With ``writer_id`` only those of this checkpoint.
        """
        abandoned = """
            SELECT b.id FROM blobs b JOIN checkpoints c ON c.id = b.writer_id
            WHERE b.store_id = :store_id AND b.status = 'writing' AND b.created_at < :before
                AND c.status IN ('available', 'deleting')
        """
        values = {"store_id": self.store_id, "before": to_text(before)}
        if writer_id is not None:
            abandoned += " AND b.writer_id = :writer_id"
            values["writer_id"] = writer_id
        with self._database.writing() as transaction:
            transaction.change(f"DELETE FROM blob_references WHERE blob_id IN ({abandoned})", **values)


def release(transaction: Transaction, checkpoint_id: str, blob_id: str) -> None:
    """Take back a checkpoint's reference to a blob, unless a file of it lies there."""
    needed = """
        SELECT 1 FROM files f JOIN contents t ON t.id = f.content_id
        WHERE f.checkpoint_id = :checkpoint_id AND t.blob_id = :blob_id
    """
    transaction.change(
        f"""
        DELETE FROM blob_references
        WHERE checkpoint_id = :checkpoint_id AND blob_id = :blob_id AND NOT EXISTS ({needed})
        """,
        checkpoint_id=checkpoint_id,
        blob_id=blob_id,
    )
