"""Rot in a real bucket, repaired from an export in the same service, which copies by itself."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from flexai.blocks import S3StorageProvider
from flexai.checkpoints.service.export import export
from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.gc import collect_garbage
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.repair import repair
from flexai.checkpoints.service.requests import ExportRequest, FetchRequest
from flexai.checkpoints.service.store_requests import GarbageRequest, VerifyRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.verify import verify
from flexai.checkpoints.settings import load_settings
from tests.servers.fixtures import S3Server
from tests.support.machine import NO_GRACE
from tests.support.trees import Tree, noise, read_tree, write_tree

MIB = 1024**2
SOURCE: Tree = {"config.json": b'{"layers": 2}', "weights.bin": noise(6 * MIB, "weights")}


@dataclass
class Lab:
    """A managed store in a bucket, and a connection to its service."""

    server: S3Server
    system: System
    connection: S3StorageProvider
    prefix: str

    def flip_byte(self, path: str) -> str:
        """Damage the object that holds a file's content; returns its key."""
        (checkpoint,) = self.system.catalog.checkpoints.of_store(self.system.store_id)
        files = self.system.blobs.files_of(checkpoint.id)
        content = next(file.content for file in files if file.path == path)
        key = self.system.store.blob_key(content.blob_id)
        client = self.server.client()
        found = bytearray(client.get_object(Bucket=self.server.bucket, Key=key)["Body"].read())
        found[content.start + content.size // 2] ^= 0xFF
        client.put_object(Bucket=self.server.bucket, Key=key, Body=bytes(found))
        return key


@pytest.fixture
def lab(seaweedfs: S3Server, tmp_path: Path) -> Iterator[Lab]:
    """A checkpoint in a bucket, exported to another bucket of the service."""
    connection = S3StorageProvider(
        endpoint_url=seaweedfs.url,
        access_key_id=seaweedfs.access_key_id,
        secret_access_key=SecretStr(seaweedfs.secret_access_key),
        addressing_style="path",
    )
    connection._block_document_name = "lab-conn"
    prefix = f"repair-{uuid.uuid4().hex[:8]}"
    settings = load_settings(home=tmp_path / "home", store=f"lab-conn:{seaweedfs.bucket}/{prefix}")
    with System.open(settings, connect=lambda _: connection) as system:
        push(system, PushRequest("llama", (str(write_tree(tmp_path / "run", SOURCE)),)))
        export(system, ExportRequest("llama", "lab-conn", f"{seaweedfs.other_bucket}/{prefix}"))
        yield Lab(seaweedfs, system, connection, prefix)


@pytest.mark.parametrize("path", SOURCE)
def test_a_flipped_byte_in_a_bucket_is_repaired(lab: Lab, path: str, tmp_path: Path) -> None:
    key = lab.flip_byte(path)
    assert len(verify(lab.system, VerifyRequest()).damaged) == 1
    report = repair(lab.system)
    assert [done.source for done in report.repaired] == [f"lab-conn:{lab.server.other_bucket}/{lab.prefix}"]
    assert verify(lab.system, VerifyRequest()).damaged == ()
    fetch(lab.system, FetchRequest("llama", str(tmp_path / "out")))
    assert read_tree(tmp_path / "out") == SOURCE
    collect_garbage(lab.system, GarbageRequest(grace_period=NO_GRACE))
    listed = lab.server.client().list_objects_v2(Bucket=lab.server.bucket, Prefix=f"{lab.prefix}/")
    assert key not in {entry["Key"] for entry in listed["Contents"]}
    assert verify(lab.system, VerifyRequest()).damaged == ()


def test_a_damaged_export_that_the_service_has_copied_is_not_believed(lab: Lab) -> None:
    lab.flip_byte("weights.bin")
    client = lab.server.client()
    there = f"{lab.prefix}/weights.bin"
    client.put_object(Bucket=lab.server.other_bucket, Key=there, Body=noise(6 * MIB, "other"))
    verify(lab.system, VerifyRequest())
    (left,) = repair(lab.system).unrepaired
    assert left.problem
    client.put_object(Bucket=lab.server.other_bucket, Key=there, Body=SOURCE["weights.bin"])
    assert len(repair(lab.system).repaired) == 1
    assert verify(lab.system, VerifyRequest()).damaged == ()
