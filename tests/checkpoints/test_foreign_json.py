from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.foreign_json import MAX_DOCUMENT, TooMuchError, parse_json, read_bounded
from tests.hostile.documents import FLOODS, peak_of

_TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
_NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
_VALUES = st.recursive(
    st.none() | st.booleans() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(_TEXTS, inner),
)


@given(_VALUES, st.booleans())
def test_what_is_json_is_read_as_the_standard_library_reads_it(value: Any, is_ascii: bool) -> None:
    data = json.dumps(value, ensure_ascii=is_ascii).encode()
    assert parse_json(data) == parse_json(data, unique_keys=True) == json.loads(data)


@given(st.binary() | _TEXTS.map(str.encode) | st.text('[]{}",:\\ud8901e+-.tfnNI ').map(str.encode))
def test_any_bytes_are_a_value_that_can_be_written_or_a_value_error(data: bytes) -> None:
    try:
        value = parse_json(data)
    except ValueError as error:
        assert str(error)
    else:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"NaN",
        b"[-Infinity]",
        b"1e400",
        b"-1e400",
        b"9223372036854775808",
        b"-9223372036854775809",
        b"9" * 5000,
        rb'"\ud800"',
        rb'{"\udfff": 1}',
        rb'["\ud83d", "\ude00"]',
        b'"\xed\xa0\x80"',
        b"[" * 100_000,
        b"[" * 3_000 + b"]" * 3_000,
        b'{"a":' * 100_000,
        b"\xff\xfe{}",
        b"",
    ],
)
def test_what_no_database_or_terminal_takes_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(data)


def test_a_lenient_reader_takes_what_trainers_write() -> None:
    found = parse_json(rb'[NaN, -Infinity, 1e400, 1000000000000000019884624838656, "\ud800"]', lenient=True)
    assert math.isnan(found[0])
    assert found[1:] == [-math.inf, math.inf, 1000000000000000019884624838656, "\ud800"]


def test_a_key_twice_is_refused_where_the_reader_says_so() -> None:
    assert parse_json(b'{"a": 1, "a": 2}') == {"a": 2}
    with pytest.raises(ValueError, match="duplicate key"):
        parse_json(b'[{"a": 1, "b": {"c": 1, "c": 2}}]', unique_keys=True)


def test_no_more_than_the_limit_is_taken_from_an_endless_document() -> None:
    taken = []

    def endless() -> Iterator[bytes]:
        while True:
            taken.append(1)
            yield b" " * 1024**2

    with pytest.raises(TooMuchError, match="longer than 64 MiB"):
        read_bounded(endless())
    assert len(taken) == MAX_DOCUMENT // 1024**2 + 1
    assert read_bounded([b"[", memoryview(b"1]")], 3) == b"[1]"
    with pytest.raises(TooMuchError):
        parse_json(b"[1] ", limit=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOODS)
def test_no_document_takes_more_than_300_mib(name: str) -> None:
    peak, said = peak_of(name)
    assert peak <= 300
    assert said in {"read", "TooMuchError", "ValueError", "JSONDecodeError"}


def test_a_manifest_of_100_000_files_is_read() -> None:
    assert peak_of("a manifest of 100,000 files")[1] == "read"
