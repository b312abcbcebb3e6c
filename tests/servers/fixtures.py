"""Real servers as fixtures. Each starts when the first test needs it, is shared by all, and stops with the run.

Buckets are shared too: a test keeps to a prefix of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from .keeper import ACCESS_KEY_ID, SECRET_ACCESS_KEY
from .lease import Lease

BUCKET = "flexai-one"
OTHER_BUCKET = "flexai-two"
BUCKETS = (BUCKET, OTHER_BUCKET)


@dataclass(frozen=True)
class S3Server:
    """A running server that speaks S3."""

    name: str
    url: str
    region: str = "us-east-1"
    access_key_id: str = ACCESS_KEY_ID
    secret_access_key: str = SECRET_ACCESS_KEY
    bucket: str = BUCKET
    other_bucket: str = OTHER_BUCKET

    def client(self) -> Any:
        """A plain boto3 client, to look at the server without our code."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name=self.region,
            aws_access_key_id=self.access_key_id,
            aws_secret_access_key=self.secret_access_key,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )


@dataclass(frozen=True)
class GCSServer:
    """A running server that speaks Google Cloud Storage's JSON API, without credentials."""

    url: str
    bucket: str = BUCKET
    other_bucket: str = OTHER_BUCKET


@pytest.fixture(scope="session")
def lease() -> Iterator[Lease]:
    """This process's part in the run's servers."""
    lease = Lease.join()
    yield lease
    lease.leave()


@pytest.fixture(scope="session")
def seaweedfs(lease: Lease) -> S3Server:
    """SeaweedFS: strict, with conditional writes and checksums."""
    return _s3_server("seaweedfs", lease)


@pytest.fixture(scope="session")
def juicefs(lease: Lease) -> S3Server:
    """JuiceFS's gateway, MinIO's code of 2020: no conditional writes, no checksums, DeleteObjects wants Content-MD5."""
    return _s3_server("juicefs", lease)


@pytest.fixture(scope="session")
def rclone(lease: Lease) -> S3Server:
    """``rclone serve s3``: no metadata, no conditions, no UploadPartCopy."""
    return _s3_server("rclone", lease)


@pytest.fixture(scope="session")
def fake_gcs(lease: Lease) -> GCSServer:
    """fake-gcs-server."""
    server = GCSServer(lease.server("fake_gcs").url)
    for bucket in BUCKETS:
        answer = requests.post(f"{server.url}/storage/v1/b?project=lab", json={"name": bucket}, timeout=30)
        assert answer.status_code in {200, 409}, answer.text
    return server


def _s3_server(name: str, lease: Lease) -> S3Server:
    server = S3Server(name, lease.server(name).url)
    client = server.client()
    for bucket in BUCKETS:
        _create(lambda bucket=bucket: client.create_bucket(Bucket=bucket))  # type: ignore[misc]
    client.close()
    return server


def _create(create: Callable[[], object]) -> None:
    from botocore.exceptions import ClientError

    try:
        create()
    except ClientError as error:
        if error.response["Error"]["Code"] not in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}:
            raise
