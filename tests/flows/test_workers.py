"""The whole flow on real workers: suspended for an approval, gone on with by another worker, cancelled in the UI."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prefect.types.entrypoint import EntrypointType

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.names import parse_job_reference
from flexai.flows.train_push_export import train_push_export
from flexai.tasks import list_checkpoints, verify_checkpoints
from tests.servers.prefect import PrefectServer
from tests.support.waiting import until

pytestmark = pytest.mark.slow

QUICK = """
import os, pathlib
folder = pathlib.Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"], "checkpoint-1")
folder.mkdir()
(folder / "trainer_state.json").write_text('{{"global_step": 1, "log_history": [{{"step": 1, "eval_loss": 0.25}}]}}')
with open({trainings!r}, "a") as file:
    file.write("x")
"""
ENDLESS = QUICK + "import time; time.sleep(600)\n"


@pytest.fixture
def pool(prefect_api: PrefectServer) -> str:
    """A work pool of this test's own."""
    name = f"pool-{uuid.uuid4().hex[:8]}"
    prefect_api.post("/work_pools/", {"name": name, "type": "process"})
    return name


@contextmanager
def worker(pool: str, name: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process, which looks for work each second."""
    environment = os.environ | {
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_WORKER_HEARTBEAT_SECONDS": "1",
        "FLEXAI_QUIET_PERIOD": "0",
    }
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", name]
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.mark.xdist_group("waits")
def test_a_run_waits_without_its_worker_and_another_one_goes_on_and_a_cancelled_training_stops(
    prefect_api: PrefectServer, home: Path, pool: str, share: str, tmp_path: Path
) -> None:
    deployment: Any = train_push_export.to_deployment(
        f"whole-{pool}", work_pool_name=pool, concurrency_limit=1, entrypoint_type=EntrypointType.MODULE_PATH
    )
    deployment_id = deployment.apply()

    def begin(job: str, template: str) -> str:
        # A worker runs in a folder of its own.
        code = template.format(trainings=str(tmp_path / "trainings"))
        parameters = {
            "training": {"name": job, "command": [sys.executable, "-c", code]},
            "push": {"select": "latest"},
            "export": {"storage_provider": share, "path_template": "models/{name}", "approval": {"timeout_hours": 1}},
        }
        run = prefect_api.post(f"/deployments/{deployment_id}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def state_of(run_id: str) -> str:
        return str(prefect_api.get(f"/flow_runs/{run_id}")["state"]["name"])

    approved, cancelled = f"approved-{pool}", f"cancelled-{pool}"
    with worker(pool, "one", tmp_path):
        first = begin(approved, QUICK)
        until(lambda: state_of(first) == "Suspended", "the suspension")
        # No process waits for the person, and the next run has the deployment's only place.
        second = begin(cancelled, ENDLESS)
        until(lambda: (tmp_path / "trainings").read_text() == "xx", "the second training")
        prefect_api.post(f"/flow_runs/{second}/set_state", {"state": {"type": "CANCELLING"}})
        # The run's process calls itself crashed; the worker, which knows why it ended, has the last word.
        until(lambda: state_of(second) == "Cancelled", "the cancellation")
    with Catalog.look() as catalog:
        job = catalog.jobs.get(parse_job_reference(cancelled))
    assert (job.status, job.reason.partition(";")[0]) == ("stopped", "preempted by SIGTERM: stored step 1")

    with worker(pool, "two", tmp_path):
        prefect_api.post(f"/flow_runs/{first}/resume", {"run_input": {"decision": "approve"}})
        until(lambda: state_of(first) in {"Completed", "Failed", "Crashed"}, "the end")
    assert state_of(first) == "Completed"
    assert (tmp_path / "trainings").read_text() == "xx", "what was trained was trained again"
    assert (tmp_path / "share" / "models" / f"{approved}-checkpoint-1" / "trainer_state.json").is_file()
    assert [row["name"] for row in list_checkpoints.fn()] == [f"{approved}-checkpoint-1"]
    assert verify_checkpoints.fn()["damagedContents"] == 0
