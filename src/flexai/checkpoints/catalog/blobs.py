"""Blobs and contents: what the managed store holds, what is arriving, and who needs it.

A blob's life is ``writing`` → ``stored`` → ``deleting``; each step is a conditional update. A push refers to a blob
before it relies on it, in the transaction that finds it ``stored``; gc marks a blob ``deleting`` only in a transaction
that finds no reference. On PostgreSQL both lock the blob's row first, on SQLite there is one writer at a time, so one
of them always sees the other.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from flexai.checkpoints.catalog.database import BATCH, ConstraintError, Database, Transaction, batches, each_begun_again
from flexai.checkpoints.contents import (
    RECOVERED,
    ArrivedPart,
    NewContent,
    StoredContent,
    StoredFile,
    UnfinishedBlob,
)
from flexai.checkpoints.errors import ConflictError
from flexai.checkpoints.models import DAMAGED, now, to_text

CONTENT_COLUMNS = "t.id, t.blob_id, t.start, t.size, t.part_size, t.digest, t.part_digests, t.checksums, t.origin"
"""The columns that ``StoredContent.of_row`` reads, of contents called ``t``."""

STORED = "FROM contents t JOIN blobs b ON b.id = t.blob_id WHERE b.store_id = :store_id AND b.status = 'stored'"
"""The contents ``t`` of a store's blobs ``b`` that are all there; more conditions can follow."""

SOUND = "t.is_damaged = FALSE"

IDENTIFIED = f"{SOUND} AND t.digest IS NOT NULL AND (t.origin IS NULL OR t.origin <> '{RECOVERED}')"
"""Whose digests this catalog's own processes took from its bytes: only these say what a file's content is."""

ARRIVED_BYTES = """
    CASE WHEN blobs.writer_id IS NULL THEN blobs.size ELSE (
        SELECT CASE WHEN COUNT(*) * blobs.part_size > blobs.size THEN blobs.size ELSE COUNT(*) * blobs.part_size END
        FROM blob_parts p WHERE p.blob_id = blobs.id
    ) END
"""
"""The bytes of a blob that the store has: of one that is being written, those of the parts that have arrived."""

_NOT_REFERENCED = "NOT EXISTS (SELECT 1 FROM blob_references r WHERE r.blob_id = blobs.id)"


@each_begun_again
class Blobs:
    """The blobs of one managed store."""

    def __init__(self, database: Database, store_id: str) -> None:
        self._database = database
        self.store_id = store_id

    def begin(self, *, writer_id: str, path: str, size: int, part_size: int, version: str = "") -> str:
        """Announce a blob before its first byte is stored; returns its id.

        Raises ConflictError for a checkpoint that is gone.
        """
        blob_id = uuid.uuid4().hex
        with _gone(f"checkpoint {writer_id}"), self._database.writing() as transaction:
            transaction.insert(
                "blobs",
                {
                    "id": blob_id,
                    "store_id": self.store_id,
                    "size": size,
                    "status": "writing",
                    "writer_id": writer_id,
                    "writer_path": path,
                    "writer_version": version,
                    "part_size": part_size,
                    "created_at": to_text(now()),
                },
            )
            transaction.insert("blob_references", {"checkpoint_id": writer_id, "blob_id": blob_id})
        return blob_id

    def set_upload(self, blob_id: str, upload_id: str) -> None:
        """Record the upload that the blob arrives by; parts of an earlier one are forgotten."""
        with self._database.writing() as transaction:
            transaction.change("DELETE FROM blob_parts WHERE blob_id = :blob_id", blob_id=blob_id)
            transaction.update("blobs", {"upload_id": upload_id}, "id = :id", id=blob_id)

    def record_part(self, blob_id: str, part: ArrivedPart) -> None:
        """Record that the store acknowledged a part; ConflictError where gc took the blob."""
        row = {"blob_id": blob_id, "number": part.number, "digest": part.digest, "receipt": part.receipt}
        again = "ON CONFLICT (blob_id, number) DO UPDATE SET digest = excluded.digest, receipt = excluded.receipt"
        with _gone(f"blob {blob_id}"), self._database.writing() as transaction:
            transaction.insert("blob_parts", row, otherwise=again)

    def finish(self, blob_id: str, new: Sequence[NewContent]) -> list[StoredContent]:
        """Record that all of a blob is stored, and which contents its ranges are; ConflictError where gc took it."""
        rows = [values_of(blob_id, content) for content in new]
        arrived = {"status": "stored", **dict.fromkeys(("writer_id", "writer_path", "writer_version", "upload_id"))}
        with self._database.writing() as transaction:
            if not transaction.update("blobs", arrived, "id = :id AND status = 'writing'", id=blob_id):
                raise taken(f"blob {blob_id}")
            transaction.change("DELETE FROM blob_parts WHERE blob_id = :blob_id", blob_id=blob_id)
            transaction.insert("contents", *rows)
            # Read back by the ranges they have: to have their ids returned, they would be inserted one by one.
            found = transaction.rows("SELECT start, size, id FROM contents WHERE blob_id = :blob_id", blob_id=blob_id)
            ids = {(start, size): content_id for start, size, content_id in found}
        return [content.as_stored(ids[content.start, content.size], blob_id) for content in new]

    def unfinished(self, writer_id: str) -> dict[str, UnfinishedBlob]:
        """What an earlier try of a push left unfinished, by the file's path.

        Not what was given up since: gc may take that at any moment.
        """
        query = """
            SELECT b.id, b.writer_path, b.writer_version, b.size, b.part_size, b.upload_id
            FROM blobs b JOIN blob_references r ON r.blob_id = b.id
            WHERE r.checkpoint_id = :writer_id AND b.writer_id = :writer_id AND b.store_id = :store_id
                AND b.status = 'writing' AND b.upload_id IS NOT NULL
        """
        of_blob = "SELECT number, digest, receipt FROM blob_parts WHERE blob_id = :blob_id"
        found = {}
        with self._database.reading() as transaction:
            for blob_id, path, version, size, part_size, upload_id in transaction.rows(
                query, writer_id=writer_id, store_id=self.store_id
            ):
                parts = transaction.rows(of_blob, blob_id=blob_id)
                found[path] = UnfinishedBlob(
                    id=blob_id,
                    path=path,
                    version=version,
                    size=size,
                    part_size=part_size,
                    upload_id=upload_id,
                    parts={number: ArrivedPart(number, bytes(digest), receipt) for number, digest, receipt in parts},
                )
        return found

    def hold_by_digest(self, checkpoint_id: str, digests: Iterable[str]) -> dict[str, StoredContent]:
        """Find sound stored contents by their digests (hex) and refer to their blobs, all at once.

        Raises ConflictError for a checkpoint that is gone.
        """
        found: dict[str, StoredContent] = {}
        for batch in batches(dict.fromkeys(digests)):
            for content in self._hold_all(checkpoint_id, "t.digest", batch, IDENTIFIED):
                assert content.digest is not None
                found[content.digest.hex()] = content
        return found

    def hold_by_origin(self, checkpoint_id: str, origins: Iterable[str]) -> dict[str, StoredContent]:
        """Find sound stored contents by the provider's objects that they are, and refer to their blobs.

        Raises ConflictError for a checkpoint that is gone.
        """
        found: dict[str, StoredContent] = {}
        for batch in batches(dict.fromkeys(origins)):
            held = self._hold_all(checkpoint_id, "t.origin", batch, SOUND)
            found |= {content.origin: content for content in held}
        return found

    def find_by_digest(self, digests: Iterable[str]) -> dict[str, StoredContent]:
        """Find sound stored contents by their digests (hex), for one who only looks: gc may take them."""
        found = self._find_all("t.digest", digests, IDENTIFIED)
        return {content.digest.hex(): content for content in found if content.digest is not None}

    def find_by_origin(self, origins: Iterable[str]) -> dict[str, StoredContent]:
        """Find sound stored contents by the provider's objects that they are, for one who only looks."""
        return {content.origin: content for content in self._find_all("t.origin", origins, SOUND)}

    def find_sizes(self, sizes: Iterable[int]) -> set[int]:
        """Which sizes (bytes) contents have that a file can be compared with (see :meth:`find_by_size`)."""
        query = f"SELECT DISTINCT t.size {STORED} AND t.size IN :sizes AND {IDENTIFIED}"
        found: set[int] = set()
        for batch in batches(dict.fromkeys(sizes)):
            with self._database.reading() as transaction:
                found.update(transaction.column(query, store_id=self.store_id, sizes=batch))
        return found

    def _find_all(self, column: str, values: Iterable[str], condition: str) -> list[StoredContent]:
        query = f"SELECT {CONTENT_COLUMNS} {STORED} AND {column} IN :values AND {condition} ORDER BY b.id"
        found: list[StoredContent] = []
        for batch in batches(dict.fromkeys(values)):
            with self._database.reading() as transaction:
                rows = transaction.rows(query, store_id=self.store_id, values=batch)
            found += map(StoredContent.of_row, rows)
        return found

    def uses_of(self, checkpoint_id: str) -> dict[str, tuple[int, int]]:
        """The blobs of a checkpoint: for each its bytes, and how many other checkpoints need it."""
        query = """
            SELECT b.id, b.size, COUNT(other.checkpoint_id)
            FROM blobs b
                JOIN blob_references r ON r.blob_id = b.id
                LEFT JOIN blob_references other ON other.blob_id = b.id AND other.checkpoint_id <> :checkpoint_id
            WHERE r.checkpoint_id = :checkpoint_id GROUP BY b.id, b.size
        """
        with self._database.reading() as transaction:
            rows = transaction.rows(query, checkpoint_id=checkpoint_id)
        return {blob_id: (size, others) for blob_id, size, others in rows}

    def _hold_all(self, checkpoint_id: str, column: str, values: list[str], condition: str) -> list[StoredContent]:
        found = f"{STORED} AND {column} IN :values AND {condition}"
        with self._database.reading() as transaction:
            if transaction.row(f"SELECT 1 {found} LIMIT 1", store_id=self.store_id, values=values) is None:
                return []  # the usual case, which need not wait for a writer's turn
        with _gone(f"checkpoint {checkpoint_id}"), self._database.writing() as transaction:
            # Rows are locked in one order, so that two pushes never wait for each other.
            query = f"SELECT {CONTENT_COLUMNS} {found} ORDER BY b.id {transaction.locking('FOR UPDATE OF b')}"
            rows = transaction.rows(query, store_id=self.store_id, values=values)
            held = [StoredContent.of_row(row) for row in rows]
            _refer(transaction, checkpoint_id, {content.blob_id for content in held})
        return held

    def learn(self, content: StoredContent) -> None:
        """Record the digests of a content that was now read here for the first time.

        A catalog that is only looked at records nothing.
        """
        assert content.digest is not None
        if self._database.is_read_only:
            return
        learned = {"digest": content.digest.hex(), "part_digests": content.part_digests}
        with self._database.writing() as transaction:
            transaction.update("contents", learned, "id = :id AND digest IS NULL", id=content.id)
            believe(transaction, [content.id])

    def mark_lost(self, blob_id: str, *, size: int) -> None:
        """Record that a blob has only so many bytes, -1 where it is gone: what lay behind them is damaged."""
        new = {"is_damaged": True, "verified_at": to_text(now())}
        with self._database.writing() as transaction:
            transaction.update("contents", new, "blob_id = :id AND start + size > :there", id=blob_id, there=size)
            tell_damaged(transaction)

    def find_by_size(self, size: int) -> list[StoredContent]:
        """Sound stored contents of ``size`` bytes: the only ones that a file of that size can equal."""
        query = f"SELECT {CONTENT_COLUMNS} {STORED} AND t.size = :size AND {IDENTIFIED}"
        with self._database.reading() as transaction:
            return [StoredContent.of_row(row) for row in transaction.rows(query, store_id=self.store_id, size=size)]

    def hold(self, checkpoint_id: str, content: StoredContent) -> bool:
        """Refer to the blob of a content found before; False where gc was faster.

        Raises ConflictError for a checkpoint that is gone.
        """
        with _gone(f"checkpoint {checkpoint_id}"), self._database.writing() as transaction:
            query = f"SELECT 1 {STORED} AND t.id = :id {transaction.locking('FOR UPDATE OF b')}"
            if transaction.row(query, store_id=self.store_id, id=content.id) is None:
                return False
            _refer(transaction, checkpoint_id, {content.blob_id})
            return True

    def files_of(self, checkpoint_id: str) -> list[StoredFile]:
        """The files of a checkpoint with their contents, in order of their paths."""
        query = f"""
            SELECT f.path, f.is_executable, {CONTENT_COLUMNS} FROM files f JOIN contents t ON t.id = f.content_id
            WHERE f.checkpoint_id = :checkpoint_id
        """
        with self._database.reading() as transaction:
            rows = list(transaction.rows(query, checkpoint_id=checkpoint_id))
        files = []
        while rows:  # each goes as it is read: of 100,000 they take 60 MB
            path, executable, *row = rows.pop()
            files.append(StoredFile(path, StoredContent.of_row(row), bool(executable)))  # SQLite has no booleans
        # Not ORDER BY: PostgreSQL orders texts by its locale.
        files.sort(key=lambda file: file.path)
        return files

    def contents_of(self, content_ids: Iterable[int]) -> dict[int, StoredContent]:
        """Stored contents by their ids; those that are gone or damaged are left out."""
        query = f"SELECT {CONTENT_COLUMNS} {STORED} AND t.id IN :ids AND {SOUND}"
        found: dict[int, StoredContent] = {}
        for batch in batches(dict.fromkeys(content_ids)):
            with self._database.reading() as transaction:
                for row in transaction.rows(query, store_id=self.store_id, ids=batch):
                    found[row[0]] = StoredContent.of_row(row)
        return found

    def users_of(self, content_ids: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
        """Which checkpoints need contents, and as which of their files: (checkpoint id, path) by content."""
        query = "SELECT content_id, checkpoint_id, path FROM files WHERE content_id IN :ids"
        users: dict[int, list[tuple[str, str]]] = {}
        for batch in batches(content_ids):
            with self._database.reading() as transaction:
                for content_id, checkpoint_id, path in transaction.rows(query, ids=batch):
                    users.setdefault(content_id, []).append((checkpoint_id, path))
        return users

    def all_contents(self) -> Iterator[StoredContent]:
        """Every stored content, blob by blob."""
        query = f"SELECT {CONTENT_COLUMNS} {STORED} AND t.id > :last ORDER BY t.id LIMIT {BATCH}"
        last = 0
        while True:
            with self._database.reading() as transaction:
                rows = transaction.rows(query, store_id=self.store_id, last=last)
            if not rows:
                return
            yield from map(StoredContent.of_row, rows)
            last = rows[-1][0]

    def unneeded(self) -> list[tuple[str, int, str]]:
        """Blobs that no checkpoint needs, or that gc did not finish deleting: (id, bytes that arrived, upload id)."""
        query = f"SELECT id, {ARRIVED_BYTES}, upload_id FROM blobs WHERE store_id = :store_id AND {_NOT_REFERENCED}"
        with self._database.reading() as transaction:
            rows = transaction.rows(query, store_id=self.store_id)
        return [(blob_id, size, upload_id or "") for blob_id, size, upload_id in rows]

    def mark_deleting(self, *blob_ids: str) -> list[str]:
        """Take blobs out of use, as many as one statement takes; returns those that no push refers to after all."""
        take = f"UPDATE blobs SET status = 'deleting' WHERE id IN :ids AND {_NOT_REFERENCED} RETURNING id"
        lock = "SELECT id FROM blobs WHERE id IN :ids ORDER BY id"
        with self._database.writing() as transaction:
            # The rows first, in a statement of its own: the check below then sees what their holders have committed.
            transaction.rows(f"{lock} {transaction.locking('FOR UPDATE')}", ids=list(blob_ids))
            return transaction.column(take, ids=list(blob_ids))

    def forget(self, *blob_ids: str) -> None:
        """Remove the records of blobs whose bytes are gone, and their contents'."""
        with self._database.writing() as transaction:
            transaction.change("DELETE FROM blobs WHERE id IN :ids AND status = 'deleting'", ids=list(blob_ids))

    def known(self, blob_ids: Iterable[str]) -> set[str]:
        """Which of the ids the catalog knows."""
        found: set[str] = set()
        for batch in batches(blob_ids):
            with self._database.reading() as transaction:
                found.update(transaction.column("SELECT id FROM blobs WHERE id IN :ids", ids=batch))
        return found

    def totals(self) -> Mapping[str, int]:
        """Bytes of the store's blobs by status."""
        query = "SELECT status, SUM(size) FROM blobs WHERE store_id = :store_id GROUP BY status"
        with self._database.reading() as transaction:
            return {status: int(size) for status, size in transaction.rows(query, store_id=self.store_id)}


def _refer(transaction: Transaction, checkpoint_id: str, blob_ids: set[str]) -> None:
    rows = [{"checkpoint_id": checkpoint_id, "blob_id": blob_id} for blob_id in sorted(blob_ids)]
    if rows:
        transaction.insert("blob_references", *rows, otherwise="ON CONFLICT DO NOTHING")


@contextlib.contextmanager
def _gone(what: str) -> Iterator[None]:
    """Say in our words that a row was about to refer to one that is gone."""
    try:
        yield
    except ConstraintError as error:
        raise taken(what) from error


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


def tell_damaged(transaction: Transaction) -> None:
    """Let the checkpoints say so that need damaged content: a list reads their rows alone."""
    damaged = f"SELECT f.checkpoint_id FROM contents t JOIN files f ON f.content_id = t.id WHERE NOT {SOUND}"
    where = f"reason = '' AND status IN ('available', 'deleting') AND id IN ({damaged})"
    transaction.update("checkpoints", {"reason": DAMAGED}, where)


def tell_sound(transaction: Transaction, checkpoint_ids: Iterable[str]) -> None:
    """Let those of the checkpoints say it no longer that need none any more."""
    damaged = f"""
        SELECT 1 FROM files f JOIN contents t ON t.id = f.content_id
        WHERE f.checkpoint_id = checkpoints.id AND NOT {SOUND}
    """
    where = f"id IN :ids AND reason = :damaged AND NOT EXISTS ({damaged})"
    for batch in batches(checkpoint_ids):
        transaction.update("checkpoints", {"reason": ""}, where, ids=batch, damaged=DAMAGED)


def believe(transaction: Transaction, content_ids: Sequence[int]) -> None:
    """Let the digests of contents whose bytes were compared with them be this catalog's own."""
    transaction.update("contents", {"origin": None}, f"id IN :ids AND origin = '{RECOVERED}'", ids=list(content_ids))


def taken(what: str) -> ConflictError:
    """The error for what gc, or another process, was faster to give up."""
    return ConflictError(f"{what} was given up meanwhile", hint="run the same command again")
