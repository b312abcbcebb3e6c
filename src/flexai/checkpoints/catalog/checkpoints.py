"""Checkpoints in the catalog: names, status changes, and the claim on an interrupted push.

Every change is one conditional statement or one transaction; what may not happen is refused by a constraint of the
database, not by a look before the write.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, RowMapping, delete, exists, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from flexai.checkpoints.catalog.claims import NO_CLAIM, Claim, lease_end
from flexai.checkpoints.catalog.database import Database
from flexai.checkpoints.catalog.tables import blob_references, blobs, checkpoints, exports, files, jobs
from flexai.checkpoints.catalog.times import from_text, to_text
from flexai.checkpoints.errors import AlreadyExistsError, ConflictError, NotFoundError
from flexai.checkpoints.models import (
    Checkpoint,
    CheckpointKind,
    CheckpointStatus,
    ExportRecord,
    ManifestSummary,
    Source,
    TrainingFacts,
    now,
    plain,
)
from flexai.checkpoints.names import Name, Reference, name_key
from flexai.checkpoints.owner import Owner

_AGAIN = "run the same command again"
_FILES_BATCH = 5000
"""Rows of one statement when a checkpoint's files are recorded."""


class NameTakenError(AlreadyExistsError):
    """The name belongs to a finished checkpoint, which the caller may compare with what it meant to push."""

    def __init__(self, existing: Checkpoint) -> None:
        super().__init__(f"checkpoint {existing.name!r} already exists")
        self.existing = existing

    def __reduce__(self) -> tuple[object, ...]:
        return (NameTakenError, (self.existing,))


@dataclass(frozen=True, slots=True)
class Purgeable:
    """A checkpoint of which garbage collection would take something."""

    id: str
    title: str
    is_deleted: bool
    """Deleted, or else a push or capture that nobody continued."""
    since: datetime
    """When it was deleted, or last worked on."""


@dataclass(frozen=True, slots=True)
class PurgePlan:
    """What garbage collection would do."""

    checkpoints: Sequence[Purgeable]
    uses: Mapping[str, tuple[int, Set[str]]]
    """Every blob of the store: its bytes, and the checkpoints that refer to it."""

    @property
    def garbage(self) -> dict[str, int]:
        """The bytes of each blob that would go."""
        ids = {one.id for one in self.checkpoints}
        return {blob_id: size for blob_id, (size, users) in self.uses.items() if users <= ids}

    @property
    def deleted(self) -> int:
        """Deleted checkpoints that would be gone for good."""
        return sum(one.is_deleted for one in self.checkpoints)

    @property
    def abandoned(self) -> int:
        """Interrupted pushes and captures that would be given up."""
        return len(self.checkpoints) - self.deleted

    @property
    def blobs(self) -> int:
        """Blobs that would go."""
        return len(self.garbage)

    @property
    def freed_bytes(self) -> int:
        """Bytes that would be freed."""
        return sum(self.garbage.values())


class Checkpoints:
    """The checkpoints of a catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin_push(
        self,
        name: Name,
        *,
        owner: Owner,
        source: Source,
        status: CheckpointStatus,
        store_id: str,
        parent_id: str | None,
    ) -> tuple[Checkpoint, Claim]:
        """Take a name for a push, or take over the unfinished push that holds it.

        Raises NameTakenError where the name's checkpoint is available, ConflictError where another owner
        or a live process holds it.
        """
        claim = Claim.new()
        row = _new_row(
            kind=CheckpointKind.PUSHED,
            name=name,
            owner=owner,
            source=source,
            status=status,
            store_id=store_id,
            claim=claim,
        )
        row |= {"name_key": name_key(name), "parent_id": parent_id}
        with claim.dropped_on_error():
            try:
                with self._database.writing() as connection:
                    connection.execute(insert(checkpoints).values(row))
                return self.get_by_id(row["id"]), claim
            except IntegrityError:
                return self._take_over(
                    name, claim, owner=owner, source=source, status=status, store_id=store_id, parent_id=parent_id
                )

    def _take_over(
        self,
        name: Name,
        claim: Claim,
        *,
        owner: Owner,
        source: Source,
        status: CheckpointStatus,
        store_id: str,
        parent_id: str | None,
    ) -> tuple[Checkpoint, Claim]:
        with self._database.reading() as connection:
            row = connection.execute(_select().where(checkpoints.c.name_key == name_key(name))).mappings().first()
        busy = ConflictError(f"checkpoint {name!r} is being pushed or deleted by another process")
        if row is None:
            raise busy  # deleted between the two statements
        _check_can_continue(row, owner)
        with self._database.writing() as connection:
            taken = connection.execute(
                update(checkpoints)
                .where(
                    checkpoints.c.id == row["id"],
                    checkpoints.c.status == row["status"],
                    checkpoints.c.claim_token.is_not_distinct_from(row["claim_token"]),
                )
                .values(
                    name=name,
                    status=status,
                    reason="",
                    source=json.dumps(plain(source)),
                    store_id=store_id,
                    parent_id=parent_id,
                    updated_at=to_text(now()),
                    **claim.columns(),
                )
            )
            if not taken.rowcount:
                raise busy
        return self.get_by_id(row["id"]), claim

    def find_push(self, name: Name, *, owner: Owner) -> Checkpoint | None:
        """The unfinished push that ``begin_push`` would take over; None where the name is free.

        Raises what ``begin_push`` raises.
        """
        with self._database.reading() as connection:
            row = connection.execute(_select().where(checkpoints.c.name_key == name_key(name))).mappings().first()
        if row is None:
            return None
        _check_can_continue(row, owner)
        return _checkpoint(row)

    def begin_capture(
        self, *, job_id: str, name: str, node: str, owner: Owner, source: Source, store_id: str, parent_id: str | None
    ) -> tuple[Checkpoint, Claim]:
        """Announce a checkpoint that a training job wrote; its place in the job's order is given here."""
        claim = Claim.new()
        row = _new_row(
            kind=CheckpointKind.CAPTURED,
            name=name,
            owner=owner,
            source=source,
            status=CheckpointStatus.UPLOADING,
            store_id=store_id,
            claim=claim,
        )
        with claim.dropped_on_error(), self._database.writing() as connection:
            # The job's row serialises captures of one job, so that no two get one number.
            connection.execute(update(jobs).where(jobs.c.id == job_id).values(updated_at=to_text(now())))
            last = connection.execute(
                select(func.max(checkpoints.c.sequence)).where(checkpoints.c.job_id == job_id)
            ).scalar()
            row |= {"job_id": job_id, "node": node, "parent_id": parent_id, "sequence": (last or 0) + 1}
            connection.execute(insert(checkpoints).values(row))
        return self.get_by_id(row["id"]), claim

    def renew(self, checkpoint_id: str, claim: Claim) -> bool:
        """Extend the lease; False where the claim is no longer ours."""
        with self._database.writing() as connection:
            renewed = connection.execute(
                update(checkpoints).where(_held(checkpoint_id, claim)).values(claim_until=lease_end())
            )
            return bool(renewed.rowcount)

    def set_source(self, checkpoint_id: str, claim: Claim, source: Source) -> None:
        """Record where the files come from once that is known exactly."""
        self._update_held(checkpoint_id, claim, source=json.dumps(plain(source)))

    def commit(
        self,
        checkpoint_id: str,
        claim: Claim,
        *,
        manifest: ManifestSummary,
        content_ids: Mapping[str, int],
        blob_ids: set[str],
        facts: TrainingFacts | None = None,
    ) -> Checkpoint:
        """Say that a checkpoint is available: its files, its size and its manifest's digest, in one transaction.

        References to blobs that only earlier tries needed are dropped. Raises ConflictError where the claim, or the
        reference to a blob, is lost.
        """
        with self._database.writing() as connection:
            values = {
                "status": CheckpointStatus.AVAILABLE,
                "reason": "",
                "size": manifest.size,
                "file_count": manifest.file_count,
                "manifest_digest": manifest.digest,
                "updated_at": to_text(now()),
                **_facts_columns(facts or TrainingFacts()),
                **NO_CLAIM,
            }
            done = connection.execute(update(checkpoints).where(_held(checkpoint_id, claim)).values(values))
            if not done.rowcount:
                raise _lost(checkpoint_id)
            connection.execute(delete(files).where(files.c.checkpoint_id == checkpoint_id))
            rows = [
                {"checkpoint_id": checkpoint_id, "path": path, "content_id": content_id}
                for path, content_id in content_ids.items()
            ]
            for start in range(0, len(rows), _FILES_BATCH):
                connection.execute(insert(files), rows[start : start + _FILES_BATCH])
            query = select(blob_references.c.blob_id).where(blob_references.c.checkpoint_id == checkpoint_id)
            held = set(connection.execute(query).scalars())
            if not blob_ids <= held:
                # gc may take what nobody refers to, so nothing available may rest on it.
                raise ConflictError(f"content of checkpoint {checkpoint_id} was given up meanwhile", hint=_AGAIN)
            _drop_references(connection, checkpoint_id, held - blob_ids)
        return self.get_by_id(checkpoint_id)

    def fail(self, checkpoint_id: str, claim: Claim, reason: str) -> None:
        """Give up a push or a capture for now; what has arrived stays for the next try."""
        self._update_held(
            checkpoint_id, claim, status=CheckpointStatus.FAILED, reason=reason, updated_at=to_text(now()), **NO_CLAIM
        )

    def discard_failed(self, checkpoint_id: str) -> None:
        """Undo the announcement of a capture that turned out to be no checkpoint; its blobs are gc's."""
        with self._database.writing() as connection:
            connection.execute(
                delete(checkpoints).where(
                    checkpoints.c.id == checkpoint_id,
                    checkpoints.c.status == CheckpointStatus.FAILED,
                    checkpoints.c.claim_token.is_(None),
                )
            )

    def get(self, reference: Reference) -> Checkpoint:
        """The checkpoint that a reference means; NotFoundError where there is none, or only a deleted one."""
        with self._database.reading() as connection:
            query = _select().where(checkpoints.c.deleted_at.is_(None), _means(reference))
            row = connection.execute(query).mappings().first()
        if row is None:
            raise not_found(reference)
        return _checkpoint(row)

    def get_by_id(self, checkpoint_id: str) -> Checkpoint:
        """The checkpoint of an id, deleted or not."""
        with self._database.reading() as connection:
            row = connection.execute(_select().where(checkpoints.c.id == checkpoint_id)).mappings().first()
        if row is None:
            raise NotFoundError(f"there is no checkpoint {checkpoint_id}")
        return _checkpoint(row)

    def names_of(self, checkpoint_ids: Sequence[str]) -> dict[str, str]:
        """What to call checkpoints: their names, or ``JOB/NAME`` for captured ones."""
        query = _select().where(checkpoints.c.id.in_(checkpoint_ids))
        with self._database.reading() as connection:
            found = [_checkpoint(row) for row in connection.execute(query).mappings()]
        return {str(found_one.id): found_one.title for found_one in found}

    def of_job(self, job_id: str) -> list[Checkpoint]:
        """The checkpoints that a job wrote and nobody deleted, in the order of their capture."""
        query = (
            _select()
            .where(checkpoints.c.job_id == job_id, checkpoints.c.deleted_at.is_(None))
            .order_by(checkpoints.c.sequence)
        )
        with self._database.reading() as connection:
            return [_checkpoint(row) for row in connection.execute(query).mappings()]

    def of_store(self, store_id: str) -> list[Checkpoint]:
        """Every checkpoint of a managed store, deleted ones that are still there included."""
        with self._database.reading() as connection:
            query = _select().where(checkpoints.c.store_id == store_id)
            return [_checkpoint(row) for row in connection.execute(query).mappings()]

    def protect(self, references: Sequence[Reference], *, protected: bool = True) -> list[Checkpoint]:
        """Keep checkpoints from being deleted, or take that back; all of them or, where one is not there, none.

        Raises NotFoundError where there is none of that reference, ConflictError for one that is not available.
        """
        ids = []
        with self._database.writing() as connection:
            for reference in references:
                found = select(checkpoints.c.id).where(checkpoints.c.deleted_at.is_(None), _means(reference))
                checkpoint_id = connection.execute(found).scalar()
                if checkpoint_id is None:
                    raise not_found(reference)
                done = connection.execute(
                    update(checkpoints)
                    .where(checkpoints.c.id == checkpoint_id, checkpoints.c.status == CheckpointStatus.AVAILABLE)
                    .values(is_protected=protected)
                )
                if not done.rowcount:
                    raise ConflictError(
                        f"checkpoint {reference} is not available, so there is nothing to protect",
                        hint="finish its push first: run the same push again",
                    )
                ids.append(checkpoint_id)
        return [self.get_by_id(checkpoint_id) for checkpoint_id in ids]

    def delete(
        self, reference: Reference, *, check: Callable[[Connection, RowMapping], None] | None = None
    ) -> Checkpoint:
        """Free the name at once and leave the bytes to gc.

        ``check`` is called with its row while nobody else can change it, and keeps it by raising ConflictError. Raises
        NotFoundError where there is none (any more), ConflictError while somebody pushes it, and for a protected one.
        """
        checkpoint = self.get(reference)
        with self._database.writing() as connection:
            # Locked first, in a statement of its own: what is looked at below is what others have committed.
            locked = _select().where(checkpoints.c.id == str(checkpoint.id)).with_for_update(of=checkpoints)
            row = connection.execute(locked).mappings().first()
            if row is None:
                raise not_found(reference)
            _check_can_go(row, reference)
            if check is not None:
                check(connection, row)
            deleted = connection.execute(
                update(checkpoints)
                .where(
                    checkpoints.c.id == str(checkpoint.id),
                    checkpoints.c.deleted_at.is_(None),
                    checkpoints.c.is_protected.is_(False),
                    checkpoints.c.claim_token.is_not_distinct_from(row["claim_token"]),
                )
                .values(
                    status=CheckpointStatus.DELETING,
                    name_key=None,
                    deleted_at=to_text(now()),
                    updated_at=to_text(now()),
                    **NO_CLAIM,
                )
            )
            if not deleted.rowcount:
                raise not_found(reference)
        return self.get_by_id(str(checkpoint.id))

    def find_deletable(self, reference: Reference) -> Checkpoint:
        """The checkpoint that ``delete`` would delete; raises what that raises."""
        checkpoint = self.get(reference)
        with self._database.reading() as connection:
            row = connection.execute(_select().where(checkpoints.c.id == str(checkpoint.id))).mappings().first()
        if row is None:
            raise not_found(reference)
        _check_can_go(row, reference)
        return checkpoint

    def undelete(self, reference: Reference, *, new_name: Name | None = None) -> Checkpoint:
        """Bring back a deleted checkpoint whose bytes gc has not taken, the newest one where several had the name.

        Raises NotFoundError where there is none, AlreadyExistsError where the name is in use again.
        """
        query = (
            _select()
            .where(
                checkpoints.c.status == CheckpointStatus.DELETING,
                checkpoints.c.manifest_digest.is_not(None),
                checkpoints.c.id == reference.id
                if reference.id
                else (checkpoints.c.kind == CheckpointKind.PUSHED)
                & (func.lower(checkpoints.c.name) == name_key(reference.text)),
            )
            .order_by(checkpoints.c.deleted_at.desc())
        )
        with self._database.reading() as connection:
            row = connection.execute(query).mappings().first()
        if row is None:
            raise NotFoundError(
                f"there is no deleted checkpoint {reference.text!r} that could come back",
                hint="flexai checkpoint list --deleted shows which can",
            )
        name = new_name or row["name"]
        key = name_key(name) if row["kind"] == CheckpointKind.PUSHED else None
        try:
            with self._database.writing() as connection:
                done = connection.execute(
                    update(checkpoints)
                    .where(
                        checkpoints.c.id == row["id"],
                        checkpoints.c.status == CheckpointStatus.DELETING,
                        checkpoints.c.manifest_digest.is_not(None),
                    )
                    .values(
                        status=CheckpointStatus.AVAILABLE,
                        name=name,
                        name_key=key,
                        deleted_at=None,
                        updated_at=to_text(now()),
                    )
                )
                if not done.rowcount:
                    raise not_found(reference)
        except IntegrityError:
            raise AlreadyExistsError(
                f"the name {name!r} is in use again",
                hint=f"flexai checkpoint undelete {row['id']} --name ANOTHER-NAME",
            ) from None
        return self.get_by_id(row["id"])

    def deleted(self) -> list[Checkpoint]:
        """The deleted checkpoints that can still come back."""
        query = (
            _select()
            .where(checkpoints.c.deleted_at.is_not(None), checkpoints.c.manifest_digest.is_not(None))
            .order_by(checkpoints.c.deleted_at)
        )
        with self._database.reading() as connection:
            return [_checkpoint(row) for row in connection.execute(query).mappings()]

    def purge_deleted(self, store_id: str, *, before: datetime) -> list[str]:
        """Take the files and references of checkpoints deleted before a time; returns the ids of all so purged.

        From here on such a checkpoint cannot come back. Ids that an earlier gc did not finish are returned again.
        """
        with self._database.writing() as connection:
            purgeable = (
                checkpoints.c.store_id == store_id,
                checkpoints.c.status == CheckpointStatus.DELETING,
                checkpoints.c.deleted_at <= to_text(before),
            )
            # What it returns, not what a second look finds: another one may be deleted between.
            purged = update(checkpoints).where(*purgeable).values(manifest_digest=None).returning(checkpoints.c.id)
            ids = list(connection.execute(purged).scalars())
            for checkpoint_id in ids:
                connection.execute(delete(files).where(files.c.checkpoint_id == checkpoint_id))
                connection.execute(delete(blob_references).where(blob_references.c.checkpoint_id == checkpoint_id))
            return ids

    def plan_purge(self, store_id: str, *, before: datetime) -> PurgePlan:
        """What ``purge_deleted`` and ``abandoned`` would give up, and the blobs that only those need."""
        with self._database.reading() as connection:
            deleted = _select().where(
                checkpoints.c.store_id == store_id,
                checkpoints.c.status == CheckpointStatus.DELETING,
                checkpoints.c.deleted_at <= to_text(before),
            )
            rows = [*connection.execute(deleted).mappings(), *self._idle(connection, store_id, before)]
            sizes: dict[str, int] = {}
            users: dict[str, set[str]] = {}
            query = (
                select(blobs.c.id, blobs.c.size, blob_references.c.checkpoint_id)
                .outerjoin(blob_references, blob_references.c.blob_id == blobs.c.id)
                .where(blobs.c.store_id == store_id)
            )
            for blob_id, size, checkpoint_id in connection.execute(query):
                sizes[blob_id] = size
                users.setdefault(blob_id, set()).update(() if checkpoint_id is None else (checkpoint_id,))
        return PurgePlan(
            checkpoints=[_purgeable(row) for row in rows],
            uses={blob_id: (size, users[blob_id]) for blob_id, size in sizes.items()},
        )

    def forget(self, checkpoint_id: str) -> None:
        """Remove the record of a purged checkpoint whose bytes are gone."""
        with self._database.writing() as connection:
            connection.execute(
                delete(checkpoints).where(
                    checkpoints.c.id == checkpoint_id,
                    checkpoints.c.status == CheckpointStatus.DELETING,
                    checkpoints.c.manifest_digest.is_(None),
                )
            )

    def abandoned(
        self, store_id: str, *, before: datetime, clean_up: Callable[[str], None] = lambda _: None
    ) -> list[str]:
        """Give up pushes and captures that nobody has worked on since a time; returns their ids.

        Their blobs are nobody's afterwards. The checkpoint stays, failed, and its name with it. ``clean_up`` is called
        with each one's id while nobody else can continue it.
        """
        given_up = []
        with self._database.reading() as connection:
            rows = self._idle(connection, store_id, before)
        for row in rows:
            claim = Claim.new()
            with self._database.writing() as connection:
                reason = row["reason"] or "interrupted, and not continued within the grace period"
                done = connection.execute(
                    update(checkpoints)
                    .where(
                        checkpoints.c.id == row["id"],
                        checkpoints.c.status == row["status"],
                        checkpoints.c.claim_token.is_not_distinct_from(row["claim_token"]),
                    )
                    .values(status=CheckpointStatus.FAILED, reason=reason, **claim.columns())
                )
            if done.rowcount:
                self._give_up(row["id"], claim, clean_up)
                given_up.append(row["id"])
        return given_up

    def _give_up(self, checkpoint_id: str, claim: Claim, clean_up: Callable[[str], None]) -> None:
        try:
            clean_up(checkpoint_id)
            with self._database.writing() as connection:
                # Only where it is still ours: whoever has taken it over refers to what it found.
                if connection.execute(select(checkpoints.c.id).where(_held(checkpoint_id, claim))).first():
                    connection.execute(delete(blob_references).where(blob_references.c.checkpoint_id == checkpoint_id))
        finally:
            with self._database.writing() as connection:
                connection.execute(update(checkpoints).where(_held(checkpoint_id, claim)).values(**NO_CLAIM))

    def record_export(self, record: ExportRecord) -> None:
        """Record an export; one to the same place replaces the earlier record."""
        with self._database.writing() as connection:
            place = {
                "checkpoint_id": str(record.checkpoint_id),
                "storage_provider": record.storage_provider,
                "destination_path": record.destination_path,
            }
            values = {
                "id": str(record.id),
                "manifest_digest": record.manifest_digest,
                "exported_at": to_text(record.exported_at),
            }
            statement = self._database.insert(exports).values(**place, **values)
            connection.execute(statement.on_conflict_do_update(index_elements=list(place), set_=values))

    def exports_of(self, checkpoint_id: str) -> list[ExportRecord]:
        """Where a checkpoint was exported, oldest first."""
        query = select(exports).where(exports.c.checkpoint_id == checkpoint_id).order_by(exports.c.exported_at)
        with self._database.reading() as connection:
            return [
                ExportRecord(
                    id=UUID(row["id"]),
                    checkpoint_id=UUID(row["checkpoint_id"]),
                    storage_provider=row["storage_provider"],
                    destination_path=row["destination_path"],
                    manifest_digest=row["manifest_digest"],
                    exported_at=from_text(row["exported_at"]),
                )
                for row in connection.execute(query).mappings()
            ]

    def _idle(self, connection: Connection, store_id: str, before: datetime) -> list[RowMapping]:
        """Unfinished pushes and captures that nobody is at work on, those left out that were given up before."""
        refers = exists().where(blob_references.c.checkpoint_id == checkpoints.c.id)
        query = _select().where(
            checkpoints.c.store_id == store_id,
            checkpoints.c.status.in_((CheckpointStatus.UPLOADING, CheckpointStatus.SYNCING))
            | ((checkpoints.c.status == CheckpointStatus.FAILED) & refers),
            checkpoints.c.updated_at <= to_text(before),
        )
        rows = connection.execute(query).mappings().all()
        return [row for row in rows if (holder := Claim.of_row(row)) is None or not holder.is_alive]

    def _update_held(self, checkpoint_id: str, claim: Claim, **values: Any) -> None:
        with self._database.writing() as connection:
            done = connection.execute(update(checkpoints).where(_held(checkpoint_id, claim)).values(values))
            if not done.rowcount:
                raise _lost(checkpoint_id)


def _purgeable(row: RowMapping) -> Purgeable:
    found = _checkpoint(row)
    return Purgeable(
        id=row["id"],
        title=found.title,
        is_deleted=found.status is CheckpointStatus.DELETING,
        since=found.deleted_at or found.updated_at,
    )


def _check_can_continue(row: RowMapping, owner: Owner) -> None:
    """Raise NameTakenError for a checkpoint that is available, ConflictError for one that others push."""
    existing = _checkpoint(row)
    if existing.status is CheckpointStatus.AVAILABLE:
        raise NameTakenError(existing)
    if existing.creator_user_id != owner.user_id:
        raise ConflictError(f"checkpoint {existing.name!r} is being pushed by another owner")
    holder = Claim.of_row(row)
    if holder is not None and holder.is_alive:
        raise ConflictError(f"checkpoint {existing.name!r} is being pushed by {holder.holder}")


def _check_can_go(row: RowMapping, reference: Reference) -> None:
    """Raise ConflictError for a checkpoint that is protected or being pushed."""
    if row["is_protected"]:
        raise ConflictError(
            f"checkpoint {_checkpoint(row).title!r} is protected",
            hint=f"flexai checkpoint unprotect {reference} lets it be deleted",
        )
    holder = Claim.of_row(row)
    if holder is not None and holder.is_alive:
        raise ConflictError(f"checkpoint {reference} is being pushed by {holder.holder}", hint="stop that push first")


def not_found(reference: Reference) -> NotFoundError:
    """The one error for "not there", whether it never was or was deleted."""
    return NotFoundError(f"there is no checkpoint {reference.text!r}")


def _lost(checkpoint_id: str) -> ConflictError:
    return ConflictError(f"another process has taken over checkpoint {checkpoint_id} meanwhile")


def _select() -> Any:
    return select(checkpoints, jobs.c.name.label("job_name")).outerjoin(jobs, jobs.c.id == checkpoints.c.job_id)


def _means(reference: Reference) -> Any:
    if reference.id is not None:
        return checkpoints.c.id == reference.id
    return checkpoints.c.name_key == name_key(reference.text)


def _held(checkpoint_id: str, claim: Claim) -> Any:
    return (checkpoints.c.id == checkpoint_id) & (checkpoints.c.claim_token == claim.token)


def _drop_references(connection: Connection, checkpoint_id: str, blob_ids: set[str]) -> None:
    for blob_id in blob_ids:
        connection.execute(
            delete(blob_references).where(
                blob_references.c.checkpoint_id == checkpoint_id, blob_references.c.blob_id == blob_id
            )
        )


def _new_row(
    *,
    kind: CheckpointKind,
    name: str,
    owner: Owner,
    source: Source,
    status: CheckpointStatus,
    store_id: str,
    claim: Claim,
) -> dict[str, Any]:
    time = now()
    checkpoint = Checkpoint(
        id=uuid.uuid4(),
        kind=kind,
        name=name,
        creator_user_id=owner.user_id,
        owner_org_id=owner.org_id,
        source=source,
        status=status,
        store_id=store_id,
        created_at=time,
        updated_at=time,
    )
    return row_of(checkpoint) | {"name_key": None} | claim.columns()


def row_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The columns that hold a checkpoint, its claim left out."""
    document: dict[str, Any] = plain(checkpoint)
    for name in ("facts", "job_name"):
        del document[name]
    return document | {
        "name_key": name_key(checkpoint.name) if checkpoint.kind is CheckpointKind.PUSHED else None,
        "source": json.dumps(document["source"]),
        "created_at": to_text(checkpoint.created_at),
        "updated_at": to_text(checkpoint.updated_at),
        "deleted_at": None if checkpoint.deleted_at is None else to_text(checkpoint.deleted_at),
        **_facts_columns(checkpoint.facts),
    }


def _facts_columns(facts: TrainingFacts) -> dict[str, Any]:
    document: dict[str, Any] = plain(facts)
    for name in ("inference_missing", "resumable_missing"):
        document[name] = json.dumps(document[name])
    return document


_FACTS = [one.name for one in fields(TrainingFacts)]
_SAME = ("name", "reason", "size", "file_count", "manifest_digest", "store_id", "node", "sequence", "is_protected")
"""Columns that hold a field as it is."""


def _checkpoint(row: RowMapping) -> Checkpoint:
    facts = {name: row[name] for name in _FACTS}
    for name in ("inference_missing", "resumable_missing"):
        facts[name] = tuple(json.loads(facts[name]))
    return Checkpoint(
        id=UUID(row["id"]),
        kind=CheckpointKind(row["kind"]),
        status=CheckpointStatus(row["status"]),
        creator_user_id=UUID(row["creator_user_id"]),
        owner_org_id=UUID(row["owner_org_id"]),
        source=_source(json.loads(row["source"])),
        parent_id=_uuid(row["parent_id"]),
        job_id=_uuid(row["job_id"]),
        job_name=row["job_name"] or "",
        facts=TrainingFacts(**facts),
        created_at=from_text(row["created_at"]),
        updated_at=from_text(row["updated_at"]),
        deleted_at=None if row["deleted_at"] is None else from_text(row["deleted_at"]),
        **{name: row[name] for name in _SAME},
    )


def _source(document: dict[str, Any]) -> Source:
    return Source(
        **document
        | {
            "from_local_files": tuple(document["from_local_files"]),
            "storage_provider_id": UUID(document["storage_provider_id"]),
        }
    )


def _uuid(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)
