"""Export, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document
from flexai.checkpoints.service.requests import ExportRequest
from flexai.flows.flow_options import OPTIONS, rename_run, run_task
from flexai.flows.forms import ExportForm, shard_bytes
from flexai.flows.runners import task_runner
from flexai.tasks import export_checkpoint
from flexai.tasks.export import export_here
from flexai.tasks.run_names import size_of
from flexai.tasks.shards import FlowShardRunner


@flow(
    name="export-checkpoint",
    description="Bring a checkpoint's files to a storage provider.",
    flow_run_name="export {request.checkpoint} to {request.storage_provider}",
    task_runner=task_runner(),
    **OPTIONS,
)
def export(request: ExportForm) -> Document:
    """Export a checkpoint; a rerun continues a broken export, and moves nothing where all is there.

    Args:
        request: Which checkpoint to export, and where to.

    Returns:
        What ``flexai.tasks.export_checkpoint`` returns.

    Raises:
        CheckpointError: What ``flexai.tasks.export_checkpoint`` raises.
    """
    rename_run(f"export {request.checkpoint}{size_of(request.checkpoint)} to {request.storage_provider}")
    asked = request.request()
    return export_in_shards(asked, shard_size=request.shard_size) or run_task(export_checkpoint, asked)


def export_in_shards(request: ExportRequest, *, shard_size: str) -> Document | None:
    """Export what is worth more than one shard; None for anything else, and for what cannot be found.

    Raises what ``flexai.tasks.export_checkpoint`` raises.
    """
    runner = FlowShardRunner.of(shard_bytes(shard_size))
    return runner.run(export_here, request) if runner.is_for(request.reference) else None
