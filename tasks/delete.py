"""Delete, undelete and protect, as tasks."""

from __future__ import annotations

from flexai.checkpoints.documents import Document, identity, protected_document, undelete_document
from flexai.checkpoints.service.change_requests import DeleteRequest, ProtectRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete as delete_from_catalog
from flexai.checkpoints.service.delete import protect as protect_in_catalog
from flexai.checkpoints.service.delete import undelete as undelete_in_catalog
from flexai.tasks.change_reports import Reporter
from flexai.tasks.direct import task
from flexai.tasks.options import QUICK, TAGS, open_system, run_logger, takes, telling
from flexai.tasks.run_names import PROTECTING, sized


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
    with telling(logger), open_system() as system:
        deleted = delete_from_catalog(system, request)
        logger.info("deleted checkpoint %s (%s)", request.reference, deleted.id)
        reporter = Reporter(system, logger)
        reporter.deleted(deleted)
        reporter.catalog()
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
    with telling(logger), open_system() as system:
        restored = undelete_in_catalog(system, request)
        logger.info("checkpoint %s is %s again (%s)", restored.name or request.reference, restored.status, restored.id)
        reporter = Reporter(system, logger)
        reporter.undeleted(restored)
        reporter.catalog()
    return undelete_document(restored)


@task(
    name="protect-checkpoints",
    description="Keep checkpoints from being deleted, or let them be deleted again.",
    tags=TAGS | {"protect"},
    task_run_name=PROTECTING,
    **QUICK,
)
@takes(ProtectRequest)
def protect_checkpoints(request: ProtectRequest) -> Document:
    """Protect checkpoints, or take that back, and return which they are; all that are named, or none.

    Raises:
        CheckpointError: NotFoundError where one is not there, ConflictError for one that is not available,
            NotYoursError for another user's, without ``force``.
    """
    logger = run_logger()
    with telling(logger), open_system() as system:
        changed = protect_in_catalog(system, request)
        reporter = Reporter(system, logger)
        for checkpoint in changed:
            what = "protected" if checkpoint.is_protected else "not protected any more"
            logger.info("checkpoint %s is %s (%s)", checkpoint.title, what, checkpoint.id)
            reporter.protected(checkpoint, what)
        reporter.catalog()
    return {"checkpoints": [protected_document(one) for one in changed]}
