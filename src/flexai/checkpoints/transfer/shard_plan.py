"""How a large transfer is cut into shards that different processes can do, computed from sizes alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

MAX_SHARDS = 300
"""About as many shards as a transfer is cut into.

A Prefect server records 35 to 55 task runs a second and loses records of bursts above some 3,000.
"""

MAX_FILES = 20_000
"""Files in a shard. Each is a request or two, so a file counts for at least this fraction of a shard's bytes.

One process does some 1,000 requests of 30 ms a second, and packs small local files ten times as fast: these take it no
longer than a shard's bytes, and less than what cutting them would cost.
"""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What stays together: one file, or files that may be equal, of which the second finds the first one's content."""

    paths: tuple[str, ...]
    size: int
    """Bytes of all."""
    part_size: int = 0
    """Bytes of a part, for one file that may be cut between its parts; else 0."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What one shard does: whole files, or some parts of one."""

    paths: tuple[str, ...]
    size: int
    """Bytes."""
    numbers: range | None = None
    """The numbers (from 1) of the one file's parts."""


def weight(size: int, shard_size: int) -> int:
    """What a file counts for in a shard."""
    return max(size, shard_size // MAX_FILES)


def shard_target(sizes: Sequence[int], shard_size: int) -> int:
    """How many bytes to put into a shard, for files of these sizes; 0 where they are not worth more than one.

    It is ``shard_size``, or more where that would make too many shards.
    """
    total = sum(weight(size, shard_size) for size in sizes)
    return 0 if total <= shard_size else max(shard_size, -(-total // MAX_SHARDS))


def one_shard(sizes: Sequence[int]) -> int:
    """How many bytes to put into a shard for all files of these sizes to go into one, or hardly more."""
    return max(1, sum(sizes)) + len(sizes)


def cut(bundles: Iterable[Bundle], target: int) -> list[Cut]:
    """Cut a transfer into shards of about ``target`` bytes (``shard_target``), the largest first.

    Small bundles are put together in the order they come in; one that is larger than a shard is cut between its
    parts, or stands alone where it may not be cut.
    """
    cuts: list[Cut] = []
    group: list[Bundle] = []
    weight = 0

    def close() -> None:
        if group:
            paths = tuple(path for bundle in group for path in bundle.paths)
            cuts.append(Cut(paths, sum(bundle.size for bundle in group)))

    for bundle in bundles:
        if bundle.size > target:
            cuts.extend(_pieces(bundle, target))
            continue
        heavy = max(bundle.size, len(bundle.paths) * target // MAX_FILES)
        if group and weight + heavy > target:
            close()
            group, weight = [], 0
        group.append(bundle)
        weight += heavy
    close()
    return sorted(cuts, key=lambda cut: -cut.size)


def _pieces(bundle: Bundle, target: int) -> list[Cut]:
    if not bundle.part_size:
        return [Cut(bundle.paths, bundle.size)]
    parts = -(-bundle.size // bundle.part_size)
    shards = min(parts, -(-bundle.size // target))
    if shards < 2:
        return [Cut(bundle.paths, bundle.size)]
    # As even as whole parts allow.
    size = bundle.part_size
    edges = [1 + parts * number // shards for number in range(shards + 1)]
    return [
        Cut(bundle.paths, min((end - 1) * size, bundle.size) - (first - 1) * size, range(first, end))
        for first, end in pairwise(edges)
    ]
