"""What retention asks the catalog: everything in three queries, and once more of one checkpoint before it goes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, exists, false, or_, select

from flexai.checkpoints.catalog.claims import Claim
from flexai.checkpoints.catalog.database import Database
from flexai.checkpoints.catalog.tables import blob_references, blobs, checkpoints, exports, jobs
from flexai.checkpoints.errors import ConflictError
from flexai.checkpoints.models import CheckpointKind, CheckpointStatus, JobStatus

_RUNNING = (JobStatus.IN_PROGRESS, JobStatus.STOP_IN_PROGRESS)
_IS_EXPORTED = exists().where(exports.c.checkpoint_id == checkpoints.c.id)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Checkpoints that nobody deleted, who is at work with them, and the blobs that the catalog's checkpoints need."""

    rows: Sequence[RowMapping]
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
    wanted = [checkpoints.c.kind == CheckpointKind.PUSHED] if pushed else []
    if job_ids is None:
        wanted.append(checkpoints.c.kind == CheckpointKind.CAPTURED)
    elif job_ids:
        wanted.append(checkpoints.c.job_id.in_(job_ids))
    is_wanted = checkpoints.c.deleted_at.is_(None) & or_(false(), *wanted)
    query = (
        select(checkpoints, jobs.c.name.label("job_name"), _IS_EXPORTED.label("is_exported"))
        .outerjoin(jobs, jobs.c.id == checkpoints.c.job_id)
        .where(is_wanted)
    )
    own = blob_references.alias()
    references = (
        select(blob_references.c.blob_id, blobs.c.size, blob_references.c.checkpoint_id)
        .join(blobs, blobs.c.id == blob_references.c.blob_id)
        .where(
            blob_references.c.blob_id.in_(
                select(own.c.blob_id).join(checkpoints, checkpoints.c.id == own.c.checkpoint_id).where(is_wanted)
            )
        )
    )
    with database.reading() as connection:
        running = _running(connection)
        rows = connection.execute(query).mappings().all()
        sizes: dict[str, int] = {}
        needed: dict[str, set[str]] = defaultdict(set)
        for blob_id, size, checkpoint_id in connection.execute(references):
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


def check_unused(connection: Connection, row: RowMapping, *, keep_exported: bool) -> None:
    """Raise ConflictError where a checkpoint, whose row is locked, is in use after all or, on request, exported."""
    for job in _running(connection):
        if job["input_checkpoint_id"] == row["id"]:
            raise ConflictError(f"training job {job['name']!r} has started from it")
        if job["id"] == row["job_id"] and _latest_to_resume_from(connection, job["id"]) == row["id"]:
            raise ConflictError(f"training job {job['name']!r} would be resumed from it")
    if keep_exported and connection.execute(select(exports.c.id).where(exports.c.checkpoint_id == row["id"])).first():
        raise ConflictError("it was exported")


def check_some_stay(connection: Connection, checkpoint_ids: Collection[str]) -> None:
    """Raise ConflictError where none of these checkpoints is available any more.

    The one that is found cannot be deleted before the transaction ends; one that somebody is deleting does not count.
    """
    query = (
        select(checkpoints.c.id)
        .where(
            checkpoints.c.id.in_(checkpoint_ids),
            checkpoints.c.deleted_at.is_(None),
            checkpoints.c.status == CheckpointStatus.AVAILABLE,
        )
        .limit(1)
        .with_for_update(read=True, skip_locked=True)
    )
    if connection.execute(query).first() is None:
        raise ConflictError("those that should stay in its place are gone")


def _running(connection: Connection) -> list[RowMapping]:
    """The jobs that somebody runs: one whose runner is gone only says so."""
    query = select(jobs).where(jobs.c.status.in_(_RUNNING))
    found = connection.execute(query).mappings().all()
    return [row for row in found if (holder := Claim.of_row(row)) is not None and holder.is_alive]


def _latest_to_resume_from(connection: Connection, job_id: str) -> str | None:
    query = (
        select(checkpoints.c.id)
        .where(
            checkpoints.c.job_id == job_id,
            checkpoints.c.deleted_at.is_(None),
            checkpoints.c.status == CheckpointStatus.AVAILABLE,
            checkpoints.c.resumable.is_(True),
        )
        .order_by(checkpoints.c.sequence.desc())
        .limit(1)
    )
    found: str | None = connection.execute(query).scalar()
    return found
