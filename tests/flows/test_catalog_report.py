"""The report of the catalog, as a form of Prefect's UI makes it."""

from __future__ import annotations

import json
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.errors import CheckpointError
from flexai.flows.catalog_report import report
from flexai.tasks import delete_checkpoint, push_checkpoint, run_training
from flexai.tasks.catalog_report import report_catalog
from tests.flows.conftest import RunDeployed
from tests.servers.prefect import PrefectServer

TRAINING = """
import os, pathlib
folder = pathlib.Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"], "checkpoint-7")
folder.mkdir()
(folder / "trainer_state.json").write_text('{"global_step": 7, "log_history": [{"step": 7, "eval_loss": 0.125}]}')
"""


def artifact(server: PrefectServer, run: dict[str, Any], key: str) -> Any:
    wanted = {"artifacts": {"key": {"any_": [key]}, "flow_run_id": {"any_": [run["id"]]}}}
    (found,) = server.post("/artifacts/filter", wanted)
    return found["data"]


def test_an_empty_catalog_is_reported(home: Path) -> None:
    numbers = report_catalog.fn()
    assert numbers.pop("freeBytes") > 0
    assert set(numbers.values()) == {0}


def test_a_report_shows_totals_jobs_the_newest_and_the_failed(
    prefect_api: PrefectServer, home: Path, files: Path, run_deployed: RunDeployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXAI_QUIET_PERIOD", "0")
    name = f"reported-{uuid.uuid4().hex[:8]}"
    push_checkpoint.fn(name, files=[str(files)])
    push_checkpoint.fn(f"{name}-gone", from_checkpoint=name)
    delete_checkpoint.fn(f"{name}-gone")
    run_training.fn(f"{name}-job", [sys.executable, "-c", TRAINING])
    (files / "config.json").chmod(0)
    (files / "config.json").unlink()
    (files / "config.json").symlink_to("nowhere")
    with pytest.raises(CheckpointError):
        push_checkpoint.fn(f"{name}-broken", files=[str(files)])

    ended = run_deployed(report, {"request": {"newest": 5}})
    assert ended["state"]["type"] == "COMPLETED", ended["state"]
    assert ended["name"].startswith("report: 1 pushed, 1 captured (16")
    page = artifact(prefect_api, ended, "catalog")
    assert f"| `{name}-job` | 1 |" in page
    assert "| 7 | 0.125 |" in page
    assert f"| `{name}` | 16.02 KiB |" in page
    assert "| Deleted, can come back | 1 |" in page
    assert "| Damaged | nothing known |" in page
    (row,) = json.loads(artifact(prefect_api, ended, "catalog-table"))
    assert (row["Name"], row["Status"]) == (name, "available")
