"""Shards of a push or an export as tasks, which the flow's task runner runs.

A flow submits them, never a task: a task that is tried again would roll back what its shards have done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from prefect import task
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture, as_completed
from prefect.tasks import Task

from flexai.blocks import load_connection
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.errors import CheckpointError, ProcessLostError, StorageUnavailableError
from flexai.checkpoints.names import parse_reference
from flexai.checkpoints.service.support.shard_work import (
    ExportedShard,
    ExportShard,
    PushedShard,
    PushShard,
    run_export_shard,
    run_push_shard,
)
from flexai.checkpoints.service.system import System
from flexai.checkpoints.settings import load_settings
from flexai.checkpoints.transfer.shard_plan import MAX_FILES
from flexai.tasks.options import RETRIED, TAGS, run_logger, telling
from flexai.tasks.run_progress import RunProgress
from flexai.tasks.transfer_slots import transfer_through

S = TypeVar("S", bound=PushShard | ExportShard)
R = TypeVar("R")

_DELAYS = (2.0, 4.0, 8.0)
"""Seconds before a flow that runs shards is tried again, as with a task."""


class OpaqueShard(Generic[S]):
    """A shard as one value: Prefect would look into each of its files, again and again, for what other runs return.

    Prefect's own annotation against that, ``quote``, becomes a bare tuple on its way through Dask.
    """

    def __init__(self, content: S) -> None:
        self.content = content

    @property
    def label(self) -> str:
        """What to call the shard."""
        return self.content.label


@task(
    name="push-shard",
    description="Store some files of a checkpoint, or some parts of a large file, in the managed store.",
    tags=TAGS | {"push"},
    task_run_name="push {shard.label}",
    **RETRIED,
)
def push_shard(shard: OpaqueShard[PushShard]) -> PushedShard:
    """Run a shard of a push.

    Args:
        shard: What to store.

    Raises:
        CheckpointError: What ``flexai.checkpoints.service.support.shard_work.run_push_shard`` raises.
    """
    return _here(run_push_shard, shard.content)


@task(
    name="export-shard",
    description="Export some files of a checkpoint, or some parts of a large file, to a storage provider.",
    tags=TAGS | {"export"},
    task_run_name="export {shard.label}",
    **RETRIED,
)
def export_shard(shard: OpaqueShard[ExportShard]) -> ExportedShard:
    """Run a shard of an export.

    Args:
        shard: What to compare or export.

    Raises:
        CheckpointError: What ``flexai.checkpoints.service.support.shard_work.run_export_shard`` raises.
    """
    return _here(run_export_shard, shard.content)


def _here(run: Callable[..., R], shard: PushShard | ExportShard) -> R:
    logger = run_logger()
    with telling(logger), transfer_through(shard.storage_provider), System.open(connect=load_connection) as system:
        return run(system, shard, progress=RunProgress(logger))


@dataclass(frozen=True, slots=True)
class FlowShardRunner:
    """Runs shards by the task runner of the flow that is running."""

    shard_size: int
    """Bytes."""

    @classmethod
    def of(cls, shard_size: int | None) -> FlowShardRunner:
        """Shards of so many bytes, or of as many as the settings say."""
        return cls(load_settings().shard_size if shard_size is None else shard_size)

    def is_for_export(self, reference: str) -> bool:
        """Whether a checkpoint is worth more than one shard; one that cannot be found is not."""
        try:
            with Catalog.look() as catalog:
                checkpoint = catalog.checkpoints.get(parse_reference(reference))
        except CheckpointError:
            return False
        return checkpoint.size > self.shard_size or checkpoint.file_count > MAX_FILES

    def push(self, shards: Sequence[PushShard]) -> Iterator[PushedShard]:
        """Run shards of a push."""
        return _run(push_shard, shards)

    def export(self, shards: Sequence[ExportShard]) -> Iterator[ExportedShard]:
        """Run shards of an export."""
        return _run(export_shard, shards)


def again_after_passing_failures(work: Callable[[], R]) -> R:
    """Do work that runs shards, and again where a store was unavailable or a process was killed.

    It goes on where it stopped.
    """
    for delay in _DELAYS:
        try:
            return work()
        except (StorageUnavailableError, ProcessLostError) as error:
            run_logger().warning("trying again in %.0f s: %s", delay, error.message)
            if isinstance(error, ProcessLostError):
                _renew_processes()
            time.sleep(delay)
    return work()


def _renew_processes() -> None:
    """Have the flow's task runner start processes anew; returns when all that were left have ended."""
    context = FlowRunContext.get()
    if context is not None:
        context.task_runner.__exit__(None, None, None)
        context.task_runner.__enter__()


def _run(run: Task[[OpaqueShard[S]], R], shards: Sequence[S]) -> Iterator[R]:
    futures: list[PrefectFuture[Any]] = []
    try:
        for shard in shards:
            futures.append(run.submit(OpaqueShard(shard)))
        for future in as_completed(futures):
            yield future.result()
    except BrokenExecutor as error:
        # A killed process takes the others with it: the queue that they share may be torn.
        raise ProcessLostError("a process that ran a shard was killed, perhaps for want of memory") from error
    finally:
        # After a failure, shards that wait do not begin, and those that run are waited for, so that the next try meets
        # none. What they raise comes second, and an error of another process may not even be readable here.
        for future in futures:
            cancel = getattr(getattr(future, "wrapped_future", None), "cancel", None)
            if cancel is not None:
                cancel()
        for future in futures:
            if not _is_cancelled(future):
                with suppress(Exception):
                    future.wait()


def _is_cancelled(future: PrefectFuture[Any]) -> bool:
    cancelled = getattr(getattr(future, "wrapped_future", None), "cancelled", None)
    return cancelled is not None and bool(cancelled())
