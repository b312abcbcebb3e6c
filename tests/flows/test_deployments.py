"""The deployments, deployed to a real Prefect server and run by a real worker."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import shutil
import subprocess
import sys
import uuid
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.client.orchestration import PrefectClient

import flexai
import flexai.flows
from flexai.cli.orchestration.deploy_steps import fields_of, put_deployment, read_document
from flexai.prefect_client import with_api
from flexai.tasks import list_checkpoints
from tests.servers.prefect import PrefectServer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What a clone has, in a folder whose name holds a space."""
    folder = tmp_path / "a clone"
    for name in ("deployments", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def prefect(*arguments: str, folder: Path) -> str:
    """Run Prefect's program as the comment in prefect.yaml does."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PWD": str(folder),
        "FLEXAI_QUIET_PERIOD": "0",
    }
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def deployments() -> list[dict[str, Any]]:
    document = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
    found: list[dict[str, Any]] = document["deployments"]
    return found


def flow_of(deployment: dict[str, Any]) -> Flow[..., Any]:
    module, _, attribute = deployment["entrypoint"].rpartition(".")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, Flow)
    return found


def test_every_flow_has_a_deployment_that_is_called_what_it_does() -> None:
    flows = {
        member.name
        for module in pkgutil.iter_modules(flexai.flows.__path__, "flexai.flows.")
        for member in vars(importlib.import_module(module.name)).values()
        if isinstance(member, Flow)
    }
    assert flows == {flow_of(deployment).name for deployment in deployments()}
    names = [deployment["name"] for deployment in deployments()]
    assert len(set(names)) == len(names)
    assert [name for name in names if name == name.lower()] == []


def test_every_deployment_is_on_the_page_of_the_flows() -> None:
    page = (ROOT / "docs" / "flows.md").read_text(encoding="utf-8")
    names = {flow_of(deployment).name for deployment in deployments()}
    assert [name for name in names | {one["name"] for one in deployments()} if f"`{name}`" not in page] == []


@pytest.mark.parametrize("deployment", deployments(), ids=lambda entry: f"{entry['entrypoint']} {entry['name']}")
def test_a_deployment_says_all_that_people_want_to_know_and_is_off(deployment: dict[str, Any]) -> None:
    assert deployment["description"].endswith(".")
    assert deployment["version"] == flexai.__version__
    assert "flexai" in deployment["tags"]
    assert len(deployment["tags"]) > 1
    assert deployment["work_pool"]["name"] == "flexai-local"
    assert deployment["concurrency_limit"]["limit"] > 0
    assert deployment["concurrency_limit"]["collision_strategy"] in {"ENQUEUE", "CANCEL_NEW"}
    for schedule in deployment.get("schedules", ()):
        assert schedule["active"] is False
        assert schedule["slug"]
        assert ("timezone" in schedule) == ("cron" in schedule)


@pytest.mark.parametrize("deployment", deployments(), ids=lambda entry: f"{entry['entrypoint']} {entry['name']}")
def test_its_parameters_fit_the_flow_and_a_schedule_needs_no_more(deployment: dict[str, Any]) -> None:
    flow = flow_of(deployment)
    given = deployment.get("parameters", {})
    if given or deployment.get("schedules"):
        flow.validate_parameters(given)


def without_own(value: Any) -> Any:
    """What the API has of a deployment but its ids, its names and its times."""
    if isinstance(value, dict):
        own = {"id", "name", "created", "updated", "deployment_id", "concurrency_limit_id"}
        return {key: without_own(one) for key, one in value.items() if key not in own}
    return [without_own(one) for one in value] if isinstance(value, list) else value


async def put_both(client: PrefectClient, *, title: str, wanted: dict[str, Any], schedules: list[Any]) -> None:
    """Deploy over what there is, and beside it."""
    known = {title: await client.read_deployment_by_name(title)}
    await put_deployment(client, title, wanted, schedules, known)
    await put_deployment(client, f"{title}, anew", wanted, schedules, {})


def assert_flexai_deploys_the_same(server: PrefectServer) -> None:
    """Compare what ``prefect deploy`` has made of the file with what is made without it, anew and over that."""
    document = read_document()
    for entry in document["deployments"]:
        flow = flow_of(entry)
        wanted = fields_of(flow, entry) | {"work_pool_name": "flexai-local", "pull_steps": document["pull"]}
        title = f"{flow.name}/{entry['name']}"
        made = server.get(f"/deployments/name/{title}")

        with_api(partial(put_both, title=title, wanted=wanted, schedules=entry.get("schedules", ())))
        for one in (title, f"{title}, anew"):
            assert without_own(server.get(f"/deployments/name/{one}")) == without_own(made)
        server.delete(f"/deployments/{server.get(f'/deployments/name/{title}, anew')['id']}")


@pytest.mark.slow
def test_a_clone_is_deployed_and_a_worker_anywhere_else_runs_it(
    prefect_api: PrefectServer, home: Path, clone: Path, tmp_path: Path
) -> None:
    prefect("work-pool", "create", "flexai-local", "--type", "process", "--overwrite", folder=clone)
    prefect("--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml", folder=clone)
    (deployment,) = prefect_api.post(
        "/deployments/filter", {"deployments": {"name": {"any_": ["Train the digits example"]}}}
    )
    assert (deployment["work_pool_name"], set(deployment["tags"])) == ("flexai-local", {"flexai", "example"})
    assert deployment["global_concurrency_limit"]["limit"] == 1
    (schedule,) = deployment["schedules"]
    assert (schedule["active"], schedule["schedule"]["timezone"]) == (False, "Europe/Paris")
    assert str(tmp_path) not in json.dumps(deployment["pull_steps"])
    assert deployment["description"]
    assert deployment["parameter_openapi_schema"]["properties"].keys() == {"training", "push", "export"}
    assert_flexai_deploys_the_same(prefect_api)

    elsewhere = tmp_path / "elsewhere"
    clone.rename(elsewhere)
    job = f"digits-{uuid.uuid4().hex[:8]}"
    training: dict[str, Any] = {
        "name": job,
        "command": ["python", "examples/train_digits.py", "--epochs", "1", "--hidden", "8", "--save-steps", "180"],
    }
    run = [
        "deployment",
        "run",
        "train-push-export/Train the digits example",
        "--param",
        f"training={json.dumps(training)}",
    ]
    prefect(*run, folder=elsewhere)
    prefect("worker", "start", "--pool", "flexai-local", "--run-once", folder=elsewhere)
    (flow_run,) = prefect_api.post("/flow_runs/filter", {"flow_runs": {"name": {"any_": [f"train {job}"]}}})
    assert flow_run["state_type"] == "COMPLETED"
    assert flow_run["deployment_id"] == deployment["id"]
    (row,) = list_checkpoints.fn()
    assert row["name"].startswith(f"{job}-")
