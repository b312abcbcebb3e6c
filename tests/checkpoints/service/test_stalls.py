"""Transfers over connections that fall silent: only what stalls moves again."""

from __future__ import annotations

import re
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.names import NIL_ID, Id
from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.settings import load_settings
from flexai.checkpoints.storage.connection import RemotePath, split_bucket
from flexai.checkpoints.storage.gcs.bucket import GCSStorage
from flexai.checkpoints.storage.gcs.session import GCSService
from flexai.checkpoints.storage.protocol import ObjectStorage
from flexai.checkpoints.storage.s3.bucket import MIN_PART_SIZE, S3Storage
from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service
from tests.servers.fixtures import GCSServer, S3Server
from tests.servers.proxy import FaultProxy, Request
from tests.support.trees import noise, read_tree, write_tree

pytestmark = pytest.mark.slow

SILENCE = 3.0
"""Seconds: far more than an answer takes."""
PARTS = 4


@dataclass(frozen=True)
class Bucket:
    """A connection to the service behind a proxy."""

    storage: ObjectStorage
    connection_name: str = "lab"
    connection_id: Id = NIL_ID

    def open(self, path: str) -> RemotePath:
        return RemotePath(storage=self.storage, key=split_bucket(path)[1])


@dataclass(frozen=True)
class Lab:
    """A system whose store is behind a proxy."""

    system: System
    proxy: FaultProxy
    part: int
    """Bytes of a part."""

    def sent(self) -> Counter[int]:
        """How often each part was sent, by its number."""
        return Counter(number for request in self.proxy.requests if (number := _part(request)))

    def ranges(self) -> list[tuple[int, int]]:
        """The first and the last byte of all that was read."""
        read = [request.headers["range"] for request in self.proxy.seen("GET") if "range" in request.headers]
        return [(int(first), int(last)) for first, last in (one.removeprefix("bytes=").split("-") for one in read)]


def _part(request: Request) -> int:
    """The number of the part that a request stores; 0 for none."""
    found = re.search(r"partNumber=(\d+)|flexai-partial%2F(\d+)&", request.target)
    return int(found[1] or found[2]) if found and request.method in {"PUT", "POST"} else 0


@pytest.fixture(params=["s3", "gcs"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """A system on each kind of provider."""
    server: S3Server | GCSServer = request.getfixturevalue("seaweedfs" if request.param == "s3" else "fake_gcs")
    with FaultProxy(server.url) as proxy:
        timeouts: dict[str, Any] = {"connect_timeout": SILENCE, "read_timeout": SILENCE}
        storage: S3Storage | GCSStorage
        if isinstance(server, S3Server):
            keys = S3Credentials(server.access_key_id, server.secret_access_key)
            storage = S3Storage(S3Service(endpoint_url=proxy.url, credentials=keys, **timeouts), server.bucket)
        else:
            storage = GCSStorage(GCSService(endpoint_url=proxy.url, anonymous=True, **timeouts), server.bucket)
        part = MIN_PART_SIZE if request.param == "s3" else 64 * 1024
        settings = load_settings(
            home=tmp_path / "home",
            store=f"lab:{server.bucket}/{uuid.uuid4().hex}",
            part_size=part,
            pack_threshold=1024,
            concurrency=2,
        )
        with closing(System.open(settings, connect=lambda _: Bucket(storage))) as system:
            yield Lab(system, proxy, part)
        storage.service.close()


def test_only_the_part_that_stalls_moves_again(lab: Lab, tmp_path: Path) -> None:
    files = {"model.safetensors": noise(PARTS * lab.part - 99), "config.json": b"{}"}
    lab.proxy.add("fall silent", strikes=lambda request: _part(request) == 3)
    push(lab.system, PushRequest("llama", (str(write_tree(tmp_path / "run", files)),)))
    assert lab.sent() == {1: 1, 2: 1, 3: 2, 4: 1}

    start, end = 2 * lab.part, 3 * lab.part - 1
    lab.proxy.requests.clear()
    lab.proxy.add("stall", strikes=lambda request: f"bytes={start}-" in request.headers.get("range", ""), after=1000)
    fetch(lab.system, FetchRequest("llama", str(tmp_path / "out")))
    assert read_tree(tmp_path / "out") == files
    ranges = lab.ranges()
    assert len(ranges) == PARTS + 2, "each part, the small file, and once more what stalled"
    assert len([first for first, last in ranges if start <= first < last == end]) == 2
