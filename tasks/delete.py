"""Delete, as a task."""

from __future__ import annotations

from flexai.blocks import load_connection
from flexai.checkpoints.documents import Document, identity, undelete_document
from flexai.checkpoints.service.delete import delete as delete_from_catalog
from flexai.checkpoints.service.delete import undelete as undelete_in_catalog
from flexai.checkpoints.service.requests import DeleteRequest, UndeleteRequest
from flexai.checkpoints.service.system import System
from flexai.tasks.change_reports import Reporter
from flexai.tasks.direct import task
from flexai.tasks.options import QUICK, TAGS, run_logger, takes, telling
from flexai.tasks.run_names import sized


@task(
    name="delete-checkpoint",
    description="Delete a checkpoint; its bytes go when nothing else uses them and the grace period is over.",
    tags=TAGS | {"delete"},
    task_run_name=sized("delete {reference}{size}"),
    **QUICK,
)
@takes(DeleteRequest)
def delete_checkpoint(request: DeleteRequest) -> Document:
    """Delete a checkpoint and return what was deleted; ``flexai checkpoint undelete ID`` brings it back for a while.

    Raises:
        CheckpointError: NotFoundError where there is none, ConflictError while it is being pushed.
    """
    logger = run_logger()
    with telling(logger), System.open(connect=load_connection) as system:
        deleted = delete_from_catalog(system, request)
        logger.info("deleted checkpoint %s (%s)", request.reference, deleted.id)
        Reporter(system, logger).deleted(deleted)
    return identity(deleted)


@task(
    name="undelete-checkpoint",
    description="Bring back a deleted checkpoint, as long as its bytes are there.",
    tags=TAGS | {"delete"},
    task_run_name="undelete {reference}",
    **QUICK,
)
@takes(UndeleteRequest)
def undelete_checkpoint(request: UndeleteRequest) -> Document:
    """Bring back a deleted checkpoint within its grace period and return which it is, and its status.

    Raises:
        CheckpointError: NotFoundError where there is none that could come back, AlreadyExistsError where the name is
            in use again.
    """
    logger = run_logger()
    with telling(logger), System.open(connect=load_connection) as system:
        restored = undelete_in_catalog(system, request)
        logger.info("checkpoint %s is %s again (%s)", restored.name or request.reference, restored.status, restored.id)
        Reporter(system, logger).undeleted(restored)
    return undelete_document(restored)
