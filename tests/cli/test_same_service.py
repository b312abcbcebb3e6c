"""A push from, and an export to, the very service that holds the managed store: the service copies by itself."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from flexai.checkpoints.storage.gcs.bucket import GCSStorage
from flexai.checkpoints.storage.gcs.session import GCSService
from flexai.checkpoints.storage.protocol import BLOCK_SIZE, Block, ObjectStorage
from flexai.checkpoints.storage.s3.bucket import S3Storage
from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service
from flexai.checkpoints.transfer.digest import parts_of
from tests.cli.program import Program
from tests.servers.fixtures import GCSServer, S3Server
from tests.servers.prefect import PrefectServer
from tests.servers.proxy import FaultProxy, faulty

pytestmark = pytest.mark.slow

MIB = 1024**2


@dataclass(frozen=True)
class _Stream:
    """Bytes made as they are read, different in every block."""

    start: int
    size: int

    def blocks(self) -> Iterator[Block]:
        for at in range(self.start, self.start + self.size, BLOCK_SIZE):
            yield memoryview(at.to_bytes(8, "big") * (BLOCK_SIZE // 8))[: self.start + self.size - at]


def _upload(storage: ObjectStorage, key: str, size: int) -> None:
    upload_id = storage.start_upload(key, size=size)
    receipts = [
        storage.put_part(key, upload_id, number=part.number, offset=part.offset, body=_Stream(part.offset, part.size))
        for part in parts_of(size, 64 * MIB)
    ]
    storage.complete_upload(key, upload_id, receipts)


def _run(program: Program, *arguments: str) -> None:
    done = program.run(*arguments, "--no-track")
    assert done.code == 0, done.err


def _push_and_export_back(program: Program, name: str, bucket: str, prefix: str, proxy: FaultProxy) -> None:
    """Both, counted: what the proxy sees is all that moves through the client."""
    program.environment["FLEXAI_STORE"] = f"{name}:{bucket}/{prefix}/store"
    before = proxy.moved
    provider = ["--storage-provider", name]
    _run(program, "checkpoint", "push", "llama", *provider, "--source-path", f"{bucket}/{prefix}/run")
    _run(program, "checkpoint", "export", "llama", *provider, "--destination-path", f"{bucket}/{prefix}/back")
    assert proxy.moved - before < MIB
    files = program.run("checkpoint", "inspect", "llama", "--json").json()["status"]["files"]
    # Of some checksums no process of ours knows how to compute them.
    assert [file["digestOrigin"] for file in files] in (["provider"], ["unverified"])
    assert files[0]["checksums"]


def _assert_same(storage: ObjectStorage, one: str, other: str, size: int) -> None:
    for at in (0, size // 2, size - MIB):
        assert _read(storage, one, at) == _read(storage, other, at)
    assert storage.head(one).size == storage.head(other).size == size


def _read(storage: ObjectStorage, key: str, at: int) -> bytes:
    return b"".join(bytes(block) for block in storage.get(key, start=at, length=MIB))


@pytest.fixture
def created(program: Program, prefect_server: PrefectServer) -> Callable[..., str]:
    """Creates a connection and returns its name."""
    program.environment["PREFECT_API_URL"] = prefect_server.api_url

    def create(*arguments: str, secret: str = "") -> str:
        name = f"lab-{uuid.uuid4().hex[:12]}"
        done = program.run("storage", "create", name, *arguments, input=secret)
        assert done.code == 0, done.err
        return name

    return create


def test_two_gibibytes_in_s3_are_pushed_and_exported_without_passing_through_here(
    program: Program, seaweedfs: S3Server, created: Callable[..., str]
) -> None:
    size = 2 * 1024 * MIB
    prefix = uuid.uuid4().hex
    storage = S3Storage(
        S3Service(
            endpoint_url=seaweedfs.url,
            region=seaweedfs.region,
            credentials=S3Credentials(seaweedfs.access_key_id, seaweedfs.secret_access_key),
        ),
        seaweedfs.bucket,
    )
    _upload(storage, f"{prefix}/run/model.safetensors", size)
    try:
        with faulty(seaweedfs.url) as proxy:
            name = created(
                *["--provider", "minio", "--endpoint-url", proxy.url, "--access-key-id", seaweedfs.access_key_id],
                *["--secret-from", "-"],
                secret=seaweedfs.secret_access_key,
            )
            _push_and_export_back(program, name, seaweedfs.bucket, prefix, proxy)
        _assert_same(storage, f"{prefix}/run/model.safetensors", f"{prefix}/back/model.safetensors", size)
    finally:
        storage.delete([info.key for info in storage.list(prefix)])


def test_a_large_object_in_gcs_is_pushed_and_exported_without_passing_through_here(
    program: Program, fake_gcs: GCSServer, created: Callable[..., str]
) -> None:
    size = 64 * MIB
    prefix = uuid.uuid4().hex
    storage = GCSStorage(GCSService(endpoint_url=fake_gcs.url, anonymous=True), fake_gcs.bucket)
    _upload(storage, f"{prefix}/run/model.safetensors", size)
    with faulty(fake_gcs.url) as proxy:
        name = created("--provider", "gcs", "--endpoint-url", proxy.url, "--anonymous")
        _push_and_export_back(program, name, fake_gcs.bucket, prefix, proxy)
    _assert_same(storage, f"{prefix}/run/model.safetensors", f"{prefix}/back/model.safetensors", size)
