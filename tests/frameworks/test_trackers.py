"""W&B and MLflow, without a network: their active runs get references to what is stored."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.cli.program import Program

pytestmark = pytest.mark.frameworks

SCRIPT = """
import json, sys
from pathlib import Path
from flexai.training import Run

def train(run):
    for step in (1, 2):
        path = run.output_dir / f"step-{step}"
        path.mkdir()
        (path / "weights.data").write_bytes(b"WEIGHTS" * 1000)
        run.saved(path, step=step)

WITH
"""


def printed(frameworks: Path, tmp_path: Path, script: str) -> str:
    program = Program(tmp_path)
    done = subprocess.run(
        [frameworks / "bin/python", "-W", "error::RuntimeWarning", "-c", SCRIPT.replace("WITH", script)],
        cwd=program.cwd,
        env=program.environment | {"WANDB_MODE": "offline", "WANDB_SILENT": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = program.run("training", "checkpoints", "my-run", "--json").json()
    return json.dumps([row["id"] for row in rows]) + "\n" + done.stdout


def test_a_run_of_mlflow_gets_the_address_and_the_id_of_each_checkpoint(frameworks: Path, tmp_path: Path) -> None:
    script = """
import mlflow
mlflow.set_tracking_uri("sqlite:///mlflow.db")
with mlflow.start_run() as tracked, Run("my-run", "out") as run:
    train(run)
print(json.dumps(mlflow.get_run(tracked.info.run_id).data.tags))
"""
    ids, tags = map(json.loads, printed(frameworks, tmp_path, script).splitlines())
    assert {name: value for name, value in tags.items() if name.startswith("flexai.")} == {
        "flexai.job": "my-run",
        "flexai.step-1.url": "flexai://my-run/step-1",
        "flexai.step-1.id": ids[0],
        "flexai.step-2.url": "flexai://my-run/step-2",
        "flexai.step-2.id": ids[1],
        "flexai.latest.url": "flexai://my-run/step-2",
        "flexai.latest.id": ids[1],
    }


def test_a_run_of_wandb_gets_references_and_no_bytes_and_none_where_none_is_active(
    frameworks: Path, tmp_path: Path
) -> None:
    script = """
import mlflow, wandb
with Run("another", "another-out") as run:
    train(run)
assert not Path("wandb").exists() and not Path("mlruns").exists() and not Path("mlflow.db").exists()
with wandb.init(project="project") as tracked, Run("my-run", "out") as run:
    file = tracked.settings.sync_file
    train(run)
print(file)
"""
    ids, file = printed(frameworks, tmp_path, script).splitlines()
    told = Path(file).read_bytes()
    for step, checkpoint in enumerate(json.loads(ids), start=1):
        assert f"flexai://my-run/step-{step}".encode() in told
        assert checkpoint.encode() in told
        assert f"step-{step}".encode() in told
    written = [path for path in Path(file).parent.rglob("*") if path.is_file()]
    assert not [path for path in written if b"WEIGHTSWEIGHTS" in path.read_bytes()]
