"""Shards of a push, a fetch, an export or a mirror as tasks, which the flow's task runner runs.

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

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.documents import Document
from flexai.checkpoints.errors import CheckpointError, ProcessLostError, StorageUnavailableError
from flexai.checkpoints.names import parse_reference
from flexai.checkpoints.service.mirror import run_mirror_shard
from flexai.checkpoints.service.support.shard_work import (
    ExportedShard,
    ExportShard,
    FetchedShard,
    FetchShard,
    MirroredShard,
    MirrorShard,
    PushedShard,
    PushShard,
    run_export_shard,
    run_fetch_shard,
    run_push_shard,
)
from flexai.checkpoints.service.system import System
from flexai.checkpoints.settings import load_settings
from flexai.checkpoints.transfer.shard_plan import MAX_FILES
from flexai.tasks.options import RETRIED, TAGS, open_system, run_logger, telling
from flexai.tasks.run_progress import RunProgress
from flexai.tasks.transfer_slots import Places, transfer_through

S = TypeVar("S", bound=PushShard | ExportShard | FetchShard | MirrorShard)
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


@task(
    name="fetch-shard",
    description="Bring some files of a checkpoint to a directory that several machines share.",
    tags=TAGS | {"fetch"},
    task_run_name="fetch {shard.label}",
    **RETRIED,
)
def fetch_shard(shard: OpaqueShard[FetchShard]) -> FetchedShard:
    """Run a shard of a fetch.

    Args:
        shard: What to compare or fetch.

    Raises:
        CheckpointError: What ``flexai.checkpoints.service.support.shard_work.run_fetch_shard`` raises.
    """
    return _here(run_fetch_shard, shard.content)


@task(
    name="mirror-shard",
    description="Bring some checkpoints of a mirror to a storage provider.",
    tags=TAGS | {"mirror"},
    task_run_name="mirror to {shard.label}",
    **RETRIED,
)
def mirror_shard(shard: OpaqueShard[MirrorShard]) -> MirroredShard:
    """Run a shard of a mirror.

    Args:
        shard: What to copy.

    Raises:
        CheckpointError: What ``flexai.checkpoints.service.mirror.run_mirror_shard`` raises.
    """
    return _here(run_mirror_shard, shard.content)


def _here(run: Callable[..., R], shard: PushShard | ExportShard | FetchShard | MirrorShard) -> R:
    logger = run_logger()
    # The run that gives out the shards holds their places.
    with telling(logger), open_system() as system:
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

    def is_for(self, reference: str) -> bool:
        """Whether a checkpoint is worth more than one shard; one that cannot be found is not."""
        try:
            with Catalog.look() as catalog:
                checkpoint = catalog.checkpoints.get(parse_reference(reference))
        except CheckpointError:
            return False
        return checkpoint.size > self.shard_size or checkpoint.file_count > MAX_FILES

    def is_worth(self, is_large: Callable[[System], bool]) -> bool:
        """Whether an operation is, by what tells of it; one that cannot be looked at is not: a task says why."""
        try:
            with open_system(read_only=True) as system:
                return is_large(system)
        except CheckpointError:
            return False

    def run(self, operate: Callable[..., Document], request: object) -> Document:
        """Do an operation in shards, and again where a store was unavailable or a process was killed.

        It goes on where it stopped. Raises what the operation raises.
        """

        def operated() -> Document:
            with telling(run_logger()), open_system() as system:
                return operate(system, request, runner=self)

        for delay in _DELAYS:
            try:
                return operated()
            except (StorageUnavailableError, ProcessLostError) as error:
                run_logger().warning("trying again in %.0f s: %s", delay, error.message)
                if isinstance(error, ProcessLostError):
                    _renew_processes()
                time.sleep(delay)
        return operated()

    def push(self, shards: Sequence[PushShard]) -> Iterator[PushedShard]:
        """Run shards of a push."""
        return _run(push_shard, shards, shards[0].storage_provider)

    def export(self, shards: Sequence[ExportShard]) -> Iterator[ExportedShard]:
        """Run shards of an export."""
        return _run(export_shard, shards, shards[0].storage_provider)

    def fetch(self, shards: Sequence[FetchShard]) -> Iterator[FetchedShard]:
        """Run shards of a fetch."""
        return _run(fetch_shard, shards)

    def mirror(self, shards: Sequence[MirrorShard]) -> Iterator[MirroredShard]:
        """Run shards of a mirror."""
        return _run(mirror_shard, shards, shards[0].request.storage_provider)


def _renew_processes() -> None:
    """Have the flow's task runner start processes anew; returns when all that were left have ended."""
    context = FlowRunContext.get()
    if context is not None:
        context.task_runner.__exit__(None, None, None)
        context.task_runner.__enter__()


def _at_a_time(shards: int) -> int:
    """How many of so many shards the flow's task runner does at a time; all where it does not tell."""
    context = FlowRunContext.get()
    runner = context.task_runner if context else None
    workers = getattr(runner, "_max_workers", 0)  # of threads and of processes
    cluster = getattr(runner, "client", None)  # of Dask
    if cluster is not None:
        workers = sum(cluster.nthreads().values())
    return min(shards, workers or shards)


def _run(run: Task[[OpaqueShard[S]], R], shards: Sequence[S], *connections: str) -> Iterator[R]:
    with transfer_through(*connections, places=_at_a_time(len(shards))) as places:
        yield from _run_in(places, run, shards)


def _run_in(places: Places, run: Task[[OpaqueShard[S]], R], shards: Sequence[S]) -> Iterator[R]:
    """Run shards, no more at a time than there are places for."""
    futures: list[PrefectFuture[Any]] = []
    running: list[PrefectFuture[Any]] = []
    try:
        while len(futures) < len(shards) or running:
            room = max(0, places.held - len(running))
            begun = [run.submit(OpaqueShard(shard)) for shard in shards[len(futures) :][:room]]
            futures += begun
            running += begun
            for future in as_completed(running):
                running.remove(future)
                yield future.result()
                if len(futures) < len(shards):
                    places.take_more()
                    break
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
