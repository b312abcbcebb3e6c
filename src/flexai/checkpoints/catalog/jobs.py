"""Training jobs in the catalog: names, attempts, and who runs them.

Like checkpoints: every change is one conditional statement or one transaction, and what may not happen is refused by
a constraint of the database.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from flexai.checkpoints.catalog import job_nodes
from flexai.checkpoints.catalog.changes import changing, set_due
from flexai.checkpoints.catalog.database import ConstraintError, Record, Transaction, each_begun_again
from flexai.checkpoints.catalog.identity import organisation
from flexai.checkpoints.catalog.job_nodes import RUNNING
from flexai.checkpoints.catalog.job_queries import JobQueries, job_of, read_job
from flexai.checkpoints.catalog.leases import HELD, NO_LEASE, Lease, lease_end, update_held
from flexai.checkpoints.errors import ConflictError, JobExistsError, NotFoundError
from flexai.checkpoints.models import JobStatus, Node, TrainingJob, from_text, now, to_text
from flexai.checkpoints.names import (
    Id,
    Name,
    Reference,
    in_unicode,
    name_key,
    new_id,
    parse_id,
)

if TYPE_CHECKING:
    from flexai.checkpoints.owner import Owner


class BegunJob(NamedTuple):
    """A job's new attempt, and the right to write about it."""

    job: TrainingJob
    lease: Lease
    came_again: bool = False
    """Whether this machine, of several, has been in the attempt before."""


Layout = Callable[[Id, int], tuple[str, str]]
"""Where an attempt of a job keeps its output and its log: two paths from the job's id and the attempt's number."""


@each_begun_again
class Jobs(JobQueries):
    """The training jobs of a catalog."""

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
        node: Node | None = None,
    ) -> BegunJob:
        """Take a name for a new job, or begin the next attempt of the job that holds it.

        With ``node`` this is one of several machines: the first of them begins the attempt, and the others join it.

        Raises JobExistsError where the name's job has succeeded and this attempt does not go on from what it wrote
        (``goes_on``), ConflictError where it, or this machine of it, is running or another owner's.
        """
        lease = Lease.new()
        job_id = new_id()
        values = _attempt_values(command, env_names, code_commit, lease, node) | {"attempt": 1}
        values |= _places(layout, job_id, 1)
        values |= {
            "id": str(job_id),
            "name": name,
            "name_key": name_key(name),
            "creator_user_id": owner.user_id,
            "creator": owner.name,
            "created_at": values["started_at"],
        }
        try:
            with self._changing("start", str(job_id)) as transaction:
                transaction.insert("jobs", values | {"owner_org_id": organisation(transaction, owner.org_id)})
                if node is not None:
                    job_nodes.enter_node(
                        transaction, values | {"node_rows": ()}, node, lease, _places(layout, job_id, 1)
                    )
            return BegunJob(self.get_by_id(str(job_id)), lease)
        except ConstraintError:
            holder = self.find(name)
            with self._changing("start", str(job_id if holder is None else holder.id)) as transaction:
                if node is not None:
                    # The machines of a job come at once: one after the other they see what the one before has done.
                    time = to_text(now())
                    transaction.update("jobs", {"updated_at": time}, "name_key = :key", key=name_key(name))
                job_id, came_again = _begin_next(
                    transaction,
                    name,
                    lease,
                    owner=owner,
                    values=_attempt_values(command, env_names, code_commit, lease, node),
                    layout=layout,
                    goes_on=goes_on,
                    node=node,
                )
            return BegunJob(self.get_by_id(job_id), lease, came_again)

    def renew(self, job_id: str, lease: Lease) -> bool:
        """Extend the lease; False where it is no longer ours."""
        with self._database.writing() as transaction:
            until = lease_end()
            return bool(
                update_held(transaction, "jobs", job_id, lease, {"claim_until": until})
                or job_nodes.renew_node(transaction, job_id, lease, until)
            )

    def set_input(self, job_id: str, lease: Lease, checkpoint_id: Id) -> TrainingJob:
        """Record which checkpoint the job starts from; NotFoundError where it was deleted meanwhile."""
        with self._changing("start", job_id) as transaction:
            if not update_held(transaction, "jobs", job_id, lease, {"input_checkpoint_id": str(checkpoint_id)}):
                raise _lost(job_id)
            # A deletion locks this row too: one of the two comes first, and the other one sees what it did.
            lock = transaction.locking("FOR SHARE")
            there = f"SELECT id FROM checkpoints WHERE id = :id AND deleted_at IS NULL {lock}"
            if transaction.row(there, id=str(checkpoint_id)) is None:
                raise NotFoundError(f"there is no checkpoint {checkpoint_id} any more")
        return self.get_by_id(job_id)

    def agree_on_input(self, job_id: str, lease: Lease, checkpoint_id: Id | None) -> tuple[TrainingJob, Id | None]:
        """What all machines of an attempt start from: what the first of them chose, which may be nothing.

        Raises ConflictError where this machine's part of the job is another process's.
        """
        with self._changing("start", job_id) as transaction:
            agreed = job_nodes.agree(transaction, job_id, lease, checkpoint_id)
        if agreed is None:
            raise _lost(job_id)
        return self.get_by_id(job_id), parse_id(agreed) if agreed else None

    def stop_requested(self, job_id: str, lease: Lease) -> bool:
        """Whether a user asked for the job's stop; ConflictError where the job is no longer this runner's."""
        with self._database.reading() as transaction:
            query = f"SELECT stop_requested FROM jobs WHERE {HELD}"
            requested = transaction.value(query, id=job_id, token=lease.token)
            if requested is None:
                requested = job_nodes.stop_requested(transaction, job_id, lease)
        if requested is None:
            raise _lost(job_id)
        return bool(requested)

    def finish(
        self, job_id: str, lease: Lease, *, status: JobStatus, exit_code: int | None, reason: str, lost: int = 0
    ) -> TrainingJob:
        """Record a job's end and give up the lease; ConflictError where the job is no longer this runner's.

        ``lost`` is how many versions of checkpoints this runner has lost. Of several machines each records its own end,
        and is told the job with that; the last one records the job's.
        """
        time = to_text(now())
        new = {"status": status, "exit_code": exit_code, "reason": reason, "ended_at": time}
        is_alone = True
        with self._changing("end", job_id) as transaction:
            lost_as_well = "UPDATE jobs SET lost = lost + :lost, updated_at = :time WHERE id = :id"
            transaction.change(lost_as_well, lost=lost, time=time, id=job_id)
            if not update_held(transaction, "jobs", job_id, lease, new | NO_LEASE):
                row = read_job(transaction, "j.id = :id", id=job_id)
                if row is None or not job_nodes.finish_node(transaction, row, lease, new):
                    raise _lost(job_id)
                is_alone = False
        job = self.get_by_id(job_id)
        if is_alone:
            return job
        return job._replace(status=status, exit_code=exit_code, reason=reason, ended_at=from_text(time))

    def correct(self, job: TrainingJob, ended: TrainingJob) -> TrainingJob:
        """Record how a job that no process runs really ended; one that has changed since it was read stays as it is."""
        with self._database.reading() as transaction:
            row = read_job(transaction, "j.id = :id AND j.attempt = :attempt", id=job.id, attempt=job.attempt)
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
            with self._changing("end", job.id) as transaction:
                _update_as_read(transaction, row, new)
        return self.get_by_id(job.id)

    def correct_node(self, job: TrainingJob, node: int, ended: TrainingJob) -> TrainingJob:
        """Record how one of several machines really ended, as ``correct`` does for a job of one."""
        end = {"status": ended.status, "exit_code": ended.exit_code, "reason": ended.reason}
        end |= {"ended_at": to_text(ended.ended_at or now())}
        with self._changing("end", job.id) as transaction:
            transaction.update("jobs", {"updated_at": to_text(now())}, "id = :id", id=job.id)
            row = read_job(transaction, "j.id = :id AND j.attempt = :attempt", id=job.id, attempt=job.attempt)
            if row is not None and "node_rows" in row and job_nodes.correct_node(transaction, row, node, end):
                transaction.change("UPDATE jobs SET lost = lost + :lost WHERE id = :id", lost=ended.lost, id=job.id)
        return self.get_by_id(job.id)

    def request_stop(self, reference: Reference) -> TrainingJob:
        """Ask the runner to stop its job; a job whose runner is gone is recorded as interrupted.

        A job that has ended stays as it is. Raises NotFoundError where there is none.
        """
        row = self._row(reference)
        job = job_of(row)
        if row["status"] in RUNNING:
            values: dict[str, Any] = {"stop_requested": True, "status": JobStatus.STOP_IN_PROGRESS}
            if job.status is JobStatus.INTERRUPTED:
                values = {"status": job.status, "reason": job.reason, "ended_at": to_text(now()), **NO_LEASE}
            with self._changing("stop", row["id"]) as transaction:
                # Where it ended, or was taken over, in this very moment there is nothing left to ask.
                _update_as_read(transaction, row, {"updated_at": to_text(now()), **values})
        return self.get_by_id(row["id"])

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
        with self._changing("delete", row["id"]) as transaction:
            if not _update_as_read(transaction, row, new):
                raise ConflictError(f"training job {job.name!r} was started again or deleted meanwhile")
        self.forget_deleted()
        return job

    def forget_deleted(self) -> None:
        """Remove the records of deleted jobs that no checkpoint, deleted ones included, names any more."""
        named = "SELECT 1 FROM checkpoints c WHERE c.job_id = jobs.id"
        with self._database.writing() as transaction:
            gone = f"DELETE FROM jobs WHERE name_key IS NULL AND NOT EXISTS ({named}) RETURNING id"
            set_due(transaction, "job", transaction.column(gone))

    def _changing(self, action: str, job_id: str) -> contextlib.AbstractContextManager[Transaction]:
        return changing(self._database, action, [job_id], kind="job", record="later")


def _lost(job_id: str) -> ConflictError:
    return ConflictError(f"another process has taken over training job {job_id} meanwhile")


def _begin_next(
    transaction: Transaction,
    name: Name,
    lease: Lease,
    *,
    owner: Owner,
    values: Mapping[str, Any],
    layout: Layout,
    goes_on: bool,
    node: Node | None,
) -> tuple[Id, bool]:
    """Begin the next attempt of the job that holds a name, or join it with a node.

    Returns the job's id, and whether that node has been in the attempt before.
    """
    row = read_job(transaction, "j.name_key = :key", key=name_key(name))
    busy = ConflictError(f"training job {name!r} is being started or deleted by another process")
    if row is None:
        raise busy  # deleted between the two statements
    previous = job_of(row)
    if previous.status is JobStatus.SUCCEEDED and not goes_on:
        raise JobExistsError(previous)
    if not owner.is_user(previous.creator_user_id):
        raise ConflictError(
            f"training job {name!r} belongs to another owner",
            hint="use another name; or, if that is you on another machine, set FLEXAI_OWNER here to what"
            " flexai config show tells there",
        )
    if not previous.status.is_final:
        if node is not None and "node_rows" in row:
            places = _places(layout, previous.id, previous.attempt)
            return previous.id, job_nodes.enter_node(transaction, row, node, lease, places)
        holder = Lease.of_row(row)
        who = f" by {holder.holder}" if holder else ""
        raise ConflictError(
            f"training job {name!r} is being run{who}",
            hint=f"wait for its end, or stop it first: flexai training stop {previous.name}",
        )
    attempt = previous.attempt + 1
    places = _places(layout, previous.id, attempt)
    new = {**values, "attempt": attempt, **places}
    if not _update_as_read(transaction, row, new):
        raise busy
    if node is not None:
        job_nodes.enter_node(transaction, row | new | {"node_rows": ()}, node, lease, places)
    return previous.id, False


def _update_as_read(transaction: Transaction, row: Record, new: Mapping[str, Any]) -> int:
    """Set columns of a job that is still what the row showed; 0 where another process has changed it since."""
    read = {name: row[name] for name in ("id", "name_key", "status", "attempt", "claim_token")}
    return transaction.update_as_read("jobs", new, read)


def _attempt_values(
    command: Sequence[str], env_names: Sequence[str], code_commit: str, lease: Lease, node: Node | None
) -> dict[str, Any]:
    time = to_text(now())
    return {
        "status": JobStatus.IN_PROGRESS,
        "reason": "",
        "command": json.dumps([in_unicode(argument) for argument in command]),
        "env_names": json.dumps(sorted(env_names)),
        "code_commit": code_commit,
        "exit_code": None,
        "input_checkpoint_id": None,
        "host": lease.host.partition("/")[0],
        "stop_requested": False,
        "started_at": time,
        "ended_at": None,
        "updated_at": time,
        "nodes": 1 if node is None else node.total,
        **(lease.columns() if node is None else NO_LEASE),
    }


def _places(layout: Layout, job_id: Id, attempt: int) -> Mapping[str, str]:
    output_dir, log_path = layout(job_id, attempt)
    return {"output_dir": output_dir, "log_path": log_path}
