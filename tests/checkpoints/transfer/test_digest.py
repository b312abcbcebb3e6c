from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.settings import DEFAULT_PART_SIZE
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.transfer.digest import (
    MAX_PARTS,
    DigestingBody,
    Part,
    digest_blocks,
    digest_each,
    digest_parts,
    part_size_for,
    parts_from,
    parts_of,
    spread_part_size,
)

# From the algorithm's own test vectors (test_vectors.json of BLAKE3-team/BLAKE3): the input repeats 0, 1, …, 250.
_VECTORS = {
    0: "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    1: "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
    1024: "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
    1025: "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
    102400: "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
}


class _Body:
    """Some bytes in blocks, readable again and again."""

    def __init__(self, content: bytes, block_size: int = 7) -> None:
        self.content = content
        self.block_size = block_size

    @property
    def size(self) -> int:
        return len(self.content)

    def blocks(self) -> Iterator[Block]:
        for start in range(0, len(self.content), self.block_size):
            yield memoryview(self.content)[start : start + self.block_size]


@pytest.mark.parametrize("size", _VECTORS)
def test_a_file_of_one_part_has_the_digest_that_b3sum_prints(size: int) -> None:
    content = bytes(itertools.islice(itertools.cycle(range(251)), size))
    digest = digest_blocks(_Body(content, block_size=1000).blocks())
    assert digest_parts([digest]).hex() == _VECTORS[size]


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_a_digest_does_not_depend_on_how_the_content_is_cut_into_blocks(blocks: list[bytes]) -> None:
    assert digest_blocks(map(memoryview, blocks)) == digest_blocks([memoryview(b"".join(blocks))])


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=5))
def test_a_file_of_several_parts_has_the_digest_of_its_parts_digests(parts: list[bytes]) -> None:
    assert digest_parts(parts) == blake3(b"".join(parts)).digest()
    assert digest_parts(parts) != digest_parts([parts[0]])


@given(st.binary(min_size=3, max_size=200), st.integers(1, 60))
def test_a_file_s_digest_comes_from_ranges_read_apart(content: bytes, part_size: int) -> None:
    parts = parts_of(len(content), part_size)
    digests = {
        part.number: digest_blocks([memoryview(content)[part.offset : part.offset + part.size]])
        for part in reversed(parts)
    }
    whole = digest_parts([digests[number] for number in sorted(digests)])
    if len(content) <= part_size:
        assert whole == blake3(content).digest()
    else:
        joined = b"".join(
            blake3(content[start : start + part_size]).digest() for start in range(0, len(content), part_size)
        )
        assert whole == blake3(joined).digest()


@given(st.binary(max_size=200), st.integers(1, 60), st.lists(st.integers(0, 70)), st.integers(0, 3))
def test_parts_that_pass_one_after_the_other_are_digested_one_by_one(
    content: bytes, part_size: int, cuts: list[int], first: int
) -> None:
    parts = list(itertools.islice(parts_of(len(content), part_size), first, None))
    start = first * part_size
    stops = [*itertools.accumulate(cuts, initial=start), len(content)]
    blocks = [memoryview(content)[cut:stop] for cut, stop in itertools.pairwise(stops) if cut < stop]
    digests: list[tuple[Part, bytes]] = []
    passed = b""
    for piece in digest_each(parts, blocks, lambda part, digest: digests.append((part, digest))):
        passed += piece
        ended = [part.number for part in parts if part.size > 0 and part.offset + part.size <= start + len(passed)]
        assert [part.number for part, _ in digests if part.size] == ended
    assert passed == content[start:]
    assert digests == [(one, digest_blocks([memoryview(content)[one.offset :][: one.size]])) for one in parts]


@given(st.integers(1, 100), st.integers(1, 30), st.integers(0, 99))
def test_a_part_that_comes_too_short_is_not_told_of_and_what_is_too_much_passes(
    size: int, part_size: int, count: int
) -> None:
    content = bytes(range(200))[:count]
    digests: list[int] = []
    pieces = digest_each(parts_of(size, part_size), [memoryview(content)], lambda part, _: digests.append(part.number))
    assert b"".join(pieces) == content
    assert digests == [one.number for one in parts_of(size, part_size) if one.offset + one.size <= count]


@given(st.integers(0, 5), st.integers(0, 500), st.integers(1, 70))
def test_parts_go_on_where_others_ended(first: int, size: int, part_size: int) -> None:
    expected = [part for part in parts_of(size, part_size) if part.size][first:]
    assert list(parts_from(first * part_size, size, part_size)) == expected


@given(st.integers(0, 5000), st.integers(1, 700))
def test_parts_cover_a_file_once_and_in_order(size: int, part_size: int) -> None:
    parts = parts_of(size, part_size)
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))
    assert [part.offset for part in parts] == [part_size * index for index in range(len(parts))]
    assert sum(part.size for part in parts) == size
    assert all(part.size == part_size for part in parts[:-1])
    if size:
        assert 0 < parts[-1].size <= part_size
    assert len(parts) == max(1, -(-size // part_size))


def test_an_empty_file_is_one_empty_part() -> None:
    (part,) = parts_of(0, 1024)
    assert (part.number, part.offset, part.size) == (1, 0, 0)


@given(st.integers(0, 2**62), st.integers(1, 2**33), st.integers(1, 20_000))
def test_a_part_size_never_makes_more_parts_than_are_allowed(size: int, part_size: int, max_parts: int) -> None:
    chosen = part_size_for(size, part_size=part_size, max_parts=max_parts)
    assert -(-size // chosen) <= max_parts
    doublings = chosen // part_size
    assert chosen == part_size * doublings
    assert doublings & (doublings - 1) == 0
    assert doublings == 1 or size > chosen // 2 * max_parts, "no larger than it must be"


def test_the_usual_part_size_serves_up_to_its_limit_and_doubles_beyond() -> None:
    limit = DEFAULT_PART_SIZE * MAX_PARTS
    assert part_size_for(0) == part_size_for(limit) == DEFAULT_PART_SIZE
    assert part_size_for(limit + 1) == 2 * DEFAULT_PART_SIZE
    # S3's largest object still has parts below S3's largest part.
    assert part_size_for(5 * 1024**4) <= 5 * 1024**3


@pytest.mark.parametrize(
    ("size", "chosen"), [(16, 16), (128, 16), (512, 16), (1023, 16), (1024, 32), (2047, 32), (2048, 64), (10_000, 64)]
)
def test_a_file_has_parts_for_32_connections_until_they_are_of_16_mib(size: int, chosen: int) -> None:
    assert spread_part_size(size * 1024**2, DEFAULT_PART_SIZE) == chosen * 1024**2


def test_parts_that_a_setting_makes_smaller_stay_as_they_are() -> None:
    assert spread_part_size(10**9, 64 * 1024) == 64 * 1024
    assert spread_part_size(10**6, 20 * 1024**2) == 20 * 1024**2


@given(st.binary(max_size=100), st.integers(1, 30))
def test_a_body_s_digest_is_taken_while_it_is_read_and_anew_when_it_is_read_again(content: bytes, cut: int) -> None:
    body = DigestingBody(_Body(content))
    reading = body.blocks()
    for _ in range(cut):
        next(reading, None)
    assert b"".join(body.blocks()) == content
    assert body.digest == blake3(content).digest()
    assert body.size == len(content)
