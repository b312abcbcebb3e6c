"""The stores of the suite as one fixture: every test of this folder runs once for each kind."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flexai.checkpoints.storage.capabilities import Capabilities
from flexai.checkpoints.storage.gcs.bucket import GCSStorage
from flexai.checkpoints.storage.gcs.session import GCSService
from flexai.checkpoints.storage.hub.repository import HubStorage
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.retry import RetryPolicy
from flexai.checkpoints.storage.s3.bucket import S3Storage
from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service
from tests.servers.fixtures import GCSServer, S3Server
from tests.servers.hub import Hub, HubFile, serve_hub

from .stores import PAGE_SIZE, TRAITS, Store

S3_SERVERS = ("seaweedfs", "juicefs", "rclone")
POLICY = RetryPolicy(attempts=4, base_delay=0.05, max_delay=0.5)
LARGE_ON_HUB = 1000
"""Bytes above which a file of the Hub is kept with git LFS, on the host behind it."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "reads: only reads, and so runs on stores that can do no more, too")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = [mark for mark in metafunc.definition.iter_markers("parametrize") if "store" in mark.args[0]]
    if "store" in metafunc.fixturenames and not chosen:
        only_reads = metafunc.definition.get_closest_marker("reads") is not None
        kinds = [kind for kind, traits in TRAITS.items() if only_reads or traits.can_write]
        metafunc.parametrize("store", kinds, indirect=True)


@functools.cache
def s3_service(server: S3Server) -> S3Service:
    """One client for all tests of a server: making one takes longer than most tests."""
    credentials = S3Credentials(server.access_key_id, server.secret_access_key)
    return S3Service(endpoint_url=server.url, credentials=credentials)


@functools.cache
def gcs_service(server: GCSServer) -> GCSService:
    """One session for all tests of a server."""
    return GCSService(endpoint_url=server.url, anonymous=True)


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    """The Hub's stand-in, with pages as short as those of the other listings."""
    with serve_hub() as hub:
        hub.page_size = PAGE_SIZE
        yield hub


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of each kind, with a prefix of the test's own."""
    kind: str = request.param
    open_bucket: Callable[[str], GCSStorage | HubStorage | LocalStorage | S3Storage]
    fill = None
    if kind in S3_SERVERS:
        server: S3Server = request.getfixturevalue(kind)
        buckets = (server.bucket, server.other_bucket)
        # All are asked for conditions: one that has none takes no notice of them.
        capabilities = Capabilities(conditional_put=True)
        open_bucket = functools.partial(
            S3Storage, s3_service(server), capabilities=capabilities, page_size=PAGE_SIZE, policy=POLICY
        )
    elif kind == "fake_gcs":
        gcs: GCSServer = request.getfixturevalue(kind)
        buckets = (gcs.bucket, gcs.other_bucket)
        open_bucket = functools.partial(GCSStorage, gcs_service(gcs), page_size=PAGE_SIZE, policy=POLICY)
    elif kind == "hub":
        stand_in: Hub = request.getfixturevalue(kind)
        buckets = (f"org/{uuid.uuid4().hex}", f"org/{uuid.uuid4().hex}")
        repository, _ = (stand_in.add(name) for name in buckets)
        open_bucket = functools.partial(HubStorage, endpoint=stand_in.endpoint, policy=POLICY)

        def fill(key: str, content: bytes) -> None:
            files = repository.commits[repository.revisions["main"]]
            repository.commit({**files, key: HubFile(content, is_large=len(content) > LARGE_ON_HUB)})
    else:
        buckets = ("bucket", "other")

        def open_bucket(bucket: str) -> LocalStorage:
            return LocalStorage(tmp_path / bucket)

    return Store(
        kind=kind,
        prefix=f"{uuid.uuid4().hex[:8]}/",
        open=lambda: open_bucket(buckets[0]),
        open_other=lambda: open_bucket(buckets[1]),
        fill=fill,
    )
