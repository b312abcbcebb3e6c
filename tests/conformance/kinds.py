"""The stores that the suite runs against: what each of them cannot do, and how a test opens it.

A store is a kind of :class:`ObjectStorage` on a real server (or directory). Its traits say where it differs from what
the protocol asks for; a test then expects exactly that difference, so a server that learns something fails its test
until its traits say so. A new kind of store is one entry of ``KINDS``.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.storage.capabilities import Capabilities
from flexai.checkpoints.storage.gcs.bucket import GCSStorage
from flexai.checkpoints.storage.gcs.session import GCSService
from flexai.checkpoints.storage.hub.repository import HubStorage
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.protocol import ObjectStorage
from flexai.checkpoints.storage.retry import RetryPolicy
from flexai.checkpoints.storage.s3.bucket import S3Storage
from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service
from tests.servers.fixtures import GCSServer, S3Server
from tests.servers.hub import Hub, HubFile

from .stores import PAGE_SIZE, WRITING, Traits

POLICY = RetryPolicy(attempts=4, base_delay=0.05, max_delay=0.5)
LARGE_ON_HUB = 1000
"""Bytes above which a file of the Hub is kept with git LFS, on the host behind it."""


@dataclass(frozen=True)
class Buckets:
    """Two buckets of one service."""

    names: tuple[str, str]
    open: Callable[[str], ObjectStorage]
    fill: Callable[[str, bytes], None] | None = None
    """How content comes to a key of the first where the store itself cannot bring it."""


@dataclass(frozen=True)
class Kind:
    """A kind of store."""

    traits: Traits
    buckets: Callable[[pytest.FixtureRequest], Buckets]
    is_slow: bool = False
    """Whether only the slow tests try it: its server takes long, or is much like another one here."""


@functools.cache
def _s3_service(server: S3Server) -> S3Service:
    """One client for all tests of a server: making one takes longer than most tests."""
    credentials = S3Credentials(server.access_key_id, server.secret_access_key)
    return S3Service(endpoint_url=server.url, credentials=credentials)


@functools.cache
def _gcs_service(server: GCSServer) -> GCSService:
    """One session for all tests of a server."""
    return GCSService(endpoint_url=server.url, anonymous=True)


def _s3_at(fixture: str) -> Callable[[pytest.FixtureRequest], Buckets]:
    def buckets(request: pytest.FixtureRequest) -> Buckets:
        server: S3Server = request.getfixturevalue(fixture)
        # All are asked for conditions: one that has none takes no notice of them.
        capabilities = Capabilities(conditional_put=True)
        return Buckets(
            (server.bucket, server.other_bucket),
            functools.partial(
                S3Storage, _s3_service(server), capabilities=capabilities, page_size=PAGE_SIZE, policy=POLICY
            ),
        )

    return buckets


def _gcs_at(fixture: str) -> Callable[[pytest.FixtureRequest], Buckets]:
    def buckets(request: pytest.FixtureRequest) -> Buckets:
        server: GCSServer = request.getfixturevalue(fixture)
        return Buckets(
            (server.bucket, server.other_bucket),
            functools.partial(GCSStorage, _gcs_service(server), page_size=PAGE_SIZE, policy=POLICY),
        )

    return buckets


def _hub(request: pytest.FixtureRequest) -> Buckets:
    hub: Hub = request.getfixturevalue("hub")
    names = (f"org/{uuid.uuid4().hex}", f"org/{uuid.uuid4().hex}")
    repository, _ = (hub.add(name) for name in names)

    def fill(key: str, content: bytes) -> None:
        files = repository.commits[repository.revisions["main"]]
        repository.commit({**files, key: HubFile(content, is_large=len(content) > LARGE_ON_HUB)})

    return Buckets(names, functools.partial(HubStorage, endpoint=hub.endpoint, policy=POLICY), fill)


def _local(request: pytest.FixtureRequest) -> Buckets:
    folder: Path = request.getfixturevalue("tmp_path")
    return Buckets(("bucket", "other"), lambda bucket: LocalStorage(folder / bucket))


KINDS: dict[str, Kind] = {
    "local": Kind(Traits(holds_file_and_folder=False, notices_a_missing_last_part=False), _local),
    "seaweedfs": Kind(Traits(completes_twice=True, keeps_backslashes=False, lists_in_order=False), _s3_at("seaweedfs")),
    "juicefs": Kind(
        Traits(completes_twice=True, holds_file_and_folder=False, ties_uploads_to_keys=False, heeds_only_new=False),
        _s3_at("juicefs"),
        is_slow=True,
    ),
    "rclone": Kind(
        Traits(
            holds_file_and_folder=False,
            takes_folders_for_objects=True,
            replaces_parts=False,
            heeds_only_new=False,
            keeps_what_comes_to_an_emptied_folder=False,
            lists_once=False,
        ),
        _s3_at("rclone"),
    ),
    "moto": Kind(
        Traits(completes_twice=True, ties_uploads_to_keys=False, tells_of_gone_uploads=False, tells_upload_times=False),
        _s3_at("moto"),
        is_slow=True,
    ),
    "swift": Kind(
        Traits(completes_twice=True, lets_one_be_new=False, keeps_uploads_open=True), _s3_at("swift"), is_slow=True
    ),
    # Google heeds it everywhere, its fake only for uploads of another kind than ours.
    "fake_gcs": Kind(Traits(upload_changes_etag=False, heeds_only_new=False), _gcs_at("fake_gcs")),
    "terse_gcs": Kind(Traits(upload_changes_etag=False, heeds_only_new=False), _gcs_at("terse_gcs"), is_slow=True),
    "hub": Kind(Traits(tells_times=False, refuses=dict.fromkeys(WRITING, UsageError)), _hub),
}
