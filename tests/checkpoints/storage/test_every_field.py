"""Each field of each answer of S3, GCS and the Hub, left out, of another kind or there twice.

That is an error in words, or a default.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.storage.gcs.bucket import GCSStorage
from flexai.checkpoints.storage.gcs.session import GCSService
from flexai.checkpoints.storage.hub.repository import HubStorage
from flexai.checkpoints.storage.protocol import BytesBody, ObjectInfo, PartReceipt, UnfinishedUpload
from flexai.checkpoints.storage.retry import RetryPolicy
from flexai.checkpoints.storage.s3.bucket import S3Storage
from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service
from tests.fuzz.answers import AnsweringServer, answer
from tests.servers.tokens import service_account_key

pytestmark = pytest.mark.slow

_ONCE = RetryPolicy(attempts=1)
_OTHER_VALUES: tuple[Any, ...] = (None, True, -1, 1.5, 10**30, "", "x", "9" * 400, [], ["x"], {}, {"x": "x"})
"""What stands in JSON where something else is expected."""
_OTHER_TEXTS = ("", "x", "-1", "9" * 400, "<X>x</X>", "\t")
"""What stands in an element of XML or in a header."""
_MOMENTS = ("Initiated", "LastModified", "timeCreated")
_DATES = ("0000-00-00T00:00:00Z", "99999-01-01T00:00:00Z", "2025-01-01T00:00:00+99:99", "1e400")


@dataclass(frozen=True)
class Answer:
    """One good answer: JSON where it is no text."""

    body: Any = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    status: str = "200 OK"

    def sent(self) -> bytes:
        """As it goes over the wire."""
        content = self.body if isinstance(self.body, str) else json.dumps(self.body)
        length = self.headers.get("Content-Length")
        lines = [f"{name}: {value}" for name, value in self.headers.items() if name != "Content-Length"]
        if length is None:
            return answer(content.encode(), *lines, status=self.status)
        lines = [f"HTTP/1.1 {self.status}", *([f"Content-Length: {length}"] if length else []), *lines, "", ""]
        return "\r\n".join(lines).encode() + content.encode()

    def variants(self) -> Iterator[tuple[str, Answer]]:
        """The same with one field left out, of another kind or there twice, and what is different."""
        if isinstance(self.body, str):
            for match in re.finditer(r"(?=(<(\w+)>.*?</\2>))", self.body):
                before, after = self.body[: match.start(1)], self.body[match.end(1) :]
                for text in (None, *_OTHER_TEXTS, *(_DATES if match[2] in _MOMENTS else ())):
                    new = "" if text is None else f"<{match[2]}>{text}</{match[2]}>"
                    yield f"{match[2]} as {text!r:.20}", self._with(before + new + after)
                yield f"{match[2]} twice", self._with(before + match[1] * 2 + after)
        else:
            for what, document in _changed(self.body):
                yield what, self._with(document)
        for name in self.headers:
            for value in (None, *_OTHER_TEXTS):
                changed = {**self.headers, name: "" if value is None else value}
                if value is None and name != "Content-Length":
                    del changed[name]
                yield f"the header {name} as {value!r:.20}", Answer(self.body, changed, self.status)

    def _with(self, body: Any) -> Answer:
        return Answer(body, self.headers, self.status)


def _changed(document: Any) -> Iterator[tuple[str, Any]]:
    """A document with one value in it replaced or left out, at whatever depth."""
    for value in _OTHER_VALUES:
        yield f"the whole as {value!r:.20}", value
    for path in _paths(document):
        for value in (_LEFT_OUT, *_OTHER_VALUES, *(_DATES if path[-1] in _MOMENTS else ())):
            new = copy.deepcopy(document)
            inner = new
            for step in path[:-1]:
                inner = inner[step]
            if value is _LEFT_OUT:
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
            yield f"{'.'.join(map(str, path))} as {value!r:.20}", new


class _LeftOut:
    def __repr__(self) -> str:
        return "left out"


_LEFT_OUT = _LeftOut()


def _paths(document: Any) -> Iterator[tuple[Any, ...]]:
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield (key,)
        yield from ((key, *rest) for rest in _paths(value))


def _s3(url: str) -> S3Storage:
    service = S3Service(endpoint_url=url, credentials=S3Credentials("key", "secret"), read_timeout=5)
    return S3Storage(service, "bucket", policy=_ONCE, max_copy_size=5)


def _gcs(url: str) -> GCSStorage:
    return GCSStorage(GCSService(endpoint_url=url, anonymous=True, read_timeout=5), "bucket", policy=_ONCE)


def _gcs_with_a_key(url: str) -> GCSStorage:
    key = service_account_key(f"{url}/token")
    return GCSStorage(GCSService(endpoint_url=url, service_account=key, read_timeout=5), "bucket", policy=_ONCE)


def _s3_with_keys_of_a_container(url: str) -> S3Storage:
    return S3Storage(S3Service(endpoint_url=url, read_timeout=5), "bucket", policy=_ONCE)


def _hub(url: str) -> HubStorage:
    return HubStorage("org/repo", endpoint=url, policy=_ONCE)


_ETAG = "5d41402abc4b2a76b9719d911017c592"
_LISTED = (
    "<ListBucketResult><Name>bucket</Name><MaxKeys>7</MaxKeys><KeyCount>1</KeyCount><IsTruncated>true</IsTruncated>"
    "<NextContinuationToken>t</NextContinuationToken><Contents><Key>a/b</Key><LastModified>2025-01-01T00:00:00.000Z"
    f"</LastModified><ETag>{_ETAG}</ETag><Size>5</Size><StorageClass>STANDARD</StorageClass></Contents>"
    "</ListBucketResult>"
)
_UPLOADS = (
    "<ListMultipartUploadsResult><IsTruncated>true</IsTruncated><NextKeyMarker>a/b</NextKeyMarker><NextUploadIdMarker>u"
    "</NextUploadIdMarker><MaxUploads>7</MaxUploads><Upload><Key>a/b</Key><UploadId>u</UploadId>"
    "<Initiated>2025-01-01T00:00:00.000Z</Initiated></Upload></ListMultipartUploadsResult>"
)
_PARTS = (
    "<ListPartsResult><PartNumberMarker>0</PartNumberMarker><MaxParts>1</MaxParts><IsTruncated>false</IsTruncated>"
    f"<Part><PartNumber>1</PartNumber><LastModified>2025-01-01T00:00:00.000Z</LastModified><ETag>{_ETAG}</ETag>"
    "<Size>5</Size></Part></ListPartsResult>"
)
_STARTED = "<InitiateMultipartUploadResult><Key>a</Key><UploadId>u</UploadId></InitiateMultipartUploadResult>"
_COMPLETED = f"<CompleteMultipartUploadResult><Key>a</Key><ETag>{_ETAG}</ETag></CompleteMultipartUploadResult>"
_COPIED = (
    f"<CopyObjectResult><LastModified>2025-01-01T00:00:00.000Z</LastModified><ETag>{_ETAG}</ETag></CopyObjectResult>"
)
_DELETED = (
    "<DeleteResult><Deleted><Key>a</Key></Deleted><Error><Key>b</Key><Code>InternalError</Code><Message>m</Message>"
    "</Error></DeleteResult>"
)
_ERROR = "<Error><Code>SlowDown</Code><Message>Please reduce</Message><Key>a</Key><RequestId>1</RequestId></Error>"
_HEAD = Answer(
    "",
    {
        "Content-Length": "5",
        "ETag": f'"{_ETAG}"',
        "Last-Modified": "Wed, 01 Jan 2025 00:00:00 GMT",
        "x-amz-checksum-crc32c": "mnG7TA==",
        "x-amz-checksum-type": "FULL_OBJECT",
        "x-amz-mp-parts-count": "1",
        "Accept-Ranges": "bytes",
        "Expires": "Wed, 01 Jan 2025 00:00:00 GMT",
    },
)
_CONTENT = Answer("hello", {**_HEAD.headers, "Content-Range": "bytes 0-4/5"}, "206 Partial Content")
_OBJECT = {
    "name": "a/b",
    "size": "5",
    "generation": "17",
    "crc32c": "mnG7TA==",
    "md5Hash": "XUFAKrxLKna5cZ2REBfFkg==",
    "timeCreated": "2025-01-01T00:00:00.000Z",
    "metadata": {"flexai-upload": "0" * 32},
}
_PART = {**_OBJECT, "name": f"a/.b.{'0' * 32}.flexai-partial/00001"}
_GCS_ERROR = {"error": {"code": 403, "message": "no", "errors": [{"reason": "forbidden", "message": "no"}]}}
_COMMIT = "ab" * 20
_SHA256 = hashlib.sha256(b"hello").hexdigest()
_REVISION = Answer({"id": "org/repo", "sha": _COMMIT})
_TREE = Answer(
    [
        {"type": "file", "path": "a", "oid": "cd" * 20, "size": 5, "lfs": {"oid": _SHA256, "size": 5}},
        {"type": "file", "path": "c", "oid": hashlib.sha1(b"blob 5\0hello").hexdigest(), "size": 5},
        {"type": "directory", "path": "d", "oid": "cd" * 20, "size": 0},
    ],
    {"Link": '<https://hub/api?cursor=x>; rel="next"'},
)
_LINKED = {"X-Linked-Etag": f'"{_SHA256}"', "X-Linked-Size": "5", "X-Repo-Commit": _COMMIT, "ETag": f'"{_SHA256}"'}
_WHOLE = Answer("hello", {"Content-Length": "5", **_LINKED})
_RANGED = Answer("hello", {"Content-Length": "5", "Content-Range": "bytes 0-4/5", **_LINKED}, "206 Partial Content")
_HUB_ERROR = {
    "X-Error-Code": "EntryNotFound",
    "X-Error-Message": "none",
    "Retry-After": "1",
    "RateLimit": '"a";r=0;t=1',
}
_RECEIPT = [PartReceipt(number=1, token=f"{_ETAG} 5")]
_ID = "0" * 32


_REMEMBERING = (_hub, _gcs_with_a_key, _s3_with_keys_of_a_container)
"""Clients that keep what they have read once, so that each answer is for another one."""


def _first(answers: Iterator[Any]) -> list[Any]:
    return [one for one, _ in zip(answers, range(3), strict=False)]


ASKED: dict[str, tuple[Callable[[str], Any], Callable[[Any], object], Sequence[Answer]]] = {
    "S3: list": (_s3, lambda store: _first(store.list("")), [Answer(_LISTED)]),
    "S3: list uploads": (_s3, lambda store: _first(store.list_uploads("")), [Answer(_UPLOADS)]),
    "S3: has upload": (_s3, lambda store: store.has_upload("a", "u"), [Answer(_PARTS)]),
    "S3: head": (_s3, lambda store: store.head("a"), [_HEAD]),
    "S3: get": (_s3, lambda store: list(store.get("a", length=5)), [_CONTENT]),
    "S3: put": (_s3, lambda store: store.put("a", BytesBody(b"hello")), [Answer("", {"ETag": f'"{_ETAG}"'})]),
    "S3: start": (_s3, lambda store: store.start_upload("a", size=5), [Answer(_STARTED)]),
    "S3: put part": (
        _s3,
        lambda store: store.put_part("a", "u", number=1, offset=0, body=BytesBody(b"hello")),
        [Answer("", {"ETag": f'"{_ETAG}"', "x-amz-checksum-crc32c": "mnG7TA=="})],
    ),
    "S3: complete": (_s3, lambda store: store.complete_upload("a", "u", _RECEIPT), [Answer(_COMPLETED), _HEAD]),
    "S3: abort": (_s3, lambda store: store.abort_upload("a", "u"), [Answer("", {}, "204 No Content")]),
    "S3: copy": (_s3, lambda store: store.copy(store, "a", "b"), [_HEAD, Answer(_COPIED)]),
    "S3: delete": (_s3, lambda store: store.delete(["a", "b"]), [Answer(_DELETED)]),
    "S3: error": (_s3, lambda store: list(store.get("a")), [Answer(_ERROR, {"Retry-After": "1"}, "503 Slow Down")]),
    "S3: keys": (
        _s3_with_keys_of_a_container,
        lambda store: store.head("a"),
        [
            Answer(
                {
                    "AccessKeyId": "id",
                    "SecretAccessKey": "secret",
                    "Token": "token",
                    "Expiration": "2099-01-01T00:00:00Z",
                    "AccountId": "1",
                }
            )
        ],
    ),
    "GCS: list": (_gcs, lambda store: _first(store.list("")), [Answer({"items": [_OBJECT], "nextPageToken": "t"})]),
    "GCS: list uploads": (_gcs, lambda store: _first(store.list_uploads("")), [Answer({"items": [_PART]})]),
    "GCS: has upload": (_gcs, lambda store: store.has_upload("a", _ID), [_CONTENT, Answer(_OBJECT)]),
    "GCS: head": (_gcs, lambda store: store.head("a"), [Answer(_OBJECT)]),
    "GCS: get": (
        _gcs,
        lambda store: list(store.get("a", length=5)),
        [Answer("hello", {"Content-Range": "bytes 0-4/5", "X-Goog-Generation": "17"}, "206 Partial Content")],
    ),
    "GCS: put": (_gcs, lambda store: store.put("a", BytesBody(b"hello")), [Answer(_OBJECT)]),
    "GCS: put part": (
        _gcs,
        lambda store: store.put_part("a", _ID, number=1, offset=0, body=BytesBody(b"hello")),
        [Answer("5", {"X-Goog-Generation": "1"}), Answer(_OBJECT)],
    ),
    "GCS: complete": (
        _gcs,
        lambda store: store.complete_upload("a", _ID, _RECEIPT),
        [Answer("5", {"X-Goog-Generation": "1"}), Answer(_OBJECT), Answer({"items": [_PART]})],
    ),
    "GCS: copy": (
        _gcs,
        lambda store: store.copy(store, "a", "b"),
        [Answer(_OBJECT), Answer({"done": False, "rewriteToken": "t"}), Answer({"done": True, "resource": _OBJECT})],
    ),
    "GCS: error": (_gcs, lambda store: store.head("a"), [Answer(_GCS_ERROR, {"Retry-After": "1"}, "403 Forbidden")]),
    "GCS: token": (
        _gcs_with_a_key,
        lambda store: store.head("a"),
        [Answer({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"})],
    ),
    "GCS: token's error": (
        _gcs_with_a_key,
        lambda store: store.head("a"),
        [Answer({"error": "invalid_grant", "error_description": "no"}, {}, "400 Bad Request")],
    ),
    "Hub: list": (_hub, lambda store: _first(store.list("")), [_REVISION, _TREE, Answer([])]),
    "Hub: get": (
        _hub,
        lambda store: list(store.get("c")),
        [_REVISION, Answer(_TREE.body), _WHOLE, _RANGED],
    ),
    "Hub: error": (_hub, lambda store: store.head("a"), [_REVISION, Answer("", _HUB_ERROR, "404 Not Found")]),
    "Hub: passing error": (_hub, lambda store: store.head("a"), [Answer("", _HUB_ERROR, "429 Too Many Requests")]),
}


def _check_types(found: object) -> None:
    """What the caller gets is what the protocol says."""
    for one in found if isinstance(found, list) else [found]:
        if isinstance(one, ObjectInfo):
            kinds = [type(one.key), type(one.size), type(one.etag), *map(type, (one.checksums or {}).values())]
            assert kinds == [str, int, str, *[str] * (len(kinds) - 3)]
            assert one.size >= 0
            assert isinstance(one.modified_at, (float, type(None)))
        elif isinstance(one, UnfinishedUpload):
            assert [type(one.key), type(one.upload_id), type(one.started_at)] == [str, str, float]
        else:
            assert isinstance(one, (str, bool, PartReceipt, bytes, memoryview, type(None)))


@pytest.fixture(scope="module")
def server() -> AnsweringServer:
    return AnsweringServer()


@pytest.mark.parametrize("name", ASKED)
def test_a_field_that_is_missing_of_another_kind_or_there_twice_is_no_internal_error(
    name: str, server: AnsweringServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/keys")
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    make, ask, answers = ASKED[name]
    failed = []
    store = make(server.url)
    for position, good in enumerate(answers):
        for what, odd in good.variants():
            server.prepare([one.sent() for one in (*answers[:position], odd, *answers[position + 1 :])])
            if make in _REMEMBERING:
                store = make(server.url)  # it keeps what it has read
            try:
                _check_types(ask(store))
            except CheckpointError as error:
                assert error.message
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                failed.append(f"{what} in answer {position + 1}: {error!r}")
    assert failed == []


def test_an_object_that_s3_knows_several_checksums_of_is_listed(server: AnsweringServer) -> None:
    algorithms = "".join(f"<ChecksumAlgorithm>{name}</ChecksumAlgorithm>" for name in ("CRC32C", "SHA256"))
    server.prepare([Answer(_LISTED.replace("<Size>", f"{algorithms}<Size>").replace("true", "false")).sent()])
    assert [(info.key, info.size) for info in _s3(server.url).list("")] == [("a/b", 5)]


def test_the_size_of_an_object_that_gcs_does_not_tell_is_nothing(server: AnsweringServer) -> None:
    nothing = {name: value for name, value in _OBJECT.items() if name != "size"}
    server.prepare([Answer({"items": [nothing]}).sent()])
    assert [(info.key, info.size) for info in _gcs(server.url).list("")] == [("a/b", 0)]
    server.prepare([Answer(nothing).sent()])
    assert _gcs(server.url).head("a/b").size == 0
