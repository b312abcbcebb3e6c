"""What is checked of every upload."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import SourceChangedError, StorageError
from flexai.checkpoints.storage.protocol import Block, PartReceipt
from flexai.checkpoints.storage.uploads import exact_blocks, sort_receipts


@dataclass
class Pieces:
    size: int
    pieces: list[bytes]

    def blocks(self) -> Iterator[Block]:
        for piece in self.pieces:
            yield memoryview(piece)


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
