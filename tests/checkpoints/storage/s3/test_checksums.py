"""Checksums behind what is sent to S3, by which the service refuses what arrives damaged."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import SourceChangedError, StorageUnavailableError
from flexai.checkpoints.storage.capabilities import Capabilities
from flexai.checkpoints.storage.protocol import BLOCK_SIZE, Block, BytesBody
from flexai.checkpoints.storage.s3.bucket import MIN_PART_SIZE, S3Storage
from flexai.checkpoints.storage.s3.checksums import TrailedBody
from tests.checkpoints.storage.s3.test_bucket import CONTENT, Bench, content_of, strict_bench

__all__ = ["strict_bench"]


def _crc32c(content: bytes) -> str:
    return base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()


def _trailing(bench: Bench, **details: Any) -> S3Storage:
    return bench.storage(capabilities=Capabilities(trailers=True), **details)


class _InPieces:
    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.size = sum(map(len, pieces))

    def blocks(self) -> Iterator[Block]:
        for piece in self.pieces:
            yield memoryview(piece)


def _decoded(encoded: bytes) -> tuple[bytes, str]:
    """The content of a body in chunks, and its trailer."""
    content = b""
    while True:
        head, _, encoded = encoded.partition(b"\r\n")
        size = int(head, 16)
        if not size:
            trailer, end, rest = encoded.partition(b"\r\n\r\n")
            assert (end, rest) == (b"\r\n\r\n", b"")
            return content, trailer.decode()
        content, end, encoded = content + encoded[:size], encoded[size : size + 2], encoded[size + 2 :]
        assert end == b"\r\n"


@given(st.lists(st.binary(max_size=3 * BLOCK_SIZE // 2), max_size=4))
def test_what_is_encoded_is_the_content_and_its_checksum_and_as_long_as_it_says(pieces: list[bytes]) -> None:
    content = b"".join(pieces)
    body = TrailedBody(_InPieces(pieces))
    for _ in range(2):
        encoded = content_of(body.blocks())
        assert len(encoded) == body.size
        assert _decoded(encoded) == (content, f"x-amz-checksum-crc32c:{_crc32c(content)}")


def test_a_source_that_shrank_is_noticed_before_the_checksum() -> None:
    body = _InPieces([b"12345"])
    body.size = 6
    with pytest.raises(SourceChangedError):
        list(TrailedBody(body).blocks())


@pytest.mark.parametrize("size", [0, 1, 100_000, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE - 1])
def test_an_object_arrives_with_its_checksum(strict_bench: Bench, size: int) -> None:
    storage, content = _trailing(strict_bench), CONTENT[:size]
    storage.put(strict_bench.key(), BytesBody(content))
    assert content_of(storage.get(strict_bench.key())) == content
    expected = base64.b64decode(_crc32c(content)).hex()
    assert (storage.head(strict_bench.key()).checksums or {})["crc32c"] == expected


def test_an_object_made_of_parts_arrives_with_their_checksums(strict_bench: Bench) -> None:
    storage, key = _trailing(strict_bench), strict_bench.key()
    parts = [CONTENT + CONTENT, b"the end"]
    assert len(parts[0]) > MIN_PART_SIZE
    upload_id = storage.start_upload(key, size=sum(map(len, parts)))
    assert storage.has_upload(key, upload_id)
    receipts = [
        storage.put_part(key, upload_id, number=number, offset=0, body=BytesBody(part))
        for number, part in enumerate(parts, start=1)
    ]
    assert [receipt.token.split()[1] for receipt in receipts] == [_crc32c(part) for part in parts]
    storage.complete_upload(key, upload_id, receipts)
    assert content_of(storage.get(key)) == b"".join(parts)
    # Its answer may have been lost.
    storage.complete_upload(key, upload_id, receipts)
    assert storage.head(key).size == len(b"".join(parts))


def test_an_upload_goes_on_as_it_began_whatever_is_known_of_the_service_by_then(strict_bench: Bench) -> None:
    key = strict_bench.key()
    begun_with, begun_without = _trailing(strict_bench), strict_bench.plain
    for first, second in [(begun_with, begun_without), (begun_without, begun_with)]:
        upload_id = first.start_upload(key, size=len(CONTENT))
        receipt = second.put_part(key, upload_id, number=1, offset=0, body=BytesBody(CONTENT))
        assert (" " in receipt.token) is (first is begun_with)
        second.complete_upload(key, upload_id, [receipt])
        assert strict_bench.read() == CONTENT


def test_an_upload_with_checksums_can_be_given_up(strict_bench: Bench) -> None:
    storage, key = _trailing(strict_bench), strict_bench.key()
    upload_id = storage.start_upload(key, size=1)
    storage.abort_upload(key, upload_id)
    assert not storage.has_upload(key, upload_id)


def test_a_copy_in_parts_by_the_service_needs_none(strict_bench: Bench) -> None:
    storage = _trailing(strict_bench, max_copy_size=1, copy_part_size=MIN_PART_SIZE)
    content = CONTENT * 2
    storage.put(strict_bench.key(), BytesBody(content))
    storage.copy(storage, strict_bench.key(), strict_bench.key("copy"))
    assert strict_bench.read("copy") == content


def test_a_part_that_is_damaged_on_its_way_is_sent_again(strict_bench: Bench) -> None:
    storage, key = _trailing(strict_bench), strict_bench.key()
    upload_id = storage.start_upload(key, size=len(CONTENT))
    strict_bench.proxy.add("flip a sent bit", strikes=lambda request: request.method == "PUT", times=2, after=1000)
    receipt = storage.put_part(key, upload_id, number=1, offset=0, body=BytesBody(CONTENT))
    assert strict_bench.waits == [0.1, 0.4]
    storage.complete_upload(key, upload_id, [receipt])
    assert strict_bench.read() == CONTENT


def test_an_object_that_always_arrives_damaged_is_an_error(strict_bench: Bench) -> None:
    strict_bench.proxy.add("flip a sent bit", times=99, after=1000)
    with pytest.raises(StorageUnavailableError, match="Digest"):
        _trailing(strict_bench).put(strict_bench.key(), BytesBody(CONTENT))


def test_without_checksums_it_would_be_kept_damaged(strict_bench: Bench) -> None:
    """The proxy really does what the tests above think it does."""
    strict_bench.proxy.add("flip a sent bit", after=1000)
    strict_bench.put()
    assert strict_bench.read() != CONTENT


def test_the_body_is_signed_as_one_with_a_trailer(strict_bench: Bench) -> None:
    _trailing(strict_bench).put(strict_bench.key(), BytesBody(CONTENT))
    (put,) = strict_bench.proxy.seen("PUT")
    assert put.headers["x-amz-content-sha256"] == "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    assert put.headers["x-amz-decoded-content-length"] == str(len(CONTENT))
    assert put.headers["content-length"] == str(TrailedBody(BytesBody(CONTENT)).size)
    assert put.headers["content-encoding"] == "aws-chunked"
