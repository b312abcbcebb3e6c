"""A process worker of this machine, in the background: it runs what is deployed."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from flexai.checkpoints.local_paths import from_root
from flexai.prefect_server.finding import NO_TELEMETRY, UP, PrefectAPI, api_variables
from flexai.prefect_server.processes import Background, start, wait_until
from flexai.prefect_server.ui import shown_ui

if TYPE_CHECKING:
    from flexai.prefect_server.rest import PrefectREST

WORKER = "worker"
_READY_SECONDS = 90.0


def worker_name() -> str:
    """What Prefect's UI calls this machine's worker."""
    return f"flexai-{platform.node() or 'worker'}"


def start_worker(home: Path, api: PrefectAPI, pool: str, environment: Mapping[str, str]) -> Background:
    """Start a worker in this working directory, in which its runs work as well; it need not be ready yet."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", worker_name()]
    cwd = from_root(".")
    path = environment.get("PATH", os.defpath)
    return start(
        home,
        WORKER,
        [*command, "--install-policy", "never"],
        environment=dict(environment)
        | {
            "FLEXAI_HOME": str(home),
            "PREFECT_API_URL": api.url,
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
            # A user who has just pressed a button should not wait for Prefect's ten seconds.
            "PREFECT_WORKER_QUERY_SECONDS": environment.get("PREFECT_WORKER_QUERY_SECONDS", "1.5"),
            # The Python that runs this is the one that a deployed `python …` means, activated or not.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), path]),
            "PWD": str(cwd),
        }
        | NO_TELEMETRY
        # Where the links in Prefect's own log lines lead; the user's own word counts.
        | ({"PREFECT_UI_URL": environment.get("PREFECT_UI_URL") or shown_ui(api)} if api.origin == UP else {})
        | api_variables(api, environment),
        cwd=cwd,
        url=api.url,
        pool=pool,
    )


def await_worker(worker: Background, home: Path, api: PrefectAPI) -> None:
    """Wait until a worker has told the API that it is there.

    Raises StorageUnavailableError where it ends before.
    """
    from flexai.prefect_server.rest import PrefectREST

    server = PrefectREST(api)
    wait_until(worker, home, lambda: worker_name() in online_workers(server, worker.pool), seconds=_READY_SECONDS)


def online_workers(server: PrefectREST, pool: str) -> list[str]:
    """The names of the workers of a pool that have been heard of lately."""
    online = {"workers": {"status": {"any_": ["ONLINE"]}}}
    return [str(worker["name"]) for worker in server.post(f"/work_pools/{quote(pool, safe='')}/workers/filter", online)]
