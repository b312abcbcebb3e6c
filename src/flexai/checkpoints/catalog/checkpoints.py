"""Checkpoints in the catalog: names, status changes, and the lease on an interrupted push.

Every change is one conditional statement or one transaction; what may not happen is refused by a constraint of the
database, not by a look before the write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from flexai.checkpoints.catalog.checkpoint_rows import (
    CHECKPOINT,
    CREATED_AT,
    LISTED,
    PUSHED,
    UNFINISHED,
    checkpoint_of,
    facts_columns,
    listed_of,
    pushed_of,
    row_of,
)
from flexai.checkpoints.catalog.database import ConstraintError, Database, Record, Transaction, batches
from flexai.checkpoints.catalog.leases import NO_LEASE, Lease, is_held, lease_end, update_held
from flexai.checkpoints.choosing import losses_of
from flexai.checkpoints.contents import CLAIMED, RECOVERED
from flexai.checkpoints.errors import AlreadyExistsError, ConflictError, NameTakenError, NotFoundError
from flexai.checkpoints.models import (
    MOST_METRICS,
    Checkpoint,
    CheckpointKind,
    CheckpointStatus,
    ExportRecord,
    ListedCheckpoint,
    ListedFile,
    ManifestSummary,
    Source,
    TrainingFacts,
    from_text,
    now,
    plain,
    to_text,
)
from flexai.checkpoints.names import Name, Reference, is_uuid, name_key, new_id, title_of

if TYPE_CHECKING:
    from flexai.checkpoints.owner import Owner

_AGAIN = "run the same command again"


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
    ) -> tuple[Checkpoint, Lease]:
        """Take a name for a push, or take over the unfinished push that holds it.

        Raises NameTakenError where the name's checkpoint is available, ConflictError where another owner
        or a live process holds it.
        """
        lease = Lease.new()
        row = _new_row(
            kind=CheckpointKind.PUSHED,
            name=name,
            owner=owner,
            source=source,
            status=status,
            store_id=store_id,
            lease=lease,
        )
        row |= {"name_key": name_key(name), "parent_id": parent_id}
        with lease.dropped_on_error():
            try:
                with self._database.writing() as transaction:
                    transaction.insert("checkpoints", row)
                return self.get_by_id(row["id"]), lease
            except ConstraintError:
                return self._take_over(
                    name, lease, owner=owner, source=source, status=status, store_id=store_id, parent_id=parent_id
                )

    def _take_over(
        self,
        name: Name,
        lease: Lease,
        *,
        owner: Owner,
        source: Source,
        status: CheckpointStatus,
        store_id: str,
        parent_id: str | None,
    ) -> tuple[Checkpoint, Lease]:
        row = self._row("c.name_key = :key", key=name_key(name))
        busy = ConflictError(f"checkpoint {name!r} is being pushed or deleted by another process")
        if row is None:
            raise busy  # deleted between the two statements
        _check_can_continue(row, owner)
        new = {
            "name": name,
            "status": status,
            "reason": "",
            "source": json.dumps(plain(source)),
            "store_id": store_id,
            "parent_id": parent_id,
            "updated_at": to_text(now()),
            **lease.columns(),
        }
        with self._database.writing() as transaction:
            if not update_as_read(transaction, row, new):
                raise busy
        return self.get_by_id(row["id"]), lease

    def find_push(self, name: Name, *, owner: Owner) -> Checkpoint | None:
        """The unfinished push that ``begin_push`` would take over; None where the name is free.

        Raises what ``begin_push`` raises.
        """
        row = self._row("c.name_key = :key", key=name_key(name))
        if row is None:
            return None
        _check_can_continue(row, owner)
        return checkpoint_of(row)

    def begin_capture(
        self, *, job_id: str, name: str, node: str, owner: Owner, source: Source, store_id: str, parent_id: str | None
    ) -> tuple[Checkpoint, Lease]:
        """Announce a checkpoint that a training job wrote; its place in the job's order is given here."""
        lease = Lease.new()
        row = _new_row(
            kind=CheckpointKind.CAPTURED,
            name=name,
            owner=owner,
            source=source,
            status=CheckpointStatus.UPLOADING,
            store_id=store_id,
            lease=lease,
        )
        with lease.dropped_on_error(), self._database.writing() as transaction:
            # The job's row serialises captures of one job, so that no two get one number.
            transaction.update("jobs", {"updated_at": to_text(now())}, "id = :id", id=job_id)
            last = transaction.value("SELECT MAX(sequence) FROM checkpoints WHERE job_id = :job_id", job_id=job_id)
            row |= {"job_id": job_id, "node": node, "parent_id": parent_id, "sequence": (last or 0) + 1}
            transaction.insert("checkpoints", row)
        return self.get_by_id(row["id"]), lease

    def continue_capture(self, checkpoint_id: str) -> tuple[Checkpoint, Lease] | None:
        """Go on with a capture that was given up or cut off: it keeps its place in the order, and what has arrived.

        None where it is gone, or another process has gone on with it.
        """
        row = self._row("c.id = :id AND c.deleted_at IS NULL", id=checkpoint_id)
        if row is None or checkpoint_of(row).status is not CheckpointStatus.FAILED:
            return None
        lease = Lease.new()
        new = {"status": CheckpointStatus.UPLOADING, "reason": "", "updated_at": to_text(now()), **lease.columns()}
        with lease.dropped_on_error(), self._database.writing() as transaction:
            if not update_as_read(transaction, row, new):
                return None
        return self.get_by_id(checkpoint_id), lease

    def renew(self, checkpoint_id: str, lease: Lease) -> bool:
        """Extend the lease; False where it is no longer ours."""
        with self._database.writing() as transaction:
            return bool(update_held(transaction, "checkpoints", checkpoint_id, lease, {"claim_until": lease_end()}))

    def commit(
        self,
        checkpoint_id: str,
        lease: Lease,
        *,
        manifest: ManifestSummary,
        content_ids: Mapping[str, int],
        blob_ids: set[str],
        facts: TrainingFacts | None = None,
    ) -> Checkpoint:
        """Say that a checkpoint is available: its files, its size and its manifest's digest, in one transaction.

        References to blobs that only earlier tries needed are dropped. Raises ConflictError where the lease, or the
        reference to a blob, is lost.
        """
        new = described(manifest, facts or TrainingFacts()) | NO_LEASE
        with self._database.writing() as transaction:
            if not update_held(transaction, "checkpoints", checkpoint_id, lease, new):
                raise lost(checkpoint_id)
            enter_files(transaction, checkpoint_id, content_ids, blob_ids)
        return self.get_by_id(checkpoint_id)

    def add_metrics(self, job_id: str, by_step: Mapping[int, Mapping[str, float]], *, since: datetime) -> None:
        """Add to the checkpoints that a job captured since a time what was measured at their steps.

        What a checkpoint tells already stays as it is.
        """
        query = """
            SELECT id, step, metrics, train_loss, eval_loss FROM checkpoints
            WHERE job_id = :job_id AND deleted_at IS NULL AND status = 'available' AND created_at >= :since
        """
        with self._database.reading() as transaction:
            rows = transaction.records(query, job_id=job_id, since=to_text(since))
        changed: dict[str, tuple[str, dict[str, Any]]] = {}
        for row in rows:
            own = json.loads(row["metrics"])
            more = {name: value for name, value in by_step.get(row["step"], {}).items() if name not in own}
            if more and len(own) < MOST_METRICS:
                metrics = dict(list((own | more).items())[:MOST_METRICS])
                losses = zip(("train_loss", "eval_loss"), losses_of(metrics), strict=True)
                new = {name: loss for name, loss in losses if row[name] is None}
                changed[row["id"]] = (row["metrics"], new | {"metrics": json.dumps(metrics)})
        if changed:
            with self._database.writing() as transaction:
                for checkpoint_id, (read, values) in changed.items():
                    transaction.update_as_read("checkpoints", values, {"id": checkpoint_id, "metrics": read})

    def report(self, checkpoint_id: str, facts: TrainingFacts) -> Checkpoint:
        """Record what the trainer has reported of a checkpoint that is there already."""
        columns = facts_columns(facts)
        told = {name: columns[name] for name in ("step", "metrics", "train_loss", "eval_loss", "reported")}
        with self._database.writing() as transaction:
            transaction.update("checkpoints", told, "id = :id", id=checkpoint_id)
        return self.get_by_id(checkpoint_id)

    def fail(self, checkpoint_id: str, lease: Lease, reason: str) -> None:
        """Give up a push or a capture for now; what has arrived stays for the next try."""
        self._change_held(
            checkpoint_id, lease, status=CheckpointStatus.FAILED, reason=reason, updated_at=to_text(now()), **NO_LEASE
        )

    def discard_failed(self, checkpoint_id: str) -> None:
        """Undo the announcement of a capture that turned out to be no checkpoint; its blobs are gc's."""
        with self._database.writing() as transaction:
            transaction.change(
                "DELETE FROM checkpoints"
                " WHERE id = :id AND status = 'failed' AND claim_token IS NULL AND part_of IS NULL AND parts = 0",
                id=checkpoint_id,
            )

    def set_pointers(self, checkpoint_id: str, pointers: Sequence[str]) -> None:
        """Record what links and files of its trainer call a checkpoint."""
        with self._database.writing() as transaction:
            transaction.update("checkpoints", {"pointers": json.dumps(list(pointers))}, "id = :id", id=checkpoint_id)

    def get(self, reference: Reference) -> Checkpoint:
        """The checkpoint that a reference means; NotFoundError where there is none, or only a deleted one."""
        row = self._row(f"c.deleted_at IS NULL AND {_means(reference)}", **_meant(reference))
        if row is None:
            raise not_found(reference)
        return checkpoint_of(row)

    def get_by_id(self, checkpoint_id: str) -> Checkpoint:
        """The checkpoint of an id, deleted or not."""
        row = self._row("c.id = :id", id=checkpoint_id)
        if row is None:
            raise NotFoundError(f"there is no checkpoint {checkpoint_id}")
        return checkpoint_of(row)

    def names_of(self, checkpoint_ids: Sequence[str]) -> dict[str, str]:
        """What to call checkpoints: their names, or ``JOB/NAME`` for captured ones."""
        found = self._all("c.id IN :ids", ids=list(checkpoint_ids))
        return {found_one.id: found_one.title for found_one in found}

    def of_job(self, job_id: str) -> list[Checkpoint]:
        """The checkpoints of a job that are not deleted, in the order of their capture."""
        return self._all("c.job_id = :job_id AND c.deleted_at IS NULL ORDER BY c.sequence", job_id=job_id)

    def of_store(self, store_id: str) -> list[Checkpoint]:
        """Every checkpoint of a managed store but for parts, deleted ones that are still there included."""
        return self._all("c.store_id = :store_id AND c.part_of IS NULL", store_id=store_id)

    def list_pushed(self) -> list[ListedCheckpoint]:
        """The checkpoints that users pushed, oldest first."""
        with self._database.reading() as transaction:
            # Not ORDER BY: by the rules of a language that takes PostgreSQL longer than all the rest.
            rows = sorted(transaction.rows(PUSHED), key=itemgetter(CREATED_AT, 0))
        return list(pushed_of(rows))

    def list_captured(self, job_id: str) -> list[ListedCheckpoint]:
        """The checkpoints that a job wrote, in the order of their capture."""
        return self._list("c.job_id = :job_id AND c.deleted_at IS NULL ORDER BY c.sequence", job_id=job_id)

    def list_deleted(self) -> list[ListedCheckpoint]:
        """The deleted checkpoints that can still come back, captured ones too; the longest deleted first."""
        can_come_back = "c.deleted_at IS NOT NULL AND c.manifest_digest IS NOT NULL AND c.part_of IS NULL"
        return self._list(f"{can_come_back} ORDER BY c.deleted_at, c.id")

    def pushed_names(self) -> list[str]:
        """The names of pushed checkpoints."""
        with self._database.reading() as transaction:
            return transaction.column("SELECT name FROM checkpoints WHERE kind = 'pushed' AND deleted_at IS NULL")

    def captured_titles(self) -> dict[str, str]:
        """What to call the captured checkpoints that can be used, by their ids, newest first."""
        query = """
            SELECT c.id, j.name, c.name FROM checkpoints c JOIN jobs j ON j.id = c.job_id
            WHERE c.kind = 'captured' AND c.status = 'available' ORDER BY c.created_at DESC
        """
        with self._database.reading() as transaction:
            rows = transaction.rows(query)
        return {checkpoint_id: title_of("captured", name, job) for checkpoint_id, job, name in rows}

    def list_files(self, checkpoint_id: str) -> list[ListedFile]:
        """The files of a checkpoint, in order of their paths."""
        query = """
            SELECT f.path, t.size, t.digest, t.checksums, t.origin FROM files f JOIN contents t ON t.id = f.content_id
            WHERE f.checkpoint_id = :id
        """
        with self._database.reading() as transaction:
            rows = transaction.rows(query, id=checkpoint_id)
        # Not ORDER BY: PostgreSQL orders texts by its locale.
        return sorted(
            # Nearly all have no checksums, and parsing that would take longer than all the rest.
            (
                ListedFile(path, size, digest, {} if checksums == "{}" else json.loads(checksums))
                if digest is None or origin != RECOVERED
                else ListedFile(path, size, None, {CLAIMED: digest})
                for path, size, digest, checksums, origin in rows
            ),
            key=itemgetter(0),
        )

    def cut_off(self, job_id: str) -> list[Checkpoint]:
        """The captures of a job that were under way when their runner died."""
        with self._database.reading() as transaction:
            query = f"{CHECKPOINT} WHERE c.job_id = :job_id AND c.deleted_at IS NULL"
            rows = transaction.records(query, job_id=job_id)
        return [checkpoint_of(row) for row in rows if row["status"] in UNFINISHED and not is_held(row)]

    def protect(self, references: Sequence[Reference], *, protected: bool = True) -> list[Checkpoint]:
        """Keep checkpoints from being deleted, or take that back; all of them or, where one is not there, none.

        Raises NotFoundError where there is none of that reference, ConflictError for one that is not available.
        """
        ids = []
        available = "id = :id AND status = 'available'"
        with self._database.writing() as transaction:
            for reference in references:
                query = f"SELECT c.id FROM checkpoints c WHERE c.deleted_at IS NULL AND {_means(reference)}"
                checkpoint_id = transaction.value(query, **_meant(reference))
                if checkpoint_id is None:
                    raise not_found(reference)
                if not transaction.update("checkpoints", {"is_protected": protected}, available, id=checkpoint_id):
                    raise ConflictError(
                        f"checkpoint {reference} is not available, so there is nothing to protect",
                        hint="finish its push first: run the same push again",
                    )
                ids.append(checkpoint_id)
        return [self.get_by_id(checkpoint_id) for checkpoint_id in ids]

    def delete(self, reference: Reference, *, check: Callable[[Transaction, Record], None] | None = None) -> Checkpoint:
        """Free the name at once and leave the bytes to gc.

        ``check`` is called with its row while no other process can change it, and keeps it by raising ConflictError.
        Raises NotFoundError where there is none (any more), ConflictError while a process pushes it, and for a
        protected one.
        """
        checkpoint = self.get(reference)
        new = {
            "status": CheckpointStatus.DELETING,
            "name_key": None,
            "deleted_at": to_text(now()),
            "updated_at": to_text(now()),
            **NO_LEASE,
        }
        with self._database.writing() as transaction:
            # Locked first, in a statement of its own: what is looked at below is what others have committed.
            lock = transaction.locking("FOR UPDATE OF c")
            row = transaction.record(f"{CHECKPOINT} WHERE c.id = :id {lock}", id=checkpoint.id)
            if row is None:
                raise not_found(reference)
            _check_can_go(row, reference)
            if check is not None:
                check(transaction, row)
            if not transaction.update("checkpoints", new, "id = :id AND deleted_at IS NULL", id=row["id"]):
                raise not_found(reference)
            transaction.update("checkpoints", new, "part_of = :id AND deleted_at IS NULL", id=row["id"])
        return self.get_by_id(checkpoint.id)

    def find_deletable(self, reference: Reference) -> Checkpoint:
        """The checkpoint that ``delete`` would delete; raises what that raises."""
        checkpoint = self.get(reference)
        row = self._row("c.id = :id", id=checkpoint.id)
        if row is None:
            raise not_found(reference)
        _check_can_go(row, reference)
        return checkpoint

    def undelete(self, reference: Reference, *, new_name: Name | None = None) -> Checkpoint:
        """Bring back a deleted checkpoint whose bytes gc has not taken, the newest one where several had the name.

        Raises NotFoundError where there is none, AlreadyExistsError where the name is in use again.
        """
        if reference.job:
            meant = f"c.kind = 'captured' AND c.name = :path AND {_of_job('j', reference)}"
        else:
            meant = "c.id = :id" if reference.id else "c.kind = 'pushed' AND LOWER(c.name) = :key"
        deleted = "c.status = 'deleting' AND c.manifest_digest IS NOT NULL AND c.part_of IS NULL"
        row = self._row(f"{deleted} AND {meant} ORDER BY c.deleted_at DESC LIMIT 1", **_meant(reference))
        if row is None:
            raise NotFoundError(
                f"there is no deleted checkpoint {reference.text!r} that could come back",
                hint="flexai checkpoint list --deleted shows which can",
            )
        name = new_name or row["name"]
        new = {
            "status": CheckpointStatus.AVAILABLE,
            "name": name,
            "name_key": name_key(name) if row["kind"] == CheckpointKind.PUSHED else None,
            "deleted_at": None,
            "updated_at": to_text(now()),
        }
        can_come_back = "id = :id AND status = 'deleting' AND manifest_digest IS NOT NULL"
        try:
            with self._database.writing() as transaction:
                if not transaction.update("checkpoints", new, can_come_back, id=row["id"]):
                    raise not_found(reference)
                again = {name: new[name] for name in ("status", "deleted_at", "updated_at")}
                parts = "part_of = :id AND status = 'deleting' AND manifest_digest IS NOT NULL"
                transaction.update("checkpoints", again, parts, id=row["id"])
        except ConstraintError:
            raise AlreadyExistsError(
                f"the name {name!r} is in use again",
                hint=f"flexai checkpoint undelete {row['id']} --name ANOTHER-NAME",
            ) from None
        return self.get_by_id(row["id"])

    def record_export(self, record: ExportRecord) -> None:
        """Record an export; one to the same place replaces the earlier record."""
        row = {
            "id": record.id,
            "checkpoint_id": record.checkpoint_id,
            "storage_provider": record.storage_provider,
            "destination_path": record.destination_path,
            "manifest_digest": record.manifest_digest,
            "exported_at": to_text(record.exported_at),
        }
        again = """
            ON CONFLICT (checkpoint_id, storage_provider, destination_path) DO UPDATE SET
                id = excluded.id, manifest_digest = excluded.manifest_digest, exported_at = excluded.exported_at
        """
        with self._database.writing() as transaction:
            transaction.insert("exports", row, otherwise=again)

    def exports_of(self, checkpoint_id: str) -> list[ExportRecord]:
        """Where a checkpoint was exported, oldest first."""
        query = "SELECT * FROM exports WHERE checkpoint_id = :id ORDER BY exported_at"
        with self._database.reading() as transaction:
            rows = transaction.records(query, id=checkpoint_id)
        return [
            ExportRecord(
                id=row["id"],
                checkpoint_id=row["checkpoint_id"],
                storage_provider=row["storage_provider"],
                destination_path=row["destination_path"],
                manifest_digest=row["manifest_digest"],
                exported_at=from_text(row["exported_at"]),
            )
            for row in rows
        ]

    def size_exported_to(self, storage_provider: str, destination_path: str) -> tuple[int, int]:
        """Bytes, and number of files, of the largest checkpoints that were exported to a place; zeros for none."""
        query = """
            SELECT COALESCE(MAX(c.size), 0), COALESCE(MAX(c.file_count), 0)
            FROM exports e JOIN checkpoints c ON c.id = e.checkpoint_id
            WHERE e.storage_provider = :storage_provider AND e.destination_path = :destination_path
        """
        place = {"storage_provider": storage_provider, "destination_path": destination_path}
        with self._database.reading() as transaction:
            size, file_count = transaction.row(query, **place) or (0, 0)
        return int(size), int(file_count)

    def _list(self, where: str, **values: Any) -> list[ListedCheckpoint]:
        with self._database.reading() as transaction:
            rows = transaction.rows(f"{LISTED} WHERE {where}", **values)
        return [listed_of(row) for row in rows]

    def _row(self, where: str, **values: Any) -> Record | None:
        with self._database.reading() as transaction:
            return transaction.record(f"{CHECKPOINT} WHERE {where}", **values)

    def _all(self, where: str, **values: Any) -> list[Checkpoint]:
        with self._database.reading() as transaction:
            rows = transaction.records(f"{CHECKPOINT} WHERE {where}", **values)
        return [checkpoint_of(row) for row in rows]

    def _change_held(self, checkpoint_id: str, lease: Lease, **values: Any) -> None:
        with self._database.writing() as transaction:
            if not update_held(transaction, "checkpoints", checkpoint_id, lease, values):
                raise lost(checkpoint_id)


def described(manifest: ManifestSummary, facts: TrainingFacts) -> dict[str, Any]:
    """The columns of a checkpoint that becomes available now."""
    return {
        "status": CheckpointStatus.AVAILABLE,
        "reason": "",
        "size": manifest.size,
        "file_count": manifest.file_count,
        "manifest_digest": manifest.digest,
        "updated_at": to_text(now()),
        **facts_columns(facts),
    }


def enter_files(
    transaction: Transaction, checkpoint_id: str, content_ids: Mapping[str, int], blob_ids: set[str]
) -> None:
    """Enter a checkpoint's files in place of those that it has, and drop references to blobs that it does not need.

    Raises ConflictError where the reference to a blob is lost.
    """
    rows = [
        {"checkpoint_id": checkpoint_id, "path": path, "content_id": content_id}
        for path, content_id in content_ids.items()
    ]
    transaction.change("DELETE FROM files WHERE checkpoint_id = :id", id=checkpoint_id)
    transaction.insert("files", *rows)
    held = set(transaction.column("SELECT blob_id FROM blob_references WHERE checkpoint_id = :id", id=checkpoint_id))
    if not blob_ids <= held:
        # gc may take a blob without a reference, so nothing available may rest on one.
        raise ConflictError(f"content of checkpoint {checkpoint_id} was given up meanwhile", hint=_AGAIN)
    for batch in batches(held - blob_ids):
        transaction.change(
            "DELETE FROM blob_references WHERE checkpoint_id = :id AND blob_id IN :blob_ids",
            id=checkpoint_id,
            blob_ids=batch,
        )


def update_as_read(transaction: Transaction, row: Record, new: Mapping[str, Any]) -> int:
    """Set columns of a checkpoint; 0 where another process has changed it since its row was read."""
    read = {name: row[name] for name in ("id", "status", "claim_token")}
    return transaction.update_as_read("checkpoints", new, read)


def _check_can_continue(row: Record, owner: Owner) -> None:
    """Raise NameTakenError for a checkpoint that is available, ConflictError for one that others push."""
    existing = checkpoint_of(row)
    if existing.status is CheckpointStatus.AVAILABLE:
        raise NameTakenError(existing)
    if existing.creator_user_id != owner.user_id:
        raise ConflictError(f"checkpoint {existing.name!r} is being pushed by another owner")
    holder = Lease.of_row(row)
    if holder is not None and holder.is_alive:
        raise ConflictError(f"checkpoint {existing.name!r} is being pushed by {holder.holder}")


def _check_can_go(row: Record, reference: Reference) -> None:
    """Raise ConflictError for a checkpoint that is protected or being pushed, and for a part of one."""
    if row["part_of"]:
        raise ConflictError(
            f"checkpoint {reference} is a part of another one, and goes with it",
            hint=f"flexai checkpoint delete {row['part_of']}",
        )
    if row["is_protected"]:
        raise ConflictError(
            f"checkpoint {checkpoint_of(row).title!r} is protected",
            hint=f"flexai checkpoint unprotect {reference} lets it be deleted",
        )
    holder = Lease.of_row(row)
    if holder is not None and holder.is_alive:
        raise ConflictError(f"checkpoint {reference} is being pushed by {holder.holder}", hint="stop that push first")


def not_found(reference: Reference) -> NotFoundError:
    """The one error for "not there", whether it never was or was deleted."""
    hint = f"flexai training checkpoints {reference.job} shows what that job captured" if reference.job else None
    return NotFoundError(f"there is no checkpoint {reference.text!r}", hint=hint)


def lost(checkpoint_id: str) -> ConflictError:
    """What a process is told whose lease is another one's by now."""
    return ConflictError(f"another process has taken over checkpoint {checkpoint_id} meanwhile")


def _means(reference: Reference) -> str:
    if not reference.job:
        return "c.id = :id" if reference.id else "c.name_key = :key"
    # Of those that were written under one path it is what was there last and can be used.
    return f"""
        c.id = (
            SELECT p.id FROM checkpoints p JOIN jobs q ON q.id = p.job_id
            WHERE p.kind = 'captured' AND p.name = :path AND p.deleted_at IS NULL AND {_of_job("q", reference)}
            ORDER BY CASE WHEN p.status = 'available' THEN 0 ELSE 1 END, p.sequence DESC LIMIT 1
        )
    """


def _of_job(table: str, reference: Reference) -> str:
    """The condition that a job is that of a ``JOB/PATH``. A deleted job is known by its UUID alone."""
    return f"{table}.id = :job" if is_uuid(reference.job) else f"{table}.name_key = :job"


def _meant(reference: Reference) -> dict[str, str]:
    """The values of the condition that ``_means`` gives."""
    if reference.job:
        return {"job": name_key(reference.job), "path": reference.path}
    return {"id": reference.id} if reference.id else {"key": name_key(reference.text)}


def _new_row(
    *,
    kind: CheckpointKind,
    name: str,
    owner: Owner,
    source: Source,
    status: CheckpointStatus,
    store_id: str,
    lease: Lease,
) -> dict[str, Any]:
    time = now()
    checkpoint = Checkpoint(
        id=new_id(),
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
    return row_of(checkpoint) | {"name_key": None} | lease.columns()
