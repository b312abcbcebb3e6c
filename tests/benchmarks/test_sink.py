"""The server in memory that races run against: what it holds, what it refuses, and what it counts."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from benchmarks.peers import PeerMissingError
from benchmarks.servers import BUCKET, OTHER_BUCKET, S3Server, SinkMeter
from benchmarks.servers import sink as serve
from benchmarks.sink import Sink, build, find_compiler
from blake3 import blake3
from botocore.config import Config
from botocore.exceptions import ClientError

# One process compiles it and starts it.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sink")]

MIB = 1024**2


def content(size: int, seed: str = "") -> bytes:
    """Bytes that do not repeat."""
    return blake3(seed.encode()).digest(length=size)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not find_compiler():
        pytest.skip("needs a C compiler: install gcc, or the wheel ziglang")
    return build(tmp_path_factory.mktemp("sink"))


@pytest.fixture(scope="module")
def running(program: Path) -> Iterator[Sink]:
    with Sink.start(program) as sink:
        yield sink


@pytest.fixture
def sink(running: Sink) -> Sink:
    """The server, empty, its counters at zero."""
    running.clear()
    return running


@pytest.fixture
def s3(sink: Sink) -> Any:
    return S3Server("sink", sink.url, "bench", "benchsecret", SinkMeter(sink)).client()


def read(s3: Any, key: str, bucket: str = BUCKET, **options: str) -> bytes:
    with s3.get_object(Bucket=bucket, Key=key, **options)["Body"] as body:
        found: bytes = body.read()
        return found


def keys(s3: Any, **options: Any) -> list[str]:
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, **options)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def refusal(error: pytest.ExceptionInfo[ClientError]) -> tuple[int, str]:
    answer = error.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def begin(s3: Any, key: str) -> str:
    upload_id: str = s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    return upload_id


def send_part(s3: Any, key: str, upload_id: str, number: int, part: bytes) -> dict[str, Any]:
    answer = s3.upload_part(Bucket=BUCKET, Key=key, UploadId=upload_id, PartNumber=number, Body=part)
    return {"PartNumber": number, "ETag": answer["ETag"]}


def complete(s3: Any, key: str, upload_id: str, parts: list[dict[str, Any]]) -> None:
    s3.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload_id, MultipartUpload={"Parts": parts})


def converse(sink: Sink, request: bytes, *, cut: bool = False) -> bytes:
    """What it answers to bytes on the wire until it hangs up."""
    address = urlsplit(sink.url)
    with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
        connection.sendall(request)
        if cut:
            with contextlib.suppress(OSError):  # it has hung up already
                connection.shutdown(socket.SHUT_WR)
        answer = b""
        while block := connection.recv(65536):
            answer += block
        return answer


@pytest.mark.parametrize("size", [0, 1, 65536, MIB - 1, MIB, MIB + 1, 3 * MIB + 5])
def test_what_is_put_is_got_again(s3: Any, size: int) -> None:
    written = content(size)
    etag = s3.put_object(Bucket=BUCKET, Key="a/b c+ü&<.bin", Body=written, Metadata={"origin": "here"})["ETag"]
    head = s3.head_object(Bucket=BUCKET, Key="a/b c+ü&<.bin")
    assert (head["ContentLength"], head["ETag"], head["Metadata"]) == (size, etag, {"origin": "here"})
    assert read(s3, "a/b c+ü&<.bin") == written
    assert keys(s3) == ["a/b c+ü&<.bin"]


def test_content_that_is_put_again_replaces_the_former_one(s3: Any) -> None:
    first = s3.put_object(Bucket=BUCKET, Key="key", Body=b"first")["ETag"]
    second = s3.put_object(Bucket=BUCKET, Key="key", Body=b"second")["ETag"]
    assert first != second
    assert read(s3, "key") == b"second"


def test_chunks_with_signatures_and_checksums_are_taken_off_the_content(sink: Sink) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=sink.url,
        region_name="us-east-1",
        aws_access_key_id="bench",
        aws_secret_access_key="benchsecret",
        config=Config(request_checksum_calculation="when_supported", s3={"addressing_style": "path"}),
    )
    written = content(2 * MIB + 77)
    client.put_object(Bucket=BUCKET, Key="key", Body=written, ChecksumAlgorithm="SHA256")
    assert read(client, "key") == written


def test_chunks_of_any_size_make_one_content(sink: Sink, s3: Any) -> None:
    written = content(5000)
    cuts = [0, 1, 300, 301, 4999, 5000]
    framed = b"".join(
        b"%x;chunk-signature=%s\r\n%s\r\n" % (end - start, b"0" * 64, written[start:end])
        for start, end in pairwise(cuts)
    )
    framed += b"0;chunk-signature=%s\r\nx-amz-checksum-crc32c:AAAA\r\n\r\n" % (b"0" * 64)
    head = (
        b"PUT /%s/key HTTP/1.1\r\nx-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER\r\n"
        % BUCKET.encode()
    )
    announced = head + b"x-amz-decoded-content-length: 5000\r\nContent-Length: %d\r\n" % len(framed)
    assert converse(sink, announced + b"Connection: close\r\n\r\n" + framed).startswith(b"HTTP/1.1 200 ")
    assert read(s3, "key") == written
    wrapped = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (framed[:100], framed[100:])) + b"0\r\n\r\n"
    answer = converse(sink, head + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + wrapped)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert read(s3, "key") == written


@pytest.mark.parametrize(
    ("wanted", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-", 5, None),
        ("bytes=-7", -7, None),
        (f"bytes={MIB - 1}-{MIB}", MIB - 1, MIB + 1),
        (f"bytes=1-{9 * MIB}", 1, None),
        (f"bytes=-{9 * MIB}", 0, None),
    ],
)
def test_a_range_is_a_part_of_the_content(s3: Any, wanted: str, start: int, end: int | None) -> None:
    upload_id = begin(s3, "key")
    parts = [content(MIB + 3, "one"), content(10, "two"), content(2 * MIB, "three")]
    named = [send_part(s3, "key", upload_id, number, part) for number, part in enumerate(parts, 1)]
    complete(s3, "key", upload_id, named)
    whole = b"".join(parts)
    assert read(s3, "key", Range=wanted) == whole[start:end]
    inside = whole[start:end]
    told = s3.head_object(Bucket=BUCKET, Key="key", Range=wanted)
    first = len(whole) - len(inside) if end is None else start
    assert told["ContentRange"] == f"bytes {first}-{first + len(inside) - 1}/{len(whole)}"


def test_a_range_outside_the_content_is_refused(s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="key", Body=b"12345")
    with pytest.raises(ClientError) as error:
        read(s3, "key", Range="bytes=5-9")
    assert refusal(error) == (416, "InvalidRange")


def test_an_unknown_key_is_not_found(s3: Any) -> None:
    with pytest.raises(ClientError) as error:
        read(s3, "nothing")
    assert refusal(error) == (404, "NoSuchKey")
    with pytest.raises(ClientError) as error:
        s3.head_object(Bucket=BUCKET, Key="nothing")
    assert refusal(error)[0] == 404
    with pytest.raises(ClientError) as error:
        s3.copy_object(Bucket=BUCKET, Key="key", CopySource={"Bucket": BUCKET, "Key": "nothing"})
    assert refusal(error) == (404, "NoSuchKey")
    assert s3.list_buckets()["Buckets"] == []


def test_a_condition_that_does_not_hold_is_refused(s3: Any) -> None:
    etag = s3.put_object(Bucket=BUCKET, Key="key", Body=b"first", IfNoneMatch="*")["ETag"]
    other = '"0123456789abcdef-1"'
    refused: list[Callable[[], Any]] = [
        lambda: s3.put_object(Bucket=BUCKET, Key="key", Body=b"second", IfNoneMatch="*"),
        lambda: s3.put_object(Bucket=BUCKET, Key="key", Body=b"second", IfMatch=other),
        lambda: s3.get_object(Bucket=BUCKET, Key="key", IfMatch=other),
        lambda: s3.copy_object(
            Bucket=BUCKET, Key="copy", CopySource={"Bucket": BUCKET, "Key": "key"}, CopySourceIfMatch=other
        ),
    ]
    for ask in refused:
        with pytest.raises(ClientError) as error:
            ask()
        assert refusal(error) == (412, "PreconditionFailed")
    assert read(s3, "key", IfMatch=etag) == b"first"
    assert keys(s3) == ["key"]


def test_a_listing_comes_in_pages_in_the_order_of_keys(s3: Any) -> None:
    names = [f"many/{number:04}" for number in range(1203)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: s3.put_object(Bucket=BUCKET, Key=key, Body=b"x"), reversed(names)))
    s3.put_object(Bucket=BUCKET, Key="many", Body=b"")
    s3.put_object(Bucket=BUCKET, Key="other", Body=b"")
    s3.put_object(Bucket=OTHER_BUCKET, Key="many/elsewhere", Body=b"")
    first = s3.list_objects_v2(Bucket=BUCKET, Prefix="many/")
    assert (first["KeyCount"], first["IsTruncated"]) == (1000, True)
    assert keys(s3, Prefix="many/") == names
    assert keys(s3, Prefix="many/", PaginationConfig={"PageSize": 7}) == names
    assert keys(s3, StartAfter="many/1200") == ["many/1201", "many/1202", "other"]
    assert not s3.list_objects_v2(Bucket=BUCKET, MaxKeys=0)["IsTruncated"]
    older = s3.get_paginator("list_objects").paginate(Bucket=BUCKET, PaginationConfig={"PageSize": 500})
    assert [entry["Key"] for page in older for entry in page["Contents"]] == ["many", *names, "other"]


def test_a_listing_by_folders_tells_each_folder_once(s3: Any) -> None:
    for key in ("a", "b/1", "b/2", "b/c/3", "d&e/4", "f"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    for size in (1, 2, 1000):
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Delimiter="/", PaginationConfig={"PageSize": size}
        )
        found, folders = [], []
        for page in pages:
            found += [entry["Key"] for entry in page.get("Contents", [])]
            folders += [entry["Prefix"] for entry in page.get("CommonPrefixes", [])]
        assert (found, folders) == (["a", "f"], ["b/", "d&e/"])
    inside = s3.list_objects_v2(Bucket=BUCKET, Prefix="b/", Delimiter="/")
    assert [entry["Key"] for entry in inside["Contents"]] == ["b/1", "b/2"]
    assert [entry["Prefix"] for entry in inside["CommonPrefixes"]] == ["b/c/"]


def test_what_is_deleted_is_gone_and_the_rest_stays(s3: Any) -> None:
    for key in ("one", "two & <three>", "four", "five"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    s3.delete_object(Bucket=BUCKET, Key="one")
    s3.delete_object(Bucket=BUCKET, Key="was never there")
    wanted = [{"Key": "two & <three>"}, {"Key": "four"}]
    answer = s3.delete_objects(Bucket=BUCKET, Delete={"Objects": wanted})
    assert [entry["Key"] for entry in answer["Deleted"]] == ["two & <three>", "four"]
    assert keys(s3) == ["five"]


def test_parts_that_come_out_of_order_are_joined_in_order(s3: Any) -> None:
    upload_id = begin(s3, "key")
    parts = {3: content(10, "three"), 1: content(2 * MIB + 1, "one"), 2: content(MIB, "two")}
    named = [send_part(s3, "key", upload_id, number, part) for number, part in parts.items()]
    send_part(s3, "key", upload_id, 7, b"a part that the object is not to have")
    named[2] = send_part(s3, "key", upload_id, 2, parts[2][::-1])  # sent once more
    told = s3.list_parts(Bucket=BUCKET, Key="key", UploadId=upload_id)
    assert [part["PartNumber"] for part in told["Parts"]] == [1, 2, 3, 7]
    pages = s3.get_paginator("list_parts").paginate(
        Bucket=BUCKET, Key="key", UploadId=upload_id, PaginationConfig={"PageSize": 1}
    )
    assert [part["PartNumber"] for page in pages for part in page.get("Parts", [])] == [1, 2, 3, 7]
    assert keys(s3) == []
    complete(s3, "key", upload_id, sorted(named, key=lambda part: int(part["PartNumber"])))
    assert read(s3, "key") == parts[1] + parts[2][::-1] + parts[3]
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)


def test_an_upload_is_listed_until_it_is_given_up(s3: Any) -> None:
    upload_id = begin(s3, "some/key")
    send_part(s3, "some/key", upload_id, 1, b"part")
    listed = s3.list_multipart_uploads(Bucket=BUCKET, Prefix="some/")["Uploads"]
    assert [(one["Key"], one["UploadId"]) for one in listed] == [("some/key", upload_id)]
    s3.abort_multipart_upload(Bucket=BUCKET, Key="some/key", UploadId=upload_id)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)
    assert keys(s3) == []


@pytest.mark.parametrize("wrong", ["no number", "ffff", "another key's"])
def test_a_wrong_upload_id_is_refused(s3: Any, wrong: str) -> None:
    upload_id = begin(s3, "another")
    if wrong == "another key's":
        wrong = upload_id
    asked = {"Bucket": BUCKET, "Key": "key", "UploadId": wrong}
    attempts: list[Callable[[], Any]] = [
        lambda: s3.upload_part(**asked, PartNumber=1, Body=content(MIB)),
        lambda: s3.list_parts(**asked),
        lambda: s3.complete_multipart_upload(**asked, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": '"x"'}]}),
        lambda: s3.abort_multipart_upload(**asked),
    ]
    for attempt in attempts:
        with pytest.raises(ClientError) as error:
            attempt()
        assert refusal(error) == (404, "NoSuchUpload")
    assert keys(s3) == []


def test_an_upload_is_not_completed_with_parts_that_are_missing_or_in_disorder(s3: Any) -> None:
    upload_id = begin(s3, "key")
    named = [send_part(s3, "key", upload_id, number, b"part %d" % number) for number in (1, 3)]
    missing = {"PartNumber": 2, "ETag": named[0]["ETag"]}
    for parts, code in (([*named, missing][::2], "InvalidPart"), (named[::-1], "InvalidPartOrder")):
        with pytest.raises(ClientError) as error:
            complete(s3, "key", upload_id, parts)
        assert refusal(error) == (400, code)
    with pytest.raises(ClientError) as error:
        s3.upload_part(Bucket=BUCKET, Key="key", UploadId=upload_id, PartNumber=10_001, Body=b"part")
    assert refusal(error) == (400, "InvalidArgument")
    complete(s3, "key", upload_id, named)
    assert read(s3, "key") == b"part 1part 3"


def test_a_copy_has_the_content_and_outlives_what_it_was_made_of(s3: Any) -> None:
    written = content(2 * MIB + 9)
    s3.put_object(Bucket=BUCKET, Key="a b", Body=written, Metadata={"origin": "here"})
    source = {"Bucket": BUCKET, "Key": "a b"}
    s3.copy_object(Bucket=OTHER_BUCKET, Key="copy", CopySource=source)
    upload_id = begin(s3, "joined")
    named = []
    for number, wanted in ((1, f"bytes={MIB - 2}-{MIB + 1}"), (2, "bytes=0-4")):
        answer = s3.upload_part_copy(
            Bucket=BUCKET,
            Key="joined",
            UploadId=upload_id,
            PartNumber=number,
            CopySource=source,
            CopySourceRange=wanted,
        )
        named.append({"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]})
    complete(s3, "joined", upload_id, named)
    s3.put_object(Bucket=BUCKET, Key="a b", Body=b"something else")
    s3.delete_object(Bucket=BUCKET, Key="a b")
    s3.put_object(Bucket=BUCKET, Key="new", Body=bytes(4 * MIB))
    assert read(s3, "copy", OTHER_BUCKET) == written
    assert s3.head_object(Bucket=OTHER_BUCKET, Key="copy")["Metadata"] == {"origin": "here"}
    assert read(s3, "joined") == written[MIB - 2 : MIB + 2] + written[:5]


def test_many_threads_send_and_fetch_large_parts_at_once(s3: Any) -> None:
    size, count = 5 * MIB + 3, 12
    upload_id = begin(s3, "key")
    whole = content(size * count)

    def send(number: int) -> dict[str, Any]:
        return send_part(s3, "key", upload_id, number, whole[(number - 1) * size : number * size])

    def fetch(start: int) -> bytes:
        return read(s3, "key", Range=f"bytes={start}-{start + 4 * MIB - 1}")

    with ThreadPoolExecutor(6) as threads:
        complete(s3, "key", upload_id, list(threads.map(send, range(1, count + 1))))
        assert b"".join(threads.map(fetch, range(0, len(whole), 4 * MIB))) == whole


def test_a_request_that_is_cut_off_stores_nothing(sink: Sink, s3: Any) -> None:
    upload_id = begin(s3, "key")
    send_part(s3, "key", upload_id, 1, b"before")
    put = f"PUT /{BUCKET}/key HTTP/1.1\r\nContent-Length: {3 * MIB}\r\n\r\n".encode()
    part = f"PUT /{BUCKET}/key?partNumber=1&uploadId={upload_id} HTTP/1.1\r\nContent-Length: 100\r\n\r\n".encode()
    chunks = f"PUT /{BUCKET}/key HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n".encode()
    joining = f"POST /{BUCKET}/key?uploadId={upload_id} HTTP/1.1\r\nContent-Length: 500\r\n\r\n".encode()
    finished = b"<Part><PartNumber>1</PartNumber></Part>"
    for request in (put + content(MIB + 1), part + b"some", chunks + b"some", joining + finished, put[:30]):
        assert converse(sink, request, cut=True) == b""
    assert keys(s3) == []
    complete(s3, "key", upload_id, [{"PartNumber": 1, "ETag": '"x"'}])
    assert read(s3, "key") == b"before"


def test_a_request_after_one_that_was_refused_is_understood(sink: Sink, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="key", Body=b"content")
    refused = f"PUT /{BUCKET}/key?partNumber=0&uploadId=1 HTTP/1.1\r\nContent-Length: 30\r\n\r\n{'x' * 30}"
    asked = f"GET http://sink/{BUCKET}/key HTTP/1.1\r\nConnection: close\r\n\r\n"
    answer = converse(sink, f"{refused}{asked}".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"content")


@pytest.mark.parametrize("nonsense", [b"\r\n\r\n", b"GET http://sink HTTP/1.1\r\n\r\n", b"x" * 70_000])
def test_nonsense_ends_the_connection_and_nothing_else(sink: Sink, s3: Any, nonsense: bytes) -> None:
    with contextlib.suppress(ConnectionError):  # it may hang up before everything was sent
        assert converse(sink, nonsense, cut=True) == b""
    assert keys(s3) == []


def test_requests_and_bytes_are_counted_and_its_own_pages_are_not(sink: Sink, s3: Any) -> None:
    sink.reset()
    none = sink.stats()
    assert none["requests"] == {"GET": 0, "HEAD": 0, "PUT": 0, "POST": 0, "DELETE": 0, "OTHER": 0}
    assert (none["bytes_in"], none["bytes_out"], none["span_seconds"]) == (0, 0, 0)
    s3.put_object(Bucket=BUCKET, Key="key", Body=content(2 * MIB))
    read(s3, "key")
    read(s3, "key", Range="bytes=0-99")
    s3.head_object(Bucket=BUCKET, Key="key")
    s3.delete_object(Bucket=BUCKET, Key="key")
    stats = sink.stats()
    assert stats["requests"] == {"GET": 2, "HEAD": 1, "PUT": 1, "POST": 0, "DELETE": 1, "OTHER": 0}
    assert 2 * MIB < stats["bytes_in"] < 2 * MIB + 10_000
    assert 2 * MIB + 100 < stats["bytes_out"] < 2 * MIB + 10_000
    assert stats["span_seconds"] > 0
    assert stats["cpu_seconds"] > 0
    sink.reset()
    again = sink.stats()
    assert (sum(again["requests"].values()), again["bytes_in"], again["bytes_out"]) == (0, 0, 0)


def test_bytes_on_the_wire_are_counted_exactly(sink: Sink) -> None:
    request = f"PUT /{BUCKET}/key HTTP/1.1\r\nContent-Length: 5\r\nConnection: close\r\n\r\n12345".encode()
    answer = converse(sink, request)
    stats = sink.stats()
    assert (stats["bytes_in"], stats["bytes_out"]) == (len(request), len(answer))


def test_clearing_forgets_objects_and_uploads(sink: Sink, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="key", Body=content(MIB))
    upload_id = begin(s3, "other")
    send_part(s3, "other", upload_id, 1, b"part")
    sink.clear()
    assert keys(s3) == []
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=BUCKET)
    s3.put_object(Bucket=BUCKET, Key="key", Body=b"new")
    assert read(s3, "key") == b"new"


def test_a_limit_holds_for_all_connections_together_and_can_be_taken_away(sink: Sink, s3: Any) -> None:
    sink.limit(20 * MIB)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: s3.put_object(Bucket=BUCKET, Key=f"{number}", Body=content(MIB)), range(4)))
    # By the server's own clock: it cannot have had the four sooner.
    assert sink.stats()["span_seconds"] >= 0.19
    sink.limit(0)
    assert [read(s3, f"{number}") for number in range(4)] == [content(MIB)] * 4


@contextlib.contextmanager
def connected(program: Path, *options: str) -> Iterator[tuple[Sink, Any]]:
    """A sink of its own with options for its network, and a client."""
    with Sink.start(program, *options) as sink:
        yield sink, S3Server("sink", sink.url, "bench", "benchsecret", SinkMeter(sink)).client()


def test_a_busy_network_refuses_some_requests_and_all_get_through_where_it_is_switched_off(program: Path) -> None:
    with connected(program, "--busy", "50") as (sink, _):
        client = HTTPConnection(urlsplit(sink.url).netloc, timeout=10)

        def put_all() -> list[int]:
            found = []
            for number in range(40):
                client.request("PUT", f"/{BUCKET}/{number}", b"content")
                with client.getresponse() as answer:
                    answer.read()
                    found.append(answer.status)
            return found

        assert set(put_all()) == {200, 503}
        refused = sink.stats()["refused"]
        sink.network(False)
        assert set(put_all()) == {200}
        assert sink.stats()["refused"] == refused
        client.close()


def test_a_network_that_loses_connections_breaks_off_what_is_on_its_way(program: Path) -> None:
    with (
        connected(program, "--loss-of-connections", "100") as (sink, _),
        socket.create_connection(("127.0.0.1", urlsplit(sink.url).port or 0), timeout=10) as client,
    ):
        client.sendall(b"PUT /b/k HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            client.sendall(bytes(1_000_000))
            assert client.recv(1000) == b""
        assert sink.stats()["lost"] == 1


def test_rates_and_distances_change_no_byte(program: Path) -> None:
    network = ("--first-byte-ms", "1", "--connection-rate", "1e9", "--total-rate", "1e9")
    with connected(program, *network) as (sink, s3):
        s3.put_object(Bucket=BUCKET, Key="k", Body=content(3 * MIB))
        assert read(s3, "k") == content(3 * MIB)
        # A request that is answered may not have ended when the next one comes.
        assert sink.stats()["most_requests"] in {1, 2}


def test_what_many_new_connections_bring_and_take_at_once_takes_the_time_of_the_line(program: Path) -> None:
    with connected(program, "--total-rate", "10e6") as (sink, _):
        place = urlsplit(sink.url).netloc

        def ask(method: str, number: int) -> None:
            client = HTTPConnection(place, timeout=60)
            client.request(method, f"/{BUCKET}/{number}", bytes(65536) if method == "PUT" else None)
            client.getresponse().read()
            client.close()

        for method in ("PUT", "GET"):
            began = time.monotonic()
            with ThreadPoolExecutor(32) as threads:
                list(threads.map(partial(ask, method), range(32)))
            # No line has brought them sooner, and how much later is the machine's affair.
            assert time.monotonic() - began >= 32 * 65536 / 10e6


def test_it_speaks_tls(tmp_path: Path) -> None:
    if not find_compiler():
        pytest.skip("needs a C compiler: install gcc, or the wheel ziglang")
    try:
        build(tmp_path, tls=True)
    except PeerMissingError:
        pytest.skip("needs OpenSSL's headers: install libssl-dev")
    with serve(tmp_path, tls=True) as server:
        s3 = server.client()
        s3.put_object(Bucket=BUCKET, Key="k", Body=content(3 * MIB))
        assert server.url.startswith("https://")
        assert read(s3, "k") == content(3 * MIB)
