"""Verify, as a task."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task

from flexai.blocks import load_connection
from flexai.checkpoints.documents import Document, human_size
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.verify import verify as verify_store
from flexai.tasks.events import emit_corruption
from flexai.tasks.progress import RunProgress
from flexai.tasks.running import RETRIED, TAGS, run_logger, telling


@task(
    name="verify-checkpoints",
    description="Read stored content and compare it with its digests.",
    tags=TAGS | {"verify"},
    task_run_name="verify checkpoints",
    **RETRIED,
)
def verify_checkpoints(references: Sequence[str] = ()) -> Document:
    """Verify checkpoints, or the whole store where none is named; damage fails the task, after it is all logged.

    Args:
        references: NAME or UUID of each checkpoint.

    Returns:
        ``checkedContents`` and ``checkedBytes``.

    Raises:
        CheckpointError: IntegrityError for damaged content, NotFoundError for a checkpoint that is not there.
    """
    logger = run_logger()
    progress = RunProgress(logger, key="verify-checkpoints")
    with telling(logger):
        with System.open(connect=load_connection) as system:
            report = verify_store(system, references, progress=progress)
            emit_corruption(system, report.damaged)
        for damage in report.damaged:
            users = ", ".join(f"{path} of {checkpoint}" for checkpoint, path in damage.users) or "no checkpoint"
            logger.error("blob %s is damaged, which is needed by %s: %s", damage.blob_id, users, damage.problem)
        report.raise_if_damaged()
    logger.info("verified %d contents, %s: no damage", report.checked_contents, human_size(report.checked_bytes))
    return {"checkedContents": report.checked_contents, "checkedBytes": report.checked_bytes}
