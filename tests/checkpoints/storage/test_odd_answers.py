"""Answers of a provider that lack something, or have something else there: an error in words, whatever it is."""

from __future__ import annotations

import contextlib
import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from urllib3.connectionpool import HTTPConnectionPool

from flexai.checkpoints.errors import CheckpointError, StorageError
from flexai.checkpoints.storage.gcs.bucket import GCSStorage
from flexai.checkpoints.storage.gcs.session import GCSService
from flexai.checkpoints.storage.hub.repository import HubStorage
from flexai.checkpoints.storage.protocol import ObjectStorage
from flexai.checkpoints.storage.retry import RetryPolicy
from flexai.checkpoints.storage.s3.bucket import S3Storage
from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service
from tests.fuzz.answers import AnsweringServer, answer

_ONCE = RetryPolicy(attempts=1)


def _s3(url: str) -> ObjectStorage:
    service = S3Service(endpoint_url=url, credentials=S3Credentials("key", "secret"), read_timeout=5)
    return S3Storage(service, "bucket", policy=_ONCE)


def _gcs(url: str) -> ObjectStorage:
    return GCSStorage(GCSService(endpoint_url=url, anonymous=True, read_timeout=5), "bucket", policy=_ONCE)


def _xml(content: str, name: str = "ListBucketResult") -> bytes:
    return answer(f"<{name}>{content}</{name}>".encode())


def _page(**item: object) -> bytes:
    good = {"name": "a", "size": "1", "generation": "17", "timeCreated": "2025-01-01T00:00:00Z"}
    return answer(json.dumps({"items": [{key: value for key, value in (good | item).items() if value != ""}]}).encode())


_LISTED: Callable[[Any], object] = lambda store: list(store.list(""))  # noqa: E731
_UPLOADS: Callable[[Any], object] = lambda store: list(store.list_uploads(""))  # noqa: E731
_HEAD: Callable[[Any], object] = lambda store: store.head("a")  # noqa: E731
_READ: Callable[[Any], object] = lambda store: list(store.get("a"))  # noqa: E731
_PART = f".a.{'0' * 32}.flexai-partial/00001"
_UPLOAD = "<Upload><Key>a</Key><UploadId>u</UploadId><Initiated>{}</Initiated></Upload>"
_UNREADABLE_DATES = ("2025-02-31T00:00:00Z", "x", "2025-01-01T00:00:18446744073709551616Z")
_NO_LENGTH = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"

ODD: dict[str, tuple[Callable[[str], ObjectStorage], Callable[[Any], object], bytes]] = {
    "S3: a size that is no number": (_s3, _LISTED, _xml("<Contents><Key>a</Key><Size>NaN</Size></Contents>")),
    "S3: a size below zero": (_s3, _LISTED, _xml("<Contents><Key>a</Key><Size>-1</Size></Contents>")),
    "S3: no size": (_s3, _LISTED, _xml("<Contents><Key>a</Key></Contents>")),
    "S3: no key": (_s3, _LISTED, _xml("<Contents><Size>1</Size></Contents>")),
    "S3: no XML": (_s3, _LISTED, answer(b"<ListBucketResult><Contents>")),
    "S3: an upload without an id": (_s3, _UPLOADS, _xml("<Upload><Key>a</Key></Upload>", "ListMultipartUploadsResult")),
    "S3: no length of an object": (_s3, _HEAD, b"HTTP/1.1 200 OK\r\n\r\n"),
    "S3: no length of a content": (_s3, _READ, _NO_LENGTH),
    "S3: a checksum that is none": (_s3, _HEAD, answer(b"", "x-amz-checksum-crc32c: a")),
    "GCS: a size that is no number": (_gcs, _LISTED, _page(size="NaN")),
    "GCS: a size below zero": (_gcs, _LISTED, _page(size="-1")),
    "GCS: a name that is no text": (_gcs, _LISTED, _page(name=["a"])),
    "GCS: a generation that is not there": (_gcs, _LISTED, _page(generation="")),
    "GCS: a checksum that is none": (_gcs, _LISTED, _page(crc32c="a")),
    "GCS: items that are none": (_gcs, _LISTED, answer(b'{"items": 5}')),
    "GCS: an item that is none": (_gcs, _LISTED, answer(b'{"items": [5]}')),
    "GCS: an object that is a list": (_gcs, _HEAD, answer(b"[]")),
    "GCS: no length of a content": (_gcs, _READ, _NO_LENGTH),
    "GCS: a part without a date": (_gcs, _UPLOADS, _page(name=_PART, timeCreated="")),
} | {
    f"{kind}: the date {date}": case
    for date in _UNREADABLE_DATES
    for kind, case in {
        "S3": (_s3, _UPLOADS, _xml(_UPLOAD.format(date), "ListMultipartUploadsResult")),
        "GCS": (_gcs, _UPLOADS, _page(name=_PART, timeCreated=date)),
    }.items()
}


@pytest.mark.parametrize("name", ODD)
def test_an_answer_that_cannot_be_read_is_an_error_in_words(name: str) -> None:
    make, ask, content = ODD[name]
    server = AnsweringServer()
    server.prepare([content])
    with pytest.raises(StorageError, match=r"cannot be read|not available|no answer of S3|not said how many"):
        ask(make(server.url))


@pytest.mark.parametrize("entity", ["SYSTEM 'file://{}'", "'{}'", "SYSTEM 'http://127.0.0.1:9/{}'"])
def test_entities_in_xml_are_not_followed(tmp_path: Path, entity: str) -> None:
    (tmp_path / "secret").write_text("canary")
    document = (
        f"<!DOCTYPE a [<!ENTITY b {entity.format(tmp_path / 'secret')}>]><ListBucketResult>{{}}</ListBucketResult>"
    )
    server = AnsweringServer()
    server.prepare([answer(document.format("<Contents><Key>&b;</Key><Size>1</Size></Contents>").encode())])
    try:
        found = repr(list(_s3(server.url).list("")))
    except StorageError as error:
        found = str(error)
    assert "canary" not in found


def test_entities_in_one_another_take_no_memory() -> None:
    entities = "".join(f"<!ENTITY e{n + 1} '{f'&e{n};' * 10}'>" for n in range(1, 12))
    content = f"<!DOCTYPE a [<!ENTITY e1 'lol'>{entities}]><ListBucketResult><Name>&e12;</Name></ListBucketResult>"
    server = AnsweringServer()
    server.prepare([answer(content.encode())])
    with pytest.raises(StorageError):
        list(_s3(server.url).list(""))


@pytest.mark.parametrize("make", [_s3, _gcs, lambda url: HubStorage("org/repo", endpoint=url, policy=_ONCE)])
def test_a_store_that_is_not_needed_any_more_keeps_no_connection(make: Callable[[str], ObjectStorage]) -> None:
    server = AnsweringServer()
    server.prepare([answer(b"{}")])
    store = make(server.url)
    with contextlib.suppress(CheckpointError):
        store.head("a")
    gone = weakref.ref(store)
    pools = [
        weakref.ref(one) for one in gc.get_objects() if isinstance(one, HTTPConnectionPool) and one.pool is not None
    ]
    del store
    gc.collect()
    assert gone() is None
    assert [pool() for pool in pools if (found := pool()) and f":{found.port}" in server.url] == []
