"""S3 beyond the conformance suite: a network that fails, services that differ, secrets that stay secret."""

from __future__ import annotations

import logging
import re
import socket
import ssl
import time
import tracemalloc
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import pytest

from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    DestinationExistsError,
    IntegrityError,
    NotFoundError,
    SourceChangedError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
    UnsupportedError,
)
from flexai.checkpoints.storage.capabilities import Capabilities
from flexai.checkpoints.storage.protocol import BLOCK_SIZE, ZERO_BLOCK, Block, BytesBody, JoinedBody, PartReceipt
from flexai.checkpoints.storage.retry import RetryPolicy
from flexai.checkpoints.storage.s3.bucket import MIN_PART_SIZE, S3Storage
from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service
from tests.servers.certificates import Authority
from tests.servers.fixtures import S3Server
from tests.servers.proxy import FaultProxy, Kind, Request

CONTENT = bytes(range(256)) * 12_345
LONG = 16 * BLOCK_SIZE
"""Bytes: more than the buffers of a connection hold."""
NO_SUCH_HOST = "http://127.0.0.1:9"


@dataclass
class Bench:
    """A bucket behind a proxy, with a prefix of its own and waits that are noted instead of waited."""

    server: S3Server
    proxy: FaultProxy
    waits: list[float] = field(default_factory=list)
    prefix: str = field(default_factory=lambda: f"{uuid.uuid4().hex[:8]}/")
    on_wait: Callable[[], object] = lambda: None

    def storage(self, *, attempts: int = 4, **details: Any) -> S3Storage:
        options = ("capabilities", "page_size", "max_copy_size", "copy_part_size")
        ours = {name: details.pop(name) for name in options if name in details}
        details.setdefault("credentials", S3Credentials(self.server.access_key_id, self.server.secret_access_key))
        service = S3Service(**{"endpoint_url": self.proxy.url, **details})
        policy = RetryPolicy(attempts=attempts, sleep=self._wait, random=lambda: 1.0)
        return S3Storage(service, self.server.bucket, policy=policy, **ours)

    def _wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.on_wait()

    def key(self, name: str = "file") -> str:
        return self.prefix + name

    @cached_property
    def plain(self) -> S3Storage:
        return self.storage()

    def put(self, name: str = "file", content: bytes = CONTENT) -> str:
        return self.plain.put(self.key(name), BytesBody(content)).etag

    def read(self, name: str = "file") -> bytes:
        return content_of(self.plain.get(self.key(name)))


def content_of(blocks: Iterator[Block]) -> bytes:
    return b"".join(bytes(block) for block in blocks)


@pytest.fixture
def bench(juicefs: S3Server) -> Iterator[Bench]:
    with FaultProxy(juicefs.url) as proxy:
        yield Bench(juicefs, proxy)


@pytest.fixture
def strict_bench(seaweedfs: S3Server) -> Iterator[Bench]:
    with FaultProxy(seaweedfs.url) as proxy:
        yield Bench(seaweedfs, proxy)


def _error(code: str, message: str = "said the service") -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


def _is(method: str, text: str = "") -> Callable[[Request], bool]:
    return lambda request: request.method == method and text in request.target


# Passing failures


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (503, "SlowDown"),
        (503, "ServiceUnavailable"),
        (500, "InternalError"),
        (502, ""),
        (504, ""),
        (429, "TooManyRequests"),
        (400, "RequestTimeout"),
        (409, "OperationAborted"),
    ],
)
def test_a_passing_failure_is_tried_again_with_the_whole_body(bench: Bench, status: int, code: str) -> None:
    bench.proxy.add("answer", strikes=_is("PUT"), times=2, status=status, body=_error(code))
    bench.put()
    assert bench.waits == [0.1, 0.4]
    assert [len(request.body) for request in bench.proxy.seen("PUT")][-1] == len(CONTENT)
    assert bench.read() == CONTENT


def test_the_tries_are_counted_once_not_by_the_sdk_too(bench: Bench) -> None:
    bench.proxy.add("answer", times=99, status=503, body=_error("SlowDown"))
    with pytest.raises(StorageUnavailableError, match="not available"):
        bench.storage(attempts=3).head(bench.key())
    assert len(bench.proxy.requests) == 3
    assert len(bench.waits) == 2


def test_a_service_that_asks_for_time_gets_it(bench: Bench) -> None:
    bench.proxy.add("answer", status=503, headers={"Retry-After": "17"}, body=_error("SlowDown"))
    bench.put()
    assert bench.waits == [17.0]


@pytest.mark.parametrize("kind", ["reset", "lose the answer"])
@pytest.mark.parametrize("name", ["put", "head", "list", "delete", "copy", "start", "part", "abort", "uploads"])
def test_a_broken_connection_is_tried_again_whatever_was_asked(bench: Bench, kind: Kind, name: str) -> None:
    bench.put()
    storage = bench.plain
    upload_id = storage.start_upload(bench.key("parts"), size=4)
    asked: dict[str, Callable[[], object]] = {
        "put": lambda: storage.put(bench.key("new"), BytesBody(CONTENT)),
        "head": lambda: storage.head(bench.key()),
        "list": lambda: list(storage.list(bench.prefix)),
        "delete": lambda: storage.delete([bench.key()]),
        "copy": lambda: storage.copy(storage, bench.key(), bench.key("copy")),
        "start": lambda: storage.start_upload(bench.key("new"), size=4),
        "part": lambda: storage.put_part(bench.key("parts"), upload_id, number=1, offset=0, body=BytesBody(b"part")),
        "abort": lambda: storage.abort_upload(bench.key("parts"), upload_id),
        "uploads": lambda: list(storage.list_uploads(bench.prefix)),
    }
    bench.proxy.add(kind)
    asked[name]()
    assert len(bench.waits) == 1


def test_a_completion_whose_answer_is_lost_is_recognised(bench: Bench) -> None:
    storage = bench.plain
    upload_id = storage.start_upload(bench.key(), size=len(CONTENT))
    receipt = storage.put_part(bench.key(), upload_id, number=1, offset=0, body=BytesBody(CONTENT))
    bench.proxy.add("lose the answer", strikes=_is("POST", "uploadId"))
    info = storage.complete_upload(bench.key(), upload_id, [receipt])
    assert info is not None
    assert info == storage.head(bench.key())
    assert info.size == len(CONTENT)


def test_a_completion_of_what_is_gone_is_not_taken_for_done(bench: Bench) -> None:
    bench.put(content=b"another")
    storage = bench.plain
    upload_id = storage.start_upload(bench.key(), size=4)
    receipt = storage.put_part(bench.key(), upload_id, number=1, offset=0, body=BytesBody(b"part"))
    storage.abort_upload(bench.key(), upload_id)
    for token in (receipt.token, "not an MD5"):
        with pytest.raises(NotFoundError, match="the upload of"):
            storage.complete_upload(bench.key(), upload_id, [PartReceipt(1, token)])


CONDITIONS = Capabilities(conditional_put=True)


@pytest.mark.parametrize("body", [b"", b"content"])
def test_what_should_be_new_and_was_stored_by_a_try_whose_answer_was_lost_is_recognised(
    strict_bench: Bench, body: bytes
) -> None:
    strict_bench.proxy.add("lose the answer", strikes=_is("PUT"))
    storage = strict_bench.storage(capabilities=CONDITIONS)
    info = storage.put(strict_bench.key(), BytesBody(body), only_new=True)
    assert len(strict_bench.proxy.seen("PUT")) == 2
    assert (info.size, info.etag) == (len(body), storage.head(strict_bench.key()).etag)
    assert strict_bench.read() == body


@pytest.mark.parametrize("content", [b"another", b"content of another size"])
def test_what_another_process_stored_meanwhile_is_not_taken_for_a_lost_try(strict_bench: Bench, content: bytes) -> None:
    storage = strict_bench.storage(capabilities=CONDITIONS)
    strict_bench.proxy.add("answer", strikes=_is("PUT"), status=503, body=_error("SlowDown"))
    strict_bench.on_wait = lambda: strict_bench.put(content=content)
    with pytest.raises(DestinationExistsError, match="is there already") as raised:
        storage.put(strict_bench.key(), BytesBody(b"content"), only_new=True)
    assert "--overwrite" in raised.value.hint
    assert strict_bench.read() == content


def test_a_completion_of_what_should_be_new_whose_answer_is_lost_is_recognised(strict_bench: Bench) -> None:
    storage = strict_bench.storage(capabilities=CONDITIONS)
    upload_id = storage.start_upload(strict_bench.key(), size=4)
    receipt = storage.put_part(strict_bench.key(), upload_id, number=1, offset=0, body=BytesBody(b"part"))
    strict_bench.proxy.add("lose the answer", strikes=_is("POST", "uploadId"))
    info = storage.complete_upload(strict_bench.key(), upload_id, [receipt], only_new=True)
    assert info == storage.head(strict_bench.key())
    assert [request.headers["if-none-match"] for request in strict_bench.proxy.seen("POST", "uploadId=")] == ["*", "*"]


def test_a_conflict_between_two_conditions_is_tried_again(strict_bench: Bench) -> None:
    # https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html#conditional-error-response
    strict_bench.proxy.add("answer", strikes=_is("PUT"), status=409, body=_error("ConditionalRequestConflict"))
    strict_bench.storage(capabilities=CONDITIONS).put(strict_bench.key(), BytesBody(b"content"), only_new=True)
    assert strict_bench.waits == [0.1]


def test_a_condition_that_a_service_refuses_to_know_is_left_out(strict_bench: Bench) -> None:
    storage = strict_bench.storage(capabilities=CONDITIONS)
    strict_bench.proxy.add(
        "answer",
        strikes=lambda request: "if-none-match" in request.headers,
        times=9,
        status=501,
        body=_error("NotImplemented"),
    )
    storage.put(strict_bench.key(), BytesBody(b"content"), only_new=True)
    assert strict_bench.read() == b"content"


def test_a_service_that_is_not_known_to_heed_conditions_is_asked_for_none(strict_bench: Bench) -> None:
    strict_bench.put(content=b"old")
    strict_bench.plain.put(strict_bench.key(), BytesBody(b"new"), only_new=True)
    assert strict_bench.read() == b"new"
    assert all("if-none-match" not in request.headers for request in strict_bench.proxy.requests)


def test_an_error_that_comes_with_a_good_status_is_one(bench: Bench) -> None:
    # S3 sends 200 before it copies and can only tell afterwards: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html
    bench.put()
    bench.proxy.add("answer", strikes=_is("PUT"), status=200, body=_error("InternalError"))
    storage = bench.plain
    assert storage.copy(storage, bench.key(), bench.key("copy")).size == len(CONTENT)
    assert bench.waits == [0.1]


def test_an_answer_that_makes_no_sense_is_asked_for_again(bench: Bench) -> None:
    bench.put()
    bench.proxy.add("answer", strikes=_is("GET", "list-type"), status=200, body=b"<html>a captive portal")
    assert [info.key for info in bench.plain.list(bench.prefix)] == [bench.key()]
    assert len(bench.waits) == 1


def test_a_service_that_is_not_there_is_said_to_be_out_of_reach(bench: Bench) -> None:
    storage = bench.storage(endpoint_url=NO_SUCH_HOST)
    with pytest.raises(StorageUnavailableError, match=r"127\.0\.0\.1:9 cannot be reached"):
        storage.head("file")
    assert len(bench.waits) == 3


# Reading


def test_a_reading_that_breaks_off_goes_on_with_the_next_byte(bench: Bench) -> None:
    etag = bench.put()
    bench.proxy.add("cut the answer", strikes=_is("GET"), after=BLOCK_SIZE + 10)
    bench.proxy.add("cut the answer", strikes=_is("GET"), after=BLOCK_SIZE + 10)
    assert bench.read() == CONTENT
    gets = bench.proxy.seen("GET")
    assert gets[0].headers.get("range") is None
    last = len(CONTENT) - 1
    firsts = [int(str(re.fullmatch(rf"bytes=(\d+)-{last}", get.headers["range"])[1])) for get in gets[1:]]  # type: ignore[index]
    assert 0 < firsts[0] < firsts[1] <= 2 * (BLOCK_SIZE + 10)
    assert {get.headers["if-match"] for get in gets[1:]} == {f'"{etag}"'}


def test_a_range_that_breaks_off_goes_on_within_itself(bench: Bench) -> None:
    bench.put()
    bench.proxy.add("cut the answer", strikes=_is("GET"), after=BLOCK_SIZE)
    start, length = 1000, 2 * BLOCK_SIZE
    assert content_of(bench.plain.get(bench.key(), start=start, length=length)) == CONTENT[start : start + length]
    assert bench.proxy.seen("GET")[-1].headers["range"].endswith(f"-{start + length - 1}")


def test_a_reading_that_stalls_goes_on_alone(bench: Bench) -> None:
    bench.put()
    storage = bench.storage(read_timeout=0.5)
    bench.proxy.add("stall", strikes=_is("GET"), after=BLOCK_SIZE + 10)
    assert content_of(storage.get(bench.key())) == CONTENT
    assert len(bench.proxy.seen("GET")) == 2


def test_an_answer_that_never_begins_is_asked_for_again(bench: Bench) -> None:
    bench.put()
    storage = bench.storage(read_timeout=0.5)
    bench.proxy.add("stall", strikes=_is("GET"), after=0)
    assert content_of(storage.get(bench.key())) == CONTENT


def test_readings_that_get_nowhere_end(bench: Bench) -> None:
    bench.put()
    bench.proxy.add("cut the answer", strikes=_is("GET"), times=99, after=0)
    with pytest.raises(StorageUnavailableError, match=r"broke off|too few"):
        content_of(bench.storage(attempts=3).get(bench.key()))
    assert len(bench.proxy.seen("GET")) == 3


def test_a_reading_that_gets_on_may_break_off_any_number_of_times(bench: Bench) -> None:
    bench.put()
    bench.proxy.add("cut the answer", strikes=_is("GET"), times=10, after=300_000)
    assert content_of(bench.storage(attempts=2).get(bench.key())) == CONTENT


def test_an_object_that_is_replaced_while_its_reading_is_interrupted_has_changed(bench: Bench) -> None:
    bench.put()
    bench.proxy.add("cut the answer", strikes=_is("GET"), after=BLOCK_SIZE + 10)
    bench.on_wait = lambda: bench.put(content=CONTENT[::-1])
    with pytest.raises(SourceChangedError):
        bench.read()


def test_a_service_that_ignores_ranges_never_passes_for_one_that_does_not(bench: Bench) -> None:
    bench.proxy.add("answer", times=99, status=200, headers={"ETag": '"0"'}, body=CONTENT)
    with pytest.raises(UnsupportedError, match="range"):
        content_of(bench.plain.get(bench.key(), start=5, length=10))
    with pytest.raises(UnsupportedError, match="range"):
        content_of(bench.plain.get(bench.key(), start=0, length=10))
    assert content_of(bench.plain.get(bench.key(), start=0, length=len(CONTENT))) == CONTENT


def test_an_object_with_a_declared_encoding_is_read_as_it_is_stored(bench: Bench) -> None:
    import gzip

    stored = gzip.compress(CONTENT)
    client = bench.server.client()
    client.put_object(Bucket=bench.server.bucket, Key=bench.key(), Body=stored, ContentEncoding="gzip")
    assert bench.read() == stored
    assert content_of(bench.plain.get(bench.key(), start=10, length=5)) == stored[10:15]


def test_a_service_that_speaks_no_tls_is_not_said_to_have_a_bad_certificate(bench: Bench) -> None:
    storage = bench.storage(endpoint_url=bench.proxy.url.replace("http:", "https:"), attempts=2)
    with pytest.raises(StorageUnavailableError):
        storage.head(bench.key())
    assert len(bench.waits) == 1


# Sending


def test_a_body_is_sent_without_being_hashed_or_summed(bench: Bench) -> None:
    bench.put()
    (put,) = bench.proxy.seen("PUT")
    assert put.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert put.headers["content-length"] == str(len(CONTENT))
    unasked = [name for name in put.headers if "checksum" in name or name in {"content-md5", "x-amz-trailer"}]
    assert unasked == []


def test_no_body_waits_for_leave(bench: Bench) -> None:
    """It would cost each part a round trip.

    SeaweedFS makes an empty object of headers whose client dies before the first byte of the body.
    """
    bench.plain.put(bench.key(), JoinedBody([b"con", b"tent"]))
    bench.put("large")
    upload_id = bench.plain.start_upload(bench.key("parts"), size=LONG)
    bench.plain.put_part(bench.key("parts"), upload_id, number=1, offset=0, body=BytesBody(bytes(LONG)))
    puts = bench.proxy.seen("PUT")
    assert len(puts) == 3
    assert [put for put in puts if "expect" in put.headers] == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_refusal_amid_a_body_is_read_though_the_service_hangs_up(
    bench: Bench, authority: Authority, scheme: str
) -> None:
    said = b"<Error><Code>AccessDenied</Code></Error>"
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(said)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            if scheme == "https":
                connection = authority.server_context("127.0.0.1").wrap_socket(connection, server_side=True)
            with connection:
                connection.recv(4096)
                connection.sendall(head + said)
                time.sleep(0.2)  # what has not arrived when it hangs up is lost: RFC 9112, section 9.6

        with ThreadPoolExecutor(1) as pool:
            refused = pool.submit(refuse)
            endpoint = f"{scheme}://127.0.0.1:{server.getsockname()[1]}"
            storage = bench.storage(endpoint_url=endpoint, ca_bundle=str(authority.bundle), attempts=1)
            with pytest.raises(AccessDeniedError, match="s3:PutObject is denied"):
                storage.put("file", BytesBody(bytes(LONG)))
            refused.result()


def test_a_small_body_goes_together_with_its_head(bench: Bench) -> None:
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "a"\r\nConnection: close\r\n\r\n')

        with ThreadPoolExecutor(1) as pool:
            answered = pool.submit(answer)
            storage = bench.storage(endpoint_url=f"http://127.0.0.1:{server.getsockname()[1]}")
            assert storage.put("file", JoinedBody([b"con", b"tent"])).size == 7
            answered.result()
    assert seen[0].endswith(b"\r\n\r\ncon") or seen[0].endswith(b"\r\n\r\ncontent")


def test_every_request_goes_to_the_endpoint_with_its_signature_in_a_header(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None goes to AWS, as those of the SDK's client in C would, and none has the SigV2 of signed URLs."""
    connected: set[tuple[str, int]] = set()
    connect = socket.socket.connect

    def noting_connect(self: socket.socket, address: tuple[str, int]) -> None:
        connected.add(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", noting_connect)
    content = bytes(MIN_PART_SIZE + 1)
    bench.put(content=content)
    storage = bench.storage(max_copy_size=MIN_PART_SIZE, copy_part_size=MIN_PART_SIZE)
    assert content_of(storage.get(bench.key(), start=1, length=5)) == bytes(5)
    bench.plain.copy(bench.plain, bench.key(), bench.key("copy"))
    storage.copy(storage, bench.key(), bench.key("parts"))
    upload_id = storage.start_upload(bench.key("new"), size=4)
    assert storage.has_upload(bench.key("new"), upload_id)
    storage.put_part(bench.key("new"), upload_id, number=1, offset=0, body=BytesBody(b"part"))
    assert len(list(storage.list_uploads(bench.prefix))) == 1
    storage.abort_upload(bench.key("new"), upload_id)
    storage.delete([info.key for info in storage.list(bench.prefix)])
    bench.storage(capabilities=Capabilities(multi_delete=False)).delete([bench.key()])
    assert {request.method for request in bench.proxy.requests} == {"DELETE", "GET", "HEAD", "POST", "PUT"}
    for request in bench.proxy.requests:
        assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential="), request.target
        assert "signature" not in request.query.lower()
    # The proxy's own connections are this process's, too.
    ports = {urlsplit(url).port for url in (bench.proxy.url, bench.server.url)}
    assert {(host, port) for host, port, *_ in connected} == {("127.0.0.1", port) for port in ports}


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
    bench.proxy.add("fall silent", strikes=_is("PUT", "partNumber=2"), after=after)
    receipts = [
        storage.put_part(bench.key(), upload_id, number=number, offset=(number - 1) * LONG, body=Watched())
        for number in (1, 2)
    ]
    first, stalled, again = Watched.taken
    assert (first, again) == (LONG, LONG)
    assert (stalled == LONG) == bool(after)
    assert bench.waits == [0.1]
    storage.complete_upload(bench.key(), upload_id, receipts)
    assert storage.head(bench.key()).size == 2 * LONG


def test_a_large_part_is_never_in_memory_as_a_whole(bench: Bench, juicefs: S3Server) -> None:
    class Zeros:
        size = 64 * BLOCK_SIZE

        def blocks(self) -> Iterator[Block]:
            for _ in range(64):
                yield ZERO_BLOCK

    storage = bench.storage(endpoint_url=juicefs.url)
    storage.put(bench.key("warm"), BytesBody(b""))
    tracemalloc.start()
    try:
        storage.put(bench.key(), Zeros())
        assert sum(len(block) for block in storage.get(bench.key())) == Zeros.size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * BLOCK_SIZE


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
            bench.plain.head(bench.key())
    assert [record.message for record in caplog.records if "Starting new" in record.message] == []


# Refusals


@pytest.mark.parametrize(
    ("name", "permission"),
    [
        ("put", "s3:PutObject"),
        ("get", "s3:GetObject"),
        ("head", "s3:ListBucket"),
        ("list", "s3:ListBucket"),
        ("delete", "s3:DeleteObject"),
        ("start", "s3:PutObject"),
        ("part", "s3:PutObject"),
        ("has", "s3:ListMultipartUploadParts"),
        ("abort", "s3:AbortMultipartUpload"),
        ("uploads", "s3:ListBucketMultipartUploads"),
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
        "part": lambda: storage.put_part(key, "id", number=1, offset=0, body=BytesBody(b"x")),
        "has": lambda: storage.has_upload(key, "id"),
        "abort": lambda: storage.abort_upload(key, "id"),
        "uploads": lambda: list(storage.list_uploads(bench.prefix)),
    }
    bench.proxy.add("answer", status=403, times=99, body=_error("AccessDenied"))
    with pytest.raises(AccessDeniedError, match=permission) as raised:
        asked[name]()
    assert bench.server.bucket in str(raised.value)
    assert len(bench.proxy.requests) == 1


def test_a_bucket_that_is_not_there_is_named(bench: Bench) -> None:
    storage = S3Storage(bench.plain.service, "no-such-bucket", policy=RetryPolicy(attempts=1))
    with pytest.raises(NotFoundError, match="no bucket 'no-such-bucket'"):
        storage.put("file", BytesBody(b"x"))
    with pytest.raises(NotFoundError, match="no bucket 'no-such-bucket'"):
        list(storage.list(""))


@pytest.mark.parametrize(
    ("status", "code", "kind", "words"),
    [
        (403, "InvalidAccessKeyId", AccessDeniedError, "refused the credentials"),
        (403, "SignatureDoesNotMatch", AccessDeniedError, "refused the credentials"),
        (400, "ExpiredToken", AccessDeniedError, "refused the credentials"),
        (401, "Whatever", AccessDeniedError, "refused the credentials"),
        (403, "RequestTimeTooSkewed", AccessDeniedError, "time"),
        (403, "InvalidObjectState", StorageError, "archive"),
        (400, "EntityTooLarge", StorageError, "too large"),
        (507, "XMinioStorageFull", StorageFullError, "no room"),
        (501, "NotImplemented", UnsupportedError, "cannot do get_object"),
        (400, "InvalidArgument", StorageError, "InvalidArgument: said the service"),
        (412, "PreconditionFailed", SourceChangedError, "changed"),
        (404, "NoSuchKey", NotFoundError, "there is no"),
    ],
)
def test_an_answer_is_said_in_our_words(
    bench: Bench, status: int, code: str, kind: type[CheckpointError], words: str
) -> None:
    bench.proxy.add("answer", status=status, body=_error(code))
    with pytest.raises(kind, match=words) as raised:
        content_of(bench.plain.get(bench.key()))
    assert type(raised.value) is kind
    assert bench.waits == []


def test_a_wrong_secret_is_told_as_such_and_never_repeated(bench: Bench) -> None:
    storage = bench.storage(credentials=S3Credentials(bench.server.access_key_id, "canary-wrong-secret"))
    with pytest.raises(AccessDeniedError, match="refused the credentials") as raised:
        storage.put(bench.key(), BytesBody(b"x"))
    assert "canary" not in f"{raised.value!r} {raised.value.__cause__!r}"


def test_no_secret_reaches_a_log_an_error_or_a_representation(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    credentials = S3Credentials("AKIAEXAMPLE", "canary-secret", "canary-token")
    storage = bench.storage(credentials=credentials, attempts=2)
    told = [repr(credentials), repr(storage), repr(storage.service), storage.location, storage.service_identity]
    asked: list[Callable[[], object]] = [
        lambda: storage.put(bench.key(), BytesBody(CONTENT)),
        lambda: content_of(storage.get(bench.key())),
        lambda: storage.head(bench.key()),
        lambda: list(storage.list(bench.prefix)),
        lambda: storage.delete([bench.key()]),
        lambda: storage.start_upload(bench.key(), size=1),
    ]
    with caplog.at_level(logging.DEBUG):
        kinds: list[Kind] = ["answer", "reset", "lose the answer"]
        for kind in kinds:
            bench.proxy.faults.clear()
            bench.proxy.add(kind, times=99, status=403, body=_error("AccessDenied"))
            for ask in asked:
                with pytest.raises(CheckpointError) as raised:
                    ask()
                told.extend([repr(raised.value), repr(raised.value.__cause__), str(raised.getrepr(style="native"))])
    assert bench.proxy.requests[0].headers["x-amz-security-token"] == "canary-token"
    told.append(caplog.text)
    assert not any("canary-secret" in text for text in told)
    assert "canary-token" not in caplog.text


# Credentials


def test_credentials_are_asked_for_again_with_every_request(bench: Bench) -> None:
    given: list[str] = []

    def credentials() -> S3Credentials:
        given.append(f"KEY{len(given)}")
        return S3Credentials(given[-1], "secret", f"token-{given[-1]}")

    bench.proxy.add("answer", times=99, status=200, headers={"ETag": '"0"'})
    storage = bench.storage(credentials=credentials)
    for number in range(3):
        storage.put(bench.key(str(number)), BytesBody(b"x"))
    signed = [
        request.headers["authorization"].split("Credential=")[1].split("/")[0] for request in bench.proxy.requests
    ]
    tokens = [request.headers["x-amz-security-token"] for request in bench.proxy.requests]
    assert len(set(signed)) == 3
    assert tokens == [f"token-{key}" for key in signed]


def test_an_upload_outlives_the_credentials_that_began_it(bench: Bench) -> None:
    right = S3Credentials(bench.server.access_key_id, bench.server.secret_access_key)
    now = right
    # Without the proxy, which would take the body before the service can refuse it.
    storage = bench.storage(endpoint_url=bench.server.url, credentials=lambda: now)
    upload_id = storage.start_upload(bench.key(), size=2 * MIN_PART_SIZE)
    part = BytesBody(bytes(MIN_PART_SIZE))
    first = storage.put_part(bench.key(), upload_id, number=1, offset=0, body=part)
    now = S3Credentials(bench.server.access_key_id, "expired")
    with pytest.raises(AccessDeniedError):
        storage.put_part(bench.key(), upload_id, number=2, offset=MIN_PART_SIZE, body=part)
    now = right
    second = storage.put_part(bench.key(), upload_id, number=2, offset=MIN_PART_SIZE, body=part)
    storage.complete_upload(bench.key(), upload_id, [first, second])
    assert storage.head(bench.key()).size == 2 * MIN_PART_SIZE


def test_what_a_provider_of_credentials_raises_comes_out_as_it_is(bench: Bench) -> None:
    def credentials() -> S3Credentials:
        raise AccessDeniedError("the vault is closed")

    with pytest.raises(AccessDeniedError, match="the vault is closed"):
        bench.storage(credentials=credentials).head("file")


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.mark.usefixtures("no_credentials")
def test_without_credentials_the_error_says_so(bench: Bench) -> None:
    with pytest.raises(AccessDeniedError, match="no usable credentials"):
        bench.storage(credentials=None).head("file")
    with pytest.raises(AccessDeniedError, match="missing-profile"):
        bench.storage(credentials=None, profile="missing-profile").head("file")


@pytest.mark.usefixtures("no_credentials")
def test_the_sdks_own_chain_finds_credentials(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", bench.server.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", bench.server.secret_access_key)
    assert bench.storage(credentials=None).put(bench.key(), BytesBody(b"x")).size == 1


@pytest.mark.usefixtures("no_credentials")
def test_an_anonymous_request_is_not_signed(bench: Bench) -> None:
    bench.proxy.add("answer", status=404, body=_error("NoSuchKey"))
    with pytest.raises(NotFoundError):
        content_of(bench.storage(credentials=None, anonymous=True).get("file"))
    assert "authorization" not in bench.proxy.requests[0].headers


def test_services_are_the_same_exactly_when_endpoint_and_credentials_are() -> None:
    def identity(**details: Any) -> str:
        details.setdefault("credentials", S3Credentials("A", "s"))
        return S3Service(**details).identity

    def ask() -> S3Credentials:
        return S3Credentials("A", "s")

    same = identity()
    assert identity(region="eu-west-1") == same
    assert identity(credentials=S3Credentials("A", "another secret")) == same
    others = [
        identity(credentials=S3Credentials("B", "s")),
        identity(endpoint_url="https://minio.example"),
        identity(credentials=None),
        identity(credentials=None, profile="dev"),
        identity(anonymous=True),
        identity(credentials=ask),
        identity(credentials=ask, credentials_identity="connection 1"),
        identity(credentials=ask, credentials_identity="connection 2"),
    ]
    assert len({same, *others}) == 9
    assert identity(credentials=ask) == identity(credentials=ask)
    assert identity(endpoint_url="https://minio.example/") == identity(endpoint_url="https://minio.example")


def test_the_location_is_a_url_without_anything_secret() -> None:
    assert S3Storage(S3Service(), "bucket").location == "s3://bucket"
    assert S3Storage(S3Service(endpoint_url="https://x.example/"), "bucket").location == "https://x.example/bucket"


# TLS


def test_a_certificate_of_ones_own_authority_is_trusted_when_told(juicefs: S3Server, authority: Authority) -> None:
    with FaultProxy(juicefs.url, context=authority.server_context("127.0.0.1")) as proxy:
        bench = Bench(juicefs, proxy)
        storage = bench.storage(ca_bundle=str(authority.bundle))
        storage.put(bench.key(), BytesBody(CONTENT))
        assert content_of(storage.get(bench.key())) == CONTENT
        assert proxy.seen("PUT")[0].headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"


def test_a_certificate_of_an_unknown_authority_is_refused_at_once(juicefs: S3Server, authority: Authority) -> None:
    with FaultProxy(juicefs.url, context=authority.server_context("127.0.0.1")) as proxy:
        bench = Bench(juicefs, proxy)
        with pytest.raises(StorageError, match="no certificate that this machine trusts") as raised:
            bench.plain.head(bench.key())
        assert not isinstance(raised.value, StorageUnavailableError)
        assert bench.waits == []


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def test_the_authority_of_these_tests_makes_contexts(authority: Authority) -> None:
    assert isinstance(authority.server_context("127.0.0.1"), ssl.SSLContext)


# Copies and deletions


@pytest.mark.parametrize("fixture", ["bench", "strict_bench"])
def test_a_large_object_is_copied_in_parts(request: pytest.FixtureRequest, fixture: str) -> None:
    bench: Bench = request.getfixturevalue(fixture)
    content = bytes(range(256)) * (2 * MIN_PART_SIZE // 256) + b"tail"
    bench.put(content=content)
    storage = bench.storage(max_copy_size=MIN_PART_SIZE, copy_part_size=MIN_PART_SIZE)
    info = storage.copy(storage, bench.key(), bench.key("copy"))
    assert info.size == len(content)
    assert bench.read("copy") == content
    copied = [put for put in bench.proxy.seen("PUT", "partNumber") if "x-amz-copy-source" in put.headers]
    assert len(copied) == 3
    assert all(not put.body for put in copied)


def test_a_part_that_fails_to_copy_leaves_no_upload_behind(bench: Bench) -> None:
    bench.put(content=bytes(2 * MIN_PART_SIZE))
    storage = bench.storage(max_copy_size=MIN_PART_SIZE, copy_part_size=MIN_PART_SIZE)
    bench.proxy.add("answer", strikes=_is("PUT", "partNumber=2"), status=403, body=_error("AccessDenied"))
    with pytest.raises(AccessDeniedError, match="s3:GetObject and s3:PutObject"):
        storage.copy(storage, bench.key(), bench.key("copy"))
    assert list(storage.list_uploads(bench.prefix)) == []
    assert [info.key for info in storage.list(bench.prefix)] == [bench.key()]


def test_the_reason_of_a_copy_that_fails_is_told_though_its_upload_cannot_be_given_up(bench: Bench) -> None:
    bench.put(content=CONTENT * 2)
    storage = bench.storage(max_copy_size=MIN_PART_SIZE, copy_part_size=MIN_PART_SIZE)
    bench.proxy.add("answer", strikes=lambda request: "partNumber" in request.query, times=99, status=507)
    bench.proxy.add("answer", strikes=lambda request: request.method == "DELETE", times=99, status=403)
    with pytest.raises(StorageError, match="has no room"):
        storage.copy(storage, bench.key(), bench.key("copy"))
    assert len(bench.proxy.seen("DELETE")) == 1


def test_a_copy_that_is_not_answered_in_time_is_made_in_parts(bench: Bench) -> None:
    bench.put(content=CONTENT * 2)
    storage = bench.storage(copy_part_size=MIN_PART_SIZE, read_timeout=2.0)
    bench.proxy.add("stall", strikes=lambda r: "x-amz-copy-source" in r.headers and not r.query, times=99)
    assert storage.copy(storage, bench.key(), bench.key("copy")).size == len(CONTENT * 2)
    assert bench.read("copy") == CONTENT * 2
    copies = [put.query for put in bench.proxy.seen("PUT") if "x-amz-copy-source" in put.headers]
    assert (len(copies), copies.count("")) == (3, 1)
    assert bench.waits == []


@pytest.mark.parametrize("capabilities", [Capabilities(part_copy=False), Capabilities()])
def test_a_service_without_copies_of_parts_says_so(rclone: S3Server, capabilities: Capabilities) -> None:
    with FaultProxy(rclone.url) as proxy:
        bench = Bench(rclone, proxy)
        bench.put(content=bytes(2 * MIN_PART_SIZE))
        storage = bench.storage(max_copy_size=MIN_PART_SIZE, copy_part_size=MIN_PART_SIZE, capabilities=capabilities)
        with pytest.raises(UnsupportedError):
            storage.copy(storage, bench.key(), bench.key("copy"))
        assert [info.key for info in storage.list(bench.prefix)] == [bench.key()]


def test_a_source_that_changes_before_it_is_copied_is_named(bench: Bench) -> None:
    bench.put()
    storage = bench.plain
    bench.proxy.add("answer", strikes=_is("PUT"), status=412, body=_error("PreconditionFailed"))
    with pytest.raises(SourceChangedError, match=bench.key()):
        storage.copy(storage, bench.key(), bench.key("copy"))


def test_many_objects_are_deleted_by_one_request_with_its_md5(bench: Bench) -> None:
    for number in range(5):
        bench.put(str(number), b"x")
    bench.plain.delete(bench.key(str(number)) for number in range(5))
    (post,) = bench.proxy.seen("POST")
    assert "content-md5" in post.headers
    assert not [name for name in post.headers if "checksum" in name]
    assert list(bench.plain.list(bench.prefix)) == []


def test_a_service_without_deletions_of_many_is_asked_one_by_one(bench: Bench) -> None:
    for number in range(5):
        bench.put(str(number), b"x")
    storage = bench.storage(page_size=2)
    bench.proxy.add("answer", strikes=_is("POST"), times=99, status=501, body=_error("NotImplemented"))
    storage.delete(bench.key(str(number)) for number in range(5))
    assert (len(bench.proxy.seen("POST")), len(bench.proxy.seen("DELETE"))) == (1, 5)
    assert list(storage.list(bench.prefix)) == []


def test_a_service_known_to_have_no_deletions_of_many_is_not_asked_for_one(bench: Bench) -> None:
    bench.put()
    bench.storage(capabilities=Capabilities(multi_delete=False)).delete([bench.key()])
    assert bench.proxy.seen("POST") == []


def _deletion_result(*errors: tuple[str, str]) -> bytes:
    items = "".join(f"<Error><Key>{key}</Key><Code>{code}</Code></Error>" for key, code in errors)
    return f"<?xml version='1.0'?><DeleteResult>{items}</DeleteResult>".encode()


def test_only_what_a_deletion_left_is_deleted_again(bench: Bench) -> None:
    for name in ("a", "b", "c"):
        bench.put(name, b"x")
    left = _deletion_result((bench.key("b"), "SlowDown"), (bench.key("missing"), "NoSuchKey"))
    bench.proxy.add("answer", strikes=_is("POST"), status=200, body=left)
    bench.plain.delete(bench.key(name) for name in ("a", "b", "c"))
    again = bench.proxy.seen("POST")[1].body
    assert (bench.key("a").encode() in again, bench.key("b").encode() in again) == (False, True)


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [("AccessDenied", AccessDeniedError, "s3:DeleteObject is denied"), ("Locked", StorageError, "cannot be deleted")],
)
def test_an_object_that_may_not_be_deleted_is_named(
    bench: Bench, code: str, kind: type[CheckpointError], words: str
) -> None:
    bench.proxy.add("answer", status=200, body=_deletion_result((bench.key("kept"), code)))
    with pytest.raises(kind, match=words) as raised:
        bench.plain.delete([bench.key("gone"), bench.key("kept")])
    assert bench.key("kept") in str(raised.value)


# Listings and checksums


def test_the_markers_of_empty_folders_are_not_listed(bench: Bench) -> None:
    client = bench.server.client()
    client.put_object(Bucket=bench.server.bucket, Key=bench.key("folder/"), Body=b"")
    bench.put("folder/file", b"x")
    assert [info.key for info in bench.plain.list(bench.prefix)] == [bench.key("folder/file")]


def test_a_listing_page_that_fails_is_asked_for_again_and_nothing_is_listed_twice(bench: Bench) -> None:
    names = [f"{number:02}" for number in range(7)]
    for name in names:
        bench.put(name, b"x")
    bench.proxy.add("reset", strikes=_is("GET", "continuation-token"))
    assert [info.key for info in bench.storage(page_size=3).list(bench.prefix)] == [bench.key(name) for name in names]


def test_checksums_that_the_service_keeps_are_told_in_hex(strict_bench: Bench) -> None:
    client = strict_bench.server.client()
    client.put_object(
        Bucket=strict_bench.server.bucket, Key=strict_bench.key(), Body=b"123456789", ChecksumAlgorithm="SHA256"
    )
    client.put_object(
        Bucket=strict_bench.server.bucket, Key=strict_bench.key("two"), Body=b"123456789", ChecksumAlgorithm="CRC32"
    )
    storage = strict_bench.plain
    sha256 = "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"
    assert (storage.head(strict_bench.key()).checksums or {})["sha256"] == sha256
    assert (storage.head(strict_bench.key("two")).checksums or {})["crc32"] == "cbf43926"


def test_a_damaged_answer_is_not_noticed_here_but_by_the_digests_above(bench: Bench) -> None:
    # No SDK verifies a range; transfer.digest does. This is the reason why it has to.
    bench.put()
    bench.proxy.add("flip a bit", strikes=_is("GET"), after=5)
    assert content_of(bench.plain.get(bench.key(), start=0, length=10)) != CONTENT[:10]


def test_an_object_shorter_than_asked_for_is_damaged_not_unavailable(bench: Bench) -> None:
    bench.put(content=b"short")
    with pytest.raises(IntegrityError, match="5 bytes"):
        content_of(bench.plain.get(bench.key(), start=2, length=10))
    assert bench.waits == []
