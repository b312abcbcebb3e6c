"""Real servers as fixtures. Each starts when the first test needs it, is shared by all, and stops with the run.

Buckets are shared too: a test keeps to a prefix of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from .keeper import ACCESS_KEY_ID, SECRET_ACCESS_KEY, SWIFT_ACCESS_KEY_ID
from .lease import Lease
from .proxy import FaultProxy

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
def moto(lease: Lease) -> S3Server:
    """moto: AWS's answers, down to keys with empty parts; it compares no signatures."""
    return _s3_server("moto", lease)


@pytest.fixture(scope="session")
def swift(lease: Lease) -> S3Server:
    """OpenStack Swift with its S3 interface: an upload is a folder of objects, and its object a list of them."""
    return _s3_server("swift", lease, access_key_id=SWIFT_ACCESS_KEY_ID)


@pytest.fixture(scope="session")
def fake_gcs(lease: Lease) -> GCSServer:
    """fake-gcs-server."""
    server = GCSServer(lease.server("fake_gcs").url)
    for bucket in BUCKETS:
        answer = requests.post(f"{server.url}/storage/v1/b?project=lab", json={"name": bucket}, timeout=30)
        assert answer.status_code in {200, 409}, answer.text
    return server


@pytest.fixture(scope="session")
def terse_gcs(fake_gcs: GCSServer) -> Iterator[GCSServer]:
    """The same behind a stand-in for servers that make their JSON of protocol buffers, such as Google's testbench: what
    is 0, false or empty is left out (https://protobuf.dev/programming-guides/json/).
    """
    with FaultProxy(fake_gcs.url, edit=_without_defaults) as proxy:
        yield GCSServer(proxy.url)


def _without_defaults(headers: Mapping[str, str], body: bytes) -> bytes:
    if not headers.get("Content-Type", "").startswith("application/json"):
        return body
    return json.dumps(_terse(json.loads(body))).encode()


def _terse(value: Any) -> Any:
    if isinstance(value, list):
        return [_terse(one) for one in value]
    if not isinstance(value, dict):
        return value
    said = {name: _terse(one) for name, one in value.items()}
    return {name: one for name, one in said.items() if one not in ("", "0", 0, False, None, [], {})}


def _s3_server(name: str, lease: Lease, **keys: str) -> S3Server:
    server = S3Server(name, lease.server(name).url, **keys)
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
