from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.transfer.shard_plan import MAX_FILES, MAX_SHARDS, Bundle, Cut, cut, shard_target

MIB = 1024**2
GIB = 1024**3

_UNITS = st.lists(st.tuples(st.integers(0, 5000), st.sampled_from([0, 7, 64, 1000]), st.integers(1, 3)), max_size=60)


def _bundles(drawn: list[tuple[int, int, int]]) -> list[Bundle]:
    return [
        Bundle(tuple(f"f{number:03}-{twin}" for twin in range(twins)), size, part_size if twins == 1 else 0)
        for number, (size, part_size, twins) in enumerate(drawn)
    ]


def _files(*sizes: int, part_size: int = 64 * MIB) -> list[Bundle]:
    return [Bundle((f"f{number:05}",), size, part_size) for number, size in enumerate(sizes)]


def _plan(bundles: list[Bundle], shard_size: int) -> list[Cut]:
    target = shard_target([bundle.size for bundle in bundles], shard_size)
    return cut(bundles, target) if target else []


@given(_UNITS, st.integers(1, 3000))
def test_every_byte_is_in_exactly_one_shard(drawn: list[tuple[int, int, int]], target: int) -> None:
    bundles = _bundles(drawn)
    done: dict[str, list[int]] = {}
    whole: list[str] = []
    for shard in cut(bundles, target):
        if shard.numbers is None:
            whole.extend(shard.paths)
        else:
            assert len(shard.paths) == 1
            done.setdefault(shard.paths[0], []).extend(shard.numbers)
    for bundle in bundles:
        if bundle.paths[0] in done:
            assert sorted(done[bundle.paths[0]]) == list(range(1, -(-bundle.size // bundle.part_size) + 1))
        else:
            assert all(whole.count(path) == 1 for path in bundle.paths)
    assert sum(shard.size for shard in cut(bundles, target)) == sum(bundle.size for bundle in bundles)


@given(_UNITS, st.integers(1, 3000))
def test_a_shard_is_no_larger_than_wanted_but_for_what_cannot_be_cut(
    drawn: list[tuple[int, int, int]], target: int
) -> None:
    bundles = _bundles(drawn)
    indivisible = {bundle.paths: max(bundle.part_size, 0 if bundle.part_size else bundle.size) for bundle in bundles}
    for shard in cut(bundles, target):
        assert shard.size <= max(target, 2 * indivisible.get(shard.paths, 0) + target * bool(shard.numbers))


@given(st.lists(st.integers(0, 10 * GIB), max_size=80), st.integers(1, 100))
def test_a_transfer_is_never_cut_into_many_shards(sizes: list[int], shard_mib: int) -> None:
    assert len(_plan(_files(*sizes), shard_mib * MIB)) <= 2 * MAX_SHARDS + len(sizes)


def test_what_fits_in_one_shard_is_not_cut() -> None:
    assert _plan(_files(3 * GIB, 4 * GIB), 8 * GIB) == []
    assert _plan(_files(*[0] * MAX_FILES), 8 * GIB) == []


def test_a_hundred_thousand_small_files_are_five_shards() -> None:
    shards = _plan(_files(*[20_000] * 100_000), 8 * GIB)
    assert len(shards) == 100_000 // MAX_FILES == 5


def test_a_file_that_is_larger_than_a_shard_is_cut_evenly_between_its_parts() -> None:
    shards = _plan(_files(20 * GIB + 1), 8 * GIB)
    assert [len(shard.numbers or ()) for shard in shards] == [107, 107, 107]
    assert sum(shard.size for shard in shards) == 20 * GIB + 1


def test_a_file_that_may_not_be_cut_is_a_shard_of_its_own() -> None:
    shards = _plan([Bundle(("model",), 20 * GIB), Bundle(("config.json",), 700)], 8 * GIB)
    assert [(shard.paths, shard.numbers) for shard in shards] == [(("model",), None), (("config.json",), None)]


def test_files_that_may_be_equal_stay_together() -> None:
    shards = _plan([Bundle(("a", "b"), 6 * GIB), Bundle(("c",), 6 * GIB)], 8 * GIB)
    assert [shard.paths for shard in shards] == [("a", "b"), ("c",)]


def test_a_huge_transfer_has_larger_shards_instead_of_more() -> None:
    shards = _plan(_files(*[100 * GIB] * 100), GIB)
    assert len(shards) <= MAX_SHARDS
