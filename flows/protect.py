"""Protect, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document
from flexai.flows.flow_options import OPTIONS, rename_run, run_task
from flexai.flows.forms import ProtectForm
from flexai.tasks import protect_checkpoints
from flexai.tasks.run_names import protecting


@flow(
    name="protect-checkpoints",
    description="Keep checkpoints from being deleted, or let them be deleted again.",
    flow_run_name="protect checkpoints",
    **OPTIONS,
)
def protect(request: ProtectForm) -> Document:
    """Protect checkpoints, or take that back; all that are named, or none.

    Args:
        request: Which checkpoints.

    Returns:
        ``checkpoints``: ``name``, ``id``, ``job``, ``title`` and ``protected`` of each.

    Raises:
        CheckpointError: NotFoundError where one is not there, ConflictError for one that is not available.
    """
    rename_run(protecting(request.checkpoints, protected=request.protected))
    return run_task(protect_checkpoints, request.request())
