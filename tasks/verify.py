"""Verify, as a task; and what this task and the scrub say of damaged content and of its repair."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flexai.checkpoints.documents import Document, human_size
from flexai.checkpoints.service.repair import Repair, RepairReport
from flexai.checkpoints.service.store_requests import VerifyRequest
from flexai.checkpoints.service.verify import Damage
from flexai.checkpoints.service.verify import verify as verify_store
from flexai.tasks import artifacts
from flexai.tasks.direct import task
from flexai.tasks.events import emit_corruption
from flexai.tasks.options import RETRIED, TAGS, Logger, current_watcher, run_logger, takes, telling
from flexai.tasks.run_progress import RunProgress
from flexai.tasks.transfer_slots import transferring

_SHOWN = 200
"""Rows of a page; the log has them all."""


@task(
    name="verify-checkpoints",
    description="Read stored content and compare it with its digests.",
    tags=TAGS | {"verify"},
    task_run_name="verify checkpoints",
    **RETRIED,
)
@takes(VerifyRequest)
def verify_checkpoints(request: VerifyRequest) -> Document:
    """Verify checkpoints, or the whole store where none is named; damage fails the task, after it is all logged.

    Returns:
        What ``flexai checkpoint verify --json`` prints.

    Raises:
        CheckpointError: IntegrityError for damaged content, NotFoundError for a checkpoint that is not there.
    """
    logger = run_logger()
    progress = RunProgress(logger, key="verify-checkpoints")

    def tell(damaged: Sequence[Damage]) -> None:
        emit_corruption(system, damaged)
        log_damage(damaged, logger)

    with transferring(logger) as system:
        report = verify_store(system, request, on_damage=tell, progress=progress)
    with telling(logger):
        log_repair(report.repair, logger)
        current_watcher().on_verified(report)
        report.raise_if_damaged()
    logger.info(
        "verified %d contents, %s: %d damaged, %d repaired",
        report.checked_contents,
        human_size(report.checked_bytes),
        len(report.damaged),
        len(report.repair.repaired),
    )
    return report.to_dict()


def log_damage(damaged: Iterable[Damage], logger: Logger) -> None:
    """Log every damaged content and who needs it."""
    for damage in damaged:
        logger.error(
            "blob %s is damaged, which is needed by %s: %s", damage.blob_id, _users(damage.users), damage.problem
        )


def log_repair(report: RepairReport, logger: Logger) -> None:
    """Log what was repaired, and what could not be."""
    for repair in report.repaired:
        logger.warning(
            "blob %s, which is needed by %s, was repaired from %s", repair.blob_id, _users(repair.users), repair.source
        )
    for repair in report.unrepaired:
        logger.error(
            "blob %s, which is needed by %s, could not be repaired: %s",
            repair.blob_id,
            _users(repair.users),
            repair.problem,
        )


def describe_damage(damaged: Sequence[Damage], report: RepairReport) -> str:
    """Damage and its repair as a table in Markdown; empty where there is neither."""
    outcomes = {repair.blob_id: _outcome(repair) for repair in [*report.repaired, *report.unrepaired]}
    rows = {damage.blob_id: (damage.users, damage.problem) for damage in damaged}
    # What an earlier verification has found.
    for repair in [*report.repaired, *report.unrepaired]:
        rows.setdefault(repair.blob_id, (repair.users, "found before"))
    if not rows:
        return ""
    lines = ["", "| Damaged | Problem | Repair |", "|---|---|---|"]
    for blob_id, (users, problem) in list(rows.items())[:_SHOWN]:
        outcome = outcomes.get(blob_id, "not tried")
        lines.append(f"| {artifacts.code(_users(users))} | {artifacts.code(problem)} | {outcome} |")
    return "\n".join(lines) + "\n"


def _outcome(repair: Repair) -> str:
    return artifacts.code(repair.problem) if repair.problem else f"from {artifacts.code(repair.source)}"


def _users(users: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{path} of {checkpoint}" for checkpoint, path in users) or "no checkpoint"
