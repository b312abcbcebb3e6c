"""Many machines: one catalog and one bucket for all, and workers that die."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.types.entrypoint import EntrypointType

from flexai.blocks import load_connection
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.names import parse_reference
from flexai.checkpoints.service.system import System
from flexai.cli.orchestration.deploy_steps import read_document
from flexai.flows.export import export
from flexai.flows.push import push
from flexai.flows.train_push_export import train_push_export
from flexai.tasks import push_checkpoint
from tests.flows.test_sharding import SIZE, SOURCE, fetched, put_source, s3_connection, sizes
from tests.servers.fixtures import S3Server
from tests.servers.postgresql import PostgreSQL
from tests.servers.prefect import PrefectServer
from tests.support.machines import lose_machine
from tests.support.trees import write_tree
from tests.support.waiting import until

pytestmark = pytest.mark.slow

__all__ = ["sizes"]

TRAINING = """
import os, pathlib, time, zipfile
if "FLEXAI_INPUT_CHECKPOINT_DIR" in os.environ:
    step = 2
else:
    step = 1
folder = pathlib.Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"], f"checkpoint-{step}")
folder.mkdir()
for name in ("pytorch_model.bin", "optimizer.pt"):
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
(folder / "trainer_state.json").write_text(
    '{"global_step": %d, "log_history": [{"step": %d, "eval_loss": 0.25}]}' % (step, step)
)
if step == 1:
    time.sleep(600)
"""


@pytest.fixture
def bucket(
    prefect_api: PrefectServer, home: Path, sizes: None, juicefs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The store in force, in a bucket."""
    store = f"{s3_connection(juicefs)}:{juicefs.bucket}/store-{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("FLEXAI_STORE", store)
    return store


@pytest.fixture
def pool(prefect_api: PrefectServer) -> str:
    """A work pool of this test's own."""
    name = f"pool-{uuid.uuid4().hex[:8]}"
    prefect_api.post("/work_pools/", {"name": name, "type": "process"})
    return name


@pytest.fixture
def start_worker(pool: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts process workers, as other machines have them, and ends them with the test."""
    workers: list[subprocess.Popen[bytes]] = []

    def start(name: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--name", name]
        own = {"PREFECT_WORKER_QUERY_SECONDS": "1", "FLEXAI_QUIET_PERIOD": "0"} | environment
        with (tmp_path / f"{name}.log").open("wb") as log:
            workers.append(
                subprocess.Popen(command, cwd=tmp_path, env=os.environ | own, stdout=log, stderr=subprocess.STDOUT)
            )
        return workers[-1]

    yield start
    for worker in workers:
        lose_machine(worker)


def _age_leases(server: PrefectServer, runs: list[str]) -> None:
    """Have the leases of dead runs end in a minute instead of five, as if they had died some minutes ago."""
    for run in runs:
        lease = server.get(f"/flow_runs/{run}")["state"]["state_details"]["deployment_concurrency_lease_id"]
        server.post(f"/v2/concurrency_limits/leases/{lease}/renew", {"lease_duration": 60})


@pytest.mark.xdist_group("waits")
def test_a_worker_is_killed_in_the_middle_of_everything_and_another_one_finishes(
    prefect_api: PrefectServer,
    bucket: str,
    pool: str,
    postgresql: PostgreSQL,
    seaweedfs: S3Server,
    start_worker: Callable[..., subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    database = postgresql.create_database()
    monkeypatch.setenv("FLEXAI_DATABASE_URL", postgresql.url(database))
    there = s3_connection(seaweedfs)
    put_source(seaweedfs, f"from-{pool}")
    write_tree(tmp_path / "exported", {path: content + b"!" for path, content in SOURCE.items()})
    push_checkpoint.fn(f"exported-{pool}", files=[str(tmp_path / "exported")])
    parameters: dict[Any, dict[str, Any]] = {
        push: {
            "request": {
                "name": f"pushed-{pool}",
                "source": {"storage_provider": there, "source_path": f"{seaweedfs.bucket}/from-{pool}"},
            }
        },
        export: {
            "request": {
                "checkpoint": f"exported-{pool}",
                "storage_provider": there,
                "destination_path": f"{seaweedfs.bucket}/to-{pool}",
            }
        },
        train_push_export: {
            "training": {"name": f"trained-{pool}", "command": [sys.executable, "-c", TRAINING]},
            "push": {"select": "latest", "name_template": "{job}-{checkpoint}"},
        },
    }
    shipped = {entry["entrypoint"]: entry for entry in read_document()["deployments"]}
    one_by_one = shipped["flexai.flows.train_push_export.train_push_export"]["concurrency_limit"]
    assert one_by_one == {"limit": 1, "collision_strategy": "ENQUEUE"}
    deployments = {}
    for flow in parameters:
        deployment: Any = flow.to_deployment(
            pool,
            work_pool_name=pool,
            concurrency_limit=ConcurrencyLimitConfig(**one_by_one),
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        deployments[flow] = deployment.apply()

    def run_all() -> list[str]:
        return [
            str(prefect_api.post(f"/deployments/{deployments[flow]}/create_flow_run", {"parameters": given})["id"])
            for flow, given in parameters.items()
        ]

    def state_of(run_id: str) -> str:
        return str(prefect_api.get(f"/flow_runs/{run_id}")["state"]["name"])

    client = seaweedfs.client()

    def is_amid_push() -> bool:
        with System.open(connect=load_connection) as system:
            known = {one.name: one for one in system.catalog.checkpoints.of_store(system.store_id)}
            return f"pushed-{pool}" in known and bool(system.blobs.unfinished(str(known[f"pushed-{pool}"].id)))

    def is_amid_export() -> bool:
        return bool(client.list_objects_v2(Bucket=seaweedfs.bucket, Prefix=f"to-{pool}/").get("Contents"))

    def is_amid_training() -> bool:
        with Catalog.look() as catalog:
            jobs = [job for job in catalog.jobs.list() if job.name == f"trained-{pool}"]
            return any(catalog.checkpoints.list_captured(job.id) for job in jobs)

    # Slow enough to be met in the middle.
    one = start_worker("one", FLEXAI_BANDWIDTH_LIMIT=str(500_000))
    first = run_all()
    until(lambda: is_amid_push() and is_amid_export() and is_amid_training(), lambda: "the middle of everything")
    lose_machine(one)
    _age_leases(prefect_api, first)
    with System.open(connect=load_connection) as system:
        pushed = system.catalog.checkpoints.get(parse_reference(f"pushed-{pool}"))
        # Its process is gone from this machine: the next push need not wait for the lease.
        assert pushed.status is CheckpointStatus.FAILED

    start_worker("two")
    second = run_all()
    # Each dead run has the only place of its deployment until its lease is over.
    until(
        lambda: all(state_of(run) == "AwaitingConcurrencySlot" for run in second),
        lambda: f"{[state_of(run) for run in second]}",
    )
    until(
        lambda: all(state_of(run) in {"Completed", "Failed", "Crashed"} for run in second),
        lambda: f"{[state_of(run) for run in second]}\n{(tmp_path / 'two.log').read_text()[-5000:]}",
    )
    assert [state_of(run) for run in second] == ["Completed"] * 3
    # Prefect by itself does not notice: no process is left to say how the first runs ended.
    assert [state_of(run) for run in first] == ["Running"] * 3
    assert fetched(f"pushed-{pool}", tmp_path) == SOURCE
    listed = client.list_objects_v2(Bucket=seaweedfs.bucket, Prefix=f"to-{pool}/")["Contents"]
    assert len(listed) == len(SOURCE) + 1
    assert sum(one["Size"] for one in listed if not one["Key"].endswith("manifest.json")) == SIZE + len(SOURCE)
    assert fetched(f"trained-{pool}-checkpoint-2", tmp_path).keys() == {
        "optimizer.pt",
        "pytorch_model.bin",
        "trainer_state.json",
    }
