"""Prune: delete the checkpoints that no rule keeps (see retention); gc frees their bytes after the grace period."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase
from functools import cache
from operator import itemgetter
from typing import Any, Self, TypeAlias

from flexai.checkpoints.catalog.checkpoint_rows import standing
from flexai.checkpoints.catalog.database import Record, Transaction, batches
from flexai.checkpoints.catalog.retention_queries import (
    Candidates,
    check_some_stay,
    check_unused,
    read_candidates,
    read_running,
)
from flexai.checkpoints.choosing import latest
from flexai.checkpoints.documents import Document, finite, flexai_size, human_size
from flexai.checkpoints.errors import CheckpointError, ConflictError, NotFoundError
from flexai.checkpoints.models import Checkpoint, CheckpointKind, CheckpointStatus, from_text, now
from flexai.checkpoints.names import name_key, parse_job_reference, parse_reference, title_of
from flexai.checkpoints.owner import Owner
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.support.retention import (
    BlobUse,
    Decision,
    Group,
    RetentionPlan,
    RetentionPolicy,
    RetentionRow,
    plan_retention,
)
from flexai.checkpoints.service.system import System

Check: TypeAlias = Callable[[Transaction, Record], None]

_STAND_INS = 200
"""How many of the checkpoints that stay are looked for before another one of their group goes."""


@dataclass(frozen=True, slots=True)
class PruneScope:
    """Which checkpoints are judged: what every training job captured, unless something is named."""

    jobs: tuple[str, ...] = ()
    """NAME or UUID of each job; what one captured on one node is one group."""
    pushed: tuple[str, ...] = ()
    """Patterns of pushed checkpoints' names, such as ``mistral-*``, compared without regard to case; what fits one is
    one group."""


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """Checkpoints to be judged by rules, of which those that no rule keeps are to go.

    Args:
        policy: The rules (``flexai.checkpoints.service.support.retention``).
        scope: Which checkpoints are judged (``flexai.checkpoints.service.prune``); what jobs captured where left out.
        apply: Delete what no rule keeps.
        force: Let also what other users made go.

    Raises:
        UsageError: The policy has no rules.
    """

    policy: RetentionPolicy
    scope: PruneScope = PruneScope()
    apply: bool = False
    force: bool = False

    def __post_init__(self) -> None:
        self.policy.check()

    @classmethod
    def of(
        cls,
        *,
        jobs: Sequence[str] = (),
        pushed: Sequence[str] = (),
        apply: bool = False,
        force: bool = False,
        **rules: Any,
    ) -> Self:
        """The request of its scope's fields and its policy's, as a command and a form have them."""
        return cls(RetentionPolicy(**rules), PruneScope(tuple(jobs), tuple(pushed)), apply, force)


@dataclass(frozen=True, slots=True)
class PruneReport:
    """A plan, and what was done about it."""

    plan: RetentionPlan
    applied: bool
    deleted: tuple[str, ...] = ()
    """The ids of the checkpoints that were deleted, those left out that another process deleted first."""
    spared: Mapping[str, str] = field(default_factory=dict)
    """Why one that should have gone stayed, by its id: something had changed since the plan was made."""

    @property
    def freed_bytes(self) -> int:
        """Bytes that gc takes after the grace period, or would take where nothing was done yet."""
        return self.plan.freed_by(self.deleted) if self.applied else self.plan.freed_bytes


def prune(
    system: System,
    request: PruneRequest,
    *,
    at: datetime | None = None,
    on_deleted: Callable[[Checkpoint], object] = lambda _: None,
    progress: Progress | None = None,
) -> PruneReport:
    """Plan what the rules let go, and with ``apply`` delete it; ``at`` is the time that ages are counted to.

    Each checkpoint is looked at once more when it is deleted, while nothing else can change it: one that is protected,
    used, exported or finished meanwhile stays, and so does the last one of a group. ``on_deleted`` is called with each
    one that was deleted. Interrupted, a rerun goes on.

    Raises NotFoundError for a job that is not there.
    """
    plan = plan_prune(system, request, at=at)
    if not request.apply:
        return PruneReport(plan, applied=False)
    progress = progress or Progress()
    stand_ins = _stand_ins(plan)
    deleted: list[str] = []
    spared: dict[str, str] = {}
    progress.begin("prune", total_bytes=plan.freed_bytes, total_files=len(plan.deleted))
    try:
        for batch in batches(plan.deleted):
            decisions = {decision.row.id: decision for decision in batch}

            def refused(
                checkpoint_id: str, error: CheckpointError, decisions: Mapping[str, Decision] = decisions
            ) -> None:
                title = decisions[checkpoint_id].row.title
                if isinstance(error, NotFoundError):
                    progress.note(f"{title} was deleted by another process")
                else:
                    spared[checkpoint_id] = error.message
                    progress.note(f"{title} stays: {error.message}")

            references = {checkpoint_id: parse_reference(checkpoint_id) for checkpoint_id in decisions}
            check = _recheck(decisions, request.policy, stand_ins)
            for gone in system.catalog.checkpoints.delete_each(references, check=check, refused=refused):
                deleted.append(gone.id)
                on_deleted(gone)
            progress.advance(moved=sum(decision.freed_bytes for decision in batch), files=len(batch))
    finally:
        progress.end()
    return PruneReport(plan, applied=True, deleted=tuple(deleted), spared=spared)


def plan_prune(system: System, request: PruneRequest, *, at: datetime | None = None) -> RetentionPlan:
    """Plan what the rules let go, and change nothing; it takes three queries, and one for each job that is named."""
    scope = request.scope
    job_ids = None
    if scope.jobs or scope.pushed:
        job_ids = [str(system.catalog.jobs.get(parse_job_reference(job)).id) for job in scope.jobs]
    found = read_candidates(system.catalog.database, job_ids=job_ids, pushed=bool(scope.pushed))
    blobs = {blob_id: BlobUse(size, users) for blob_id, (size, users) in found.blobs.items()}
    rows = _rows(found, scope.pushed, None if request.force else system.owner)
    return plan_retention(rows, blobs, request.policy, now=at or now())


def prune_document(report: PruneReport) -> Document:
    """What ``checkpoint prune --json`` shows."""
    return {
        "applied": report.applied,
        "keptCount": len(report.plan.kept),
        "deletedCount": len(report.deleted) if report.applied else len(report.plan.deleted),
        "sparedCount": len(report.spared),
        "freed": human_size(report.freed_bytes),
        "freedBytes": report.freed_bytes,
        "checkpoints": [_decision_document(decision, report.spared) for decision in report.plan.decisions],
    }


def _decision_document(decision: Decision, spared: Mapping[str, str]) -> Document:
    row = decision.row
    return {
        "id": row.id,
        "title": row.title,
        "action": "keep" if decision.keep else "delete",
        "reasons": [{"rule": reason.rule.value, "text": reason.text} for reason in decision.reasons],
        "spared": spared.get(row.id, ""),
        "status": row.status,
        "step": row.step,
        "trainLoss": finite(row.train_loss),
        "evalLoss": finite(row.eval_loss),
        "size": flexai_size(row.size),
        "sizeBytes": row.size,
        "freedBytes": decision.freed_bytes,
        "createdAt": row.created_at.isoformat(),
    }


def _rows(found: Candidates, patterns: Sequence[str], owner: Owner | None) -> list[RetentionRow]:
    fitting: dict[str, list[Record]] = defaultdict(list)
    for row in sorted(found.rows, key=lambda row: row["sequence"]):
        is_fit = bool(row["resumable"] or row["resumable_unknown"])
        if row["job_id"] in found.running and row["status"] == CheckpointStatus.AVAILABLE and is_fit:
            fitting[row["job_id"]].append(row)
    resumed = {
        last["id"]: f"job {found.running[job_id]!r} would resume"
        for job_id, fit in fitting.items()
        if (last := latest(fit, itemgetter("step"))) is not None
    }
    rows = []
    for row in found.rows:
        groups = _groups(row, patterns)
        if not groups:
            continue
        in_use = [f"job {job!r} started from it" for job in found.users.get(row["id"], ())]
        if row["id"] in resumed:
            in_use.append(resumed[row["id"]])
        if owner is not None and not owner.has_made(row["creator_user_id"], row["creator"]):
            in_use.append(f"{row['creator'] or 'another user'} made it (--force lets it go)")
        rows.append(
            RetentionRow(
                id=row["id"],
                title=title_of(row["kind"], row["name"], row["job_name"]),
                groups=groups,
                status=standing(row["kind"], row["status"], row["reason"], row)[0],
                size=row["size"],
                created_at=from_text(row["created_at"]),
                sequence=row["sequence"],
                step=row["step"],
                train_loss=row["train_loss"],
                eval_loss=row["eval_loss"],
                metrics=json.loads(row["metrics"]),
                best_by=row["best_by"],
                is_unfit=not (row["resumable"] or row["resumable_unknown"]),
                is_protected=bool(row["is_protected"]),
                is_exported=bool(row["is_exported"]),
                in_use=tuple(in_use),
            )
        )
    return rows


def _groups(row: Record, patterns: Sequence[str]) -> frozenset[Group]:
    if row["kind"] == CheckpointKind.CAPTURED:
        return frozenset({f"job {row['job_name']} {row['job_id']} {row['node']}"})
    key = name_key(row["name"])
    return frozenset(f"pushed {pattern}" for pattern in patterns if fnmatchcase(key, pattern.casefold()))


def _stand_ins(plan: RetentionPlan) -> dict[Group, list[str]]:
    """Some available checkpoints that stay, by group; the newest, which live longest."""
    found: dict[Group, list[str]] = defaultdict(list)
    for decision in reversed(plan.kept):
        for group in decision.row.groups:
            if decision.row.is_available and len(found[group]) < _STAND_INS:
                found[group].append(decision.row.id)
    return found


def _recheck(
    decisions: Mapping[str, Decision], policy: RetentionPolicy, stand_ins: Mapping[Group, Sequence[str]]
) -> Check:
    """What looks at checkpoints that should go once more, in the one transaction that deletes them.

    What holds for all of them until that ends is asked once.
    """
    running = cache(read_running)
    stay = cache(lambda transaction, group: check_some_stay(transaction, stand_ins.get(group, ())))

    def check(transaction: Transaction, row: Record) -> None:
        decided = decisions[row["id"]].row
        is_available = row["status"] == CheckpointStatus.AVAILABLE
        if is_available is not decided.is_available:
            raise ConflictError(f"it is {row['status']} now")
        check_unused(transaction, row, keep_exported=policy.keep_exported, running=running(transaction))
        if is_available:
            for group in decided.groups:
                stay(transaction, group)

    return check
