"""Push, as a task."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from prefect import task

from flexai.blocks import load_connection
from flexai.checkpoints.documents import Document, human_size
from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.models import now
from flexai.checkpoints.service.inspect import inspect_checkpoint
from flexai.checkpoints.service.push import ExistingCheckpoint, LocalFiles, ProviderPath, PushSource
from flexai.checkpoints.service.push import push as push_to_store
from flexai.checkpoints.service.shard_work import ShardRunner
from flexai.checkpoints.service.system import System
from flexai.tasks import artifacts
from flexai.tasks.change_reports import Reporter
from flexai.tasks.options import RETRIED, TAGS, run_logger, telling
from flexai.tasks.run_names import size_of, size_of_files, sized
from flexai.tasks.run_progress import RunProgress
from flexai.tasks.transfer_slots import transfer_through

_FORMS = "give one of: files; storage_provider and source_path; from_checkpoint"


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
def push_checkpoint(
    name: str,
    files: Sequence[str] = (),
    follow_symlinks: bool = False,
    storage_provider: str = "",
    source_path: str = "",
    from_checkpoint: str = "",
    if_not_exists: bool = False,
    rehash: bool = False,
) -> Document:
    """Push a checkpoint and return its document.

    A push that failed or was cancelled is continued by the next one of the same name.

    Args:
        name: The checkpoint's name.
        files: Local sources, ``SOURCE[=DESTINATION]`` each; a folder's content goes below its destination.
        follow_symlinks: Push what links inside a source folder lead to, instead of refusing them.
        storage_provider: The name of a storage provider connection to push from.
        source_path: ``BUCKET/PREFIX-or-KEY`` on that provider.
        from_checkpoint: NAME or UUID of a checkpoint that is here already; no byte moves.
        if_not_exists: Succeed where the name is taken by the same content.
        rehash: Read local files again that look unchanged since they were last pushed.

    Raises:
        CheckpointError: What ``flexai.checkpoints.service.push.push`` raises; UsageError for no source or several.
    """
    with telling(run_logger()):
        source = source_of(files, follow_symlinks, rehash, storage_provider, source_path, from_checkpoint)
    # Another name for what is here already moves no byte.
    with contextlib.nullcontext() if from_checkpoint else transfer_through(storage_provider):
        return push_here(name, source, if_not_exists=if_not_exists)


def push_here(
    name: str, source: PushSource, *, if_not_exists: bool = False, runner: ShardRunner | None = None
) -> Document:
    """Push a checkpoint in the run that is going on, and tell of it; ``runner`` runs a large one in shards.

    Raises what ``flexai.checkpoints.service.push.push`` raises.
    """
    logger = run_logger()
    progress = RunProgress(logger, key=artifacts.artifact_key("push", name))
    with telling(logger), System.open(connect=load_connection) as system:
        reporter = Reporter(system, logger)
        began = now()
        with reporter.telling_failure(name, "push"):
            checkpoint = push_to_store(
                system, name, source, if_not_exists=if_not_exists, runner=runner, progress=progress
            )
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


def source_of(
    files: Sequence[str] = (),
    follow_symlinks: bool = False,
    rehash: bool = False,
    storage_provider: str = "",
    source_path: str = "",
    from_checkpoint: str = "",
) -> PushSource:
    """What to push; UsageError for no source or several, and what ``flexai.blocks.load_connection`` raises."""
    given = [bool(files), bool(storage_provider or source_path), bool(from_checkpoint)]
    if sum(given) != 1:
        raise UsageError(
            "there is nothing to push" if not any(given) else "sources of two kinds are given", hint=_FORMS
        )
    if files:
        return LocalFiles(tuple(files), follow_symlinks=follow_symlinks, rehash=rehash)
    if from_checkpoint:
        return ExistingCheckpoint(from_checkpoint)
    if not storage_provider or not source_path:
        raise UsageError("storage_provider and source_path need each other", hint=_FORMS)
    return ProviderPath(load_connection(storage_provider), source_path)
