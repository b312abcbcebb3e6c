"""How objects are stored, by whose key and in which class, and who pays: said with each request, or it is refused."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from pydantic import ValidationError

from flexai.blocks import GCSStorageProvider, MinIOStorageProvider, R2StorageProvider, S3StorageProvider
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.gcs.bucket import GCSStorage
from flexai.checkpoints.storage.gcs.session import GCSService
from flexai.checkpoints.storage.protocol import BytesBody, ObjectStorage
from flexai.checkpoints.storage.retry import RetryPolicy
from flexai.checkpoints.storage.s3.bucket import MIN_PART_SIZE, S3Storage
from flexai.connections.probes import ProbeOutcome, try_out
from tests.servers.fixtures import GCSServer, S3Server
from tests.servers.proxy import FaultProxy, Request

_ALWAYS = 10**9
_POLICY = RetryPolicy(attempts=1)
_DENIED = b"<Error><Code>AccessDenied</Code><Message>It is not said how.</Message></Error>"
_KMS = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
_CMEK = "projects/lab/locations/eu/keyRings/models/cryptoKeys/checkpoints"
_SAID = {
    "x-amz-server-side-encryption": "aws:kms",
    "x-amz-server-side-encryption-aws-kms-key-id": _KMS,
    "x-amz-storage-class": "STANDARD_IA",
}


def _makes_an_object(request: Request) -> bool:
    """Whether it is one of S3's requests that say how an object is stored: a put, a copy, or the start of an upload."""
    query = parse_qs(request.query, keep_blank_values=True)
    return (request.method == "PUT" and "uploadId" not in query) or (request.method == "POST" and "uploads" in query)


@pytest.fixture
def s3(moto: S3Server) -> Iterator[tuple[S3Storage, FaultProxy, str]]:
    """A bucket that takes nothing of which it is not said how it is stored, and whose requesters pay."""
    with FaultProxy(moto.url) as proxy:
        lacks: Callable[[Request], bool] = lambda request: (  # noqa: E731
            request.headers.get("x-amz-request-payer") != "requester"
            or (_makes_an_object(request) and any(request.headers.get(name) != said for name, said in _SAID.items()))
        )
        proxy.add("answer", strikes=lacks, times=_ALWAYS, status=403, body=_DENIED)
        provider = S3StorageProvider(
            endpoint_url=proxy.url,
            access_key_id=moto.access_key_id,
            secret_access_key=moto.secret_access_key,
            sse="aws:kms",
            kms_key_id=_KMS,
            storage_class="STANDARD_IA",
            requester_pays=True,
        )
        prefix = f"{uuid.uuid4().hex}/"
        storage = S3Storage(provider.service(), moto.bucket, policy=_POLICY, max_copy_size=MIN_PART_SIZE)
        yield storage, proxy, prefix


def _use_all(storage: ObjectStorage, prefix: str) -> dict[str, bytes]:
    """Every way to make an object, and all the rest that is asked of a store."""
    part = b"p" * max(storage.min_part_size, 1000)
    storage.put(f"{prefix}put", BytesBody(b"content"))
    upload = storage.start_upload(f"{prefix}parts", size=len(part) + 1)
    receipts = [
        storage.put_part(f"{prefix}parts", upload, number=1, offset=0, body=BytesBody(part)),
        storage.put_part(f"{prefix}parts", upload, number=2, offset=len(part), body=BytesBody(b"q")),
    ]
    assert storage.has_upload(f"{prefix}parts", upload)
    storage.complete_upload(f"{prefix}parts", upload, receipts)
    storage.copy(storage, f"{prefix}put", f"{prefix}copy")
    storage.copy(storage, f"{prefix}parts", f"{prefix}copy-of-parts")
    given_up = storage.start_upload(f"{prefix}given-up", size=1)
    assert [one.upload_id for one in storage.list_uploads(prefix)] == [given_up]
    storage.abort_upload(f"{prefix}given-up", given_up)
    found = {info.key: b"".join(map(bytes, storage.get(info.key))) for info in storage.list(prefix)}
    storage.delete([f"{prefix}copy-of-parts"])
    assert storage.head(f"{prefix}put").size == len(b"content")
    return {key.removeprefix(prefix): content for key, content in found.items()}


def test_s3_is_told_with_each_write_and_who_pays_with_each_request(
    s3: tuple[S3Storage, FaultProxy, str], moto: S3Server
) -> None:
    storage, proxy, prefix = s3
    found = _use_all(storage, prefix)
    assert sorted(found) == ["copy", "copy-of-parts", "parts", "put"]
    assert found["copy-of-parts"] == found["parts"]
    assert {request.method for request in proxy.requests} == {"GET", "HEAD", "PUT", "POST", "DELETE"}
    client = moto.client()
    for name in ("put", "parts", "copy"):
        kept = client.head_object(Bucket=moto.bucket, Key=f"{prefix}{name}")
        assert (kept["ServerSideEncryption"], kept["SSEKMSKeyId"], kept["StorageClass"]) == (
            "aws:kms",
            _KMS,
            "STANDARD_IA",
        )


def test_the_check_of_a_connection_says_it_too(s3: tuple[S3Storage, FaultProxy, str]) -> None:
    from flexai.connections.s3_probes import s3_abilities

    storage, _, prefix = s3
    probes = try_out(RemotePath(storage, prefix.rstrip("/")), s3_abilities())
    assert [probe.name for probe in probes if probe.denied or probe.outcome is ProbeOutcome.FAILED] == []


def test_a_connection_that_pays_copies_from_no_other_that_does_not(s3: tuple[S3Storage, FaultProxy, str]) -> None:
    storage, proxy, _ = s3
    plain = S3StorageProvider(endpoint_url=proxy.url, access_key_id="labkey", secret_access_key="secret")
    paying = plain.model_copy(update={"requester_pays": True})
    assert plain.service().identity != paying.service().identity == storage.service_identity


@pytest.fixture
def gcs(fake_gcs: GCSServer) -> Iterator[tuple[GCSStorage, FaultProxy, str]]:
    with FaultProxy(fake_gcs.url) as proxy:

        def lacks(request: Request) -> bool:
            query = {name: values[0] for name, values in parse_qs(request.query).items()}
            key = "destinationKmsKeyName" if "/rewriteTo/" in request.path else "kmsKeyName"
            return query.get("userProject") != "payer-1" or (request.method == "POST" and query.get(key) != _CMEK)

        denied = json.dumps({"error": {"code": 403, "message": "It is not said how."}}).encode()
        proxy.add("answer", strikes=lacks, times=_ALWAYS, status=403, body=denied)
        service = GCSService(
            endpoint_url=proxy.url,
            anonymous=True,
            kms_key_name=_CMEK,
            storage_class="NEARLINE",
            user_project="payer-1",
        )
        yield GCSStorage(service, fake_gcs.bucket, policy=_POLICY), proxy, f"{uuid.uuid4().hex}/"


def test_gcs_is_told_with_each_write_and_who_pays_with_each_request(
    gcs: tuple[GCSStorage, FaultProxy, str],
) -> None:
    storage, proxy, prefix = gcs
    found = _use_all(storage, prefix)
    assert sorted(found) == ["copy", "copy-of-parts", "parts", "put"]
    assert found["put"] == found["copy"] == b"content"
    assert found["copy-of-parts"] == found["parts"] == b"p" * 1000 + b"q"
    told: dict[str, Any] = {}
    for request in proxy.requests:
        if "/rewriteTo/" in request.path:
            told["copy"] = json.loads(request.body)["storageClass"]
        elif request.path.endswith("/compose"):
            told["compose"] = json.loads(request.body)["destination"]["storageClass"]
        elif "uploadType=multipart" in request.query:
            told["put"] = json.loads(request.body.split(b"\r\n")[3])["storageClass"]
        elif "uploadType=media" in request.query:
            assert "flexai-partial" in request.query, "a part is deleted soon, and is in the bucket's own class"
    assert told == dict.fromkeys(("copy", "compose", "put"), "NEARLINE")


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_content_that_is_told_with_its_class_arrives_whole(gcs: tuple[GCSStorage, FaultProxy, str], size: int) -> None:
    storage, _, prefix = gcs
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    info = storage.put(f"{prefix}file", BytesBody(content))
    assert info.size == size
    assert b"".join(map(bytes, storage.get(info.key))) == content


_KEYS = {"access_key_id": "id", "secret_access_key": "secret"}


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (S3StorageProvider, {"kms_key_id": "key"}, "is for an encryption with KMS"),
        (S3StorageProvider, {"sse": "AES256", "kms_key_id": "key"}, "is for an encryption with KMS"),
        (S3StorageProvider, {"sse": "aws:kms", "kms_key_id": "a\r\nx: y"}, "given by its ID"),
        (S3StorageProvider, {"storage_class": "GLACIER"}, "have to be restored"),
        (S3StorageProvider, {"storage_class": "standard"}, "capital letters"),
        (S3StorageProvider, {"requester_pays": True, "anonymous": True}, "needs credentials"),
        (MinIOStorageProvider, {"endpoint_url": "http://127.0.0.1:9", **_KEYS, "kms_key_id": "key"}, "with KMS"),
        (R2StorageProvider, {"account_id": "0" * 32, **_KEYS, "storage_class": "a b"}, "capital letters"),
        (GCSStorageProvider, {"kms_key_name": "key"}, "cryptoKeys/KEY"),
        (GCSStorageProvider, {"user_project": "payer-1", "anonymous": True}, "needs credentials"),
        (GCSStorageProvider, {"user_project": "a b"}, "given by its ID"),
    ],
)
def test_what_does_not_fit_together_is_refused(kind: Any, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        kind(**fields)


def test_the_other_kinds_say_it_as_well() -> None:
    minio = MinIOStorageProvider(
        endpoint_url="http://127.0.0.1:9", **_KEYS, sse="AES256", storage_class="REDUCED_REDUNDANCY"
    )
    r2 = R2StorageProvider(account_id="0" * 32, **_KEYS, storage_class="STANDARD_IA")
    assert minio.service()._write_headers == {
        "x-amz-server-side-encryption": "AES256",
        "x-amz-storage-class": "REDUCED_REDUNDANCY",
    }
    assert r2.service()._write_headers == {"x-amz-storage-class": "STANDARD_IA"}
