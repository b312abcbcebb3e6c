"""The ready automations, on a real server: they take the events, and what they run does what they promise."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import flow, tags
from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow
from prefect.flows import Flow
from prefect.utilities.asyncutils import run_coro_as_sync

from flexai.blocks import LocalStorageProvider, save_connection
from flexai.checkpoints.errors import IntegrityError
from flexai.flows.alert import alert
from flexai.flows.export import export
from flexai.tasks import push_checkpoint, verify_checkpoints
from tests.servers.prefect import PrefectServer
from tests.support.waiting import until
from tests.tasks.conftest import files, home

pytestmark = pytest.mark.slow

__all__ = ["files", "home"]

FILE = Path(__file__).parents[2] / "deployments" / "automations.yaml"
FLOWS: dict[str, Flow[Any, Any]] = {
    "export-checkpoint/Export to a provider": export,
    "alert/Raise an alert": alert,
}


def entries() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))["automations"]
    return found


@pytest.fixture
def automate(prefect_api: PrefectServer) -> Iterator[Callable[..., str]]:
    """Makes the automation of an expected event, with a deployment of this test's; returns the deployment's id."""
    made: list[str] = []

    def make(event: str, **changes: Any) -> str:
        (entry,) = [one for one in entries() if one["trigger"]["expect"] == [event]]
        (action,) = entry["actions"]
        deployed = FLOWS[action.pop("deployment")]
        deployment_id = str(deployed.to_deployment(f"test-{uuid.uuid4().hex[:8]}").apply())  # type: ignore[union-attr]
        action["deployment_id"] = deployment_id
        entry["trigger"].update(changes)
        automation = Automation.model_validate(entry | {"name": f"test-{uuid.uuid4().hex[:8]}"})
        # Not `create`: that returns a coroutine in a loop.
        run_coro_as_sync(automation.acreate())
        made.append(f"automations/{automation.id}")
        return deployment_id

    yield make
    for path in made:
        prefect_api.delete(f"/{path}")


def run_of(server: PrefectServer, deployment_id: str) -> dict[str, Any]:
    """The run that an automation has made of a deployment."""
    wanted = {"flow_runs": {"deployment_id": {"any_": [deployment_id]}}}
    (found,) = until(lambda: server.post("/flow_runs/filter", wanted))
    return dict(found)


def execute(deployed: Flow[Any, Any], flow_run_id: str) -> Any:
    """Run what a worker would take up."""
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(uuid.UUID(flow_run_id))
    return run_flow(deployed, flow_run=flow_run, parameters=flow_run.parameters, return_type="state")


def test_each_names_a_deployment_of_ours_and_says_what_it_does() -> None:
    for entry in entries():
        assert entry["description"]
        assert {action["deployment"] for action in entry["actions"]} <= FLOWS.keys()


def test_a_push_with_the_tag_is_exported_and_one_without_is_not(
    prefect_api: PrefectServer, automate: Callable[..., str], home: Path, files: Path, tmp_path: Path
) -> None:
    share = f"share-{uuid.uuid4().hex[:8]}"
    save_connection(LocalStorageProvider(root=str(tmp_path)), share)
    for name, value in {"flexai_export_connection": share, "flexai_export_path": "bucket/checkpoints"}.items():
        prefect_api.post("/variables/", {"name": name, "value": value})
    name = f"mistral-{uuid.uuid4().hex[:8]}"
    deployment_id = automate("flexai.checkpoint.available")

    @flow
    def push(which: str) -> None:
        push_checkpoint(which, files=[str(files)])

    push(f"{name}-plain")
    with tags("auto-export"):
        push(name)
    run = run_of(prefect_api, deployment_id)
    assert run["parameters"]["request"]["destination_path"] == f"bucket/checkpoints/{name}"
    assert execute(export, run["id"]).is_completed()
    assert (tmp_path / "bucket" / "checkpoints" / name / "config.json").is_file()
    assert [folder.name for folder in (tmp_path / "bucket" / "checkpoints").iterdir()] == [name]


def test_damage_raises_an_alert_that_says_what_is_damaged(
    prefect_api: PrefectServer, automate: Callable[..., str], home: Path, files: Path
) -> None:
    name = f"mistral-{uuid.uuid4().hex[:8]}"
    checkpoint_id = push_checkpoint.fn(name, files=[str(files)])["metadata"]["id"]
    (blob,) = [path for path in (home / "store").rglob("*") if path.is_file() and path.stat().st_size > 16000]
    blob.chmod(0o600)
    blob.write_bytes(bytes(blob.stat().st_size))
    deployment_id = automate("flexai.store.corruption", match={"prefect.resource.name": str(home / "store")})
    with pytest.raises(IntegrityError):
        verify_checkpoints()
    run = run_of(prefect_api, deployment_id)
    state = execute(alert, run["id"])
    assert state.is_failed()
    assert state.message == f"2 damaged contents in {home / 'store'}"
    (page,) = prefect_api.post("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
    assert name in page["data"] and "nested/weights.bin" in page["data"]
    wanted = {"filter": {"event": {"name": ["flexai.store.corruption"]}}}

    def stored() -> list[dict[str, Any]]:
        # The server keeps an event a while after it has acted on it.
        found = prefect_api.post("/events/filter", wanted)["events"]
        return [event for event in found if event["payload"]["store"] == str(home / "store")]

    (told,) = until(stored)
    assert (told["resource"]["damaged"], told["payload"]["checkpoints"]) == ("2", [name])
    assert f"flexai.checkpoint.{checkpoint_id}" in [one["prefect.resource.id"] for one in told["related"]]
