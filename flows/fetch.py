"""Fetch, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document
from flexai.checkpoints.service.fetch import is_large
from flexai.checkpoints.service.requests import FetchRequest
from flexai.flows.flow_options import OPTIONS, rename_run, run_task
from flexai.flows.forms import FetchForm, shard_bytes
from flexai.flows.runners import task_runner
from flexai.tasks import fetch_checkpoint
from flexai.tasks.fetch import fetch_here
from flexai.tasks.run_names import size_of
from flexai.tasks.shards import FlowShardRunner


@flow(
    name="fetch-checkpoint",
    description="Bring a checkpoint's files to a directory of the worker's machine.",
    flow_run_name="fetch {request.checkpoint}",
    task_runner=task_runner(),
    **OPTIONS,
)
def fetch(request: FetchForm) -> Document:
    """Fetch a checkpoint; files that are there with the right content stay, and a broken fetch is continued.

    Args:
        request: Which checkpoint to fetch, and where to.

    Returns:
        What ``flexai.tasks.fetch_checkpoint`` returns.

    Raises:
        CheckpointError: What ``flexai.tasks.fetch_checkpoint`` raises.
    """
    rename_run(f"fetch {request.checkpoint}{size_of(request.checkpoint)}")
    asked = request.request()
    return _fetch_in_shards(asked, shard_size=request.shard_size) or run_task(fetch_checkpoint, asked)


def _fetch_in_shards(request: FetchRequest, *, shard_size: str) -> Document | None:
    """Fetch of what is worth more than one shard; None for anything else, and for what cannot be found."""
    runner = FlowShardRunner.of(shard_bytes(shard_size))
    if request.node is not None or not runner.is_for(request.reference):
        return None
    if not runner.is_worth(lambda system: is_large(system, request, runner.shard_size)):
        return None
    return runner.run(fetch_here, request)
