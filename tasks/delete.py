"""Delete, as a task."""

from __future__ import annotations

from prefect import task

from flexai.blocks import load_connection
from flexai.checkpoints.documents import Document
from flexai.checkpoints.service.delete import delete as delete_from_catalog
from flexai.checkpoints.service.system import System
from flexai.tasks.documents import identity
from flexai.tasks.running import QUICK, TAGS, run_logger, telling


@task(
    name="delete-checkpoint",
    description="Delete a checkpoint; its bytes go when nothing else uses them and the grace period is over.",
    tags=TAGS | {"delete"},
    task_run_name="delete {reference}",
    **QUICK,
)
def delete_checkpoint(reference: str) -> Document:
    """Delete a checkpoint and return what was deleted; ``flexai checkpoint undelete ID`` brings it back for a while.

    Args:
        reference: NAME or UUID of the checkpoint.

    Raises:
        CheckpointError: NotFoundError where there is none, ConflictError while it is being pushed.
    """
    logger = run_logger()
    with telling(logger), System.open(connect=load_connection) as system:
        deleted = delete_from_catalog(system, reference)
    logger.info("deleted checkpoint %s (%s)", reference, deleted.id)
    return identity(deleted)
