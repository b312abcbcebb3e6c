"""What garbage collection asks of the catalog: what is purged, what is given up, and what that frees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from flexai.checkpoints.catalog.blobs import ARRIVED_BYTES
from flexai.checkpoints.catalog.changes import note
from flexai.checkpoints.catalog.checkpoint_rows import CHECKPOINT, checkpoint_of
from flexai.checkpoints.catalog.checkpoints import update_as_read
from flexai.checkpoints.catalog.database import Database, Record, batches, each_begun_again
from flexai.checkpoints.catalog.leases import NO_LEASE, is_held
from flexai.checkpoints.models import CheckpointStatus, now, to_text

_PURGEABLE = "store_id = :store_id AND status = 'deleting' AND deleted_at <= :before"

_UNFINISHED = """
    c.store_id = :store_id AND c.updated_at <= :before AND c.part_of IS NULL AND (
        c.status IN ('uploading', 'syncing')
        OR c.status = 'failed' AND EXISTS (SELECT 1 FROM blob_references r WHERE r.checkpoint_id = c.id)
    )
"""
"""Those that were given up before are left out, and so are parts, which go with their checkpoints."""

_COMMITS_KEPT = timedelta(days=1)
"""Longer than a process waits for its server to ask whether its commit was made (the setting ``patience``)."""


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
    """Every blob of the store: its bytes that arrived, and the checkpoints that refer to it."""

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


@each_begun_again
class Garbage:
    """What no checkpoint of one managed store needs any more."""

    def __init__(self, database: Database, store_id: str) -> None:
        self._database = database
        self.store_id = store_id

    def purgeable(self, *, before: datetime) -> dict[str, str]:
        """Checkpoints deleted before a time, by their ids: when each was changed last as far as the history tells.

        Ids that an earlier gc did not finish are among them.
        """
        query = f"""
            SELECT c.id, (SELECT MAX(h.at) FROM history h WHERE h.subject_id = c.id)
            FROM checkpoints c WHERE {_PURGEABLE}
        """
        with self._database.reading() as transaction:
            rows = transaction.rows(query, store_id=self.store_id, before=to_text(before))
        return {checkpoint_id: changed or "" for checkpoint_id, changed in rows}

    def purge_deleted(self, *, before: datetime, keep: Set[str] = frozenset()) -> list[str]:
        """Take the files and references of checkpoints deleted before a time, but for ``keep``; returns the ids of all.

        From here on such a checkpoint cannot come back. Ids that an earlier gc did not finish are returned again.
        """
        purge = f"UPDATE checkpoints SET manifest_digest = NULL WHERE {_PURGEABLE}"
        purge += " AND id NOT IN :keep RETURNING id" if keep else " RETURNING id"
        with self._database.writing() as transaction:
            # What it returns, not what a second look finds: another one may be deleted between.
            ids = transaction.column(purge, store_id=self.store_id, before=to_text(before), keep=sorted(keep))
            for batch in batches(ids):
                transaction.change("DELETE FROM files WHERE checkpoint_id IN :ids", ids=batch)
                transaction.change("DELETE FROM blob_references WHERE checkpoint_id IN :ids", ids=batch)
            return ids

    def known(self, ids: Iterable[str]) -> set[str]:
        """Which of the ids are those of checkpoints."""
        query = "SELECT id FROM checkpoints WHERE id IN :ids"
        with self._database.reading() as transaction:
            return {found for batch in batches(ids) for found in transaction.column(query, ids=batch)}

    def count_parts(self, ids: Sequence[str]) -> int:
        """How many of checkpoints are parts of others."""
        query = "SELECT COUNT(*) FROM checkpoints WHERE id IN :ids AND part_of IS NOT NULL"
        with self._database.reading() as transaction:
            return sum(int(transaction.value(query, ids=batch)) for batch in batches(ids))

    def plan(self, *, before: datetime, keep: Set[str] = frozenset()) -> PurgePlan:
        """What ``purge_deleted`` and ``give_up_abandoned`` would give up, but for ``keep``, and who needs the blobs."""
        query = f"""
            SELECT blobs.id, {ARRIVED_BYTES}, r.checkpoint_id
            FROM blobs LEFT JOIN blob_references r ON r.blob_id = blobs.id WHERE blobs.store_id = :store_id
        """
        sizes: dict[str, int] = {}
        users: dict[str, set[str]] = {}
        with self._database.reading() as transaction:
            deleted = f"{CHECKPOINT} WHERE c.id IN (SELECT id FROM checkpoints WHERE {_PURGEABLE})"
            rows = transaction.records(deleted, store_id=self.store_id, before=to_text(before))
            for blob_id, size, checkpoint_id in transaction.rows(query, store_id=self.store_id):
                sizes[blob_id] = size
                users.setdefault(blob_id, set()).update(() if checkpoint_id is None else (checkpoint_id,))
        rows = [row for row in rows if row["id"] not in keep]
        idle = [row for row in self._idle(before) if row["id"] not in keep]
        return PurgePlan(
            checkpoints=[_purgeable(row) for row in rows + idle if row["part_of"] is None],
            part_ids={row["id"] for row in rows if row["part_of"] is not None},
            uses={blob_id: (size, users[blob_id]) for blob_id, size in sizes.items()},
        )

    def forget(self, checkpoint_ids: Iterable[str]) -> None:
        """Remove the rows of purged checkpoints whose bytes are gone; the history tells that they are."""
        purged = "c.id IN :ids AND c.status = 'deleting' AND c.manifest_digest IS NULL"
        for batch in batches(checkpoint_ids):
            with self._database.writing() as transaction:
                rows = transaction.records(f"{CHECKPOINT} WHERE {purged}", ids=batch)
                titles = {row["id"]: checkpoint_of(row).title for row in rows if row["part_of"] is None}
                note(transaction, self._database.actor, "purge", "checkpoint", titles)
                transaction.change("DELETE FROM checkpoints WHERE id IN :ids", ids=[row["id"] for row in rows])

    def forget_commits(self) -> None:
        """Remove the rows of commits that no process will ask for any more; in SQLite there are none."""
        with self._database.writing() as transaction:
            transaction.change("DELETE FROM commits WHERE at < :before", before=to_text(now() - _COMMITS_KEPT))

    def abandoned(self, *, before: datetime) -> set[str]:
        """The pushes and captures that no process has worked on since a time, by their ids."""
        return {row["id"] for row in self._idle(before)}

    def give_up_abandoned(self, *, before: datetime, keep: Set[str] = frozenset()) -> list[str]:
        """Give up pushes and captures that no process has worked on since a time, but for ``keep``; returns their ids.

        No checkpoint refers to their blobs afterwards. The checkpoint stays, failed, and its name with it.
        """
        given_up = []
        for row in self._idle(before):
            if row["id"] in keep:
                continue
            reason = row["reason"] or "interrupted, and not continued within the grace period"
            with self._database.writing() as transaction:
                # One that another process has taken over meanwhile refers to what that found.
                if update_as_read(transaction, row, {"status": CheckpointStatus.FAILED, "reason": reason, **NO_LEASE}):
                    transaction.change("DELETE FROM blob_references WHERE checkpoint_id = :id", id=row["id"])
                    given_up.append(row["id"])
        return given_up

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
