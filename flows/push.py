"""Push, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document, short_size
from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.service.push import is_large
from flexai.flows.flow_options import OPTIONS, rename_run
from flexai.flows.forms import OtherCheckpoint, ProviderFiles, PushRequest, WorkerFiles, shard_bytes
from flexai.flows.runners import task_runner
from flexai.tasks import push_checkpoint
from flexai.tasks.push import push_here, source_of
from flexai.tasks.run_names import size_of, size_of_files
from flexai.tasks.shards import FlowShardRunner, again_after_passing_failures


@flow(
    name="push-checkpoint",
    description="Bring files into the managed store as a checkpoint, from the worker's machine or a storage provider.",
    flow_run_name="push {request.name}",
    task_runner=task_runner(),
    **OPTIONS,
)
def push(request: PushRequest) -> Document:
    """Push a checkpoint; a push that failed or was cancelled is continued by the next one of the same name.

    Args:
        request: What to push, and under which name.

    Returns:
        The checkpoint's document, as ``flexai checkpoint inspect --json`` prints it.

    Raises:
        CheckpointError: What ``flexai.tasks.push_checkpoint`` raises.
    """
    size = _size_of(request.source)
    if size:
        rename_run(f"push {request.name}{size}")
    document = _push_in_shards(request) or _push(request)
    if not size:
        rename_run(f"push {request.name} ({short_size(document['status']['sizeBytes'])})")
    return document


def _size_of(source: WorkerFiles | ProviderFiles | OtherCheckpoint) -> str:
    """How large a source is, in a run's name; empty where only its listing tells, which a push does by itself."""
    if isinstance(source, WorkerFiles):
        return size_of_files(source.files, follow_symlinks=source.follow_symlinks)
    return size_of(source.checkpoint) if isinstance(source, OtherCheckpoint) else ""


def _push_in_shards(request: PushRequest) -> Document | None:
    """Push what is worth more than one shard; None for anything else, and for what cannot be found."""
    source = request.source
    runner = FlowShardRunner.of(shard_bytes(request.shard_size))
    if isinstance(source, OtherCheckpoint):
        return None
    try:
        if isinstance(source, ProviderFiles):
            what = source_of(storage_provider=source.storage_provider, source_path=source.source_path)
        else:
            what = source_of(source.files, source.follow_symlinks, source.rehash)
        if not is_large(what, runner.shard_size):
            return None
    except CheckpointError:
        return None  # for the task to say
    return again_after_passing_failures(
        lambda: push_here(request.name, what, if_not_exists=request.if_not_exists, runner=runner)
    )


def _push(request: PushRequest) -> Document:
    source = request.source
    if isinstance(source, ProviderFiles):
        return push_checkpoint(
            request.name,
            storage_provider=source.storage_provider,
            source_path=source.source_path,
            if_not_exists=request.if_not_exists,
        )
    if isinstance(source, OtherCheckpoint):
        return push_checkpoint(request.name, from_checkpoint=source.checkpoint, if_not_exists=request.if_not_exists)
    return push_checkpoint(
        request.name,
        files=source.files,
        follow_symlinks=source.follow_symlinks,
        rehash=source.rehash,
        if_not_exists=request.if_not_exists,
    )
