"""Inspect and list, as tasks."""

from __future__ import annotations

from flexai.checkpoints.documents import Document, checkpoint_list_document
from flexai.checkpoints.service.inspect import inspect_checkpoint as inspect
from flexai.checkpoints.service.looking import look_at_catalog
from flexai.tasks.direct import task
from flexai.tasks.options import QUICK, TAGS, load_connection, run_logger, telling


@task(
    name="inspect-checkpoint",
    description="Look up everything that is known of a checkpoint.",
    tags=TAGS | {"inspect"},
    task_run_name="inspect {reference}",
    **QUICK,
)
def inspect_checkpoint(reference: str) -> Document:
    """Return a checkpoint's document, as ``flexai checkpoint inspect --json`` prints it.

    Args:
        reference: NAME, UUID or JOB/PATH of the checkpoint.

    Raises:
        CheckpointError: NotFoundError where there is none.
    """
    with telling(run_logger()), look_at_catalog(load_connection) as catalog:
        return inspect(catalog, reference)


@task(
    name="list-checkpoints",
    description="List the checkpoints that users pushed.",
    tags=TAGS | {"inspect"},
    task_run_name="list checkpoints",
    **QUICK,
)
def list_checkpoints() -> list[Document]:
    """Return the pushed checkpoints, oldest first, as ``flexai checkpoint list --json`` prints them.

    Raises:
        CheckpointError: StorageUnavailableError where the catalog does not answer.
    """
    with telling(run_logger()), look_at_catalog(load_connection) as catalog:
        return checkpoint_list_document(catalog.checkpoints.list_pushed())
