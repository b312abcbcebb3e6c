"""Reading checkpoints: by what references mean, of jobs and stores, and as lists show them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from flexai.checkpoints.catalog.checkpoint_rows import (
    CHECKPOINT,
    CREATED_AT,
    LISTED,
    PUSHED,
    UNFINISHED,
    checkpoint_of,
    export_of,
    listed_of,
    pushed_of,
)
from flexai.checkpoints.catalog.database import Database, Record
from flexai.checkpoints.catalog.leases import is_held
from flexai.checkpoints.catalog.meaning import HERE, means, meant, nothing_like, spelled_out
from flexai.checkpoints.contents import CLAIMED, RECOVERED
from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.models import Checkpoint, ExportRecord, ListedCheckpoint, ListedFile
from flexai.checkpoints.names import Reference, title_of


class CheckpointQueries:
    """What can be asked about the checkpoints of a catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, reference: Reference) -> Checkpoint:
        """The checkpoint that a reference means; NotFoundError where there is none, or only a deleted one."""
        row = self._meant(reference, lambda one: f"c.deleted_at IS NULL AND {means(one)}")
        if row is None:
            with self._database.reading() as transaction:
                raise nothing_like(transaction, reference)
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

    def count(self) -> int:
        """How many there are, of whatever kind and status."""
        with self._database.reading() as transaction:
            (number,) = transaction.row("SELECT COUNT(*) FROM checkpoints") or (0,)
        return int(number)

    def list_pushed(self) -> list[ListedCheckpoint]:
        """The checkpoints that users pushed, oldest first."""
        with self._database.reading() as transaction:
            # Not ORDER BY: by the rules of a language that takes PostgreSQL longer than all the rest.
            rows = sorted(transaction.rows(PUSHED), key=itemgetter(CREATED_AT, 0))
        return list(pushed_of(rows))

    def list_captured(self, job_id: str) -> list[ListedCheckpoint]:
        """The checkpoints that a job wrote, in the order of their capture."""
        return self._list("c.job_id = :job_id AND c.deleted_at IS NULL ORDER BY c.sequence", job_id=job_id)

    def list_all(self, *, kind: str = "", job_id: str = "") -> list[ListedCheckpoint]:
        """The checkpoints of a kind, or of both, and of a job, or of none and all; oldest first."""
        conditions = [HERE, *["c.kind = :kind"][: bool(kind)], *["c.job_id = :job_id"][: bool(job_id)]]
        values = {name: value for name, value in (("kind", kind), ("job_id", job_id)) if value}
        return self._list(f"{' AND '.join(conditions)} ORDER BY c.created_at, c.id", **values)

    def list_deleted(self, *, job_id: str = "") -> list[ListedCheckpoint]:
        """The deleted checkpoints that can still come back, captured ones too, or those of a job alone.

        The longest deleted first.
        """
        can_come_back = "c.deleted_at IS NOT NULL AND c.manifest_digest IS NOT NULL AND c.part_of IS NULL"
        of_job = " AND c.job_id = :job_id" if job_id else ""
        values = {"job_id": job_id} if job_id else {}
        return self._list(f"{can_come_back}{of_job} ORDER BY c.deleted_at, c.id", **values)

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

    def list_files(self, checkpoint_id: str, *, first: int | None = None) -> list[ListedFile]:
        """The files of a checkpoint, in order of their paths; at most the ``first`` ones, if that is given."""
        query = """
            SELECT f.path, t.size, t.digest, t.checksums, t.origin, f.is_executable, t.is_damaged
            FROM files f JOIN contents t ON t.id = f.content_id
            WHERE f.checkpoint_id = :id
        """
        with self._database.reading() as transaction:
            rows = transaction.rows(query, id=checkpoint_id)
        # Nearly all have no checksums, and parsing that would take longer than all the rest.
        return [
            ListedFile(
                path, size, digest, {} if checksums == "{}" else json.loads(checksums), None, (), bool(mode), bool(bad)
            )
            if digest is None or origin != RECOVERED
            else ListedFile(path, size, None, {CLAIMED: digest}, is_executable=bool(mode), is_damaged=bool(bad))
            # Not ORDER BY: PostgreSQL orders texts by its locale.
            for path, size, digest, checksums, origin, mode, bad in sorted(rows, key=itemgetter(0))[:first]
        ]

    def list_exports(self, checkpoint_id: str) -> list[ExportRecord]:
        """Where a checkpoint was exported, oldest first."""
        query = "SELECT * FROM exports WHERE checkpoint_id = :id ORDER BY exported_at"
        with self._database.reading() as transaction:
            return [export_of(row) for row in transaction.records(query, id=checkpoint_id)]

    def cut_off(self, job_id: str) -> list[Checkpoint]:
        """The captures of a job that were under way when their runner died."""
        with self._database.reading() as transaction:
            query = f"{CHECKPOINT} WHERE c.job_id = :job_id AND c.deleted_at IS NULL"
            rows = transaction.records(query, job_id=job_id)
        return [checkpoint_of(row) for row in rows if row["status"] in UNFINISHED and not is_held(row)]

    def _list(self, where: str, **values: Any) -> list[ListedCheckpoint]:
        with self._database.reading() as transaction:
            rows = transaction.rows(f"{LISTED} WHERE {where}", **values)
        return [listed_of(row) for row in rows]

    def _meant(
        self, reference: Reference, condition: Callable[[Reference], str], *, among: str = HERE
    ) -> Record | None:
        """The row under a condition, of the reference and, where that finds none, of the UUID that begins so."""
        row = self._row(condition(reference), **meant(reference))
        if row is not None:
            return row
        with self._database.reading() as transaction:
            whole = spelled_out(transaction, reference, among=among)
        return None if whole is None else self._row(condition(whole), **meant(whole))

    def _row(self, where: str, **values: Any) -> Record | None:
        with self._database.reading() as transaction:
            return transaction.record(f"{CHECKPOINT} WHERE {where}", **values)

    def _all(self, where: str, **values: Any) -> list[Checkpoint]:
        with self._database.reading() as transaction:
            rows = transaction.records(f"{CHECKPOINT} WHERE {where}", **values)
        return [checkpoint_of(row) for row in rows]
