"""What retention asks the catalog: everything in three queries, and once more of one checkpoint before it goes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from flexai.checkpoints.catalog.database import Database, Record, Transaction
from flexai.checkpoints.catalog.job_nodes import is_run, with_nodes
from flexai.checkpoints.choosing import latest
from flexai.checkpoints.errors import ConflictError


@dataclass(frozen=True, slots=True)
class Candidates:
    """Checkpoints that are not deleted, the jobs that use them, and the blobs that the catalog's checkpoints need."""

    rows: Sequence[Record]
    """Their columns, with ``job_name`` and ``is_exported``."""
    users: Mapping[str, Sequence[str]]
    """By checkpoint, the names of the running jobs that started from it."""
    running: Mapping[str, str]
    """Names of the running jobs by their ids."""
    blobs: Mapping[str, tuple[int, frozenset[str]]]
    """By blob of those checkpoints its bytes, and all of the catalog that refer to it, deleted ones that can still come
    back included."""


def read_candidates(database: Database, *, job_ids: Collection[str] | None, pushed: bool) -> Candidates:
    """Read what jobs captured (all jobs for None) and, with ``pushed``, what users pushed; in one look."""
    wanted = ["c.kind = 'pushed'"] if pushed else []
    values: dict[str, object] = {}
    if job_ids is None:
        wanted.append("c.kind = 'captured'")
    elif job_ids:
        wanted.append("c.job_id IN :job_ids")
        values["job_ids"] = list(job_ids)
    is_wanted = f"c.deleted_at IS NULL AND c.part_of IS NULL AND ({' OR '.join(wanted) or 'FALSE'})"
    query = f"""
        SELECT c.*, j.name AS job_name,
            EXISTS (SELECT 1 FROM exports e WHERE e.checkpoint_id = c.id) AS is_exported
        FROM checkpoints c LEFT JOIN jobs j ON j.id = c.job_id WHERE {is_wanted}
    """
    references = f"""
        SELECT r.blob_id, b.size, r.checkpoint_id FROM blob_references r JOIN blobs b ON b.id = r.blob_id
        WHERE r.blob_id IN (
            SELECT own.blob_id FROM blob_references own JOIN checkpoints c ON c.id = own.checkpoint_id WHERE {is_wanted}
        )
    """
    sizes: dict[str, int] = {}
    needed: dict[str, set[str]] = defaultdict(set)
    with database.reading() as transaction:
        running = read_running(transaction)
        rows = transaction.records(query, **values)
        for blob_id, size, checkpoint_id in transaction.rows(references, **values):
            sizes[blob_id] = size
            needed[blob_id].add(checkpoint_id)
    users: dict[str, list[str]] = defaultdict(list)
    for job in running:
        if job["input_checkpoint_id"] is not None:
            users[job["input_checkpoint_id"]].append(job["name"])
    return Candidates(
        rows=rows,
        users=users,
        running={job["id"]: job["name"] for job in running},
        blobs={blob_id: (size, frozenset(needed[blob_id])) for blob_id, size in sizes.items()},
    )


def check_unused(
    transaction: Transaction, row: Record, *, keep_exported: bool, running: Sequence[Record] | None = None
) -> None:
    """Raise ConflictError where a checkpoint, whose row is locked, is in use after all or, on request, exported.

    ``running`` are the jobs that run, where they were read since.
    """
    for job in read_running(transaction) if running is None else running:
        if job["input_checkpoint_id"] == row["id"]:
            raise ConflictError(f"training job {job['name']!r} has started from it")
        if job["id"] == row["job_id"] and _latest_to_resume_from(transaction, job["id"]) == row["id"]:
            raise ConflictError(f"training job {job['name']!r} would be resumed from it")
    if keep_exported and transaction.row("SELECT id FROM exports WHERE checkpoint_id = :id", id=row["id"]):
        raise ConflictError("it was exported")


def check_some_stay(transaction: Transaction, checkpoint_ids: Collection[str]) -> None:
    """Raise ConflictError where none of these checkpoints is available any more.

    The one that is found cannot be deleted before the transaction ends; one that is being deleted does not count.
    """
    query = f"""
        SELECT id FROM checkpoints WHERE id IN :ids AND deleted_at IS NULL AND status = 'available'
        LIMIT 1 {transaction.locking("FOR SHARE SKIP LOCKED")}
    """
    if transaction.row(query, ids=list(checkpoint_ids)) is None:
        raise ConflictError("those that should stay in its place are gone")


def read_running(transaction: Transaction) -> list[Record]:
    """The jobs whose runners live: one whose runner is gone only says that it runs."""
    found = transaction.records("SELECT * FROM jobs WHERE status IN ('in progress', 'stop in progress')")
    return [row for row in with_nodes(transaction, found) if is_run(row)]


def _latest_to_resume_from(transaction: Transaction, job_id: str) -> str | None:
    """What ``training run --checkpoint latest`` would take."""
    found = transaction.rows(
        """
        SELECT id, step FROM checkpoints
        WHERE job_id = :job_id AND deleted_at IS NULL AND status = 'available'
            AND (resumable = TRUE OR resumable_unknown = TRUE)
        ORDER BY sequence
        """,
        job_id=job_id,
    )
    last = latest(found, lambda row: row[1])
    return None if last is None else str(last[0])
