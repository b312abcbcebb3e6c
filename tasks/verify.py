"""Verify, as a task."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task

from flexai.blocks import load_connection
from flexai.checkpoints.documents import Document, human_size
from flexai.checkpoints.service.repair import RepairReport
from flexai.checkpoints.service.repair import repair as repair_store
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.verify import verify as verify_store
from flexai.tasks.damage import log_damage, log_repair
from flexai.tasks.events import emit_corruption
from flexai.tasks.options import RETRIED, TAGS, run_logger, telling
from flexai.tasks.run_progress import RunProgress
from flexai.tasks.transfer_slots import transfer_through
from flexai.tasks.watcher import current_watcher


@task(
    name="verify-checkpoints",
    description="Read stored content and compare it with its digests.",
    tags=TAGS | {"verify"},
    task_run_name="verify checkpoints",
    **RETRIED,
)
def verify_checkpoints(references: Sequence[str] = (), repair: bool = False) -> Document:
    """Verify checkpoints, or the whole store where none is named; damage fails the task, after it is all logged.

    Args:
        references: NAME or UUID of each checkpoint.
        repair: Put content of an export in the place of all that is known to be damaged; only what cannot be repaired
            fails the task.

    Returns:
        ``checkedContents``, ``checkedBytes``, ``damagedContents`` and ``repairedContents``.

    Raises:
        CheckpointError: IntegrityError for damaged content, NotFoundError for a checkpoint that is not there.
    """
    logger = run_logger()
    progress = RunProgress(logger, key="verify-checkpoints")
    with telling(logger):
        with transfer_through(), System.open(connect=load_connection) as system:
            report = verify_store(system, references, progress=progress)
            emit_corruption(system, report.damaged)
            log_damage(report.damaged, logger)
            repaired = repair_store(system, load_connection, progress=progress) if repair else RepairReport()
        log_repair(repaired, logger)
        current_watcher().on_damage(report.damaged, repaired)
        repaired.raise_if_unrepaired()
        if not repair:
            report.raise_if_damaged()
    logger.info(
        "verified %d contents, %s: %d damaged, %d repaired",
        report.checked_contents,
        human_size(report.checked_bytes),
        len(report.damaged),
        len(repaired.repaired),
    )
    return {
        "checkedContents": report.checked_contents,
        "checkedBytes": report.checked_bytes,
        "damagedContents": len(report.damaged),
        "repairedContents": len(repaired.repaired),
    }
