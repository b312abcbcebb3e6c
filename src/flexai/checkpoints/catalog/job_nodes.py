"""The machines of a training job, where there are several: who runs which, and how the job ends that they make up.

Each machine has a row for the attempt, with a lease as a job of one machine has it. The job runs while one of them
does. Its end is the worst of theirs: a machine whose process is gone makes it ``interrupted``, however the others end,
and so does one that has not come a lease's length after the last word of the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flexai.checkpoints.catalog.database import Record, Transaction
from flexai.checkpoints.catalog.leases import LEASE_LENGTH, NO_LEASE, Lease, is_held
from flexai.checkpoints.errors import ConflictError
from flexai.checkpoints.models import JobNode, JobStatus, Node, from_text, now, to_text
from flexai.checkpoints.names import Id

RUNNER_GONE = "the process that ran it is gone"

RUNNING = (JobStatus.IN_PROGRESS, JobStatus.STOP_IN_PROGRESS)

_WORST_FIRST = (JobStatus.INTERRUPTED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.SUCCEEDED)
_HELD = "job_id = :job_id AND claim_token = :token"


def ranges(nodes: Iterable[int]) -> str:
    """Numbers of machines, for people: ``0-3``, ``0,2``."""
    runs: list[list[int]] = []
    for node in sorted(set(nodes)):
        if runs and node == runs[-1][-1] + 1:
            runs[-1].append(node)
        else:
            runs.append([node])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def with_nodes(transaction: Transaction, jobs: list[Record]) -> list[Record]:
    """The rows of jobs, each with those of its last attempt's machines as ``node_rows``."""
    several = {row["id"]: row for row in jobs if row["nodes"] > 1}
    if several:
        found = transaction.records(
            "SELECT * FROM job_nodes WHERE job_id IN :ids ORDER BY job_id, node", ids=list(several)
        )
        for job_id, row in several.items():
            row["node_rows"] = [one for one in found if (one["job_id"], one["attempt"]) == (job_id, row["attempt"])]
    return jobs


def is_run(row: Record) -> bool:
    """Whether a process runs a job, whose row ``with_nodes`` gave."""
    return is_held(row) or any(one["status"] in RUNNING and is_held(one) for one in row.get("node_rows", ()))


def node_of(row: Record) -> JobNode:
    """The machine that a row describes: one whose runner is gone was interrupted."""
    status, reason = JobStatus(row["status"]), row["reason"]
    if status in RUNNING and not is_held(row):
        status, reason = JobStatus.INTERRUPTED, RUNNER_GONE
    return JobNode(
        node=row["node"],
        status=status,
        host=row["host"],
        output_dir=row["output_dir"],
        log_path=row["log_path"],
        started_at=from_text(row["started_at"]),
        ended_at=None if row["ended_at"] is None else from_text(row["ended_at"]),
        exit_code=row["exit_code"],
        reason=reason,
    )


def end_of(row: Record) -> tuple[JobStatus, str, int | None] | None:
    """How a job of several machines has ended: its status, the reason and an exit code; None while it goes on."""
    nodes = [node_of(one) for one in row["node_rows"]]
    if any(one.status in RUNNING for one in nodes):
        return None
    gone = [one.node for one in nodes if one.status is JobStatus.INTERRUPTED and one.ended_at is None]
    missing = set(range(row["nodes"])) - {one.node for one in nodes}
    if not gone and missing:
        last_word = max(one.ended_at or one.started_at for one in nodes) if nodes else from_text(row["started_at"])
        if now() - last_word < LEASE_LENGTH:
            return None
        return JobStatus.INTERRUPTED, f"{_named(missing)} never came", None
    if gone:
        return JobStatus.INTERRUPTED, f"the process that ran {_named(gone)} is gone", None
    worst = min(nodes, key=lambda one: _WORST_FIRST.index(one.status))
    if row["stop_requested"] and worst.status is JobStatus.FAILED:
        # Told to stop, the machines end one after the other, and a command may fail for want of the others.
        worst = next((one for one in nodes if one.status is JobStatus.STOPPED), worst)
    whose = ""
    if worst.reason and {one.status for one in nodes} != {worst.status}:
        alike = [one.node for one in nodes if (one.status, one.reason) == (worst.status, worst.reason)]
        whose = f"{_named(alike)}: "
    return worst.status, whose + worst.reason, worst.exit_code


def enter_node(transaction: Transaction, row: Record, node: Node, lease: Lease, places: Mapping[str, str]) -> bool:
    """Enter a machine into the attempt of a job, whose row is locked; says whether it has been in it before.

    Raises ConflictError for one that runs, or that has succeeded, and for another number of machines.
    """
    title = f"node {node.rank} of training job {row['name']!r}"
    if row["nodes"] != node.total:
        raise ConflictError(
            f"training job {row['name']!r} is being run on {_machines(row['nodes'])}, not on {_machines(node.total)}",
            hint=f"wait for its end, or stop it first: flexai training stop {row['name']}",
        )
    known = next((one for one in row["node_rows"] if one["node"] == node.rank), None)
    if known is not None and is_held(known):
        holder = Lease.of_row(known)
        raise ConflictError(
            f"{title} is being run by {holder.holder if holder else 'another process'}",
            hint="give each machine a number of its own with --node-rank, and start one process on each",
        )
    if known is not None and known["status"] == JobStatus.SUCCEEDED:
        raise ConflictError(
            f"{title} has succeeded already, and others still run", hint="wait for the job's end, or stop it first"
        )
    time = to_text(now())
    values: dict[str, Any] = {
        "status": JobStatus.IN_PROGRESS,
        "reason": "",
        "exit_code": None,
        "input_checkpoint_id": None,
        "host": lease.host.partition("/")[0],
        "started_at": time,
        "ended_at": None,
        **places,
        **lease.columns(),
    }
    key = {"job_id": row["id"], "attempt": row["attempt"], "node": node.rank}
    if known is None:
        transaction.insert("job_nodes", key | values)
    else:
        transaction.update_as_read("job_nodes", values, key)
    if node.rank == 0:
        # What is said of the job's places is said of its first machine, once that has come.
        transaction.update("jobs", {"host": values["host"], **places}, "id = :id", id=row["id"])
    return known is not None


def renew_node(transaction: Transaction, job_id: str, lease: Lease, until: str) -> int:
    """Extend a machine's lease; 0 where it is no longer ours."""
    return transaction.update("job_nodes", {"claim_until": until}, _HELD, job_id=job_id, token=lease.token)


def stop_requested(transaction: Transaction, job_id: str, lease: Lease) -> object:
    """Whether a user asked for the stop of a job; None where no machine of its attempt has the lease."""
    query = f"""
        SELECT j.stop_requested FROM jobs j JOIN job_nodes n ON n.job_id = j.id AND n.attempt = j.attempt
        WHERE n.{_HELD.replace("AND ", "AND n.")}
    """
    return transaction.value(query, job_id=job_id, token=lease.token)


def agree(transaction: Transaction, job_id: str, lease: Lease, checkpoint_id: Id | None) -> str | None:
    """What all machines of an attempt start from: what the first of them has chosen; None where the lease is lost."""
    transaction.update("jobs", {"updated_at": to_text(now())}, "id = :id", id=job_id)
    query = f"SELECT attempt FROM job_nodes WHERE {_HELD}"
    attempt = transaction.value(query, job_id=job_id, token=lease.token)
    if attempt is None:
        return None
    chosen = transaction.column(
        "SELECT input_checkpoint_id FROM job_nodes"
        " WHERE job_id = :job_id AND attempt = :attempt AND input_checkpoint_id IS NOT NULL",
        job_id=job_id,
        attempt=attempt,
    )
    agreed = str(chosen[0] if chosen else checkpoint_id or "")
    transaction.update("job_nodes", {"input_checkpoint_id": agreed}, _HELD, job_id=job_id, token=lease.token)
    if agreed:
        transaction.update("jobs", {"input_checkpoint_id": agreed}, "id = :id", id=job_id)
    return agreed


def finish_node(transaction: Transaction, row: Record, lease: Lease, new: Mapping[str, Any]) -> int:
    """Record the end of a machine of a job, whose row is locked, and of the job with the last one; 0 for a lost lease.

    ``new`` has the columns of the end.
    """
    held = {"job_id": row["id"], "token": lease.token, "attempt": row["attempt"]}
    if not transaction.update("job_nodes", dict(new) | NO_LEASE, f"{_HELD} AND attempt = :attempt", **held):
        return 0
    _finish_job(transaction, row, new["ended_at"])
    return 1


def correct_node(transaction: Transaction, row: Record, node: int, new: Mapping[str, Any]) -> bool:
    """Record how a machine of a job, whose row is locked, really ended, where its process could not tell the catalog.

    One that a process runs, or whose end is known, stays as it is: then False.
    """
    known = next((one for one in row["node_rows"] if one["node"] == node), None)
    if known is None or known["status"] not in RUNNING or is_held(known):
        return False
    key = {"job_id": row["id"], "attempt": row["attempt"], "node": node}
    transaction.update_as_read("job_nodes", dict(new) | NO_LEASE, key)
    _finish_job(transaction, row, new["ended_at"])
    return True


def _finish_job(transaction: Transaction, row: Record, ended_at: str) -> None:
    """Record the end of a job where the last of its machines has ended."""
    with_nodes(transaction, [row])
    end = end_of(row)
    if end is not None:
        status, reason, exit_code = end
        ended = {"status": status, "reason": reason, "exit_code": exit_code, "ended_at": ended_at}
        transaction.update("jobs", ended, "id = :id", id=row["id"])


def _named(nodes: Iterable[int]) -> str:
    found: Sequence[int] = sorted(nodes)
    return f"node{'s'[: len(found) > 1]} {ranges(found)}"


def _machines(count: int) -> str:
    return "1 machine" if count == 1 else f"{count} machines"
