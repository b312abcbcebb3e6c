"""Export, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document
from flexai.flows.requests import ExportRequest
from flexai.flows.running import OPTIONS, rename_run, size_of
from flexai.tasks import export_checkpoint


@flow(
    name="export-checkpoint",
    description="Bring a checkpoint's files to a storage provider.",
    flow_run_name="export {request.checkpoint} to {request.storage_provider}",
    **OPTIONS,
)
def export(request: ExportRequest) -> Document:
    """Export a checkpoint; a rerun continues a broken export, and moves nothing where all is there.

    Args:
        request: Which checkpoint to export, and where to.

    Returns:
        What ``flexai.tasks.export_checkpoint`` returns.

    Raises:
        CheckpointError: What ``flexai.tasks.export_checkpoint`` raises.
    """
    rename_run(f"export {request.checkpoint}{size_of(request.checkpoint)} to {request.storage_provider}")
    return export_checkpoint(
        request.checkpoint, request.storage_provider, request.destination_path, overwrite=request.overwrite
    )
