"""A process worker of this machine, in the background: it runs what is deployed."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexai.prefect_server.finding import PrefectAPI, api_variables
from flexai.prefect_server.processes import Background, start, wait_until

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

NAME = "worker"
_READY_SECONDS = 90.0


def worker_name() -> str:
    """What Prefect's UI calls this machine's worker."""
    return f"flexai-{platform.node() or 'worker'}"


def start_worker(home: Path, api: PrefectAPI, pool: str, environment: Mapping[str, str]) -> Background:
    """Start a worker in this working directory, in which its runs work as well; it need not be ready yet."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", worker_name()]
    cwd = Path.cwd()
    path = environment.get("PATH", os.defpath)
    return start(
        home,
        NAME,
        [*command, "--install-policy", "never"],
        environment=dict(environment)
        | {
            "FLEXAI_HOME": str(home),
            "PREFECT_API_URL": api.url,
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            # A user who has just pressed a button should not wait for Prefect's ten seconds.
            "PREFECT_WORKER_QUERY_SECONDS": environment.get("PREFECT_WORKER_QUERY_SECONDS", "3"),
            # The Python that runs this is the one that a deployed `python …` means, activated or not.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), path]),
            "PWD": str(cwd),
        }
        | api_variables(api, environment),
        cwd=cwd,
        url=api.url,
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


async def online_workers(client: PrefectClient, pool: str) -> list[Any]:
    """The workers of a pool that have been heard of lately."""
    from prefect.client.schemas.filters import WorkerFilter, WorkerFilterStatus

    return await client.read_workers_for_work_pool(
        pool, worker_filter=WorkerFilter(status=WorkerFilterStatus(any_=["ONLINE"]))
    )
