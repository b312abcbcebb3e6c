"""A Prefect server that goes away while deployed runs are at work, and comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

import pytest
import yaml

from flexai.cli.orchestration.deploy_steps import read_document
from flexai.prefect_server.processes import recall
from tests.cli.orchestration.test_up import Prefect, program
from tests.cli.program import Program
from tests.servers.postgresql import PostgreSQL
from tests.support.waiting import until

pytestmark = pytest.mark.slow

__all__ = ["program"]

FLOWS = """
from flexai.flows import run_leases
from flexai.flows.train_push_export import train_push_export

run_leases.RENEWALS, run_leases.AGAIN_SECONDS = 150, 1  # a renewal every two seconds
"""
TRAINING = """
import os, pathlib, time
pathlib.Path("{name}-began").touch()
while not pathlib.Path("{name}-may-end").exists():
    time.sleep(0.2)
folder = pathlib.Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"], "checkpoint-1")
folder.mkdir()
(folder / "trainer_state.json").write_text('{{"global_step": 1, "log_history": [{{"step": 1, "eval_loss": 0.25}}]}}')
"""


@pytest.mark.xdist_group("waits")
def test_runs_outlive_a_server_that_goes_away_and_are_cancelled_when_it_is_back(
    program: Program, postgresql: PostgreSQL
) -> None:
    # Their process gives up on a call in seconds, as in minutes otherwise.
    up = {"PREFECT_CLIENT_MAX_RETRIES": "1", "FLEXAI_QUIET_PERIOD": "0"}
    program.environment |= postgresql.for_prefect() | up
    prefect = Prefect(program)
    names = {"Train, push, export": "long", "Train the digits example": "endless"}
    deployments = deploy(prefect, list(names))
    runs = {}
    for deployment, name in names.items():
        code = TRAINING.format(name=name)
        parameters = {"training": {"name": name, "command": ["python", "-c", code]}, "push": {"select": "latest"}}
        path = f"/deployments/{deployments[deployment]}/create_flow_run"
        runs[name] = prefect.ask(path, {"parameters": parameters})["id"]
    until(lambda: all((program.cwd / f"{name}-began").exists() for name in names.values()), "the training")

    server = recall(program.home, "server")
    assert server is not None
    os.kill(server.pid, signal.SIGTERM)
    log = program.home / "prefect" / "worker.log"
    until(lambda: log.read_text().count("the run goes on") == len(names), "the run that goes on alone")
    until(lambda: "Flow run cancellation disabled" in log.read_text(), "the worker that is deaf")
    again = program.run("up", "--port", prefect.ui.rpartition(":")[2])
    assert (again.code, again.out.strip()) == (0, prefect.ui), again.err
    until(lambda: log.read_text().count("the Prefect API is there again") == len(names), "the run that is heard of")
    limits = {name: prefect.ask(f"/deployments/{id_}")["global_concurrency_limit"] for name, id_ in deployments.items()}
    assert {name: limit["active_slots"] for name, limit in limits.items()} == dict.fromkeys(names, 1)

    (program.cwd / "long-may-end").touch()
    ended = until(lambda: _ended(prefect, runs["long"]), "the end")
    assert ended["type"] == "COMPLETED", ended
    verified = program.run("checkpoint", "verify", "long-checkpoint-1")
    assert verified.code == 0, verified.err

    prefect.ask(f"/flow_runs/{runs['endless']}/set_state", {"state": {"type": "CANCELLING"}})
    until(lambda: _ended(prefect, runs["endless"]), "the cancellation")
    job = program.run("training", "inspect", "endless", "--json").json()
    assert job["runtime"]["status"] == "stopped"


def deploy(prefect: Prefect, names: list[str]) -> dict[str, str]:
    """Deploy the training flow as it is shipped, but with leases that are renewed often; returns the ids by name."""
    (prefect.program.cwd / "often.py").write_text(FLOWS)
    document = read_document()
    document["deployments"] = [
        entry | {"name": f"{entry['name']}-often", "entrypoint": "often.py:train_push_export", "schedules": []}
        for entry in document["deployments"]
        if entry["entrypoint"].endswith(".train_push_export")
    ]
    (prefect.program.cwd / "often.yaml").write_text(yaml.safe_dump(document))
    subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", "often.yaml"],
        cwd=prefect.program.cwd,
        env=prefect.program.environment
        | {"PREFECT_API_URL": prefect.url, "PREFECT_API_AUTH_STRING": prefect.program.credential},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return {name: str(prefect.ask(f"/deployments/name/train-push-export/{name}-often")["id"]) for name in names}


def _ended(prefect: Prefect, run_id: str) -> dict[str, Any]:
    state: dict[str, Any] = prefect.ask(f"/flow_runs/{run_id}")["state"]
    return state if state["type"] in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"} else {}
