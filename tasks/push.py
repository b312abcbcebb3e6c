"""Push, as a task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flexai.blocks import load_connection
from flexai.checkpoints.documents import Document, human_size
from flexai.checkpoints.models import Checkpoint, now
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.inspect import inspect_checkpoint
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.push import push as push_to_store
from flexai.checkpoints.service.requests import AnyPushRequest, NameRequest, PushRequest
from flexai.checkpoints.service.support.shard_work import ShardRunner
from flexai.checkpoints.service.system import System
from flexai.tasks import artifacts
from flexai.tasks.change_reports import Reporter
from flexai.tasks.direct import task
from flexai.tasks.options import RETRIED, TAGS, run_logger, takes, telling
from flexai.tasks.run_names import size_of, size_of_files, sized
from flexai.tasks.run_progress import RunProgress
from flexai.tasks.transfer_slots import transferring


def _size_of_source(parameters: dict[str, Any]) -> str:
    """How large what is pushed is; empty for what a provider has, which only listing it would tell."""
    if parameters["files"]:
        return size_of_files(parameters["files"], follow_symlinks=parameters["follow_symlinks"])
    return size_of(parameters["from_checkpoint"]) if parameters["from_checkpoint"] else ""


@task(
    name="push-checkpoint",
    description="Bring files into the managed store as a checkpoint.",
    tags=TAGS | {"push"},
    task_run_name=sized("push {name}{size}", _size_of_source),
    **RETRIED,
)
@takes(AnyPushRequest)
def push_checkpoint(asked: AnyPushRequest) -> Document:
    """Push a checkpoint and return its document.

    A push that failed or was cancelled is continued by the next one of the same name.

    Raises:
        CheckpointError: What ``flexai.checkpoints.service.push.push`` raises; UsageError for no source or several.
    """
    request, logger = asked.request(), run_logger()
    if isinstance(request, NameRequest):
        # No byte moves.
        with telling(logger), System.open(connect=load_connection) as system:
            return name_here(system, request)
    with transferring(logger, request.storage_provider) as system:
        return push_here(system, request)


def push_here(system: System, request: PushRequest, *, runner: ShardRunner | None = None) -> Document:
    """Push a checkpoint in the run that is going on, and tell of it; ``runner`` runs a large one in shards.

    Raises what ``flexai.checkpoints.service.push.push`` raises.
    """
    return _tell(
        system, request.name, lambda progress: push_to_store(system, request, runner=runner, progress=progress)
    )


def name_here(system: System, request: NameRequest) -> Document:
    """Give a checkpoint another name in the run that is going on, and tell of it.

    Raises what ``flexai.checkpoints.service.naming.name_checkpoint`` raises.
    """
    return _tell(system, request.name, lambda progress: name_checkpoint(system, request, progress=progress))


def _tell(system: System, name: str, push: Callable[[Progress], Checkpoint]) -> Document:
    logger = run_logger()
    progress = RunProgress(logger, key=artifacts.artifact_key("push", name))
    reporter = Reporter(system, logger)
    began = now()
    with reporter.telling_failure(name, "push"):
        checkpoint = push(progress)
    with system.look() as catalog:
        document = inspect_checkpoint(catalog, checkpoint.id)
    logger.info(
        "checkpoint %r is available: %d files, %s (%s)",
        checkpoint.name,
        checkpoint.file_count,
        human_size(checkpoint.size),
        checkpoint.id,
    )
    reporter.pushed(checkpoint, began=began, moved=progress.moved, skipped=progress.skipped)
    return document
