"""Checkpoints in the catalog: names, status changes, and the lease on an interrupted push.

Every change is one conditional statement or one transaction; what may not happen is refused by a constraint of the
database, not by a look before the write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flexai.checkpoints.catalog.changes import changing
from flexai.checkpoints.catalog.checkpoint_queries import CheckpointQueries
from flexai.checkpoints.catalog.checkpoint_rows import CHECKPOINT, checkpoint_of, facts_columns, row_of
from flexai.checkpoints.catalog.database import ConstraintError, Record, Transaction, batches, each_begun_again
from flexai.checkpoints.catalog.identity import organisation
from flexai.checkpoints.catalog.leases import NO_LEASE, Lease, lease_end, update_held
from flexai.checkpoints.catalog.meaning import is_of_job, not_found
from flexai.checkpoints.choosing import losses_of
from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.errors import AlreadyExistsError, CheckpointError, ConflictError, NameTakenError, NotFoundError
from flexai.checkpoints.models import (
    MOST_METRICS,
    Checkpoint,
    CheckpointKind,
    CheckpointStatus,
    ManifestSummary,
    Source,
    TrainingFacts,
    now,
    plain,
    to_text,
)
from flexai.checkpoints.names import Name, Reference, name_key, new_id

if TYPE_CHECKING:
    from flexai.checkpoints.owner import Owner

_AGAIN = "run the same command again"


@each_begun_again
class Checkpoints(CheckpointQueries):
    """The checkpoints of a catalog."""

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
                    row["owner_org_id"] = organisation(transaction, owner.org_id)
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
            row["owner_org_id"] = organisation(transaction, owner.org_id)
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
        files: Sequence[StoredFile],
        facts: TrainingFacts | None = None,
        time: datetime | None = None,
    ) -> Checkpoint:
        """Say that a checkpoint is available: its files, its size and its manifest's digest, in one transaction.

        ``time`` is what its manifest says, the present by default. References to blobs that only earlier tries needed
        are dropped. Raises ConflictError where the lease, or the
        reference to a blob, is lost.
        """
        new = described(manifest, facts or TrainingFacts(), time) | NO_LEASE
        with changing(self._database, "", [checkpoint_id], record="none") as transaction:
            if not update_held(transaction, "checkpoints", checkpoint_id, lease, new):
                raise lost(checkpoint_id)
            enter_files(transaction, checkpoint_id, files)
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
            with changing(self._database, "measure", list(changed), record="later") as transaction:
                for checkpoint_id, (read, values) in changed.items():
                    transaction.update_as_read("checkpoints", values, {"id": checkpoint_id, "metrics": read})

    def report(self, checkpoint_id: str, facts: TrainingFacts) -> Checkpoint:
        """Record what the trainer has reported of a checkpoint that is there already."""
        columns = facts_columns(facts)
        told = {name: columns[name] for name in ("step", "metrics", "train_loss", "eval_loss", "reported")}
        with changing(self._database, "report", [checkpoint_id], record="later") as transaction:
            transaction.update("checkpoints", told, "id = :id", id=checkpoint_id)
        return self.get_by_id(checkpoint_id)

    def fail(self, checkpoint_id: str, lease: Lease, reason: str) -> None:
        """Give up a push or a capture for now; what has arrived stays for the next try."""
        self._change_held(
            checkpoint_id, lease, status=CheckpointStatus.FAILED, reason=reason, updated_at=to_text(now()), **NO_LEASE
        )

    def discard_failed(self, checkpoint_id: str, *, unless_arrived: bool = False) -> None:
        """Undo the announcement of what turned out to be no checkpoint; its blobs are gc's.

        With ``unless_arrived`` it stays where something of it has arrived, for the next try to go on with.
        """
        arrived = """
            AND NOT EXISTS (
                SELECT 1 FROM blob_references r
                WHERE r.checkpoint_id = :id AND (
                    EXISTS (SELECT 1 FROM contents t WHERE t.blob_id = r.blob_id)
                    OR EXISTS (SELECT 1 FROM blob_parts p WHERE p.blob_id = r.blob_id)
                )
            )
        """
        with self._database.writing() as transaction:
            transaction.change(
                "DELETE FROM checkpoints WHERE id = :id AND status = 'failed' AND claim_token IS NULL"
                f" AND part_of IS NULL AND parts = 0 {arrived if unless_arrived else ''}",
                id=checkpoint_id,
            )

    def set_pointers(self, checkpoint_id: str, pointers: Sequence[str]) -> None:
        """Record what links and files of its trainer call a checkpoint."""
        with changing(self._database, "point", [checkpoint_id], record="later") as transaction:
            transaction.update("checkpoints", {"pointers": json.dumps(list(pointers))}, "id = :id", id=checkpoint_id)

    def protect(
        self,
        references: Sequence[Reference],
        *,
        protected: bool = True,
        check: Callable[[Transaction, Record], None] | None = None,
    ) -> list[Checkpoint]:
        """Keep checkpoints from being deleted, or take that back; all of them or, where one is not there, none.

        ``check`` is that of ``delete``. Raises NotFoundError where there is none of that reference, ConflictError for
        one that is not available.
        """
        ids = [self.get(reference).id for reference in references]
        available = "id = :id AND status = 'available'"
        with changing(self._database, "protect" if protected else "unprotect", ids) as transaction:
            for reference, checkpoint_id in zip(references, ids, strict=True):
                row = transaction.record(f"{CHECKPOINT} WHERE c.id = :id", id=checkpoint_id)
                if row is not None and check is not None:
                    check(transaction, row)
                if not transaction.update("checkpoints", {"is_protected": protected}, available, id=checkpoint_id):
                    raise ConflictError(
                        f"checkpoint {reference} is not available, so there is nothing to protect",
                        hint="finish its push first: run the same push again",
                    )
        return [self.get_by_id(checkpoint_id) for checkpoint_id in ids]

    def delete(self, reference: Reference, *, check: Callable[[Transaction, Record], None] | None = None) -> Checkpoint:
        """Free the name at once and leave the bytes to gc.

        ``check`` is called with its row while no other process can change it, and keeps it by raising ConflictError.
        Raises NotFoundError where there is none (any more), ConflictError while a process pushes it, and for a
        protected one.
        """

        def refused(_: str, error: CheckpointError) -> None:
            raise error

        (gone,) = self.delete_each({self.get(reference).id: reference}, check=check, refused=refused)
        return gone

    def delete_each(
        self,
        references: Mapping[str, Reference],
        *,
        check: Callable[[Transaction, Record], None] | None = None,
        refused: Callable[[str, CheckpointError], None],
    ) -> list[Checkpoint]:
        """Delete checkpoints, by their ids, in one transaction; returns those that are gone.

        ``refused`` is told why another one stays, by its id: the error that ``delete`` would raise. ``check`` is that
        of ``delete``.
        """
        time = to_text(now())
        new = {
            "status": CheckpointStatus.DELETING,
            "name_key": None,
            "deleted_at": time,
            "updated_at": time,
            **NO_LEASE,
        }
        with changing(self._database, "delete", sorted(references)) as transaction:
            # Their rows are locked by now, so that what is looked at is what others have committed.
            ids, query = [], f"{CHECKPOINT} WHERE c.deleted_at IS NULL AND c.id IN :ids"
            rows = {row["id"]: row for batch in batches(references) for row in transaction.records(query, ids=batch)}
            for checkpoint_id, reference in references.items():
                try:
                    if checkpoint_id not in rows:
                        raise not_found(reference)
                    _check_can_go(rows[checkpoint_id], reference)
                    if check is not None:
                        check(transaction, rows[checkpoint_id])
                except (ConflictError, NotFoundError) as error:
                    refused(checkpoint_id, error)
                else:
                    ids.append(checkpoint_id)
            for batch in batches(ids):
                for column in ("id", "part_of"):
                    transaction.update("checkpoints", new, f"{column} IN :ids AND deleted_at IS NULL", ids=batch)
        return [checkpoint_of(rows[checkpoint_id] | new) for checkpoint_id in ids]

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
        deleted = "c.status = 'deleting' AND c.manifest_digest IS NOT NULL AND c.part_of IS NULL"

        def condition(one: Reference) -> str:
            was = "c.id = :id" if one.id else "c.kind = 'pushed' AND LOWER(c.name) = :key"
            if one.job:
                was = f"c.kind = 'captured' AND c.name = :path AND {is_of_job('j', one)}"
            return f"{deleted} AND {was} ORDER BY c.deleted_at DESC LIMIT 1"

        row = self._meant(reference, condition, among=deleted)
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
            with changing(self._database, "undelete", [row["id"]]) as transaction:
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

    def _change_held(self, checkpoint_id: str, lease: Lease, **values: Any) -> None:
        with self._database.writing() as transaction:
            if not update_held(transaction, "checkpoints", checkpoint_id, lease, values):
                raise lost(checkpoint_id)


def described(manifest: ManifestSummary, facts: TrainingFacts, time: datetime | None = None) -> dict[str, Any]:
    """The columns of a checkpoint that becomes available at a time, now by default."""
    return {
        "status": CheckpointStatus.AVAILABLE,
        "reason": "",
        "size": manifest.size,
        "file_count": manifest.file_count,
        "manifest_digest": manifest.digest,
        "folders": json.dumps(list(manifest.folders)),
        "updated_at": to_text(time or now()),
        **facts_columns(facts),
    }


def enter_files(transaction: Transaction, checkpoint_id: str, files: Sequence[StoredFile]) -> None:
    """Enter a checkpoint's files in place of those that it has, and drop references to blobs that it does not need.

    Raises ConflictError where the reference to a blob is lost.
    """
    blob_ids = {file.content.blob_id for file in files}
    transaction.change("DELETE FROM files WHERE checkpoint_id = :id", id=checkpoint_id)
    for some in batches(files):  # the rows of 100,000 files would take 30 MB
        rows = [
            {
                "checkpoint_id": checkpoint_id,
                "path": file.path,
                "content_id": file.content.id,
                "is_executable": file.is_executable,
            }
            for file in some
        ]
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
    if not owner.is_user(existing.creator_user_id):
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


def lost(checkpoint_id: str) -> ConflictError:
    """What a process is told whose lease is another one's by now."""
    return ConflictError(f"another process has taken over checkpoint {checkpoint_id} meanwhile")


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
        creator=owner.name,
        source=source,
        status=status,
        store_id=store_id,
        created_at=time,
        updated_at=time,
    )
    return row_of(checkpoint) | {"name_key": None} | lease.columns()
