"""The deployments, deployed to a real Prefect server and run by a real worker."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
import yaml

from flexai.flows.specs import PushSpec, TrainingSpec
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


def test_its_parameters_fit_the_flow() -> None:
    document = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text())
    for deployment in document["deployments"]:
        parameters = deployment["parameters"]
        assert TrainingSpec.model_validate(parameters["training"])
        assert PushSpec.model_validate(parameters["push"])


def test_a_clone_is_deployed_and_a_worker_anywhere_else_runs_it(
    prefect_api: PrefectServer, home: Path, clone: Path, tmp_path: Path
) -> None:
    prefect("work-pool", "create", "flexai-local", "--type", "process", "--overwrite", folder=clone)
    prefect("--no-prompt", "deploy", "--all", "--prefect-file", "deployments/prefect.yaml", folder=clone)
    (deployment,) = prefect_api.post("/deployments/filter", {"deployments": {"name": {"any_": ["digits"]}}})
    assert (deployment["work_pool_name"], set(deployment["tags"])) == ("flexai-local", {"flexai", "example"})
    assert deployment["global_concurrency_limit"]["limit"] == 1
    (schedule,) = deployment["schedules"]
    assert (schedule["active"], schedule["schedule"]["timezone"]) == (False, "Europe/Paris")
    assert str(tmp_path) not in json.dumps(deployment["pull_steps"])
    assert deployment["description"]
    assert deployment["parameter_openapi_schema"]["properties"].keys() == {"training", "push", "export"}

    elsewhere = tmp_path / "elsewhere"
    clone.rename(elsewhere)
    job = f"digits-{uuid.uuid4().hex[:8]}"
    training: dict[str, Any] = {
        "name": job,
        "command": ["python", "examples/train_digits.py", "--epochs", "1", "--hidden", "8", "--save-steps", "180"],
    }
    run = ["deployment", "run", "train-push-export/digits", "--param", f"training={json.dumps(training)}"]
    prefect(*run, folder=elsewhere)
    prefect("worker", "start", "--pool", "flexai-local", "--run-once", folder=elsewhere)
    (flow_run,) = prefect_api.post("/flow_runs/filter", {"flow_runs": {"name": {"any_": [f"train {job}"]}}})
    assert flow_run["state_type"] == "COMPLETED"
    assert flow_run["deployment_id"] == deployment["id"]
    (row,) = list_checkpoints.fn()
    assert row["name"].startswith(f"{job}-")
