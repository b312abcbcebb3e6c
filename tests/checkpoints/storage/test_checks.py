"""What every store checks: keys and uploads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import SourceChangedError, StorageError, UnsafePathError
from flexai.checkpoints.storage.checks import MAX_KEY_BYTES, check_key, exact_blocks, sort_receipts
from flexai.checkpoints.storage.protocol import PartReceipt
from tests.support.bodies import Pieces


@given(st.text())
def test_a_key_that_passes_stays_below_its_root_and_can_be_sent(key: str) -> None:
    try:
        assert check_key(key, "here") == key
    except UnsafePathError:
        return
    assert not {"", ".", ".."} & set(key.split("/"))
    assert 0 < len(key.encode("utf-8")) <= MAX_KEY_BYTES
    assert all(character.isprintable() or ord(character) >= 0x80 for character in key)


@given(st.lists(st.text("abcXYZ019 +%-_=&;@é日🎉", min_size=1, max_size=20), min_size=1, max_size=10))
def test_ordinary_keys_pass(parts: list[str]) -> None:
    check_key("/".join(parts), "here")


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("a/../b", "could leave here"),
        ("a//b", "could leave here"),
        ("", "could leave here"),
        ("a\nb", "cannot be sent"),
        ("\udc80", "cannot be sent"),
        ("é" * 513, "longer than 1024 bytes"),
        ("a/.b.flexai-partial/c", "unfinished upload"),
    ],
)
def test_a_refusal_says_why(key: str, words: str) -> None:
    with pytest.raises(UnsafePathError, match=words):
        check_key(key, "here")


@given(pieces=st.lists(st.binary(max_size=20), max_size=10), surplus=st.integers(-5, 5))
def test_a_body_passes_exactly_when_it_has_the_size_it_said(pieces: list[bytes], surplus: int) -> None:
    whole = b"".join(pieces)
    body = Pieces(max(0, len(whole) + surplus), pieces)
    if body.size == len(whole):
        assert b"".join(map(bytes, exact_blocks(body))) == whole
    else:
        seen = b""
        with pytest.raises(SourceChangedError, match=f"{body.size} bytes"):
            for block in exact_blocks(body):
                seen += block
        assert len(seen) <= body.size


@given(st.permutations([PartReceipt(number, str(number)) for number in range(1, 9)]))
def test_receipts_in_any_order_come_out_in_order(receipts: list[PartReceipt]) -> None:
    assert [receipt.number for receipt in sort_receipts(iter(receipts), "x")] == list(range(1, 9))


@given(numbers=st.lists(st.integers(0, 8), max_size=8))
def test_a_missing_or_doubled_part_is_noticed(numbers: list[int]) -> None:
    receipts = [PartReceipt(number, "") for number in numbers]
    if sorted(numbers) == list(range(1, len(numbers) + 1)):
        assert len(sort_receipts(receipts, "x")) == len(numbers)
    else:
        with pytest.raises(StorageError, match="the object cannot be completed: part"):
            sort_receipts(receipts, "the object")
