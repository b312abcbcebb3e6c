"""Push, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document, short_size
from flexai.checkpoints.service.push import is_large
from flexai.checkpoints.service.push_requests import NameRequest, PushRequest
from flexai.flows.flow_options import OPTIONS, rename_run, run_task
from flexai.flows.forms import PushForm, shard_bytes
from flexai.flows.runners import task_runner
from flexai.tasks import push_checkpoint
from flexai.tasks.push import find_to_push, push_here, size_to_push
from flexai.tasks.shards import FlowShardRunner


@flow(
    name="push-checkpoint",
    description="Bring files into the managed store as a checkpoint, from the worker's machine or a storage provider.",
    flow_run_name="push {request.name}",
    task_runner=task_runner(),
    **OPTIONS,
)
def push(request: PushForm) -> Document:
    """Push a checkpoint; a push that failed or was cancelled is continued by the next one of the same name.

    Args:
        request: What to push, and under which name.

    Returns:
        The checkpoint's document, as ``flexai checkpoint inspect --json`` prints it.

    Raises:
        CheckpointError: What ``flexai.tasks.push_checkpoint`` raises.
    """
    asked = request.request()
    size = size_to_push(asked)
    if size:
        rename_run(f"push {request.name}{size}")
    document = _push_in_shards(asked, shard_size=request.shard_size) or run_task(push_checkpoint, asked)
    if not size:
        rename_run(f"push {request.name} ({short_size(document['status']['sizeBytes'])})")
    return document


def _push_in_shards(request: PushRequest | NameRequest, *, shard_size: str) -> Document | None:
    """Push what is worth more than one shard; None for anything else, and for what cannot be found."""
    if isinstance(request, NameRequest):
        return None
    runner = FlowShardRunner.of(shard_bytes(shard_size))
    if not runner.is_worth(lambda system: is_large(system, request, runner.shard_size, find_to_push(request))):
        return None
    return runner.run(push_here, request)
