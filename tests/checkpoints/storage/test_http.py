"""Bodies as the files that HTTP clients read, and what headers say."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import SourceChangedError
from flexai.checkpoints.storage.http import (
    SEND_SIZE,
    BodyReader,
    is_certificate_error,
    parse_content_range,
    parse_retry_after,
    send_body,
)
from flexai.checkpoints.storage.protocol import BLOCK_SIZE, Block, BytesBody
from flexai.checkpoints.storage.retry import RetryPolicy
from tests.support.bodies import Pieces

CONTENT = bytes(range(256)) * 12_288


def _read(reader: BodyReader) -> bytes:
    return b"".join(bytes(block) for block in iter(lambda: reader.read(16_384), b""))


@pytest.mark.parametrize("asked", [-1, 1, 16_384, 10 * BLOCK_SIZE])
def test_a_reader_gives_pieces_of_its_own_size_whatever_it_is_asked_for(asked: int) -> None:
    reader = BodyReader(BytesBody(CONTENT))
    assert len(reader) == len(CONTENT)
    assert len(reader.read(asked)) == SEND_SIZE
    assert reader.tell() == SEND_SIZE
    assert _read(reader) == CONTENT[SEND_SIZE:]
    assert reader.tell() == len(CONTENT)
    assert len(reader.read(asked)) == 0


def test_a_reader_starts_over_from_anywhere() -> None:
    reader = BodyReader(BytesBody(CONTENT))
    for _ in range(3):
        reader.read()
        assert reader.seek(0) == 0
        assert _read(reader) == CONTENT
        reader.seek(0)


def test_a_reader_tells_its_size_to_who_asks_by_seeking() -> None:
    reader = BodyReader(BytesBody(CONTENT))
    assert reader.seek(0, 2) == len(CONTENT)
    reader.seek(0)
    assert reader.seek(0, 1) == 0
    with pytest.raises(OSError, match="from its start"):
        reader.seek(5)


def test_an_empty_block_is_not_the_end() -> None:
    assert _read(BodyReader(Pieces(4, [b"", b"ab", b"", b"", b"cd", b""]))) == b"abcd"


@pytest.mark.parametrize("pieces", [[b"abc"], [b"abcd", b"e"], [], [b"abcdefgh"]])
def test_a_body_of_another_size_is_noticed_while_it_is_read(pieces: list[bytes]) -> None:
    reader = BodyReader(Pieces(4, pieces))
    with pytest.raises(SourceChangedError):
        _read(reader)
    assert isinstance(reader.error, SourceChangedError)


def test_no_byte_beyond_the_announced_size_is_handed_out() -> None:
    reader = BodyReader(Pieces(4, [b"abc", b"de"]))
    assert bytes(reader.read()) == b"abc"
    with pytest.raises(SourceChangedError):
        reader.read()


def test_an_error_of_the_body_comes_out_whatever_the_client_made_of_it() -> None:
    def client(reader: BodyReader) -> None:
        try:
            _read(reader)
        except SourceChangedError as error:
            raise RuntimeError("the client's own words") from error

    with pytest.raises(SourceChangedError):
        send_body(Pieces(4, [b"abc"]), client, RetryPolicy())


def test_an_error_of_the_client_stays_the_clients() -> None:
    def client(reader: BodyReader) -> None:
        reader.read()
        raise RuntimeError("the network")

    with pytest.raises(RuntimeError, match="the network"):
        send_body(BytesBody(b"abc"), client, RetryPolicy())


def test_an_empty_body_that_is_not_empty_is_noticed_though_no_client_reads_it() -> None:
    with pytest.raises(SourceChangedError):
        send_body(Pieces(0, [b"surplus"]), lambda reader: None, RetryPolicy())


class _Wrapped(Exception):
    reason: object = None


def test_a_request_begins_when_the_first_bytes_of_its_body_are_there() -> None:
    happened = list[str]()

    class Source(BytesBody):
        def blocks(self) -> Iterator[Block]:
            happened.append("source")
            yield from super().blocks()

    def send(reader: BodyReader) -> bytes:
        happened.append("request")
        return _read(reader)

    assert send_body(Source(CONTENT), send, RetryPolicy()) == CONTENT
    assert happened == ["source", "request"]


def test_a_certificate_error_is_found_however_deep_it_lies() -> None:
    bottom = ssl.SSLCertVerificationError(1, "unable to get local issuer certificate")
    in_reason = _Wrapped("no text")
    in_reason.reason = _Wrapped(bottom)
    caused = RuntimeError("outer")
    caused.__cause__ = OSError("middle")
    caused.__cause__.__context__ = in_reason
    assert is_certificate_error(bottom)
    assert is_certificate_error(caused)


def test_a_connection_that_tls_breaks_off_is_no_certificate_error() -> None:
    loop = RuntimeError("outer")
    loop.__cause__ = _Wrapped(ssl.SSLEOFError(8, "EOF occurred in violation of protocol"))
    loop.__cause__.__context__ = loop
    assert not is_certificate_error(loop)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes 0-0/1", (0, 1, 1)),
        ("bytes 5-9/100", (5, 10, 100)),
        (" bytes 5-9/100 ", (5, 10, 100)),
        ("bytes */100", (100, 100, 100)),
        ("bytes 5-9/*", None),
        ("items 5-9/100", None),
        ("bytes ٥-٩/١٠٠", None),
        pytest.param("bytes 0-1/" + "9" * 5000, None, id="a number of 5000 digits"),
        ("", None),
    ],
)
def test_a_content_range_is_read_or_not_taken_for_one(header: str, expected: tuple[int, int, int] | None) -> None:
    assert parse_content_range(header) == expected


@given(st.integers(0, 2**60), st.integers(1, 2**60), st.integers(0, 2**60))
def test_any_content_range_comes_back(first: int, length: int, rest: int) -> None:
    header = f"bytes {first}-{first + length - 1}/{first + length + rest}"
    assert parse_content_range(header) == (first, first + length, first + length + rest)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 5 ", 5.0),
        ("0", 0.0),
        ("Thu, 01 Jan 1970 00:02:30 GMT", 50.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("²", 0.0),
        ("soon", 0.0),
        ("Wed, 21 Oct 2015 07:28:99999999999 GMT", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 +99999999999999999999", 0.0),
        ("", 0.0),
    ],
)
def test_a_retry_after_is_a_number_or_a_date_or_nothing(header: str, seconds: float) -> None:
    assert parse_retry_after(header, now=100.0) == seconds


@given(st.text())
def test_no_retry_after_breaks_anything(header: str) -> None:
    assert parse_retry_after(header) >= 0.0
