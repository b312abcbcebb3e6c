"""A user's home folder, as the tasks' tests have it, a connection, and flow runs as a worker makes them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.flows import Flow

from flexai.blocks import LocalStorageProvider, save_connection
from tests.servers.prefect import PrefectServer
from tests.tasks.conftest import files, home

__all__ = ["files", "home"]

RunDeployed: TypeAlias = Callable[[Flow[Any, Any], dict[str, Any]], dict[str, Any]]


@pytest.fixture
def share(prefect_api: PrefectServer, tmp_path: Path) -> str:
    """A connection to a folder of this test."""
    name = f"share-{uuid.uuid4().hex[:8]}"
    (tmp_path / "share").mkdir()
    save_connection(LocalStorageProvider(root=str(tmp_path / "share")), name)
    return name


@pytest.fixture
def run_deployed(prefect_api: PrefectServer) -> RunDeployed:
    """Deploys a flow, has the server make a run of it as its form does, runs it, and returns the run as it ended."""

    def run(flow: Flow[Any, Any], parameters: dict[str, Any]) -> dict[str, Any]:
        deployment = flow.to_deployment(f"test-{uuid.uuid4().hex[:8]}", enforce_parameter_schema=True)
        deployment_id = deployment.apply()  # type: ignore[union-attr]
        made = prefect_api.post(f"/deployments/{deployment_id}/create_flow_run", {"parameters": parameters})
        with get_client(sync_client=True) as client:
            flow_run = client.read_flow_run(uuid.UUID(made["id"]))
        run_flow(flow, flow_run=flow_run, parameters=flow_run.parameters, return_type="state")
        found: dict[str, Any] = prefect_api.get(f"/flow_runs/{made['id']}")
        return found

    return run
