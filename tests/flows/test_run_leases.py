"""The place that a run has among those at a time, when it can no longer be kept."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.concurrency import _leases
from prefect.flow_engine import run_flow
from prefect.flows import Flow
from prefect.states import Pending

from flexai.flows import run_leases
from flexai.flows.push import push
from flexai.tasks import verify_checkpoints
from tests.servers.prefect import PrefectServer
from tests.support.trees import noise, write_tree
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that are renewed four times a second."""
    monkeypatch.setattr(run_leases, "RENEWALS", 1200)
    monkeypatch.setattr(run_leases, "AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(_leases, "_RENEWAL_FRACTION", 1 / 1200)
    monkeypatch.setattr(_leases, "_RENEWAL_RETRY_BASE_DELAY", 0.1)


def run_and_take_its_place_away(server: PrefectServer, of: Flow[Any, Any], parameters: dict[str, Any]) -> str:
    """Run a deployed flow in this process, as a worker does, and have the server forget its lease meanwhile.

    So does a server that keeps leases in its memory, when it is started again. Returns the state in which the run ends.
    """
    deployment_id = of.to_deployment(f"test-{uuid.uuid4().hex[:8]}", concurrency_limit=1).apply()  # type: ignore[union-attr]
    made = server.post(f"/deployments/{deployment_id}/create_flow_run", {"parameters": parameters})["id"]
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(made, Pending())  # as the worker that takes it up, which gets the place
        flow_run = client.read_flow_run(made)

    def take_away() -> None:
        while server.get(f"/flow_runs/{made}")["state"]["type"] != "RUNNING":
            time.sleep(0.1)
        lease = server.get(f"/flow_runs/{made}")["state"]["state_details"]["deployment_concurrency_lease_id"]
        server.post("/v2/concurrency_limits/decrement-with-lease", {"lease_id": lease})

    thread = threading.Thread(target=take_away)
    thread.start()
    try:
        run_flow(of, flow_run=flow_run, parameters=flow_run.parameters, return_type="state")
    except asyncio.CancelledError:  # what ends the run must not end the test
        pass
    finally:
        thread.join()
    return str(server.get(f"/flow_runs/{made}")["state"]["type"])


def test_a_push_goes_on_where_its_place_is_given_away(
    prefect_api: PrefectServer,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_tree(tmp_path / "files", {"weights.bin": noise(2_000_000, "weights")})
    monkeypatch.setenv("FLEXAI_BANDWIDTH_LIMIT", "400_000")
    request = {"name": "kept", "source": {"files": [str(tmp_path / "files")]}}
    with caplog.at_level(logging.WARNING):
        assert run_and_take_its_place_away(prefect_api, push, {"request": request}) == "COMPLETED"
    assert verify_checkpoints.fn(["kept"])["damagedContents"] == 0
    assert caplog.text.count("has given this run's place to others") == 1


@flow
def of_the_users_own(seconds: float) -> None:
    """Wait."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.1)


def test_a_flow_of_the_users_own_is_ended_as_prefect_does(prefect_api: PrefectServer) -> None:
    assert run_and_take_its_place_away(prefect_api, of_the_users_own, {"seconds": PATIENCE}) == "CRASHED"
