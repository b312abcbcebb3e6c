"""Flows that give out shards: by threads, and on a Dask cluster of processes of which one is killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner
from prefect.utilities.collections import visit_collection
from prefect_dask.task_runners import DaskTaskRunner
from sqlalchemy import select

from flexai.blocks import MinIOStorageProvider, load_connection, save_connection
from flexai.checkpoints.catalog.tables import blobs
from flexai.checkpoints.errors import SettingsError
from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.gc import collect_garbage
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.store_requests import GarbageRequest
from flexai.checkpoints.service.support.shard_work import PushShard, ShardSource
from flexai.checkpoints.service.system import System
from flexai.flows.export import export
from flexai.flows.forms import ExportForm, PushForm
from flexai.flows.push import push
from flexai.flows.runners import task_runner
from flexai.tasks.shards import OpaqueShard
from tests.servers.fixtures import S3Server
from tests.servers.prefect import PrefectServer
from tests.support.tables import tables_of
from tests.support.trees import Tree, noise, read_tree, write_tree
from tests.support.waiting import until

MIB = 1024**2
PART = 5 * MIB
"""The least that these servers take."""

SOURCE: Tree = {
    "huge.safetensors": noise(6 * PART + 17, "huge"),
    "large.safetensors": noise(2 * PART, "large"),
    **{f"tokens/{number}.bin": noise(50_000 + number, str(number)) for number in range(40)},
}
SIZE = sum(map(len, SOURCE.values()))


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings with which some megabytes are a large checkpoint."""
    monkeypatch.setenv("FLEXAI_PART_SIZE", str(PART))
    monkeypatch.setenv("FLEXAI_SHARD_SIZE", str(2 * PART))
    monkeypatch.setenv("FLEXAI_CONCURRENCY", "2")


def s3_connection(server: S3Server, *, max_transfers: int | None = None) -> str:
    """Save a connection to a server."""
    name = f"{server.name}-{uuid.uuid4().hex[:8]}"
    save_connection(
        MinIOStorageProvider(
            endpoint_url=server.url,
            access_key_id=server.access_key_id,
            secret_access_key=server.secret_access_key,
        ),
        name,
        max_transfers=max_transfers,
    )
    return name


def put_source(server: S3Server, prefix: str) -> None:
    """Put the files on a server, without our code."""
    client = server.client()
    for path, content in SOURCE.items():
        client.put_object(Bucket=server.bucket, Key=f"{prefix}/{path}", Body=content)
    client.close()


def stored_bytes() -> int:
    """Bytes of all blobs that the catalog knows."""
    with System.open(connect=load_connection) as system, tables_of(system.catalog.database) as connection:
        return sum(connection.execute(select(blobs.c.size)).scalars())


def fetched(name: str, tmp_path: Path) -> Tree:
    """What a checkpoint holds."""
    with System.open(connect=load_connection) as system:
        fetch(system, FetchRequest(name, str(tmp_path / f"fetched-{name}")))
    return read_tree(tmp_path / f"fetched-{name}")


@pytest.mark.slow
def test_a_push_and_an_export_in_threads_end_where_one_transfer_may_use_the_store_at_a_time(
    prefect_api: PrefectServer,
    home: Path,
    sizes: None,
    seaweedfs: S3Server,
    juicefs: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"threads-{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("FLEXAI_STORE", f"{s3_connection(juicefs, max_transfers=1)}:{juicefs.bucket}/{name}")
    write_tree(tmp_path / "run", SOURCE)
    push(PushForm.model_validate({"name": name, "source": {"files": [str(tmp_path / "run")]}}))
    assert fetched(name, tmp_path) == SOURCE
    assert stored_bytes() == SIZE
    connection = s3_connection(seaweedfs, max_transfers=1)
    request = {
        "checkpoint": name,
        "storage_provider": connection,
        "destination_path": f"{seaweedfs.bucket}/{name}",
    }
    document = export(ExportForm.model_validate(request))
    assert (document["exportedFiles"], document["movedBytes"]) == (len(SOURCE), SIZE)
    assert export(ExportForm.model_validate(request))["movedBytes"] == 0
    # Below the size of a shard there is one ordinary task run.
    small = ExportForm.model_validate(request | {"shard_size": "1GiB"})
    assert export(small)["movedBytes"] == 0


@dataclass
class DaskCluster:
    """A scheduler and workers, each a process of its own."""

    folder: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Where the scheduler is."""
        return str(json.loads((self.folder / "scheduler.json").read_text())["address"])

    def start(self, name: str, *arguments: str) -> None:
        """Start the scheduler or a worker."""
        program = "dask_scheduler" if name == "scheduler" else "dask_worker"
        command = [sys.executable, "-m", f"distributed.cli.{program}", "--scheduler-file", "scheduler.json", *arguments]
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=subprocess.STDOUT)

    def start_worker(self, name: str) -> None:
        """Start a worker that does one shard at a time."""
        # Without a nanny, which would start it again.
        self.start(
            name,
            "--name",
            name,
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--host",
            "127.0.0.1",
            "--local-directory",
            ".",
        )

    def kill_at_work(self, name: str) -> threading.Thread:
        """Kill a worker without warning as soon as it is doing a shard."""

        def kill() -> None:
            with self._client() as client:
                until(lambda: any(_work_of(client, name)), "a shard")
                self.running[name].send_signal(signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        return thread

    def _client(self) -> Any:
        connect: Any = Client
        return connect(self.address, set_as_default=False)

    def stop(self) -> None:
        """Stop every process."""
        for process in self.running.values():
            process.kill()
            process.wait()


def _work_of(client: Any, name: str) -> Iterator[str]:
    addresses = {address for address, about in client.scheduler_info()["workers"].items() if about["name"] == name}
    for address, keys in client.processing().items():
        if address in addresses:
            yield from keys


@pytest.fixture
def cluster(
    prefect_api: PrefectServer, home: Path, sizes: None, juicefs: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DaskCluster]:
    """A Dask cluster whose store is in a bucket."""
    monkeypatch.setenv("FLEXAI_STORE", f"{s3_connection(juicefs)}:{juicefs.bucket}/store-{uuid.uuid4().hex[:8]}")
    folder = home.parent / "dask"
    folder.mkdir()
    cluster = DaskCluster(folder)
    try:
        cluster.start("scheduler", "--port", "0", "--no-dashboard", "--host", "127.0.0.1")
        until((folder / "scheduler.json").exists, "the scheduler")
        yield cluster
    finally:
        cluster.stop()


@pytest.mark.slow
def test_workers_of_a_dask_cluster_are_killed_and_the_others_end_their_shards(
    prefect_api: PrefectServer, cluster: DaskCluster, seaweedfs: S3Server, tmp_path: Path
) -> None:
    name = f"dask-{uuid.uuid4().hex[:8]}"
    connection = s3_connection(seaweedfs)
    put_source(seaweedfs, f"from-{name}")
    runner: TaskRunner[Any] = DaskTaskRunner(address=cluster.address)
    cluster.start_worker("one")
    cluster.start_worker("two")

    killing = cluster.kill_at_work("one")
    source = {"storage_provider": connection, "source_path": f"{seaweedfs.bucket}/from-{name}"}
    push.with_options(task_runner=runner)(PushForm.model_validate({"name": name, "source": source}))
    killing.join()
    assert cluster.running["one"].wait() == -signal.SIGKILL
    assert fetched(name, tmp_path) == SOURCE

    cluster.start_worker("three")
    killing = cluster.kill_at_work("three")
    request = {"checkpoint": name, "storage_provider": connection, "destination_path": f"{seaweedfs.bucket}/to-{name}"}
    document = export.with_options(task_runner=runner)(ExportForm.model_validate(request))
    killing.join()
    assert cluster.running["three"].wait() == -signal.SIGKILL
    assert document["exportedFiles"] == len(SOURCE)
    client = seaweedfs.client()
    listed = client.list_objects_v2(Bucket=seaweedfs.bucket, Prefix=f"to-{name}/")["Contents"]
    there = {one["Key"]: client.get_object(Bucket=seaweedfs.bucket, Key=one["Key"])["Body"].read() for one in listed}
    assert {path: there[f"to-{name}/{path}"] for path in SOURCE} == SOURCE
    left = client.list_multipart_uploads(Bucket=seaweedfs.bucket, Prefix=f"to-{name}/").get("Uploads", [])
    assert left == []
    with System.open(connect=load_connection) as system:
        collect_garbage(system, GarbageRequest(grace_period=timedelta(0)))
    assert stored_bytes() == SIZE, "bytes are stored that no checkpoint needs"


@pytest.mark.parametrize("text", ["dusk", "threads:none", "threads:0", "processes:many", "processes:0"])
def test_a_task_runner_that_is_none_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("FLEXAI_TASK_RUNNER", text)
    with pytest.raises(SettingsError):
        task_runner()


def test_the_deployment_chooses_the_task_runner(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(task_runner(), ThreadPoolTaskRunner)
    monkeypatch.setenv("FLEXAI_TASK_RUNNER", "dask:tcp://127.0.0.1:8786")
    chosen = task_runner()
    assert isinstance(chosen, DaskTaskRunner)
    assert chosen.address == "tcp://127.0.0.1:8786"


def test_prefect_looks_into_none_of_a_shards_files() -> None:
    shard = PushShard(
        label="llama 1 of 2",
        size=1,
        checkpoint_id="c",
        claim_token="t",
        store_id="s",
        storage_provider="",
        source_path="",
        files=(ShardSource("a.bin", "/a.bin", 1, "1"),),
    )
    seen: list[object] = []
    visit_collection({"shard": OpaqueShard(shard)}, visit_fn=seen.append, return_data=False)
    assert [type(one) for one in seen if not isinstance(one, str)] == [dict, OpaqueShard]
