"""Push, as a task."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from flexai.checkpoints.documents import Document, human_size, short_size
from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.models import Checkpoint, now
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.inspect import inspect_checkpoint
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.push import FilesToPush, find
from flexai.checkpoints.service.push import push as push_to_store
from flexai.checkpoints.service.push_requests import AnyPushRequest, NameRequest, PushRequest
from flexai.checkpoints.service.support.shard_work import ShardRunner
from flexai.checkpoints.service.system import System
from flexai.checkpoints.settings import load_settings
from flexai.tasks import artifacts
from flexai.tasks.change_reports import Reporter
from flexai.tasks.direct import task
from flexai.tasks.options import RETRIED, TAGS, open_system, run_logger, takes, telling
from flexai.tasks.run_names import size_of, sized
from flexai.tasks.run_progress import RunProgress
from flexai.tasks.transfer_slots import transferring

_FRESH_NS = 10 * 10**9
"""How long what was found of a source is what is there: a run may wait for its place long after it was named."""
_found: ContextVar[tuple[PushRequest, FilesToPush] | None] = ContextVar("flexai_found_to_push", default=None)


def find_to_push(request: PushRequest) -> FilesToPush | None:
    """The local files of a push; None where they cannot be found, and for what a provider has.

    They are kept for the push that follows in this run: to look for 20,000 files takes as long as to store them.
    """
    known = _found.get()
    if known and known[0] == request and time.time_ns() - known[1].at_ns < _FRESH_NS:
        return known[1]
    _found.set(None)
    if not request.files:
        return None
    try:
        found = find(request, load_settings())
    except CheckpointError:
        return None  # for the push to say
    _found.set((request, found))
    return found


def _taken(request: PushRequest) -> FilesToPush | None:
    """What was found of a request a moment ago, once: another try looks anew."""
    found = find_to_push(request) if _found.get() else None
    _found.set(None)
    return found


def size_to_push(request: PushRequest | NameRequest) -> str:
    """How large what is pushed is, in a run's name; empty for what a provider has, which only listing it would tell."""
    if isinstance(request, NameRequest):
        return size_of(request.from_checkpoint)
    found = find_to_push(request)
    return "" if found is None else f" ({short_size(found.size)})"


def _size_of_source(parameters: dict[str, Any]) -> str:
    try:
        return size_to_push(AnyPushRequest(**parameters).request())
    except CheckpointError:
        return ""


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
        with telling(logger), open_system() as system:
            return name_here(system, request)
    with transferring(logger, request.storage_provider) as system:
        return push_here(system, request)


def push_here(system: System, request: PushRequest, *, runner: ShardRunner | None = None) -> Document:
    """Push a checkpoint in the run that is going on, and tell of it; ``runner`` runs a large one in shards.

    Raises what ``flexai.checkpoints.service.push.push`` raises.
    """
    return _tell(
        system,
        request.name,
        lambda progress: push_to_store(system, request, found=_taken(request), runner=runner, progress=progress),
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
    reporter.catalog()
    return document
