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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import (
    ColumnElement,
    Connection,
    Exists,
    Select,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError

from flexai.checkpoints.catalog.database import MIGRATION_LOCK, Database
from flexai.checkpoints.catalog.tables import blob_parts, blob_references, blobs, checkpoints, contents, files
from flexai.checkpoints.catalog.times import to_text
from flexai.checkpoints.contents import (
    ArrivedPart,
    NewContent,
    StoredContent,
    StoredFile,
    UnfinishedBlob,
)
from flexai.checkpoints.errors import ConflictError
from flexai.checkpoints.models import CheckpointStatus, now

_IS_SOUND = contents.c.is_damaged.is_(False)

_BATCH = 500
"""Values in one statement: databases limit them (SQLite: 32,766)."""

_T = TypeVar("_T")

_CONTENT_COLUMNS = (
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
        with self._database.writing() as connection:
            done = connection.execute(
                update(blobs)
                .where(blobs.c.id == blob_id, blobs.c.status == "writing")
                .values(status="stored", writer_id=None, writer_path=None, writer_version=None, upload_id=None)
            )
            if not done.rowcount:
                raise _taken(f"blob {blob_id}")
            connection.execute(delete(blob_parts).where(blob_parts.c.blob_id == blob_id))
            connection.execute(
                insert(contents),
                [
                    {
                        "blob_id": blob_id,
                        "start": content.start,
                        "size": content.size,
                        "part_size": content.part_size,
                        "digest": None if content.digest is None else content.digest.hex(),
                        "part_digests": content.part_digests,
                        "checksums": json.dumps(dict(content.checksums)),
                        "origin": content.origin or None,
                    }
                    for content in new
                ],
            )
            # Read back by the ranges they have: to have their ids returned, SQLite would insert them one by one.
            query = select(*_CONTENT_COLUMNS).where(contents.c.blob_id == blob_id)
            stored = {(row.start, row.size): _content(row) for row in connection.execute(query)}
        return [stored[content.start, content.size] for content in new]

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
        for batch in _batches(dict.fromkeys(digests)):
            for content in self._hold_all(checkpoint_id, contents.c.digest.in_(batch)):
                assert content.digest is not None
                found[content.digest.hex()] = content
        return found

    def hold_by_origin(self, checkpoint_id: str, origins: Iterable[str]) -> dict[str, StoredContent]:
        """Find sound stored contents by the provider's objects that they are, and refer to their blobs.

        Raises ConflictError for a checkpoint that is gone.
        """
        found: dict[str, StoredContent] = {}
        for batch in _batches(dict.fromkeys(origins)):
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
        for batch in _batches(dict.fromkeys(sizes)):
            can_be_equal = and_(contents.c.size.in_(batch), contents.c.digest.is_not(None), _IS_SOUND)
            query = self._stored(can_be_equal).with_only_columns(contents.c.size, maintain_column_froms=True).distinct()
            with self._database.reading() as connection:
                found.update(connection.execute(query).scalars())
        return found

    def _find_all(self, column: ColumnElement[Any], values: Iterable[_T]) -> list[StoredContent]:
        found: list[StoredContent] = []
        for batch in _batches(dict.fromkeys(values)):
            with self._database.reading() as connection:
                query = self._stored(column.in_(batch) & _IS_SOUND).order_by(blobs.c.id)
                found += [_content(row) for row in connection.execute(query)]
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
        query = self._stored(condition & _IS_SOUND)
        with self._database.reading() as connection:
            if connection.execute(query.limit(1)).first() is None:
                return []  # the usual case, which need not wait for a writer's turn
        with _gone(f"checkpoint {checkpoint_id}"), self._database.writing() as connection:
            # Rows are locked in one order, so that two pushes never wait for each other.
            rows = connection.execute(self._locked(query.order_by(blobs.c.id)))
            held = [_content(row) for row in rows]
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
        query = self._stored(and_(contents.c.size == size, contents.c.digest.is_not(None), _IS_SOUND))
        with self._database.reading() as connection:
            return [_content(row) for row in connection.execute(query)]

    def hold(self, checkpoint_id: str, content: StoredContent) -> bool:
        """Refer to the blob of a content found before; False where gc was faster.

        Raises ConflictError for a checkpoint that is gone.
        """
        query = self._stored(contents.c.id == content.id)
        with _gone(f"checkpoint {checkpoint_id}"), self._database.writing() as connection:
            if connection.execute(self._locked(query)).first() is None:
                return False
            self._refer(connection, checkpoint_id, {content.blob_id})
            return True

    def files_of(self, checkpoint_id: str) -> list[StoredFile]:
        """The files of a checkpoint with their contents, in order of their paths."""
        query = (
            select(files.c.path, *_CONTENT_COLUMNS)
            .join(contents, contents.c.id == files.c.content_id)
            .where(files.c.checkpoint_id == checkpoint_id)
        )
        with self._database.reading() as connection:
            found = [StoredFile(path=row.path, content=_content(row)) for row in connection.execute(query)]
        # Not ORDER BY: PostgreSQL orders texts by its locale.
        return sorted(found, key=lambda file: file.path)

    def contents_of(self, content_ids: Iterable[int]) -> dict[int, StoredContent]:
        """Stored contents by their ids; those that are gone or damaged are left out."""
        found: dict[int, StoredContent] = {}
        for batch in _batches(dict.fromkeys(content_ids)):
            with self._database.reading() as connection:
                for row in connection.execute(self._stored(contents.c.id.in_(batch) & _IS_SOUND)):
                    found[row.id] = _content(row)
        return found

    def users_of(self, content_ids: Sequence[int]) -> dict[int, list[tuple[str, str]]]:
        """Which checkpoints need contents, and as which of their files: (checkpoint id, path) by content."""
        users: dict[int, list[tuple[str, str]]] = {}
        for batch in _batches(content_ids):
            query = select(files.c.content_id, files.c.checkpoint_id, files.c.path).where(files.c.content_id.in_(batch))
            with self._database.reading() as connection:
                for row in connection.execute(query):
                    users.setdefault(row.content_id, []).append((row.checkpoint_id, row.path))
        return users

    def all_contents(self) -> Iterator[StoredContent]:
        """Every stored content, blob by blob."""
        last = 0
        while True:
            query = self._stored(contents.c.id > last).order_by(contents.c.id).limit(_BATCH)
            with self._database.reading() as connection:
                found = [_content(row) for row in connection.execute(query)]
            if not found:
                return
            yield from found
            last = found[-1].id

    def least_recently_verified(self, *, before: datetime, limit: int) -> list[StoredContent]:
        """Contents that a checkpoint needs and that were not verified since a time: the longest ago come first.

        What has never been verified comes before all others; neighbours in a pack come together.
        """
        time = to_text(before)
        query = (
            self._stored(or_(contents.c.verified_at.is_(None), contents.c.verified_at < time) & _is_used())
            .order_by(contents.c.verified_at.asc().nulls_first(), contents.c.blob_id, contents.c.start)
            .limit(limit)
        )
        with self._database.reading() as connection:
            return [_content(row) for row in connection.execute(query)]

    def damaged(self) -> list[StoredContent]:
        """Contents that a checkpoint needs and that a verification found damaged."""
        query = self._stored(~_IS_SOUND & _is_used()).order_by(contents.c.id)
        with self._database.reading() as connection:
            return [_content(row) for row in connection.execute(query)]

    def verification(self) -> Verification:
        """How much of what checkpoints need was verified, and when."""
        is_needed = (blobs.c.store_id == self.store_id, blobs.c.status == "stored", _is_used())
        query = (
            select(
                func.count(),
                func.coalesce(func.sum(contents.c.size), 0),
                func.coalesce(func.sum(case((contents.c.verified_at.is_(None), contents.c.size), else_=0)), 0),
                func.coalesce(func.sum(case((~_IS_SOUND, 1), else_=0)), 0),
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
            for batch in _batches(sorted(ids)):
                with self._database.writing() as connection:
                    connection.execute(
                        update(contents).where(contents.c.id.in_(batch)).values(is_damaged=is_damaged, verified_at=time)
                    )

    def add_content(self, blob_id: str, new: NewContent) -> StoredContent:
        """Describe a range of a stored blob, just read and compared, as a content; ConflictError where gc took it."""
        values = {
            "blob_id": blob_id,
            "start": new.start,
            "size": new.size,
            "part_size": new.part_size,
            "digest": None if new.digest is None else new.digest.hex(),
            "part_digests": new.part_digests,
            "checksums": json.dumps(dict(new.checksums)),
            "verified_at": to_text(now()),
        }
        with self._database.writing() as connection:
            is_stored = select(blobs.c.id).where(blobs.c.id == blob_id, blobs.c.status == "stored")
            if connection.execute(self._locked(is_stored)).first() is None:
                raise _taken(f"blob {blob_id}")
            content_id = connection.execute(insert(contents).values(**values).returning(contents.c.id)).scalar_one()
            row = connection.execute(select(*_CONTENT_COLUMNS).where(contents.c.id == content_id)).one()
            return _content(row)

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
                raise _taken(f"blob {new.blob_id}")
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
            connection.execute(self._locked(select(blobs.c.id).where(blobs.c.id == blob_id)))
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
        for batch in _batches(blob_ids):
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

    def _stored(self, condition: ColumnElement[bool]) -> Select[Any]:
        return (
            select(*_CONTENT_COLUMNS)
            .join(blobs, blobs.c.id == contents.c.blob_id)
            .where(blobs.c.store_id == self.store_id, blobs.c.status == "stored", condition)
        )

    def _locked(self, query: Select[Any]) -> Select[Any]:
        return query.with_for_update(of=blobs) if self._database.is_postgresql else query

    def _refer(self, connection: Connection, checkpoint_id: str, blob_ids: set[str]) -> None:
        if not blob_ids:
            return
        dialect_insert = postgresql.insert if self._database.is_postgresql else sqlite.insert
        connection.execute(
            dialect_insert(blob_references).on_conflict_do_nothing(),
            [{"checkpoint_id": checkpoint_id, "blob_id": blob_id} for blob_id in sorted(blob_ids)],
        )


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


@contextlib.contextmanager
def _gone(what: str) -> Iterator[None]:
    """Say in our words that a row was about to refer to one that is gone."""
    try:
        yield
    except IntegrityError as error:
        raise _taken(what) from error


def _taken(what: str) -> ConflictError:
    return ConflictError(f"{what} was given up meanwhile", hint="run the same command again")


def _batches(values: Iterable[_T]) -> Iterator[list[_T]]:
    iterator = iter(values)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


def _is_used() -> Exists:
    return exists().where(files.c.content_id == contents.c.id)


def _is_referenced() -> Exists:
    return exists().where(blob_references.c.blob_id == blobs.c.id)


def _content(row: Any) -> StoredContent:
    return StoredContent(
        id=row.id,
        blob_id=row.blob_id,
        start=row.start,
        size=row.size,
        part_size=row.part_size,
        digest=None if row.digest is None else bytes.fromhex(row.digest),
        part_digests=bytes(row.part_digests),
        checksums=json.loads(row.checksums),
        origin=row.origin or "",
    )
