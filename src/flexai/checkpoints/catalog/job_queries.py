"""Reading training jobs, for lists and by what references mean.

A job that says it is running while its runner is gone is shown as ``interrupted``, the same to every reader, whether or
not the catalog says so yet.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from flexai.checkpoints.catalog.database import Database, Record, Transaction
from flexai.checkpoints.catalog.job_nodes import RUNNER_GONE, RUNNING, end_of, is_run, node_of, with_nodes
from flexai.checkpoints.catalog.meaning import NO_JOB, no_such_job, spelled_out_job
from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.models import JobStatus, TrainingJob, from_text
from flexai.checkpoints.names import Name, Reference, name_key

JOB = """
    SELECT j.*, i.name AS input_checkpoint_name, (
        SELECT COUNT(*) FROM checkpoints c
        WHERE c.job_id = j.id AND c.deleted_at IS NULL AND c.status = 'available'
    ) AS checkpoint_count
    FROM jobs j LEFT JOIN checkpoints i ON i.id = j.input_checkpoint_id
"""
"""Jobs ``j`` with all that ``job_of`` reads, but for ``with_nodes``; a WHERE can follow."""


class JobQueries:
    """What can be asked about the training jobs of a catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, reference: Reference) -> TrainingJob:
        """The job that a reference means; NotFoundError where there is none, or only a deleted one."""
        return job_of(self._row(reference))

    def find(self, name: Name) -> TrainingJob | None:
        """The job of a name, if there is one."""
        row = self._find("j.name_key = :key", key=name_key(name))
        return None if row is None else job_of(row)

    def get_by_id(self, job_id: str) -> TrainingJob:
        """The job of an id, deleted or not."""
        row = self._find("j.id = :id", id=job_id)
        if row is None:
            raise NotFoundError(f"there is no training job {job_id}", hint=NO_JOB)
        return job_of(row)

    def list(self) -> list[TrainingJob]:
        """The jobs that are not deleted, oldest first."""
        query = f"{JOB} WHERE j.name_key IS NOT NULL ORDER BY j.created_at, j.id"
        with self._database.reading() as transaction:
            return [job_of(row) for row in with_nodes(transaction, transaction.records(query))]

    def running_in(self, output_dir: str) -> Sequence[TrainingJob]:
        """The running jobs that have an output directory."""
        query = f"""
            {JOB} WHERE j.name_key IS NOT NULL AND (j.output_dir = :output_dir OR EXISTS (
                SELECT 1 FROM job_nodes n
                WHERE n.job_id = j.id AND n.attempt = j.attempt AND n.output_dir = :output_dir
            ))
        """
        with self._database.reading() as transaction:
            rows = with_nodes(transaction, transaction.records(query, output_dir=output_dir))
        found = [job_of(row) for row in rows]
        return [job for job in found if not job.status.is_final]

    def names(self) -> Sequence[str]:
        """The names of the jobs that are not deleted."""
        with self._database.reading() as transaction:
            return transaction.column("SELECT name FROM jobs WHERE name_key IS NOT NULL")

    def _row(self, reference: Reference) -> Record:
        if reference.id:
            row = self._find("j.name_key IS NOT NULL AND j.id = :id", id=reference.id)
        else:
            row = self._find("j.name_key = :key", key=name_key(reference.text))
        if row is not None:
            return row
        with self._database.reading() as transaction:
            whole = spelled_out_job(transaction, reference)
            if whole is None:
                raise no_such_job(transaction, reference)
        return self._row(whole)

    def _find(self, where: str, **values: Any) -> Record | None:
        with self._database.reading() as transaction:
            return read_job(transaction, where, **values)


def read_jobs(transaction: Transaction, ids: Sequence[str]) -> Iterator[tuple[Record, TrainingJob]]:
    """The jobs of ids, deleted ones included, with their rows, which are locked."""
    if lock := transaction.locking("FOR UPDATE"):
        transaction.rows(f"SELECT id FROM jobs WHERE id IN :ids ORDER BY id {lock}", ids=list(ids))
    for row in with_nodes(transaction, transaction.records(f"{JOB} WHERE j.id IN :ids", ids=list(ids))):
        yield row, job_of(row)


def read_job(transaction: Transaction, where: str, **values: Any) -> Record | None:
    """The row of the job ``j`` that a condition holds for, read as ``job_of`` needs it; None where there is none."""
    row = transaction.record(f"{JOB} WHERE {where}", **values)
    return None if row is None else with_nodes(transaction, [row])[0]


def job_of(row: Record) -> TrainingJob:
    """The job that a row describes, read as ``JOB`` and ``with_nodes`` read it.

    One whose runner is gone was interrupted.
    """
    status, reason, exit_code = JobStatus(row["status"]), row["reason"], row["exit_code"]
    if status in RUNNING and "node_rows" in row:
        status, reason, exit_code = end_of(row) or (status, reason, exit_code)
    elif status in RUNNING and not is_run(row):
        status, reason = JobStatus.INTERRUPTED, RUNNER_GONE
    return TrainingJob(
        id=row["id"],
        creator_user_id=row["creator_user_id"],
        owner_org_id=row["owner_org_id"],
        status=status,
        reason=reason,
        command=tuple(json.loads(row["command"])),
        env_names=tuple(json.loads(row["env_names"])),
        input_checkpoint_id=row["input_checkpoint_id"],
        input_checkpoint_name=row["input_checkpoint_name"] or "",
        checkpoint_count=row["checkpoint_count"],
        exit_code=exit_code,
        node_count=row["nodes"],
        nodes=tuple(map(node_of, row.get("node_rows", ()))),
        created_at=from_text(row["created_at"]),
        started_at=from_text(row["started_at"]),
        ended_at=None if row["ended_at"] is None else from_text(row["ended_at"]),
        updated_at=from_text(row["updated_at"]),
        **{
            name: row[name]
            for name in ("name", "attempt", "output_dir", "log_path", "host", "code_commit", "lost", "creator")
        },
    )
