"""Flows that give out shards: by threads, and on a Dask cluster of processes of which one is killed."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from flexai.blocks import MinIOStorageProvider, save_connection
from flexai.checkpoints.catalog.tables import blobs
from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.system import System
from flexai.flows.export import export
from flexai.flows.push import push
from flexai.flows.requests import ExportRequest, PushRequest
from tests.servers.fixtures import S3Server
from tests.servers.prefect import PrefectServer
from tests.support.trees import Tree, noise, read_tree, write_tree

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


def s3_connection(server: S3Server) -> str:
    """Save a connection to a server."""
    name = f"{server.name}-{uuid.uuid4().hex[:8]}"
    save_connection(
        MinIOStorageProvider(
            endpoint_url=server.url,
            access_key_id=server.access_key_id,
            secret_access_key=server.secret_access_key,
        ),
        name,
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
    with System.open() as system, system.catalog.database.reading() as connection:
        return sum(connection.execute(select(blobs.c.size)).scalars())


def fetched(name: str, tmp_path: Path) -> Tree:
    """What a checkpoint holds."""
    from flexai.blocks import load_connection

    with System.open(connect=load_connection) as system:
        fetch(system, name, tmp_path / f"fetched-{name}")
    return read_tree(tmp_path / f"fetched-{name}")


def shard_runs(server: PrefectServer, label: str) -> list[dict[str, Any]]:
    """The task runs of the shards of a checkpoint."""
    runs = server.post("/task_runs/filter", {"task_runs": {"name": {"like_": f"{label} "}}, "limit": 200})
    return list(runs)


def test_a_push_and_an_export_in_threads_are_shards_in_the_ui(
    prefect_api: PrefectServer, home: Path, sizes: None, seaweedfs: S3Server, tmp_path: Path
) -> None:
    name = f"threads-{uuid.uuid4().hex[:8]}"
    write_tree(tmp_path / "run", SOURCE)
    push(PushRequest.model_validate({"name": name, "source": {"files": [str(tmp_path / "run")]}}))
    assert fetched(name, tmp_path) == SOURCE
    assert stored_bytes() == SIZE
    connection = s3_connection(seaweedfs)
    request = {
        "checkpoint": name,
        "storage_provider": connection,
        "destination_path": f"{seaweedfs.bucket}/{name}",
    }
    document = export(ExportRequest.model_validate(request))
    assert (document["exportedFiles"], document["movedBytes"]) == (len(SOURCE), SIZE)
    assert export(ExportRequest.model_validate(request))["movedBytes"] == 0
    # Below the size of a shard there is one ordinary task run.
    small = ExportRequest.model_validate(request | {"shard_size": "1GiB"})
    assert export(small)["movedBytes"] == 0
