"""Blobs and contents: what the managed store holds, what is arriving, and who needs it.

A blob's life is ``writing`` → ``stored`` → ``deleting``; each step is a conditional update. A push refers to a blob
before it relies on it, in the transaction that finds it ``stored``; gc marks a blob ``deleting`` only in a transaction
that finds no reference. On PostgreSQL both lock the blob's row first, on SQLite there is one writer at a time, so one
of them always sees the other.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Exists,
    and_,
    delete,
    exists,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from flexai.checkpoints.catalog.content_rows import (
    BATCH,
    COLUMNS,
    IS_SOUND,
    T,
    batches,
    locked,
    stored_contents,
    taken,
    values_of,
)
from flexai.checkpoints.catalog.database import Database
from flexai.checkpoints.catalog.tables import blob_parts, blob_references, blobs, contents, files
from flexai.checkpoints.catalog.times import to_text
from flexai.checkpoints.contents import (
    ArrivedPart,
    NewContent,
    StoredContent,
    StoredFile,
    UnfinishedBlob,
)
from flexai.checkpoints.models import now


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
        with _gone(f"checkpoint {writer_id}"), self._database.writing() as connection:
            connection.execute(
                insert(blobs).values(
                    id=blob_id,
                    store_id=self.store_id,
                    size=size,
                    status="writing",
                    writer_id=writer_id,
                    writer_path=path,
                    writer_version=version,
                    part_size=part_size,
                    created_at=to_text(now()),
                )
            )
            connection.execute(insert(blob_references).values(checkpoint_id=writer_id, blob_id=blob_id))
        return blob_id

    def set_upload(self, blob_id: str, upload_id: str) -> None:
        """Record the upload that the blob arrives by; parts of an earlier one are forgotten."""
        with self._database.writing() as connection:
            connection.execute(delete(blob_parts).where(blob_parts.c.blob_id == blob_id))
            connection.execute(update(blobs).where(blobs.c.id == blob_id).values(upload_id=upload_id))

    def record_part(self, blob_id: str, part: ArrivedPart) -> None:
        """Record that the store acknowledged a part; ConflictError where gc took the blob."""
        with _gone(f"blob {blob_id}"), self._database.writing() as connection:
            connection.execute(
                delete(blob_parts).where(blob_parts.c.blob_id == blob_id, blob_parts.c.number == part.number)
            )
            connection.execute(
                insert(blob_parts).values(blob_id=blob_id, number=part.number, digest=part.digest, receipt=part.receipt)
            )

    def finish(self, blob_id: str, new: Sequence[NewContent]) -> list[StoredContent]:
        """Record that all of a blob is stored, and which contents its ranges are; ConflictError where gc took it."""
        values = [values_of(blob_id, content) for content in new]
        with self._database.writing() as connection:
            done = connection.execute(
                update(blobs)
                .where(blobs.c.id == blob_id, blobs.c.status == "writing")
                .values(status="stored", writer_id=None, writer_path=None, writer_version=None, upload_id=None)
            )
            if not done.rowcount:
                raise taken(f"blob {blob_id}")
            connection.execute(delete(blob_parts).where(blob_parts.c.blob_id == blob_id))
            connection.execute(insert(contents), values)
            # Read back by the ranges they have: to have their ids returned, SQLite would insert them one by one.
            query = select(contents.c.start, contents.c.size, contents.c.id).where(contents.c.blob_id == blob_id)
            ids = {(start, size): content_id for start, size, content_id in connection.execute(query)}
        return [content.as_stored(ids[content.start, content.size], blob_id) for content in new]

    def unfinished(self, writer_id: str) -> dict[str, UnfinishedBlob]:
        """What an earlier try of a push left unfinished, by the file's path.

        Not what was given up since: gc may take that at any moment.
        """
        query = (
            select(blobs)
            .join(blob_references, blob_references.c.blob_id == blobs.c.id)
            .where(
                blob_references.c.checkpoint_id == writer_id,
                blobs.c.writer_id == writer_id,
                blobs.c.store_id == self.store_id,
                blobs.c.status == "writing",
                blobs.c.upload_id.is_not(None),
            )
        )
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
            found = {}
            for row in rows:
                parts = connection.execute(select(blob_parts).where(blob_parts.c.blob_id == row.id))
                found[row.writer_path] = UnfinishedBlob(
                    id=row.id,
                    path=row.writer_path,
                    version=row.writer_version,
                    size=row.size,
                    part_size=row.part_size,
                    upload_id=row.upload_id,
                    parts={part.number: ArrivedPart(part.number, bytes(part.digest), part.receipt) for part in parts},
                )
            return found

    def hold_by_digest(self, checkpoint_id: str, digests: Iterable[str]) -> dict[str, StoredContent]:
        """Find sound stored contents by their digests (hex) and refer to their blobs, all at once.

        Raises ConflictError for a checkpoint that is gone.
        """
        found: dict[str, StoredContent] = {}
        for batch in batches(dict.fromkeys(digests)):
            for content in self._hold_all(checkpoint_id, contents.c.digest.in_(batch)):
                assert content.digest is not None
                found[content.digest.hex()] = content
        return found

    def hold_by_origin(self, checkpoint_id: str, origins: Iterable[str]) -> dict[str, StoredContent]:
        """Find sound stored contents by the provider's objects that they are, and refer to their blobs.

        Raises ConflictError for a checkpoint that is gone.
        """
        found: dict[str, StoredContent] = {}
        for batch in batches(dict.fromkeys(origins)):
            held = self._hold_all(checkpoint_id, contents.c.origin.in_(batch))
            found |= {content.origin: content for content in held}
        return found

    def find_by_digest(self, digests: Iterable[str]) -> dict[str, StoredContent]:
        """Find sound stored contents by their digests (hex), for one who only looks: gc may take them."""
        found = self._find_all(contents.c.digest, digests)
        return {content.digest.hex(): content for content in found if content.digest is not None}

    def find_by_origin(self, origins: Iterable[str]) -> dict[str, StoredContent]:
        """Find sound stored contents by the provider's objects that they are, for one who only looks."""
        return {content.origin: content for content in self._find_all(contents.c.origin, origins)}

    def find_sizes(self, sizes: Iterable[int]) -> set[int]:
        """Which sizes (bytes) contents have that a file can be compared with (see :meth:`find_by_size`)."""
        found: set[int] = set()
        for batch in batches(dict.fromkeys(sizes)):
            can_be_equal = and_(contents.c.size.in_(batch), contents.c.digest.is_not(None), IS_SOUND)
            query = stored_contents(self.store_id, can_be_equal)
            query = query.with_only_columns(contents.c.size, maintain_column_froms=True).distinct()
            with self._database.reading() as connection:
                found.update(connection.execute(query).scalars())
        return found

    def _find_all(self, column: ColumnElement[Any], values: Iterable[T]) -> list[StoredContent]:
        found: list[StoredContent] = []
        for batch in batches(dict.fromkeys(values)):
            with self._database.reading() as connection:
                query = stored_contents(self.store_id, column.in_(batch) & IS_SOUND).order_by(blobs.c.id)
                found += [StoredContent.of_row(row) for row in connection.execute(query)]
        return found

    def uses_of(self, checkpoint_id: str) -> dict[str, tuple[int, int]]:
        """The blobs of a checkpoint: for each its bytes, and how many other checkpoints need it."""
        other = blob_references.alias()
        query = (
            select(blobs.c.id, blobs.c.size, func.count(other.c.checkpoint_id))
            .join(blob_references, blob_references.c.blob_id == blobs.c.id)
            .outerjoin(other, (other.c.blob_id == blobs.c.id) & (other.c.checkpoint_id != checkpoint_id))
            .where(blob_references.c.checkpoint_id == checkpoint_id)
            .group_by(blobs.c.id, blobs.c.size)
        )
        with self._database.reading() as connection:
            return {blob_id: (size, others) for blob_id, size, others in connection.execute(query)}

    def _hold_all(self, checkpoint_id: str, condition: ColumnElement[bool]) -> list[StoredContent]:
        query = stored_contents(self.store_id, condition & IS_SOUND)
        with self._database.reading() as connection:
            if connection.execute(query.limit(1)).first() is None:
                return []  # the usual case, which need not wait for a writer's turn
        with _gone(f"checkpoint {checkpoint_id}"), self._database.writing() as connection:
            # Rows are locked in one order, so that two pushes never wait for each other.
            rows = connection.execute(locked(query.order_by(blobs.c.id), self._database))
            held = [StoredContent.of_row(row) for row in rows]
            self._refer(connection, checkpoint_id, {content.blob_id for content in held})
        return held

    def learn(self, content: StoredContent) -> None:
        """Record the digests of a content that the provider copied and somebody has now read for the first time."""
        assert content.digest is not None
        with self._database.writing() as connection:
            connection.execute(
                update(contents)
                .where(contents.c.id == content.id, contents.c.digest.is_(None))
                .values(digest=content.digest.hex(), part_digests=content.part_digests)
            )

    def find_by_size(self, size: int) -> list[StoredContent]:
        """Sound stored contents of ``size`` bytes: the only ones that a file of that size can equal."""
        query = stored_contents(self.store_id, and_(contents.c.size == size, contents.c.digest.is_not(None), IS_SOUND))
        with self._database.reading() as connection:
            return [StoredContent.of_row(row) for row in connection.execute(query)]

    def hold(self, checkpoint_id: str, content: StoredContent) -> bool:
        """Refer to the blob of a content found before; False where gc was faster.

        Raises ConflictError for a checkpoint that is gone.
        """
        query = stored_contents(self.store_id, contents.c.id == content.id)
        with _gone(f"checkpoint {checkpoint_id}"), self._database.writing() as connection:
            if connection.execute(locked(query, self._database)).first() is None:
                return False
            self._refer(connection, checkpoint_id, {content.blob_id})
            return True

    def files_of(self, checkpoint_id: str) -> list[StoredFile]:
        """The files of a checkpoint with their contents, in order of their paths."""
        query = (
            select(files.c.path, *COLUMNS)
            .join(contents, contents.c.id == files.c.content_id)
            .where(files.c.checkpoint_id == checkpoint_id)
        )
        with self._database.reading() as connection:
            found = [StoredFile(path, StoredContent.of_row(row)) for path, *row in connection.execute(query)]
        # Not ORDER BY: PostgreSQL orders texts by its locale.
        return sorted(found, key=lambda file: file.path)

    def contents_of(self, content_ids: Iterable[int]) -> dict[int, StoredContent]:
        """Stored contents by their ids; those that are gone or damaged are left out."""
        found: dict[int, StoredContent] = {}
        for batch in batches(dict.fromkeys(content_ids)):
            with self._database.reading() as connection:
                for row in connection.execute(stored_contents(self.store_id, contents.c.id.in_(batch) & IS_SOUND)):
                    found[row.id] = StoredContent.of_row(row)
        return found

    def users_of(self, content_ids: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
        """Which checkpoints need contents, and as which of their files: (checkpoint id, path) by content."""
        users: dict[int, list[tuple[str, str]]] = {}
        for batch in batches(content_ids):
            query = select(files.c.content_id, files.c.checkpoint_id, files.c.path).where(files.c.content_id.in_(batch))
            with self._database.reading() as connection:
                for row in connection.execute(query):
                    users.setdefault(row.content_id, []).append((row.checkpoint_id, row.path))
        return users

    def all_contents(self) -> Iterator[StoredContent]:
        """Every stored content, blob by blob."""
        last = 0
        while True:
            query = stored_contents(self.store_id, contents.c.id > last).order_by(contents.c.id).limit(BATCH)
            with self._database.reading() as connection:
                found = [StoredContent.of_row(row) for row in connection.execute(query)]
            if not found:
                return
            yield from found
            last = found[-1].id

    def unreferenced(self) -> list[tuple[str, int, str]]:
        """Blobs that no checkpoint refers to, or that gc did not finish deleting: (id, bytes, upload id)."""
        query = select(blobs.c.id, blobs.c.size, blobs.c.upload_id).where(
            blobs.c.store_id == self.store_id, ~_is_referenced()
        )
        with self._database.reading() as connection:
            return [(row.id, row.size, row.upload_id or "") for row in connection.execute(query)]

    def mark_deleting(self, blob_id: str) -> bool:
        """Take a blob out of use; False where a push refers to it after all."""
        with self._database.writing() as connection:
            # The row first, in a statement of its own: the check below then sees what its holder has committed.
            connection.execute(locked(select(blobs.c.id).where(blobs.c.id == blob_id), self._database))
            marked = connection.execute(
                update(blobs).where(blobs.c.id == blob_id, ~_is_referenced()).values(status="deleting")
            )
            return bool(marked.rowcount)

    def forget(self, blob_id: str) -> None:
        """Remove the record of a blob whose bytes are gone, and its contents'."""
        with self._database.writing() as connection:
            connection.execute(delete(blobs).where(blobs.c.id == blob_id, blobs.c.status == "deleting"))

    def known(self, blob_ids: Iterable[str]) -> set[str]:
        """Which of the ids the catalog knows."""
        found: set[str] = set()
        for batch in batches(blob_ids):
            with self._database.reading() as connection:
                found.update(connection.execute(select(blobs.c.id).where(blobs.c.id.in_(batch))).scalars())
        return found

    def totals(self) -> Mapping[str, int]:
        """Bytes of the store's blobs by status."""
        query = (
            select(blobs.c.status, func.sum(blobs.c.size))
            .where(blobs.c.store_id == self.store_id)
            .group_by(blobs.c.status)
        )
        with self._database.reading() as connection:
            return {status: int(size or 0) for status, size in connection.execute(query)}

    def _refer(self, connection: Connection, checkpoint_id: str, blob_ids: set[str]) -> None:
        if not blob_ids:
            return
        connection.execute(
            self._database.insert(blob_references).on_conflict_do_nothing(),
            [{"checkpoint_id": checkpoint_id, "blob_id": blob_id} for blob_id in sorted(blob_ids)],
        )


def _is_referenced() -> Exists:
    return exists().where(blob_references.c.blob_id == blobs.c.id)


@contextlib.contextmanager
def _gone(what: str) -> Iterator[None]:
    """Say in our words that a row was about to refer to one that is gone."""
    try:
        yield
    except IntegrityError as error:
        raise taken(what) from error
