"""Verify, as a task."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task

from flexai.checkpoints.documents import Document, human_size
from flexai.checkpoints.service.store_requests import VerifyRequest
from flexai.checkpoints.service.support.result_documents import verify_document
from flexai.checkpoints.service.verify import Damage
from flexai.checkpoints.service.verify import verify as verify_store
from flexai.tasks.damage import log_damage, log_repair
from flexai.tasks.events import emit_corruption
from flexai.tasks.options import RETRIED, TAGS, run_logger, takes, telling
from flexai.tasks.run_progress import RunProgress
from flexai.tasks.transfer_slots import transferring
from flexai.tasks.watcher import current_watcher


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
        ``checkedContents``, ``checkedBytes``, ``damagedContents`` and ``repairedContents``.

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
        current_watcher().on_damage(report.damaged, report.repair)
        report.raise_if_damaged()
    logger.info(
        "verified %d contents, %s: %d damaged, %d repaired",
        report.checked_contents,
        human_size(report.checked_bytes),
        len(report.damaged),
        len(report.repair.repaired),
    )
    return verify_document(report)
