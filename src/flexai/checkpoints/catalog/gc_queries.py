"""What garbage collection asks of the catalog: what is purged, what is given up, and what that frees."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime

from flexai.checkpoints.catalog.checkpoint_rows import CHECKPOINT, checkpoint_of
from flexai.checkpoints.catalog.checkpoints import update_as_read
from flexai.checkpoints.catalog.database import Database, Record, batches
from flexai.checkpoints.catalog.leases import HELD, NO_LEASE, Lease, is_held, update_held
from flexai.checkpoints.models import CheckpointStatus, to_text

_PURGEABLE = "store_id = :store_id AND status = 'deleting' AND deleted_at <= :before"

_UNFINISHED = """
    c.store_id = :store_id AND c.updated_at <= :before AND c.part_of IS NULL AND (
        c.status IN ('uploading', 'syncing')
        OR c.status = 'failed' AND EXISTS (SELECT 1 FROM blob_references r WHERE r.checkpoint_id = c.id)
    )
"""
"""Those that were given up before are left out, and so are parts, which go with their checkpoints."""


@dataclass(frozen=True, slots=True)
class Purgeable:
    """A checkpoint of which garbage collection would take something."""

    id: str
    title: str
    is_deleted: bool
    """Deleted, or else a push or capture that no process continued."""
    since: datetime
    """When it was deleted, or last worked on."""


@dataclass(frozen=True, slots=True)
class PurgePlan:
    """What garbage collection would do."""

    checkpoints: Sequence[Purgeable]
    part_ids: Set[str]
    """Parts of them, which go with them."""
    uses: Mapping[str, tuple[int, Set[str]]]
    """Every blob of the store: its bytes, and the checkpoints that refer to it."""

    @property
    def garbage(self) -> dict[str, int]:
        """The bytes of each blob that would go."""
        ids = self.part_ids | {one.id for one in self.checkpoints}
        return {blob_id: size for blob_id, (size, users) in self.uses.items() if users <= ids}

    @property
    def deleted(self) -> int:
        """Deleted checkpoints that would be gone for good."""
        return sum(one.is_deleted for one in self.checkpoints)

    @property
    def blobs(self) -> int:
        """Blobs that would go."""
        return len(self.garbage)


class Garbage:
    """What no checkpoint of one managed store needs any more."""

    def __init__(self, database: Database, store_id: str) -> None:
        self._database = database
        self.store_id = store_id

    def purge_deleted(self, *, before: datetime) -> list[str]:
        """Take the files and references of checkpoints deleted before a time; returns the ids of all so purged.

        From here on such a checkpoint cannot come back. Ids that an earlier gc did not finish are returned again.
        """
        purge = f"UPDATE checkpoints SET manifest_digest = NULL WHERE {_PURGEABLE} RETURNING id"
        with self._database.writing() as transaction:
            # What it returns, not what a second look finds: another one may be deleted between.
            ids = transaction.column(purge, store_id=self.store_id, before=to_text(before))
            for batch in batches(ids):
                transaction.change("DELETE FROM files WHERE checkpoint_id IN :ids", ids=batch)
                transaction.change("DELETE FROM blob_references WHERE checkpoint_id IN :ids", ids=batch)
            return ids

    def count_parts(self, ids: Sequence[str]) -> int:
        """How many of checkpoints are parts of others."""
        query = "SELECT COUNT(*) FROM checkpoints WHERE id IN :ids AND part_of IS NOT NULL"
        with self._database.reading() as transaction:
            return sum(int(transaction.value(query, ids=batch)) for batch in batches(ids))

    def plan(self, *, before: datetime) -> PurgePlan:
        """What ``purge_deleted`` and ``give_up_abandoned`` would give up, and the blobs that only those need."""
        query = """
            SELECT b.id, b.size, r.checkpoint_id
            FROM blobs b LEFT JOIN blob_references r ON r.blob_id = b.id WHERE b.store_id = :store_id
        """
        sizes: dict[str, int] = {}
        users: dict[str, set[str]] = {}
        with self._database.reading() as transaction:
            deleted = f"{CHECKPOINT} WHERE c.id IN (SELECT id FROM checkpoints WHERE {_PURGEABLE})"
            rows = transaction.records(deleted, store_id=self.store_id, before=to_text(before))
            for blob_id, size, checkpoint_id in transaction.rows(query, store_id=self.store_id):
                sizes[blob_id] = size
                users.setdefault(blob_id, set()).update(() if checkpoint_id is None else (checkpoint_id,))
        return PurgePlan(
            checkpoints=[_purgeable(row) for row in rows + self._idle(before) if row["part_of"] is None],
            part_ids={row["id"] for row in rows if row["part_of"] is not None},
            uses={blob_id: (size, users[blob_id]) for blob_id, size in sizes.items()},
        )

    def forget(self, checkpoint_id: str) -> None:
        """Remove the record of a purged checkpoint whose bytes are gone."""
        purged = "id = :id AND status = 'deleting' AND manifest_digest IS NULL"
        with self._database.writing() as transaction:
            transaction.change(f"DELETE FROM checkpoints WHERE {purged}", id=checkpoint_id)

    def give_up_abandoned(self, *, before: datetime, clean_up: Callable[[str], None] = lambda _: None) -> list[str]:
        """Give up pushes and captures that no process has worked on since a time; returns their ids.

        No checkpoint refers to their blobs afterwards. The checkpoint stays, failed, and its name with it. ``clean_up``
        is called with each one's id while no other process can continue it.
        """
        given_up = []
        for row in self._idle(before):
            lease = Lease.new()
            reason = row["reason"] or "interrupted, and not continued within the grace period"
            new = {"status": CheckpointStatus.FAILED, "reason": reason, **lease.columns()}
            with self._database.writing() as transaction:
                is_ours = update_as_read(transaction, row, new)
            if is_ours:
                self._give_up(row["id"], lease, clean_up)
                given_up.append(row["id"])
        return given_up

    def _give_up(self, checkpoint_id: str, lease: Lease, clean_up: Callable[[str], None]) -> None:
        try:
            clean_up(checkpoint_id)
            with self._database.writing() as transaction:
                # Only where the lease is still ours: a process that has taken the push over refers to what it found.
                ours = f"SELECT 1 FROM checkpoints WHERE {HELD}"
                if transaction.row(ours, id=checkpoint_id, token=lease.token):
                    transaction.change("DELETE FROM blob_references WHERE checkpoint_id = :id", id=checkpoint_id)
        finally:
            with self._database.writing() as transaction:
                update_held(transaction, "checkpoints", checkpoint_id, lease, NO_LEASE)

    def _idle(self, before: datetime) -> list[Record]:
        """Unfinished pushes and captures that no process works on."""
        with self._database.reading() as transaction:
            query = f"{CHECKPOINT} WHERE {_UNFINISHED}"
            rows = transaction.records(query, store_id=self.store_id, before=to_text(before))
        return [row for row in rows if not is_held(row)]


def _purgeable(row: Record) -> Purgeable:
    found = checkpoint_of(row)
    return Purgeable(
        id=row["id"],
        title=found.title,
        is_deleted=found.status is CheckpointStatus.DELETING,
        since=found.deleted_at or found.updated_at,
    )
