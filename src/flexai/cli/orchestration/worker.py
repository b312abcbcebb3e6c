"""A process worker of this machine, in the background: it runs what is deployed."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flexai.cli.orchestration.processes import Background, children, start, wait_until

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

NAME = "worker"
_READY_SECONDS = 90.0
_CHECK_SECONDS = 0.3
_REASON = "flexai down has stopped its worker; run again, it goes on from what is stored"


@dataclass(frozen=True, slots=True)
class RunAtWork:
    """A flow run that a worker has in hand."""

    id: UUID
    name: str


def worker_name() -> str:
    """What Prefect's UI calls this machine's worker."""
    return f"flexai-{platform.node() or 'worker'}"


def start_worker(home: Path, url: str, pool: str) -> Background:
    """Start a worker in this working directory, in which its runs work as well; it need not be ready yet."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", worker_name()]
    cwd = Path.cwd()
    path = os.environ.get("PATH", os.defpath)
    return start(
        home,
        NAME,
        [*command, "--install-policy", "never"],
        environment=os.environ
        | {
            "FLEXAI_HOME": str(home),
            "PREFECT_API_URL": url,
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            # Ten seconds are long for somebody who has just pressed a button.
            "PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "3"),
            # The Python that runs this is the one that a deployed `python …` means, activated or not.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), path]),
            "PWD": str(cwd),
        },
        cwd=cwd,
        url=url,
        pool=pool,
    )


def await_worker(worker: Background, home: Path) -> None:
    """Wait until a worker has told the API that it is there.

    Raises StorageUnavailableError where it ends before.
    """
    from flexai.blocks.api import with_api

    def is_ready() -> bool:
        return any(
            found.name == worker_name() for found in with_api(lambda client: online_workers(client, worker.pool))
        )

    wait_until(worker, home, is_ready, seconds=_READY_SECONDS)


def cancel_runs(worker: Background, *, grace: float) -> list[RunAtWork]:
    """Cancel the flow runs that a worker is at, and wait up to ``grace`` seconds until they have ended.

    A worker that ends takes its runs along, and the API would show them as running for ever. Returns which they were.
    """
    pids = set(children(worker.pid))
    if not pids:
        return []
    from prefect.states import Cancelling

    from flexai.blocks.api import with_api

    async def cancel(client: PrefectClient) -> list[RunAtWork]:
        at_work = [run for run in await _unfinished(client, worker.pool) if run.infrastructure_pid in map(str, pids)]
        for run in at_work:
            await client.set_flow_run_state(run.id, Cancelling(message=_REASON))
        return [RunAtWork(run.id, run.name) for run in at_work]

    runs = with_api(cancel)
    deadline = time.monotonic() + grace
    # First the processes, then what is known of them: a worker that is asked to end in between waits for half a minute.
    while runs and time.monotonic() < deadline and pids & set(children(worker.pid)):
        time.sleep(_CHECK_SECONDS)
    while runs and time.monotonic() < deadline and with_api(lambda client: _left(client, worker, runs)):
        time.sleep(_CHECK_SECONDS)
    return runs


def bury_runs(worker: Background, runs: Sequence[RunAtWork]) -> None:
    """Say of flow runs whose worker has ended, and that could not say so themselves, that they have crashed."""
    from prefect.states import Crashed

    from flexai.blocks.api import with_api

    async def bury(client: PrefectClient) -> None:
        for run in await _left(client, worker, runs):
            await client.set_flow_run_state(run.id, Crashed(message=_REASON), force=True)

    if runs:
        with_api(bury)


async def _left(client: PrefectClient, worker: Background, runs: Sequence[RunAtWork]) -> list[Any]:
    """Those of the runs that have not ended, as far as the API knows."""
    ids = {run.id for run in runs}
    return [run for run in await _unfinished(client, worker.pool) if run.id in ids]


async def _unfinished(client: PrefectClient, pool: str) -> list[Any]:
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType

    at_work = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    return await client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=at_work))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
        limit=200,
    )


async def online_workers(client: PrefectClient, pool: str) -> list[Any]:
    """The workers of a pool that have been heard of lately."""
    from prefect.client.schemas.filters import WorkerFilter, WorkerFilterStatus

    return await client.read_workers_for_work_pool(
        pool, worker_filter=WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
    )
