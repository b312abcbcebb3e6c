from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.transfer.pack_plan import (
    MAX_FILES_IN_PACK,
    PackQueue,
    UploadPlan,
    chain_twins,
    plan_stretches,
    plan_upload,
)
from flexai.checkpoints.transfer.sources import FileSource
from tests.support.sources import planned_sources

MIB = 1024**2
_SIZES = st.lists(st.integers(0, 300), max_size=40)


@given(_SIZES, st.integers(0, 100), st.integers(100, 200))
def test_every_file_is_stored_once_small_ones_in_packs_and_large_ones_alone(
    sizes: list[int], threshold: int, pack_size: int
) -> None:
    sources = planned_sources(sizes)
    plan = plan_upload(sources, pack_threshold=threshold, pack_size=pack_size)
    packed = [source for pack in plan.packs for source in pack]
    assert sorted([*packed, *plan.whole], key=lambda source: source.path) == sources
    assert all(source.size < threshold or source.size == 0 for source in packed)
    assert all(source.size >= threshold and source.size > 0 for source in plan.whole)


@given(_SIZES, st.integers(0, 100), st.integers(100, 200))
def test_a_pack_is_never_larger_than_its_size_and_never_empty(sizes: list[int], threshold: int, pack_size: int) -> None:
    plan = plan_upload(planned_sources(sizes), pack_threshold=threshold, pack_size=pack_size)
    assert all(pack for pack in plan.packs)
    assert all(sum(source.size for source in pack) <= pack_size for pack in plan.packs)


@given(_SIZES, st.integers(0, 100), st.integers(100, 200))
def test_packs_keep_the_order_of_paths_and_are_filled_one_after_the_other(
    sizes: list[int], threshold: int, pack_size: int
) -> None:
    plan = plan_upload(planned_sources(sizes), pack_threshold=threshold, pack_size=pack_size)
    packed = [source for pack in plan.packs for source in pack]
    assert packed == sorted(packed, key=lambda source: source.path)
    for pack, following in zip(plan.packs, plan.packs[1:], strict=False):
        assert sum(source.size for source in pack) + following[0].size > pack_size


@given(_SIZES)
def test_the_largest_files_begin_first(sizes: list[int]) -> None:
    plan = plan_upload(planned_sources(sizes), pack_threshold=50, pack_size=100)
    assert [source.size for source in plan.whole] == sorted((source.size for source in plan.whole), reverse=True)


def test_a_pack_has_only_so_many_files() -> None:
    plan = plan_upload(planned_sources([0] * (2 * MAX_FILES_IN_PACK + 1)), pack_threshold=1, pack_size=100)
    assert [len(pack) for pack in plan.packs] == [MAX_FILES_IN_PACK, MAX_FILES_IN_PACK, 1]


@pytest.mark.parametrize(
    ("count", "is_remote", "packs", "pack_size"),
    [(2000, False, 8, 16), (2000, True, 32, 4), (100, True, 2, 4), (10_000, True, 40, 16)],
)
def test_packs_for_a_far_store_are_smaller_until_each_connection_has_one(
    count: int, is_remote: bool, packs: int, pack_size: int
) -> None:
    sources = planned_sources([64 * 1024] * count)
    plan = plan_upload(sources, pack_threshold=4 * MIB, pack_size=16 * MIB, is_remote=is_remote)
    assert (len(plan.packs), plan.pack_size) == (packs, pack_size * MIB)


def test_packs_for_a_far_store_are_no_smaller_than_a_file_that_goes_into_one() -> None:
    plan = plan_upload(planned_sources([7 * MIB] * 4), pack_threshold=8 * MIB, pack_size=16 * MIB, is_remote=True)
    assert [len(pack) for pack in plan.packs] == [1, 1, 1, 1]
    assert plan.pack_size == 8 * MIB


@given(_SIZES, st.lists(st.integers(0, 400), min_size=1))
def test_packs_are_taken_in_order_each_file_once_and_joined_up_to_what_is_asked_for(
    sizes: list[int], asked: list[int]
) -> None:
    plan = plan_upload(planned_sources(sizes), pack_threshold=1000, pack_size=100)
    queue = PackQueue(plan.packs)
    left = [list(pack) for pack in plan.packs]
    for most in itertools.cycle(asked):
        taken = queue.take(most)
        joined = left[:1]
        while len(joined) < len(left) and sum(one.size for pack in left[: len(joined) + 1] for one in pack) <= most:
            joined = left[: len(joined) + 1]
        assert taken == [source for pack in joined for source in pack]
        del left[: len(joined)]
        if not taken:
            break
    assert left == []


def test_packs_that_are_joined_have_only_so_many_files() -> None:
    plan = plan_upload(planned_sources([0] * (MAX_FILES_IN_PACK + 1)), pack_threshold=1, pack_size=100)
    queue = PackQueue(plan.packs)
    assert [len(queue.take(1000)) for _ in range(3)] == [MAX_FILES_IN_PACK, 1, 0]


def test_nothing_to_store_is_an_empty_plan() -> None:
    plan: UploadPlan[FileSource] = plan_upload([], pack_threshold=1, pack_size=100)
    assert (plan.packs, plan.whole) == ((), ())


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from("xyz")), max_size=20), st.data())
def test_files_that_may_be_equal_come_one_after_the_other_and_the_rest_stand_alone(
    files: list[tuple[int, str]], data: st.DataObject
) -> None:
    sources = planned_sources([size for size, _ in files])
    sampled = data.draw(st.sets(st.sampled_from(sources))) if sources else set()
    samples: dict[str, str] = {source.path: files[int(source.path[1:])][1] for source in sampled}
    chains = chain_twins(sources, samples)
    assert sorted(source.path for chain in chains for source in chain) == [source.path for source in sources]
    for chain in chains:
        if len(chain) > 1:
            assert {(source.size, samples[source.path]) for source in chain} == {
                (chain[0].size, samples[chain[0].path])
            }
    twins = {(source.size, samples[source.path]) for source in sampled}
    assert len(chains) == len(sources) - len(sampled) + len(twins)


@dataclass(frozen=True)
class _Stored:
    """Small contents laid out in packs, as a push leaves them: (blob, start, size) each."""

    layout: tuple[tuple[int, int, int], ...]

    @cached_property
    def files(self) -> list[StoredFile]:
        return [
            StoredFile(
                path=f"f{number:03}",
                content=StoredContent(
                    id=number, blob_id=f"blob{blob}", start=start, size=size, part_size=1, digest=b"", part_digests=b""
                ),
            )
            for number, (blob, start, size) in enumerate(self.layout)
        ]


_LAYOUTS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 500), st.integers(0, 60)), max_size=30).map(
    lambda layout: _Stored(tuple(layout))
)


@given(_LAYOUTS, st.integers(60, 200), st.integers(0, 50))
def test_every_small_file_lies_in_one_run_that_covers_it(stored: _Stored, max_length: int, max_gap: int) -> None:
    stretches = plan_stretches(stored.files, max_length=max_length, max_gap=max_gap)
    assert sorted(file.path for stretch in stretches for file in stretch.files) == [file.path for file in stored.files]
    for stretch in stretches:
        for file in stretch.files:
            assert file.content.blob_id == stretch.blob_id
            assert stretch.start <= file.content.start
            assert file.content.start + file.content.size <= stretch.start + stretch.length


@given(_LAYOUTS, st.integers(60, 200), st.integers(0, 50))
def test_a_run_is_never_longer_than_allowed_and_leaps_over_no_large_gap(
    stored: _Stored, max_length: int, max_gap: int
) -> None:
    for stretch in plan_stretches(stored.files, max_length=max_length, max_gap=max_gap):
        assert stretch.length <= max_length
        reached = stretch.start
        for file in stretch.files:
            assert file.content.start - reached <= max_gap
            reached = max(reached, file.content.start + file.content.size)
        assert reached == stretch.start + stretch.length


def test_neighbours_in_a_pack_are_read_by_one_request() -> None:
    stored = _Stored(tuple((0, 10 * number, 10) for number in range(20)))
    (stretch,) = plan_stretches(stored.files, max_length=1000)
    assert (stretch.start, stretch.length, len(stretch.files)) == (0, 200, 20)


def test_files_of_one_content_are_read_once() -> None:
    (stretch,) = plan_stretches(_Stored(((0, 0, 10), (0, 0, 10), (0, 0, 10))).files, max_length=1000)
    assert (stretch.length, len(stretch.files)) == (10, 3)


def test_files_of_different_blobs_are_read_apart() -> None:
    stretches = plan_stretches(_Stored(((0, 0, 10), (1, 10, 10))).files, max_length=1000)
    assert [(stretch.blob_id, stretch.start, stretch.length) for stretch in stretches] == [
        ("blob0", 0, 10),
        ("blob1", 10, 10),
    ]


def test_a_run_has_only_so_many_files() -> None:
    stored = _Stored(tuple((0, 0, 0) for _ in range(MAX_FILES_IN_PACK + 1)))
    assert [len(stretch.files) for stretch in plan_stretches(stored.files, max_length=10)] == [MAX_FILES_IN_PACK, 1]
