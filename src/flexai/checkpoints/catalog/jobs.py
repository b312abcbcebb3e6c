"""Training jobs in the catalog: names, attempts, and who runs them.

Like checkpoints: every change is one conditional statement or one transaction, and what may not happen is refused by
a constraint of the database. A job that says it is running while its runner is gone is shown as ``interrupted``, the
same to every reader, whether or not the catalog says so yet.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from flexai.checkpoints.catalog.database import ConstraintError, Database, Record, Transaction
from flexai.checkpoints.catalog.leases import HELD, NO_LEASE, Lease, is_held, lease_end, update_held
from flexai.checkpoints.errors import ConflictError, JobExistsError, NotFoundError
from flexai.checkpoints.models import JobStatus, TrainingJob, from_text, now, to_text
from flexai.checkpoints.names import Id, Name, Reference, is_uuid, name_key, new_id, parse_id, parse_name

if TYPE_CHECKING:
    from flexai.checkpoints.owner import Owner

RUNNER_GONE = "the process that ran it is gone"

JOB = """
    SELECT j.*, i.name AS input_checkpoint_name, (
        SELECT COUNT(*) FROM checkpoints c
        WHERE c.job_id = j.id AND c.deleted_at IS NULL AND c.status = 'available'
    ) AS checkpoint_count
    FROM jobs j LEFT JOIN checkpoints i ON i.id = j.input_checkpoint_id
"""
"""Jobs ``j`` with all that ``job_of`` reads; a WHERE can follow."""

_RUNNING = (JobStatus.IN_PROGRESS, JobStatus.STOP_IN_PROGRESS)


class BegunJob(NamedTuple):
    """A job's new attempt, and the right to write about it."""

    job: TrainingJob
    lease: Lease


Layout = Callable[[Id, int], tuple[str, str]]
"""Where an attempt of a job keeps its output and its log: two paths from the job's id and the attempt's number."""


def parse_job_reference(text: str) -> Reference:
    """Read a training job's NAME or UUID; InvalidNameError for a text that can be neither."""
    if is_uuid(text):
        return Reference(text=text, id=parse_id(text))
    return Reference(text=parse_name(text, what="training job"), id=None)


class Jobs:
    """The training jobs of a catalog."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(
        self,
        name: Name,
        *,
        owner: Owner,
        command: Sequence[str],
        env_names: Sequence[str],
        layout: Layout,
        code_commit: str = "",
        goes_on: bool = False,
    ) -> BegunJob:
        """Take a name for a new job, or begin the next attempt of the job that holds it.

        Raises JobExistsError where the name's job has succeeded and this attempt does not go on from what it wrote
        (``goes_on``), ConflictError where it is running or another owner's.
        """
        lease = Lease.new()
        job_id = new_id()
        values = _attempt_values(command, env_names, code_commit, lease) | {"attempt": 1}
        values |= _places(layout, job_id, 1)
        values |= {
            "id": str(job_id),
            "name": name,
            "name_key": name_key(name),
            "creator_user_id": owner.user_id,
            "owner_org_id": owner.org_id,
            "created_at": values["started_at"],
        }
        try:
            with self._database.writing() as transaction:
                transaction.insert("jobs", values)
            return BegunJob(self.get_by_id(str(job_id)), lease)
        except ConstraintError:
            return self._begin_next(
                name,
                lease,
                owner=owner,
                command=command,
                env_names=env_names,
                layout=layout,
                code_commit=code_commit,
                goes_on=goes_on,
            )

    def _begin_next(
        self,
        name: Name,
        lease: Lease,
        *,
        owner: Owner,
        command: Sequence[str],
        env_names: Sequence[str],
        layout: Layout,
        code_commit: str,
        goes_on: bool,
    ) -> BegunJob:
        row = self._find("j.name_key = :key", key=name_key(name))
        busy = ConflictError(f"training job {name!r} is being started or deleted by another process")
        if row is None:
            raise busy  # deleted between the two statements
        previous = job_of(row)
        if previous.status is JobStatus.SUCCEEDED and not goes_on:
            raise JobExistsError(previous)
        if previous.creator_user_id != owner.user_id:
            raise ConflictError(
                f"training job {name!r} belongs to another owner",
                hint="use another name; or, if that is you on another machine, set FLEXAI_OWNER here to what"
                " flexai config show tells there",
            )
        if not previous.status.is_final:
            holder = Lease.of_row(row)
            who = f" by {holder.holder}" if holder else ""
            raise ConflictError(
                f"training job {name!r} is being run{who}",
                hint=f"wait for its end, or stop it first: flexai training stop {previous.name}",
            )
        attempt = previous.attempt + 1
        values = _attempt_values(command, env_names, code_commit, lease) | {"attempt": attempt}
        values |= _places(layout, previous.id, attempt)
        with self._database.writing() as transaction:
            if not _update_as_read(transaction, row, values):
                raise busy
        return BegunJob(self.get_by_id(row["id"]), lease)

    def renew(self, job_id: str, lease: Lease) -> bool:
        """Extend the lease; False where it is no longer ours."""
        with self._database.writing() as transaction:
            return bool(update_held(transaction, "jobs", job_id, lease, {"claim_until": lease_end()}))

    def set_input(self, job_id: str, lease: Lease, checkpoint_id: Id) -> TrainingJob:
        """Record which checkpoint the job starts from; NotFoundError where it was deleted meanwhile."""
        with self._database.writing() as transaction:
            if not update_held(transaction, "jobs", job_id, lease, {"input_checkpoint_id": str(checkpoint_id)}):
                raise _lost(job_id)
            # A deletion locks this row too: one of the two comes first, and the other one sees what it did.
            lock = transaction.locking("FOR SHARE")
            there = f"SELECT id FROM checkpoints WHERE id = :id AND deleted_at IS NULL {lock}"
            if transaction.row(there, id=str(checkpoint_id)) is None:
                raise NotFoundError(f"there is no checkpoint {checkpoint_id} any more")
        return self.get_by_id(job_id)

    def stop_requested(self, job_id: str, lease: Lease) -> bool:
        """Whether a user asked for the job's stop; ConflictError where the job is no longer this runner's."""
        with self._database.reading() as transaction:
            query = f"SELECT stop_requested FROM jobs WHERE {HELD}"
            requested = transaction.value(query, id=job_id, token=lease.token)
        if requested is None:
            raise _lost(job_id)
        return bool(requested)

    def finish(
        self, job_id: str, lease: Lease, *, status: JobStatus, exit_code: int | None, reason: str, lost: int = 0
    ) -> TrainingJob:
        """Record a job's end and give up the lease; ConflictError where the job is no longer this runner's.

        ``lost`` is how many versions of checkpoints all its attempts have lost.
        """
        time = to_text(now())
        new = {"status": status, "exit_code": exit_code, "reason": reason, "ended_at": time, "updated_at": time}
        new |= {"lost": lost}
        with self._database.writing() as transaction:
            if not update_held(transaction, "jobs", job_id, lease, new | NO_LEASE):
                raise _lost(job_id)
        return self.get_by_id(job_id)

    def correct(self, job: TrainingJob, ended: TrainingJob) -> TrainingJob:
        """Record how a job that no process runs really ended; one that has changed since it was read stays as it is."""
        with self._database.reading() as transaction:
            row = transaction.record(f"{JOB} WHERE j.id = :id AND j.attempt = :attempt", id=job.id, attempt=job.attempt)
        if row is not None and job_of(row).status is job.status:
            new = {
                "status": ended.status,
                "exit_code": ended.exit_code,
                "reason": ended.reason,
                "ended_at": None if ended.ended_at is None else to_text(ended.ended_at),
                "lost": ended.lost,
                "updated_at": to_text(now()),
                **NO_LEASE,
            }
            with self._database.writing() as transaction:
                _update_as_read(transaction, row, new)
        return self.get_by_id(job.id)

    def request_stop(self, reference: Reference) -> TrainingJob:
        """Ask the runner to stop its job; a job whose runner is gone is recorded as interrupted.

        A job that has ended stays as it is. Raises NotFoundError where there is none.
        """
        row = self._row(reference)
        job = job_of(row)
        if row["status"] in _RUNNING:
            values: dict[str, Any] = {"stop_requested": True, "status": JobStatus.STOP_IN_PROGRESS}
            if job.status is JobStatus.INTERRUPTED:
                values = {"status": job.status, "reason": job.reason, "ended_at": to_text(now()), **NO_LEASE}
            with self._database.writing() as transaction:
                # Where it ended, or was taken over, in this very moment there is nothing left to ask.
                _update_as_read(transaction, row, {"updated_at": to_text(now()), **values})
        return self.get_by_id(row["id"])

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
            raise NotFoundError(f"there is no training job {job_id}", hint=_LIST_HINT)
        return job_of(row)

    def list(self) -> list[TrainingJob]:
        """The jobs that are not deleted, oldest first."""
        query = f"{JOB} WHERE j.name_key IS NOT NULL ORDER BY j.created_at, j.id"
        with self._database.reading() as transaction:
            return [job_of(row) for row in transaction.records(query)]

    def running_in(self, output_dir: str) -> Sequence[TrainingJob]:
        """The running jobs that have an output directory."""
        query = f"{JOB} WHERE j.name_key IS NOT NULL AND j.output_dir = :output_dir"
        with self._database.reading() as transaction:
            found = [job_of(row) for row in transaction.records(query, output_dir=output_dir)]
        return [job for job in found if not job.status.is_final]

    def names(self) -> Sequence[str]:
        """The names of the jobs that are not deleted."""
        with self._database.reading() as transaction:
            return transaction.column("SELECT name FROM jobs WHERE name_key IS NOT NULL")

    def delete(self, reference: Reference) -> TrainingJob:
        """Free the name of a job that has ended; its record goes when no checkpoint names it any more.

        Raises NotFoundError where there is none (any more), ConflictError while it runs.
        """
        row = self._row(reference)
        job = job_of(row)
        if not job.status.is_final:
            raise ConflictError(
                f"training job {job.name!r} is {job.status}", hint=f"stop it first: flexai training stop {job.name}"
            )
        new = {"name_key": None, "status": job.status, "reason": job.reason, "updated_at": to_text(now()), **NO_LEASE}
        with self._database.writing() as transaction:
            if not _update_as_read(transaction, row, new):
                raise ConflictError(f"training job {job.name!r} was started again or deleted meanwhile")
        self.forget_deleted()
        return job

    def forget_deleted(self) -> None:
        """Remove the records of deleted jobs that no checkpoint, deleted ones included, names any more."""
        named = "SELECT 1 FROM checkpoints c WHERE c.job_id = jobs.id"
        with self._database.writing() as transaction:
            transaction.change(f"DELETE FROM jobs WHERE name_key IS NULL AND NOT EXISTS ({named})")

    def _row(self, reference: Reference) -> Record:
        if reference.id:
            row = self._find("j.name_key IS NOT NULL AND j.id = :id", id=reference.id)
        else:
            row = self._find("j.name_key = :key", key=name_key(reference.text))
        if row is None:
            raise NotFoundError(f"there is no training job {reference.text!r}", hint=_LIST_HINT)
        return row

    def _find(self, where: str, **values: Any) -> Record | None:
        with self._database.reading() as transaction:
            return transaction.record(f"{JOB} WHERE {where}", **values)


_LIST_HINT = "flexai training list shows what there is"


def _lost(job_id: str) -> ConflictError:
    return ConflictError(f"another process has taken over training job {job_id} meanwhile")


def _update_as_read(transaction: Transaction, row: Record, new: Mapping[str, Any]) -> int:
    """Set columns of a job that is still what the row showed; 0 where another process has changed it since."""
    read = {name: row[name] for name in ("id", "name_key", "status", "attempt", "claim_token")}
    return transaction.update_as_read("jobs", new, read)


def _attempt_values(command: Sequence[str], env_names: Sequence[str], code_commit: str, lease: Lease) -> dict[str, Any]:
    time = to_text(now())
    return {
        "status": JobStatus.IN_PROGRESS,
        "reason": "",
        "command": json.dumps(list(command)),
        "env_names": json.dumps(sorted(env_names)),
        "code_commit": code_commit,
        "exit_code": None,
        "input_checkpoint_id": None,
        "host": lease.host.partition("/")[0],
        "stop_requested": False,
        "started_at": time,
        "ended_at": None,
        "updated_at": time,
        **lease.columns(),
    }


def _places(layout: Layout, job_id: Id, attempt: int) -> Mapping[str, str]:
    output_dir, log_path = layout(job_id, attempt)
    return {"output_dir": output_dir, "log_path": log_path}


def job_of(row: Record) -> TrainingJob:
    """The job that a row describes, read as ``JOB`` reads it: one whose runner is gone was interrupted."""
    status, reason = JobStatus(row["status"]), row["reason"]
    if status in _RUNNING and not is_held(row):
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
        created_at=from_text(row["created_at"]),
        started_at=from_text(row["started_at"]),
        ended_at=None if row["ended_at"] is None else from_text(row["ended_at"]),
        updated_at=from_text(row["updated_at"]),
        **{
            name: row[name]
            for name in ("name", "attempt", "exit_code", "output_dir", "log_path", "host", "code_commit", "lost")
        },
    )
