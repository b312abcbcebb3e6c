"""What storage providers answer, read by the real clients of each over real sockets."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from typing import Any

from flexai.checkpoints.storage.retry import RetryPolicy
from tests.fuzz.answers import AnsweringServer, answer, look_up_no_names
from tests.fuzz.parsers.table import Reading, Table

PARSERS = Table()

_ONCE = RetryPolicy(attempts=1)


@functools.cache
def _server() -> AnsweringServer:
    look_up_no_names()
    return AnsweringServer()


_HTTP = (
    b"HTTP/1.1 206 Partial Content",
    b"HTTP/1.1 302 Found",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 416 x",
    b"Content-Length: ",
    b"Content-Range: bytes 0-1/2\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Location: ",
    b"Retry-After: ",
    b"\r\n\r\n",
    b"\r\n",
    b"\n",
    b": ",
    b"ETag: ",
    b"-1",
    b"NaN",
    b"Set-Cookie: a=b\r\n",
)


@functools.cache
def _s3() -> Any:
    from flexai.checkpoints.storage.s3.bucket import S3Storage
    from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service

    credentials = S3Credentials("key", "secret")
    service = S3Service(endpoint_url=_server().url, credentials=credentials, connect_timeout=5, read_timeout=5)
    return S3Storage(service, "bucket", policy=_ONCE)


@functools.cache
def _gcs() -> Any:
    from flexai.checkpoints.storage.gcs.bucket import GCSStorage
    from flexai.checkpoints.storage.gcs.session import GCSService

    service = GCSService(endpoint_url=_server().url, anonymous=True, connect_timeout=5, read_timeout=5)
    return GCSStorage(service, "bucket", policy=_ONCE)


def _asking(*answers: bytes, ask: Reading) -> Reading:
    """Ask while these are what the server answers."""

    def prepared() -> object:
        _server().prepare(answers)
        return ask()

    return prepared


def _listings(storage: Any, data: bytes) -> Sequence[Reading]:
    return [
        _asking(data, ask=lambda: list(itertools.islice(storage.list("a/"), 5000))),
        _asking(data, ask=lambda: list(itertools.islice(storage.list_uploads("a/"), 5000))),
    ]


def _answers(storage: Any, data: bytes) -> Sequence[Reading]:
    return [
        _asking(data, ask=lambda: _content(storage.get("a/b"))),
        _asking(data, ask=lambda: _content(storage.get("a/b", start=1, length=4, etag="abc"))),
        _asking(data, ask=lambda: storage.head("a/b")),
    ]


def _content(blocks: Iterable[memoryview]) -> bytes:
    return b"".join(map(bytes, blocks))


_S3_LIST = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix>a/</Prefix>
<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken><Contents><Key>a/b</Key>
<LastModified>2025-01-01T00:00:00.000Z</LastModified><ETag>"5d41402abc4b2a76b9719d911017c592"</ETag><Size>5</Size>
</Contents><Contents><Key>a/c</Key><Size>0</Size></Contents></ListBucketResult>"""
_S3_UPLOADS = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListMultipartUploadsResult><Bucket>bucket</Bucket><NextKeyMarker>a/b</NextKeyMarker><IsTruncated>true</IsTruncated>
<Upload><Key>a/b</Key><UploadId>u</UploadId><Initiated>2025-01-01T00:00:00.000Z</Initiated></Upload>
</ListMultipartUploadsResult>"""
_S3_ERROR = b"<Error><Code>NoSuchKey</Code><Message>There is none</Message><Key>a/b</Key></Error>"
_ETAG = 'ETag: "5d41402abc4b2a76b9719d911017c592"'


def _s3_listings() -> list[bytes]:
    return [
        answer(_S3_LIST.replace(b"true", b"false")),
        answer(_S3_LIST),
        answer(_S3_UPLOADS.replace(b"true", b"false")),
        answer(_S3_UPLOADS),
        answer(_S3_ERROR, status="404 Not Found"),
    ]


def _s3_answers() -> list[bytes]:
    return [
        answer(b"hello", _ETAG, "x-amz-checksum-crc32c: mnG7TA==", "x-amz-checksum-type: FULL_OBJECT"),
        answer(b"ello", 'ETag: "abc"', "Content-Range: bytes 1-4/5", status="206 Partial Content"),
        answer(_S3_ERROR, "Retry-After: 3", status="503 Slow Down"),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ]


_XML = (b"<Contents>", b"<Size>", b"</Size>", b"<Key>", b"<IsTruncated>true", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;")


@PARSERS.add_several("s3-listing", _s3_listings, *_XML, *_HTTP)
def _(data: bytes) -> Sequence[Reading]:
    return _listings(_s3(), data)


@PARSERS.add_several("s3-answer", _s3_answers, b"x-amz-checksum-sha1: ", b"Last-Modified: ", b"Expires: ", *_HTTP)
def _(data: bytes) -> Sequence[Reading]:
    return _answers(_s3(), data)


_GCS_ITEM = {
    "name": "a/b",
    "size": "5",
    "generation": "17",
    "crc32c": "mnG7TA==",
    "md5Hash": "XUFAKrxLKna5cZ2REBfFkg==",
    "timeCreated": "2025-01-01T00:00:00.000Z",
}
_GCS_PART = _GCS_ITEM | {"name": f"a/.b.{'0' * 32}.flexai-partial/00001"}


def _gcs_listings() -> list[bytes]:
    from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX

    part = _GCS_PART | {"name": f"a/.b.{'0' * 32}{PARTIAL_SUFFIX}/00001"}
    error = {"error": {"message": "no", "errors": [{"reason": "notFound"}]}}
    return [
        answer(json.dumps({"items": [_GCS_ITEM, part]}).encode()),
        answer(json.dumps({"items": [_GCS_ITEM, part], "nextPageToken": "t"}).encode()),
        answer(json.dumps(error).encode(), status="404 Not Found"),
    ]


def _gcs_answers() -> list[bytes]:
    return [
        answer(b"hello", "X-Goog-Generation: 17"),
        answer(b"ello", "X-Goog-Generation: abc", "Content-Range: bytes 1-4/5", status="206 Partial Content"),
        answer(json.dumps(_GCS_ITEM).encode()),
        answer(b"{}", "Retry-After: Wed, 21 Oct 2065 07:28:00 GMT", status="429 Too Many Requests"),
    ]


@PARSERS.add_several(
    "gcs-listing", _gcs_listings, b'"size":', b'"items":', b'"generation":', b'"error":', b'"timeCreated":', *_HTTP
)
def _(data: bytes) -> Sequence[Reading]:
    return _listings(_gcs(), data)


@PARSERS.add_several("gcs-answer", _gcs_answers, b"X-Goog-Generation: ", b'"md5Hash":"', *_HTTP)
def _(data: bytes) -> Sequence[Reading]:
    return _answers(_gcs(), data)


_COMMIT = "ab" * 20
_HUB_REVISION = answer(json.dumps({"id": "org/repo", "sha": _COMMIT}).encode())
_SHA256 = hashlib.sha256(b"hello").hexdigest()
_LFS = {"type": "file", "path": "a/b", "oid": "cd" * 20, "size": 5, "lfs": {"oid": _SHA256, "size": 5}}
_SMALL = {"type": "file", "path": "a/c", "oid": hashlib.sha1(b"blob 5\0hello").hexdigest(), "size": 5}
_HUB_TREE = answer(json.dumps([_LFS, _SMALL]).encode())


def _hub(*, revision: bool = False, tree: bool = False) -> Any:
    """A repository; of which the hub has told already which commit it is at, or which files that has.

    It is a new one for each input: what is remembered of one answer has no say in what comes of the next.
    """
    from flexai.checkpoints.storage.hub.repository import HubStorage

    options: Any = {"connections": 1, "connect_timeout": 5, "read_timeout": 5, "policy": _ONCE}
    storage = HubStorage("org/repo", endpoint=_server().url, **options)
    if revision:
        storage._tree._resolved = ("org/repo", _COMMIT)
    if tree:
        entries = [_LFS, _SMALL]
        storage._tree._files = {info.key: info for info in map(storage._tree._parse, entries) if info is not None}
    return storage


def _hub_listings() -> list[bytes]:
    linked = answer(_HUB_TREE.partition(b"\r\n\r\n")[2], 'Link: <https://hub/api?cursor=x>; rel="next"')
    return [_HUB_REVISION, _HUB_TREE, linked, answer(b"{}", "X-Error-Code: GatedRepo", status="403 Forbidden")]


@PARSERS.add_several(
    "hub-listing", _hub_listings, b'"lfs":', b'"oid":"', b'"type":"directory"', b"Link: <", b"X-Error-Code: ", *_HTTP
)
def _(data: bytes) -> Sequence[Reading]:
    return [
        _asking(data, _HUB_TREE, ask=lambda: list(_hub().list(""))),
        _asking(data, data, ask=lambda: list(_hub(revision=True).list(""))),
    ]


def _hub_answers() -> list[bytes]:
    linked = (f'X-Linked-Etag: "{_SHA256}"', "X-Linked-Size: 5", f"X-Repo-Commit: {_COMMIT}")
    return [
        answer(b"", "Location: http://127.0.0.1:9/signed?Signature=x", *linked, status="302 Found"),
        answer(b"", "Location: /elsewhere", *linked, status="307 Temporary Redirect"),
        answer(b"hello", "Content-Range: bytes 0-4/5", status="206 Partial Content"),
        answer(b"no", "X-Error-Message: Invalid credentials in Authorization header", status="401 Unauthorized"),
    ]


_PLACES = (
    b"http://[::1]/",
    b"http://169.254.169.254/",
    b"http://%31%36%39.254.1.1/",
    b"//a\\@b/",
    b"Link: <x>; rel=next\r\n",
)


@PARSERS.add_several("hub-answer", _hub_answers, *_PLACES, *_HTTP)
def _(data: bytes) -> Sequence[Reading]:
    return [
        _asking(data, data, data, ask=lambda: _content(_hub(revision=True, tree=True).get("a/b"))),
        _asking(data, ask=lambda: _content(_hub(revision=True, tree=True).get("a/c"))),
    ]


@PARSERS.add(
    "http-header",
    lambda: [b"bytes 0-4/5", b"bytes */5", b"120", b"Wed, 21 Oct 2015 07:28:00 GMT"],
    b"-0000",
    b"+9999",
    b"GMT",
)
def _(data: bytes) -> object:
    from flexai.checkpoints.storage.http import parse_content_range, parse_retry_after

    text = data.decode("latin-1")
    return parse_content_range(text), parse_retry_after(text)
