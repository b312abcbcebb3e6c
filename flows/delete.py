"""Delete, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document
from flexai.flows.flow_options import OPTIONS, rename_run, run_task
from flexai.flows.forms import DeleteForm
from flexai.tasks import delete_checkpoint
from flexai.tasks.run_names import size_of


@flow(
    name="delete-checkpoint",
    description="Delete a checkpoint; its bytes go when nothing else uses them and the grace period is over.",
    flow_run_name="delete {request.checkpoint}",
    **OPTIONS,
)
def delete(request: DeleteForm) -> Document:
    """Delete a checkpoint; until gc takes its bytes, ``flexai checkpoint undelete ID`` brings it back.

    Args:
        request: Which checkpoint.

    Returns:
        ``name``, ``id`` and ``job`` of what was deleted.

    Raises:
        CheckpointError: NotFoundError where there is none, ConflictError while it is being pushed.
    """
    rename_run(f"delete {request.checkpoint}{size_of(request.checkpoint)}")
    return run_task(delete_checkpoint, request.request())
