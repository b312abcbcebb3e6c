"""Flow runs whose worker is taken away, with notice and without, and that a worker with an empty disk goes on with."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.types.entrypoint import EntrypointType

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.models import TrainingJob
from flexai.checkpoints.names import parse_job_reference
from flexai.flows.train_push_export import train_push_export
from tests.checkpoints.training.trainers import program
from tests.flows.test_workers import pool, worker
from tests.servers.prefect import PrefectServer
from tests.support.machines import lose_machine
from tests.support.waiting import until

__all__ = ["pool"]

pytestmark = pytest.mark.slow

TRAINER = """
here = Path({folder!r})
start = os.environ.get("FLEXAI_INPUT_CHECKPOINT")
step = json.loads(Path(start, "trainer_state.json").read_text())["global_step"] if start else 0

def tell(word):
    with open(here / "said", "a") as file:
        file.write(word + "\\n")

def save_step(step, pause=0.0):
    files = trainer_files(step, eval_loss=1 / step)
    state = files.pop("trainer_state.json")
    save(output() / f"checkpoint-{{step}}", dict(files, **{{"extra.bin": os.urandom({size})}}))
    tell(f"saving {{step}}")
    time.sleep(pause)
    save(output() / f"checkpoint-{{step}}", {{"trainer_state.json": state}})
    tell(f"saved {{step}}")

def leave(*_):
    save_step(step + 1)
    while not (here / "go").exists():
        time.sleep(0.05)
    sys.exit(0)

signal.signal(signal.SIGTERM, leave)
tell(f"started {{step}}")
if step >= 3:
    save_step(step + 1)
    sys.exit(0)
while step < 3:
    save_step(step + 1)
    step += 1
if {is_cut_off}:
    save_step(4, pause=600)
while not (here / "end").exists():
    time.sleep(0.1)
"""
"""Saves three steps and waits; one that begins at the third or later saves one more, and ends."""


class Fleet:
    """Workers, each with a disk of its own, that share a catalog, a store and a server."""

    def __init__(self, server: PrefectServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.deploy()
        self.job = f"job-{uuid.uuid4().hex[:8]}"
        self.processes: list[subprocess.Popen[bytes]] = []

    def deploy(self, **options: Any) -> None:
        """Have runs made by a deployment of its own."""
        deployment: Any = train_push_export.to_deployment(
            f"preempted-{uuid.uuid4().hex[:8]}", entrypoint_type=EntrypointType.MODULE_PATH, **options
        )
        self.deployment_id = deployment.apply()

    def begin(self, **options: object) -> str:
        """Have a run made of a training that goes on until it has four steps, and return its id."""
        said = {"folder": str(self.folder), "size": 1000, "is_cut_off": False} | options
        parameters = {
            "training": {"name": self.job, "command": program(TRAINER.format(**said)), "grace": "20s"},
            "push": {"select": "latest"},
        }
        made = self.server.post(f"/deployments/{self.deployment_id}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def execute(self, run_id: str, name: str, **settings: str) -> subprocess.Popen[bytes]:
        """Execute a run as a process worker, or a pod, does: on a machine of that name."""
        disk = self.folder / name
        disk.mkdir()
        environment = os.environ | {
            "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "reschedule",
            "FLEXAI_HOME": str(disk),
            "FLEXAI_DATABASE_URL": f"sqlite:///{self.folder}/shared/catalog.db",
            "FLEXAI_STORE": str(self.folder / "shared" / "store"),
            **settings,
        }
        command = [sys.executable, "-m", "prefect", "flow-run", "execute", run_id]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(command, cwd=disk, env=environment, stdout=log, stderr=subprocess.STDOUT)
        self.processes.append(process)
        return process

    def wait_for(self, word: str) -> None:
        """Wait until the trainer has said something."""
        said = self.folder / "said"
        until(lambda: said.exists() and word in said.read_text().splitlines(), word)

    def state_of(self, run_id: str) -> str:
        return str(self.server.get(f"/flow_runs/{run_id}")["state"]["name"])

    def look(self) -> tuple[TrainingJob, list[tuple[str, str]]]:
        """The job, and its checkpoints with their statuses."""
        with Catalog.look() as catalog:
            job = catalog.jobs.get(parse_job_reference(self.job))
            return job, [(one.name, one.status) for one in catalog.checkpoints.list_captured(job.id)]


@pytest.fixture
def fleet(prefect_api: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "shared").mkdir()
    monkeypatch.setenv("FLEXAI_HOME", str(tmp_path / "shared"))
    monkeypatch.setenv("FLEXAI_OWNER", f"{uuid.uuid4()}/{uuid.uuid4()}")
    monkeypatch.setenv("FLEXAI_STORE", str(tmp_path / "shared" / "store"))
    monkeypatch.setenv("FLEXAI_DATABASE_URL", f"sqlite:///{tmp_path}/shared/catalog.db")
    made = Fleet(prefect_api, tmp_path)
    yield made
    for process in made.processes:
        lose_machine(process)


def test_a_run_whose_machine_gets_notice_is_scheduled_again_and_goes_on_elsewhere_from_the_last_save(
    fleet: Fleet,
) -> None:
    run_id = fleet.begin()
    first = fleet.execute(run_id, "one")
    fleet.wait_for("saved 3")
    first.send_signal(signal.SIGTERM)
    until(lambda: fleet.state_of(run_id) == "AwaitingRetry", "the rescheduling")
    # While the first machine still saves.
    second = fleet.execute(run_id, "two")
    waits = "waiting for the end of attempt 1"
    until(lambda: waits in (fleet.folder / "two.log").read_text() or first.poll() is not None, waits)
    (fleet.folder / "go").touch()
    assert first.wait() == 0
    assert second.wait() == 0, (fleet.folder / "two.log").read_text()
    assert fleet.state_of(run_id) == "Completed"
    job, checkpoints = fleet.look()
    assert (job.status, job.attempt) == ("succeeded", 2)
    assert checkpoints == [(f"checkpoint-{step}", "available") for step in (1, 2, 3, 4, 5)]
    assert (fleet.folder / "said").read_text().splitlines()[-3:] == ["started 4", "saving 5", "saved 5"]


def test_a_process_worker_has_a_run_scheduled_again_where_its_deployment_says_so(fleet: Fleet, pool: str) -> None:
    variables = {
        "command": f"{shlex.quote(sys.executable)} -m prefect flow-run execute",
        "env": {"PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "reschedule", "FLEXAI_QUIET_PERIOD": "5s"},
    }
    fleet.deploy(work_pool_name=pool, job_variables=variables)
    run_id = fleet.begin()
    (fleet.folder / "go").touch()
    with worker(pool, "one", fleet.folder) as process:
        fleet.wait_for("saved 3")
        children = psutil.Process(process.pid).children(recursive=True)
        (executor,) = [one for one in children if "flow-run" in one.cmdline()]
        executor.terminate()
        until(lambda: fleet.state_of(run_id) in {"Completed", "Failed", "Crashed"}, "the end")
    assert fleet.state_of(run_id) == "Completed"
    job, checkpoints = fleet.look()
    assert (job.status, job.attempt) == ("succeeded", 2)
    assert checkpoints == [(f"checkpoint-{step}", "available") for step in (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("moment", ["training", "saving", "uploading"])
def test_a_machine_that_is_lost_without_notice_loses_no_save_that_was_stored(fleet: Fleet, moment: str) -> None:
    slow = {"FLEXAI_BANDWIDTH_LIMIT": "64KiB", "FLEXAI_PART_SIZE": "64KiB"} if moment == "uploading" else {}
    run_id = fleet.begin(is_cut_off=moment == "saving", size=1_000_000 if moment == "uploading" else 1000)
    first = fleet.execute(run_id, "one", **slow)
    fleet.wait_for("saving 4" if moment == "saving" else "saved 3")
    least = 0 if moment == "uploading" else 3
    until(lambda: sum(status == "available" for _, status in fleet.look()[1]) >= least, "the storing")
    lose_machine(first)
    # How far the upload is by then depends on the machine.
    stored = sum(status == "available" for _, status in fleet.look()[1])

    again = fleet.begin(is_cut_off=False)
    second = fleet.execute(again, "two")
    (fleet.folder / "end").touch()
    assert second.wait() == 0, (fleet.folder / "two.log").read_text()
    job, checkpoints = fleet.look()
    assert job.attempt == 2
    assert {status for _, status in checkpoints} == {"available"}, "what was cut off was taken for a checkpoint"
    starts = [line for line in (fleet.folder / "said").read_text().splitlines() if line.startswith("started ")]
    assert starts == ["started 0", f"started {stored}"]
