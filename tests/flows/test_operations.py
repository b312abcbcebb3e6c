"""One flow for each operation, run as a form of Prefect's UI runs it."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.history import HistoryFilter
from flexai.checkpoints.service.inspect import look_up_history
from flexai.flows.delete import delete
from flexai.flows.export import export
from flexai.flows.fetch import fetch
from flexai.flows.inspect import inspect
from flexai.flows.list import list_checkpoints
from flexai.flows.protect import protect
from flexai.flows.push import push
from flexai.flows.verify import verify
from flexai.tasks import push_checkpoint
from flexai.tasks.artifacts import artifact_key
from flexai.tasks.inspect import list_checkpoints as list_task
from tests.flows.conftest import RunDeployed
from tests.servers.prefect import PrefectServer


def artifact_of(server: PrefectServer, run: dict[str, Any], key: str) -> str:
    """The page of a key that a flow run made."""
    wanted = {"artifacts": {"key": {"any_": [key]}, "flow_run_id": {"any_": [run["id"]]}}}
    (found,) = server.post("/artifacts/filter", wanted)
    return str(found["data"])


@pytest.mark.slow
def test_a_checkpoint_goes_through_every_operation(
    prefect_api: PrefectServer, home: Path, files: Path, share: str, run_deployed: RunDeployed, tmp_path: Path
) -> None:
    name = f"mistral-{uuid.uuid4().hex[:8]}"

    def run(flow: Any, **request: Any) -> dict[str, Any]:
        ended = run_deployed(flow, {"request": request})
        assert ended["state"]["type"] == "COMPLETED", ended["state"]
        return ended

    pushed = run(push, name=name, source={"files": [str(files)]})
    assert pushed["name"] == f"push {name} (16 KiB)"
    run(push, name=name, source={"files": [str(files)]}, if_not_exists=True)
    assert run(push, name=f"{name}-b", source={"checkpoint": name})["name"] == f"push {name}-b (16 KiB)"

    place = {"storage_provider": share, "destination_path": f"models/{name}"}
    exported = run(export, checkpoint=name, **place)
    assert exported["name"] == f"export {name} (16 KiB) to {share}"
    assert (tmp_path / "share" / "models" / name / "config.json").is_file()
    source = {"storage_provider": share, "source_path": f"models/{name}"}
    assert run(push, name=f"{name}-c", source=source)["name"] == f"push {name}-c (16 KiB)"

    fetched = run(fetch, checkpoint=name, destination=str(tmp_path / "restored"))
    assert fetched["name"] == f"fetch {name} (16 KiB)"
    assert (tmp_path / "restored" / "config.json").read_bytes() == (files / "config.json").read_bytes()

    inspected = run(inspect, checkpoint=name)
    assert inspected["name"] == f"inspect {name}"
    assert "`config.json`" in artifact_of(prefect_api, inspected, artifact_key("inspected", name))

    listed = run(list_checkpoints, names=f"{name.upper()}-?")
    table = json.loads(artifact_of(prefect_api, listed, "checkpoints"))
    assert [row["name"] for row in table] == [f"{name}-c", f"{name}-b"]

    assert run(verify, checkpoints=[name])["name"] == f"verify {name} (16 KiB)"
    assert run(verify)["name"] == "verify the whole store"

    assert run(protect, checkpoints=[name, f"{name}-b"])["name"] == f"protect {name} and 1 more"
    assert run_deployed(delete, {"request": {"checkpoint": name}})["state"]["type"] == "FAILED"
    assert run(protect, checkpoints=[name], protected=False)["name"] == f"unprotect {name}"
    assert run(delete, checkpoint=name)["name"] == f"delete {name} (16 KiB)"
    assert [row["name"] for row in list_task.fn()] == [f"{name}-b", f"{name}-c"]


def test_what_a_flow_changes_is_told_with_its_run(home: Path, files: Path, run_deployed: RunDeployed) -> None:
    name = f"mistral-{uuid.uuid4().hex[:8]}"
    pushed = run_deployed(push, {"request": {"name": name, "source": {"files": [str(files)]}}})
    deleted = run_deployed(delete, {"request": {"checkpoint": name}})
    with Catalog.look() as catalog:
        told = look_up_history(catalog, HistoryFilter(), name)
    assert [(entry.action, entry.flow_run_id) for entry in told] == [("push", pushed["id"]), ("delete", deleted["id"])]


def test_a_failure_of_the_task_is_the_flows(home: Path, files: Path, run_deployed: RunDeployed) -> None:
    push_checkpoint.fn("taken", files=[str(files / "config.json")])
    ended = run_deployed(push, {"request": {"name": "taken", "source": {"files": [str(files)]}}})
    assert ended["state"]["type"] == "FAILED"
    assert "already exists with other content" in ended["state"]["message"]
    assert ended["name"] == "push taken (16 KiB)"
