"""Export, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.blocks import load_connection
from flexai.checkpoints.documents import Document
from flexai.flows.flow_options import OPTIONS, rename_run
from flexai.flows.forms import ExportRequest, shard_bytes
from flexai.flows.runners import task_runner
from flexai.tasks import export_checkpoint
from flexai.tasks.export import export_here
from flexai.tasks.run_names import size_of
from flexai.tasks.shards import FlowShardRunner, again_after_passing_failures


@flow(
    name="export-checkpoint",
    description="Bring a checkpoint's files to a storage provider.",
    flow_run_name="export {request.checkpoint} to {request.storage_provider}",
    task_runner=task_runner(),
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
    where = request.storage_provider, request.destination_path
    return export_in_shards(
        request.checkpoint, *where, overwrite=request.overwrite, shard_size=request.shard_size
    ) or export_checkpoint(request.checkpoint, *where, overwrite=request.overwrite)


def export_in_shards(
    reference: str, storage_provider: str, destination_path: str, *, overwrite: bool, shard_size: str
) -> Document | None:
    """Export what is worth more than one shard; None for anything else, and for what cannot be found.

    Raises what ``flexai.tasks.export_checkpoint`` raises.
    """
    runner = FlowShardRunner.of(shard_bytes(shard_size))
    if not runner.is_for_export(reference):
        return None
    connection = load_connection(storage_provider)
    return again_after_passing_failures(
        lambda: export_here(reference, connection, destination_path, overwrite=overwrite, runner=runner)
    )
