"""A user's home folder, as the tasks' tests have it, a connection, and flow runs as a worker makes them."""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.flows import Flow

from flexai.blocks import LocalStorageProvider, save_connection
from tests.servers.prefect import PrefectServer
from tests.tasks.conftest import files, home

__all__ = ["files", "home"]


@dataclass(frozen=True)
class RunDeployed:
    """Deploys a flow, has the server make a run of it as its form does, and runs it as a worker does."""

    server: PrefectServer

    def __call__(self, flow: Flow[Any, Any], parameters: dict[str, Any]) -> dict[str, Any]:
        """Run a flow once, and return the run as it ended."""
        return self.go_on(flow, self.begin(flow, parameters))

    def begin(self, flow: Flow[Any, Any], parameters: dict[str, Any]) -> str:
        """Have a run made, and return its id."""
        deployment = flow.to_deployment(f"test-{uuid.uuid4().hex[:8]}", enforce_parameter_schema=True)
        deployment_id = deployment.apply()  # type: ignore[union-attr]
        made = self.server.post(f"/deployments/{deployment_id}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def go_on(self, flow: Flow[Any, Any], flow_run_id: str) -> dict[str, Any]:
        """Run what a worker would take up now, until it ends or waits."""
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(uuid.UUID(flow_run_id))
        with contextlib.suppress(Pause):  # as a worker's process does
            run_flow(flow, flow_run=flow_run, parameters=flow_run.parameters, return_type="state")
        found: dict[str, Any] = self.server.get(f"/flow_runs/{flow_run_id}")
        return found


@pytest.fixture
def share(prefect_api: PrefectServer, tmp_path: Path) -> str:
    """A connection to a folder of this test."""
    name = f"share-{uuid.uuid4().hex[:8]}"
    (tmp_path / "share").mkdir()
    save_connection(LocalStorageProvider(root=str(tmp_path / "share")), name)
    return name


@pytest.fixture
def run_deployed(prefect_api: PrefectServer) -> RunDeployed:
    """Runs of deployments, in this process."""
    return RunDeployed(prefect_api)
