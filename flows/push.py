"""Push, as a flow."""

from __future__ import annotations

from prefect import flow

from flexai.checkpoints.documents import Document, short_size
from flexai.flows.requests import OtherCheckpoint, ProviderFiles, PushRequest
from flexai.flows.running import OPTIONS, rename_run
from flexai.tasks import push_checkpoint


@flow(
    name="push-checkpoint",
    description="Bring files into the managed store as a checkpoint, from the worker's machine or a storage provider.",
    flow_run_name="push {request.name}",
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
    source = request.source
    if isinstance(source, ProviderFiles):
        document = push_checkpoint(
            request.name,
            storage_provider=source.storage_provider,
            source_path=source.source_path,
            if_not_exists=request.if_not_exists,
        )
    elif isinstance(source, OtherCheckpoint):
        document = push_checkpoint(request.name, from_checkpoint=source.checkpoint, if_not_exists=request.if_not_exists)
    else:
        document = push_checkpoint(
            request.name,
            files=source.files,
            follow_symlinks=source.follow_symlinks,
            rehash=source.rehash,
            if_not_exists=request.if_not_exists,
        )
    # How large it is, its source may tell only when all of it was read.
    rename_run(f"push {request.name} ({short_size(document['status']['sizeBytes'])})")
    return document
