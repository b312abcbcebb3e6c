"""Push, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.blocks import load_connection
from flexai.checkpoints.documents import Document, short_size
from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.service.push import is_large
from flexai.checkpoints.service.requests import NameRequest, PushRequest
from flexai.checkpoints.service.system import System
from flexai.flows.flow_options import OPTIONS, rename_run, run_task
from flexai.flows.forms import PushForm, shard_bytes
from flexai.flows.runners import task_runner
from flexai.tasks import push_checkpoint
from flexai.tasks.options import run_logger, telling
from flexai.tasks.push import push_here
from flexai.tasks.run_names import size_of, size_of_files
from flexai.tasks.shards import FlowShardRunner, again_after_passing_failures


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
    size = _size_of(asked)
    if size:
        rename_run(f"push {request.name}{size}")
    document = _push_in_shards(asked, shard_size=request.shard_size) or run_task(push_checkpoint, asked)
    if not size:
        rename_run(f"push {request.name} ({short_size(document['status']['sizeBytes'])})")
    return document


def _size_of(request: PushRequest | NameRequest) -> str:
    """How large a source is, in a run's name; empty where only its listing tells, which a push does by itself."""
    if isinstance(request, NameRequest):
        return size_of(request.from_checkpoint)
    return size_of_files(request.files, follow_symlinks=request.follow_symlinks) if request.files else ""


def _push_in_shards(request: PushRequest | NameRequest, *, shard_size: str) -> Document | None:
    """Push what is worth more than one shard; None for anything else, and for what cannot be found."""
    if isinstance(request, NameRequest):
        return None
    runner = FlowShardRunner.of(shard_bytes(shard_size))
    try:
        with System.open(connect=load_connection) as system:
            if not is_large(system, request, runner.shard_size):
                return None
    except CheckpointError:
        return None  # for the task to say

    def push_all() -> Document:
        with telling(run_logger()), System.open(connect=load_connection) as system:
            return push_here(system, request, runner=runner)

    return again_after_passing_failures(push_all)
