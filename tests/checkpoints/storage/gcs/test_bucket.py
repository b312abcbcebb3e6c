"""Google Cloud Storage beyond the conformance suite: a network that fails, tokens, composing, long copies."""

from __future__ import annotations

import gzip
import json
import logging
import re
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import google.auth.credentials
import google.auth.exceptions
import google_crc32c
import pytest
import requests

from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    DestinationExistsError,
    IntegrityError,
    NotFoundError,
    SourceChangedError,
    StorageError,
    StorageUnavailableError,
    UnsupportedError,
)
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX
from flexai.checkpoints.storage.gcs.bucket import MAX_COMPOSED, GCSStorage
from flexai.checkpoints.storage.gcs.session import GCSService
from flexai.checkpoints.storage.protocol import BLOCK_SIZE, ZERO_BLOCK, Block, BytesBody, PartReceipt
from flexai.checkpoints.storage.retry import RetryPolicy
from tests.servers.certificates import Authority
from tests.servers.fixtures import GCSServer
from tests.servers.proxy import FaultProxy, Kind, Request

CONTENT = bytes(range(256)) * 12_345
LONG = 16 * BLOCK_SIZE
"""Bytes: more than the buffers of a connection hold."""
BASE: Any = google.auth.credentials.Credentials
auth_errors: Any = google.auth.exceptions


@dataclass
class Bench:
    """A bucket behind a proxy, with a prefix of its own and waits that are noted instead of waited."""

    server: GCSServer
    proxy: FaultProxy
    waits: list[float] = field(default_factory=list)
    prefix: str = field(default_factory=lambda: f"{uuid.uuid4().hex[:8]}/")
    on_wait: Callable[[], object] = lambda: None

    def storage(self, *, attempts: int = 4, page_size: int = 1000, **details: Any) -> GCSStorage:
        if not details.keys() & {"credentials", "service_account", "anonymous"}:
            details["anonymous"] = True
        service = GCSService(**{"endpoint_url": self.proxy.url, **details})
        policy = RetryPolicy(attempts=attempts, sleep=self._wait, random=lambda: 1.0)
        return GCSStorage(service, self.server.bucket, policy=policy, page_size=page_size)

    def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.on_wait()

    @cached_property
    def plain(self) -> GCSStorage:
        return self.storage()

    def key(self, name: str = "file") -> str:
        return self.prefix + name

    def put(self, name: str = "file", content: bytes = CONTENT) -> str:
        return self.plain.put(self.key(name), BytesBody(content)).etag

    def read(self, name: str = "file") -> bytes:
        return content_of(self.plain.get(self.key(name)))

    def names(self) -> list[str]:
        """Everything that is really there, parts of uploads included."""
        answer = requests.get(
            f"{self.server.url}/storage/v1/b/{self.server.bucket}/o", params={"prefix": self.prefix}, timeout=30
        )
        return [item["name"].removeprefix(self.prefix) for item in answer.json().get("items", ())]


def content_of(blocks: Iterator[Block]) -> bytes:
    return b"".join(bytes(block) for block in blocks)


@pytest.fixture
def bench(fake_gcs: GCSServer) -> Iterator[Bench]:
    with FaultProxy(fake_gcs.url) as proxy:
        yield Bench(fake_gcs, proxy)


def _error(status: int, message: str = "said the service", reason: str = "") -> bytes:
    error = {"code": status, "message": message, "errors": [{"message": message, "reason": reason}]}
    return json.dumps({"error": error}).encode()


def _is(method: str, text: str = "") -> Callable[[Request], bool]:
    return lambda request: request.method == method and text in request.target


def _range(request: Request) -> tuple[int, str]:
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers["range"])
    assert match is not None
    return int(match[1]), match[2]


# Passing failures


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_tried_again_with_the_whole_body(bench: Bench, status: int) -> None:
    bench.proxy.add("answer", strikes=_is("POST"), times=2, status=status, body=_error(status))
    bench.put()
    assert bench.waits == [0.1, 0.4]
    assert [len(request.body) for request in bench.proxy.seen("POST")] == [len(CONTENT)] * 3
    assert bench.read() == CONTENT


def test_a_quota_of_requests_is_a_passing_failure_though_it_looks_like_a_refusal(bench: Bench) -> None:
    bench.proxy.add("answer", status=403, body=_error(403, "too fast", "rateLimitExceeded"))
    bench.put()
    assert len(bench.waits) == 1


def test_a_service_that_asks_for_time_gets_it(bench: Bench) -> None:
    bench.proxy.add("answer", status=503, headers={"Retry-After": "17"})
    bench.put()
    assert bench.waits == [17.0]


def test_the_tries_are_counted_once(bench: Bench) -> None:
    bench.proxy.add("answer", times=99, status=503, body=_error(503))
    with pytest.raises(StorageUnavailableError, match="503: said the service"):
        bench.storage(attempts=3).head(bench.key())
    assert len(bench.proxy.requests) == 3


@pytest.mark.parametrize("kind", ["reset", "lose the answer"])
@pytest.mark.parametrize("name", ["put", "head", "list", "delete", "copy", "start", "part", "complete", "abort"])
def test_a_broken_connection_is_tried_again_whatever_was_asked(bench: Bench, kind: Kind, name: str) -> None:
    bench.put()
    storage = bench.plain
    upload_id = storage.start_upload(bench.key("parts"), size=4)
    receipt = storage.put_part(bench.key("parts"), upload_id, number=1, offset=0, body=BytesBody(b"part"))
    asked: dict[str, Callable[[], object]] = {
        "put": lambda: storage.put(bench.key("new"), BytesBody(CONTENT)),
        "head": lambda: storage.head(bench.key()),
        "list": lambda: list(storage.list(bench.prefix)),
        "delete": lambda: storage.delete([bench.key()]),
        "copy": lambda: storage.copy(storage, bench.key(), bench.key("copy")),
        "start": lambda: storage.start_upload(bench.key("new"), size=4),
        "part": lambda: storage.put_part(bench.key("parts"), upload_id, number=1, offset=0, body=BytesBody(b"part")),
        "complete": lambda: storage.complete_upload(bench.key("parts"), upload_id, [receipt]),
        "abort": lambda: storage.abort_upload(bench.key("parts"), upload_id),
    }
    bench.proxy.add(kind, times=2)
    asked[name]()
    assert len(bench.waits) == 2


def test_an_answer_that_makes_no_sense_is_asked_for_again(bench: Bench) -> None:
    bench.put()
    for body in (b"<html>a captive portal", b"[]"):
        bench.proxy.add("answer", strikes=_is("GET"), status=200, body=body)
        assert [info.key for info in bench.plain.list(bench.prefix)] == [bench.key()]
    assert len(bench.waits) == 2


def test_a_service_that_is_not_there_is_said_to_be_out_of_reach(bench: Bench) -> None:
    with pytest.raises(StorageUnavailableError, match=r"127\.0\.0\.1:9 cannot be reached"):
        bench.storage(endpoint_url="http://127.0.0.1:9").head("file")
    assert len(bench.waits) == 3


def test_bytes_that_arrive_damaged_are_sent_again(bench: Bench) -> None:
    wrong = {"name": "x", "size": str(len(CONTENT)), "generation": "1", "crc32c": "AAAAAA=="}
    short = {"name": "x", "size": "5", "generation": "1"}
    for answer in (wrong, short):
        bench.proxy.add("answer", strikes=_is("POST"), status=200, body=json.dumps(answer).encode())
    bench.put()
    assert len(bench.proxy.seen("POST")) == 3
    assert bench.read() == CONTENT


# Reading


def test_a_reading_that_breaks_off_goes_on_with_the_next_byte(bench: Bench) -> None:
    etag = bench.put()
    bench.proxy.add("cut the answer", strikes=_is("GET"), times=2, after=BLOCK_SIZE + 10)
    assert bench.read() == CONTENT
    first, *others = bench.proxy.seen("GET", "alt=media")
    assert "range" not in first.headers
    assert [_range(get) for get in others] == [
        (BLOCK_SIZE + 10, str(len(CONTENT) - 1)),
        (2 * (BLOCK_SIZE + 10), str(len(CONTENT) - 1)),
    ]
    assert all(f"ifGenerationMatch={etag}" in get.query for get in others)


def test_a_reading_that_stalls_goes_on_alone(bench: Bench) -> None:
    bench.put()
    for after in (0, BLOCK_SIZE + 10):
        bench.proxy.add("stall", strikes=_is("GET"), after=after)
    assert content_of(bench.storage(read_timeout=0.5).get(bench.key())) == CONTENT
    assert len(bench.proxy.seen("GET")) == 3


def test_an_object_that_is_replaced_while_its_reading_is_interrupted_has_changed(bench: Bench) -> None:
    bench.put()
    bench.proxy.add("cut the answer", strikes=_is("GET"), after=BLOCK_SIZE + 10)
    bench.on_wait = lambda: bench.put(content=CONTENT[::-1])
    with pytest.raises(SourceChangedError):
        bench.read()


def test_a_service_that_ignores_ranges_never_passes_for_one_that_does_not(bench: Bench) -> None:
    bench.proxy.add("answer", times=99, status=200, headers={"X-Goog-Generation": "1"}, body=CONTENT)
    with pytest.raises(UnsupportedError, match="range"):
        content_of(bench.plain.get(bench.key(), start=5, length=10))


def test_an_answer_of_another_generation_is_refused(bench: Bench) -> None:
    bench.proxy.add("answer", status=200, headers={"X-Goog-Generation": "2"}, body=CONTENT)
    with pytest.raises(SourceChangedError):
        content_of(bench.plain.get(bench.key(), etag="1"))


def test_an_object_that_is_stored_compressed_is_read_as_it_is_stored(bench: Bench) -> None:
    stored = gzip.compress(CONTENT)
    bench.proxy.add("answer", status=200, headers={"Content-Encoding": "gzip", "X-Goog-Generation": "1"}, body=stored)
    assert content_of(bench.plain.get(bench.key())) == stored
    assert bench.proxy.requests[0].headers["accept-encoding"] == "gzip"


def test_an_object_shorter_than_asked_for_is_damaged_not_unavailable(bench: Bench) -> None:
    bench.put(content=b"short")
    with pytest.raises(IntegrityError, match="shorter"):
        content_of(bench.plain.get(bench.key(), start=2, length=10))
    assert bench.waits == []


def test_a_service_that_speaks_no_tls_is_not_said_to_have_a_bad_certificate(bench: Bench) -> None:
    storage = bench.storage(endpoint_url=bench.proxy.url.replace("http:", "https:"), attempts=2)
    with pytest.raises(StorageUnavailableError):
        storage.head(bench.key())
    assert len(bench.waits) == 1


# Sending


@pytest.mark.parametrize("after", [0, LONG])
def test_a_part_that_stalls_on_its_way_is_sent_again_alone(bench: Bench, after: int) -> None:
    """The service takes no more bytes, so that the connection's buffers fill up; or it takes all and says nothing."""

    class Watched:
        size = LONG
        taken: ClassVar[list[int]] = []

        def blocks(self) -> Iterator[Block]:
            self.taken.append(0)
            for _ in range(LONG // BLOCK_SIZE):
                yield ZERO_BLOCK
                self.taken[-1] += BLOCK_SIZE

    # Far more than an answer takes. What is sent has the time that connecting has.
    timeouts: dict[str, Any] = {"read_timeout" if after else "connect_timeout": 3.0}
    storage = bench.storage(**timeouts)
    upload_id = storage.start_upload(bench.key(), size=2 * LONG)
    bench.proxy.add("fall silent", strikes=_is("POST", "%2F00002"), after=after)
    receipts = [
        storage.put_part(bench.key(), upload_id, number=number, offset=(number - 1) * LONG, body=Watched())
        for number in (1, 2)
    ]
    first, stalled, again = Watched.taken
    assert (first, again) == (LONG, LONG)
    assert (stalled == LONG) == bool(after)
    assert bench.waits == [0.1]
    assert storage.complete_upload(bench.key(), upload_id, receipts).size == 2 * LONG


def test_a_large_part_is_never_in_memory_as_a_whole(bench: Bench) -> None:
    class Zeros:
        size = 64 * BLOCK_SIZE

        def blocks(self) -> Iterator[Block]:
            for _ in range(64):
                yield ZERO_BLOCK

    storage = bench.storage(endpoint_url=bench.server.url)
    storage.put(bench.key("warm"), BytesBody(b""))
    tracemalloc.start()
    try:
        storage.put(bench.key(), Zeros())
        assert sum(len(block) for block in storage.get(bench.key())) == Zeros.size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * BLOCK_SIZE
    storage.delete([bench.key()])


def test_as_many_connections_are_kept_as_threads_use(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    storage = bench.storage(connections=8)
    with caplog.at_level(logging.WARNING, logger="urllib3"), ThreadPoolExecutor(8) as threads:
        for _ in range(3):
            list(threads.map(lambda number: storage.put(bench.key(str(number)), BytesBody(b"x")), range(16)))
    assert caplog.records == []


def test_a_connection_that_was_read_to_its_end_is_used_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.put()
    with caplog.at_level(logging.DEBUG, logger="urllib3.connectionpool"):
        for start in range(5):
            assert content_of(bench.plain.get(bench.key(), start=start, length=BLOCK_SIZE + 5))
    assert [record.message for record in caplog.records if "Starting new" in record.message] == []


# Uploads


def test_many_parts_are_composed_in_a_tree_and_leave_nothing_behind(bench: Bench) -> None:
    count = 2 * MAX_COMPOSED + 3
    content = bytes(number for number in range(count) for _ in range(100))
    storage = bench.storage(endpoint_url=bench.server.url, page_size=20)
    upload_id = storage.start_upload(bench.key(), size=len(content))

    def send(number: int) -> PartReceipt:
        offset = (number - 1) * 100
        part = BytesBody(content[offset : offset + 100])
        return storage.put_part(bench.key(), upload_id, number=number, offset=offset, body=part)

    with ThreadPoolExecutor(4) as threads:
        receipts = list(threads.map(send, range(1, count + 1)))
    assert list(storage.list(bench.prefix)) == []
    info = storage.complete_upload(bench.key(), upload_id, reversed(receipts))
    assert info.size == len(content)
    assert content_of(storage.get(bench.key())) == content
    assert bench.names() == ["file"]


def test_parts_lie_beside_the_object_under_a_name_that_nothing_else_has(bench: Bench) -> None:
    upload_id = bench.plain.start_upload(bench.key("folder/file"), size=4)
    bench.plain.put_part(bench.key("folder/file"), upload_id, number=1, offset=0, body=BytesBody(b"part"))
    assert bench.names() == [
        f"folder/.file.{upload_id}{PARTIAL_SUFFIX}/00001",
        f"folder/.file.{upload_id}{PARTIAL_SUFFIX}/begin",
    ]
    bench.plain.abort_upload(bench.key("folder/file"), upload_id)
    assert bench.names() == []


def test_a_completion_that_is_cut_off_before_its_parts_are_gone_can_be_repeated_or_given_up(bench: Bench) -> None:
    storage = bench.plain
    for end in ("complete", "abort"):
        key = bench.key(end)
        upload_id = storage.start_upload(key, size=4)
        receipt = storage.put_part(key, upload_id, number=1, offset=0, body=BytesBody(b"part"))
        bench.proxy.add("answer", strikes=_is("DELETE"), status=403, body=_error(403))
        with pytest.raises(AccessDeniedError, match=r"storage\.objects\.delete"):
            storage.complete_upload(key, upload_id, [receipt])
        assert [upload.upload_id for upload in storage.list_uploads(key)] == [upload_id]
        if end == "complete":
            storage.complete_upload(key, upload_id, [receipt])
        else:
            storage.abort_upload(key, upload_id)
        assert content_of(storage.get(key)) == b"part"
        assert list(storage.list_uploads(bench.prefix)) == []


def test_an_upload_that_was_cut_off_while_its_parts_were_deleted_has_ended(bench: Bench) -> None:
    storage = bench.plain
    upload_id = storage.start_upload(bench.key(), size=8)
    receipts = [
        storage.put_part(bench.key(), upload_id, number=number, offset=4 * number - 4, body=BytesBody(b"part"))
        for number in (1, 2)
    ]
    bench.proxy.add("answer", strikes=_is("DELETE", "00002"), status=403, body=_error(403))
    with pytest.raises(AccessDeniedError):
        storage.complete_upload(bench.key(), upload_id, receipts)
    assert len(bench.names()) > 1
    assert not storage.has_upload(bench.key(), upload_id)
    assert bench.names() == ["file"]
    assert bench.read() == b"partpart"


def test_an_upload_beside_an_object_of_another_upload_is_still_open(bench: Bench) -> None:
    storage = bench.plain
    ids = [storage.start_upload(bench.key(), size=4) for _ in range(2)]
    receipt = storage.put_part(bench.key(), ids[0], number=1, offset=0, body=BytesBody(b"part"))
    storage.complete_upload(bench.key(), ids[0], [receipt])
    assert [storage.has_upload(bench.key(), upload_id) for upload_id in ids] == [False, True]
    storage.abort_upload(bench.key(), ids[1])


# Conditions: the fake heeds none for uploads of our kind, so that its refusals come from the proxy


def test_what_should_be_new_and_was_stored_by_a_try_whose_answer_was_lost_is_recognised(bench: Bench) -> None:
    bench.proxy.add("lose the answer", strikes=_is("POST", "ifGenerationMatch=0"))
    bench.proxy.add("answer", strikes=_is("POST", "ifGenerationMatch=0"), status=412, body=_error(412))
    info = bench.plain.put(bench.key(), BytesBody(CONTENT), only_new=True)
    assert info == bench.plain.head(bench.key())
    assert len(bench.proxy.seen("POST", "ifGenerationMatch=0")) == 2


@pytest.mark.parametrize("content", [b"another", b"content of another size"])
def test_what_another_process_stored_meanwhile_is_not_taken_for_a_lost_try(bench: Bench, content: bytes) -> None:
    bench.put(content=content)
    bench.proxy.add("answer", strikes=_is("POST", "ifGenerationMatch=0"), status=412, body=_error(412))
    with pytest.raises(DestinationExistsError, match="is there already"):
        bench.plain.put(bench.key(), BytesBody(b"content"), only_new=True)
    assert bench.read() == content


def test_a_completion_of_what_should_be_new_is_recognised_by_its_upload(bench: Bench) -> None:
    storage = bench.plain

    def complete(upload_id: str) -> None:
        receipt = storage.put_part(bench.key(), upload_id, number=1, offset=0, body=BytesBody(b"part"))
        storage.complete_upload(bench.key(), upload_id, [receipt], only_new=True)

    mine, other = (storage.start_upload(bench.key(), size=4) for _ in range(2))
    bench.proxy.add("lose the answer", strikes=_is("POST", "compose?ifGenerationMatch=0"))
    bench.proxy.add("answer", strikes=_is("POST", "compose?ifGenerationMatch=0"), status=412, body=_error(412))
    complete(mine)
    bench.proxy.add("answer", strikes=_is("POST", "compose?ifGenerationMatch=0"), status=412, body=_error(412))
    with pytest.raises(DestinationExistsError, match="is there already"):
        complete(other)
    storage.abort_upload(bench.key(), other)
    assert bench.names() == ["file"]


@pytest.mark.parametrize("token", ["", "123", "abc def", "1 4"])
def test_a_receipt_of_another_store_or_of_another_part_is_refused(bench: Bench, token: str) -> None:
    upload_id = bench.plain.start_upload(bench.key(), size=4)
    bench.proxy.add("answer", strikes=_is("POST", "compose"), status=404, body=_error(404, "Object not found"))
    with pytest.raises(StorageError, match=r"receipt|missing"):
        bench.plain.complete_upload(bench.key(), upload_id, [PartReceipt(1, token)])
    assert list(bench.plain.list(bench.prefix)) == []


# Copies


def test_a_large_copy_goes_on_until_it_is_done(bench: Bench) -> None:
    bench.put()
    for so_far, token in enumerate(("first", "second"), 1):
        answer = json.dumps({"done": False, "rewriteToken": token, "totalBytesRewritten": str(so_far)}).encode()
        bench.proxy.add("answer", strikes=_is("POST", "rewriteTo"), status=200, body=answer)
    info = bench.plain.copy(bench.plain, bench.key(), bench.key("copy"))
    assert info.size == len(CONTENT)
    calls = bench.proxy.seen("POST", "rewriteTo")
    assert ["rewriteToken=first" in call.query for call in calls] == [False, True, False]
    assert ["rewriteToken=second" in call.query for call in calls] == [False, False, True]
    assert all("ifSourceGenerationMatch=" in call.query for call in calls)
    assert bench.read("copy") == CONTENT


@pytest.mark.parametrize("said", [{}, {"totalBytesRewritten": "0"}])
def test_a_copy_that_gets_no_further_comes_to_an_end(bench: Bench, said: dict[str, str]) -> None:
    bench.put()
    answer = json.dumps({"done": False, "rewriteToken": "again"} | said).encode()
    bench.proxy.add("answer", strikes=_is("POST", "rewriteTo"), times=100, status=200, body=answer)
    with pytest.raises(StorageUnavailableError, match="does not get on with copying"):
        bench.plain.copy(bench.plain, bench.key(), bench.key("copy"))
    assert len(bench.proxy.seen("POST", "rewriteTo")) == 4


def test_a_copy_whose_service_stops_answering_midway_comes_to_an_end(bench: Bench) -> None:
    bench.put()
    answer = json.dumps({"done": False, "rewriteToken": "first", "totalBytesRewritten": "1000000"}).encode()
    bench.proxy.add("answer", strikes=_is("POST", "rewriteTo"), status=200, body=answer)
    bench.proxy.add("stall", strikes=_is("POST", "rewriteTo"), times=100, after=0)
    storage = bench.storage(read_timeout=0.3)
    with pytest.raises(StorageUnavailableError, match=r"did not answer|broke off"):
        storage.copy(storage, bench.key(), bench.key("copy"))
    assert len(bench.proxy.seen("POST", "rewriteTo")) == 1 + 4


# Refusals


@pytest.mark.parametrize(
    ("name", "permission"),
    [
        ("put", "storage.objects.create"),
        ("get", "storage.objects.get"),
        ("head", "storage.objects.get"),
        ("list", "storage.objects.list"),
        ("delete", "storage.objects.delete"),
        ("start", "storage.objects.create"),
        ("uploads", "storage.objects.list"),
    ],
)
def test_a_missing_permission_is_named_and_not_asked_for_again(bench: Bench, name: str, permission: str) -> None:
    storage, key = bench.plain, bench.key()
    asked: dict[str, Callable[[], object]] = {
        "put": lambda: storage.put(key, BytesBody(b"x")),
        "get": lambda: content_of(storage.get(key)),
        "head": lambda: storage.head(key),
        "list": lambda: list(storage.list(bench.prefix)),
        "delete": lambda: storage.delete([key]),
        "start": lambda: storage.start_upload(key, size=1),
        "uploads": lambda: list(storage.list_uploads(bench.prefix)),
    }
    bench.proxy.add("answer", status=403, times=99, body=_error(403, reason="forbidden"))
    with pytest.raises(AccessDeniedError, match=f"{permission} is denied on {bench.server.bucket}"):
        asked[name]()
    assert len(bench.proxy.requests) == 1


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, StorageError, "400: said the service"),
        (401, AccessDeniedError, "refused the credentials"),
        (404, NotFoundError, "there is no"),
        (412, SourceChangedError, "changed"),
        (501, UnsupportedError, "cannot do"),
        (302, StorageError, "302"),
    ],
)
def test_an_answer_is_said_in_our_words(bench: Bench, status: int, kind: type[CheckpointError], words: str) -> None:
    bench.proxy.add("answer", status=status, body=_error(status))
    with pytest.raises(kind, match=words) as raised:
        bench.plain.head(bench.key())
    assert type(raised.value) is kind
    assert bench.waits == []


def test_a_bucket_that_is_not_there_is_named(bench: Bench) -> None:
    storage = GCSStorage(bench.plain.service, "no-such-bucket", policy=RetryPolicy(attempts=1))
    bench.proxy.add("answer", status=404, body=_error(404, "The specified bucket does not exist."))
    with pytest.raises(NotFoundError, match="no bucket 'no-such-bucket'"):
        list(storage.list(""))


# Credentials


class Tokens(BASE):  # type: ignore[misc]
    """Credentials of Google's kind whose tokens are numbered."""

    def __init__(self, *, error: Exception | None = None) -> None:
        super().__init__()
        self.refreshed = 0
        self.error = error

    def refresh(self, request: object) -> None:
        if self.error is not None:
            raise self.error
        self.refreshed += 1
        self.token = f"canary-token-{self.refreshed}"


def test_a_token_that_is_refused_is_renewed_once(bench: Bench) -> None:
    tokens = Tokens()
    storage = bench.storage(credentials=lambda: tokens)
    bench.proxy.add("answer", status=401, body=_error(401))
    storage.put(bench.key(), BytesBody(CONTENT))
    assert [request.headers["authorization"] for request in bench.proxy.requests] == [
        "Bearer canary-token-1",
        "Bearer canary-token-2",
    ]
    assert content_of(storage.get(bench.key())) == CONTENT


def test_a_token_that_is_refused_again_ends_the_matter(bench: Bench) -> None:
    storage = bench.storage(credentials=Tokens)
    bench.proxy.add("answer", times=99, status=401, body=_error(401))
    with pytest.raises(AccessDeniedError, match="refused the credentials"):
        storage.head(bench.key())
    assert len(bench.proxy.requests) == 2


def test_a_netrc_of_the_user_is_not_sent_in_place_of_a_token(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("default login me password netrc-secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    bench.storage(credentials=Tokens).put(bench.key(), BytesBody(CONTENT))
    bench.plain.head(bench.key())
    assert [one.headers.get("authorization") for one in bench.proxy.requests] == ["Bearer canary-token-1", None]


def test_many_threads_with_a_refused_token_renew_it_together(bench: Bench) -> None:
    tokens = Tokens()
    storage = bench.storage(credentials=lambda: tokens)
    bench.put()
    old = _bearer("canary-token-1")
    bench.proxy.add("answer", strikes=old, times=99, status=401, body=_error(401))
    with ThreadPoolExecutor(6) as threads:
        sizes = list(threads.map(lambda _: storage.head(bench.key()).size, range(6)))
    assert sizes == [len(CONTENT)] * 6
    assert tokens.refreshed >= 2


def _bearer(token: str) -> Callable[[Request], bool]:
    return lambda request: request.headers.get("authorization") == f"Bearer {token}"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (auth_errors.RefreshError("no"), AccessDeniedError, "no usable credentials"),
        (
            auth_errors.RefreshError("later", retryable=True),
            StorageUnavailableError,
            "cannot be renewed now",
        ),
        (auth_errors.TransportError("away"), StorageUnavailableError, "cannot be renewed now"),
    ],
)
def test_credentials_that_cannot_be_had_say_so(
    bench: Bench, error: Exception, kind: type[CheckpointError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        bench.storage(credentials=lambda: Tokens(error=error)).head(bench.key())


def test_without_credentials_the_error_says_how_to_get_some(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(AccessDeniedError, match="no usable credentials") as raised:
        bench.storage(credentials=None).head("file")
    assert "gcloud auth" in raised.value.hint
    with pytest.raises(AccessDeniedError, match="no usable credentials"):
        bench.storage(service_account={"client_email": "x", "private_key": "canary"}).head("file")


def test_no_secret_reaches_a_log_an_error_or_a_representation(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    storage = bench.storage(credentials=Tokens, attempts=2)
    told = [repr(storage), repr(storage.service), storage.location, storage.service_identity]
    asked: list[Callable[[], object]] = [
        lambda: storage.put(bench.key(), BytesBody(CONTENT)),
        lambda: content_of(storage.get(bench.key())),
        lambda: list(storage.list(bench.prefix)),
        lambda: storage.delete([bench.key()]),
    ]
    kinds: list[Kind] = ["answer", "reset", "lose the answer"]
    with caplog.at_level(logging.DEBUG):
        for kind in kinds:
            bench.proxy.faults.clear()
            bench.proxy.add(kind, times=99, status=403, body=_error(403))
            for ask in asked:
                with pytest.raises(CheckpointError) as raised:
                    ask()
                told.extend([repr(raised.value), repr(raised.value.__cause__)])
    assert "canary-token" in bench.proxy.requests[0].headers["authorization"]
    assert not any("canary-token" in text for text in [*told, caplog.text])


def test_services_are_the_same_exactly_when_endpoint_and_credentials_are() -> None:
    same = GCSService(anonymous=True).identity
    assert GCSService(anonymous=True, endpoint_url="https://storage.googleapis.com/").identity == same
    others = [
        GCSService(),
        GCSService(anonymous=True, endpoint_url="http://localhost:1"),
        GCSService(service_account={"client_email": "a@x", "private_key": "canary"}),
        GCSService(service_account={"client_email": "b@x", "private_key": "canary"}),
        GCSService(credentials=Tokens),
        GCSService(credentials=Tokens, credentials_identity="connection 1"),
    ]
    identities = {same, *(service.identity for service in others)}
    assert len(identities) == 7
    assert not any("canary" in identity for identity in identities)


def test_the_location_is_a_url() -> None:
    assert GCSStorage(GCSService(), "bucket").location == "gs://bucket"
    assert GCSStorage(GCSService(endpoint_url="http://localhost:1/"), "bucket").location == "http://localhost:1/bucket"


# TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_a_certificate_of_ones_own_authority_is_trusted_when_told(fake_gcs: GCSServer, authority: Authority) -> None:
    with FaultProxy(fake_gcs.url, context=authority.server_context("127.0.0.1")) as proxy:
        bench = Bench(fake_gcs, proxy)
        storage = bench.storage(ca_bundle=str(authority.bundle))
        storage.put(bench.key(), BytesBody(CONTENT))
        assert content_of(storage.get(bench.key())) == CONTENT
        with pytest.raises(StorageError, match="no certificate that this machine trusts") as raised:
            bench.storage().head(bench.key())
        assert not isinstance(raised.value, StorageUnavailableError)
        assert bench.waits == []


def test_a_bundle_of_the_connection_goes_before_that_of_the_environment(
    fake_gcs: GCSServer, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(fake_gcs.url, context=authority.server_context("127.0.0.1")) as proxy:
        bench = Bench(fake_gcs, proxy)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
        bench.put()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(Authority(tmp_path).bundle))
        storage = bench.storage(ca_bundle=str(authority.bundle))
        assert storage.head(bench.key()).size == len(CONTENT)
        client = storage.service.new_client("project")
        assert client.bucket(fake_gcs.bucket).blob(bench.key()).exists(retry=None)
        with pytest.raises(StorageError, match="no certificate that this machine trusts"):
            bench.storage().head(bench.key())


# Checksums


def test_checksums_that_the_service_keeps_are_told_in_hex(bench: Bench) -> None:
    bench.put()
    info = bench.plain.head(bench.key())
    assert (info.checksums or {})["crc32c"] == f"{google_crc32c.value(CONTENT):08x}"
    assert [listed.checksums for listed in bench.plain.list(bench.prefix)] == [info.checksums]


def test_the_markers_of_empty_folders_are_not_listed(bench: Bench) -> None:
    bench.put("folder/file", b"x")
    url = f"{bench.server.url}/upload/storage/v1/b/{bench.server.bucket}/o"
    requests.post(url, params={"uploadType": "media", "name": bench.key("folder/")}, data=b"", timeout=30)
    assert bench.names() == ["folder/", "folder/file"]
    assert [info.key for info in bench.plain.list(bench.prefix)] == [bench.key("folder/file")]
