"""Export, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.blocks import load_connection
from flexai.checkpoints.documents import Document
from flexai.checkpoints.service.requests import ExportRequest
from flexai.checkpoints.service.system import System
from flexai.flows.flow_options import OPTIONS, rename_run, run_task
from flexai.flows.forms import ExportForm, shard_bytes
from flexai.flows.runners import task_runner
from flexai.tasks import export_checkpoint
from flexai.tasks.export import export_here
from flexai.tasks.options import run_logger, telling
from flexai.tasks.run_names import size_of
from flexai.tasks.shards import FlowShardRunner, again_after_passing_failures


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
    if not runner.is_for_export(request.reference):
        return None

    def export_all() -> Document:
        with telling(run_logger()), System.open(connect=load_connection) as system:
            return export_here(system, request, runner=runner)

    return again_after_passing_failures(export_all)
