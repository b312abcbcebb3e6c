"""How time and memory grow with what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from benchmarks.bench import GIB, MIB, Bench
from benchmarks.catalogs import fill
from benchmarks.measure import Cost, flexai, run
from benchmarks.own import Own
from benchmarks.results import Bar, Result, Spread
from benchmarks.servers import S3Server, sink
from benchmarks.sources import empty, write_file, write_small
from flexai.checkpoints.settings import default_database_url

_FILES = (1_000, 10_000, 100_000)
_CHECKPOINTS = (1_000, 10_000, 100_000)
_SIZES = (MIB, 64 * MIB, GIB, 16 * GIB, 64 * GIB)
_CONNECTIONS = (1, 4, 16, 64)
_SLOW_LINE = ("--first-byte-ms", "30", "--connection-rate", "90e6")
_PEAK = 256.0
_LINEAR = 1.1
"""What more may take, by as many times as long as it is more."""


def growth(bench: Bench) -> None:
    """Seconds and peak memory of whole processes: files, bytes, checkpoints, and connections to a distant store."""
    result = Result("growth", "growth: whole processes", {})
    _add(bench, result, "push of {:,} files", _FILES, _pushing_files)
    _add(bench, result, "push of {:,} MiB, sparse", [size // MIB for size in _SIZES], _pushing_bytes)
    _add(bench, result, "list of {:,} checkpoints", _CHECKPOINTS, _listing)
    _add(bench, result, "push of a gibibyte by {:,} connections", _CONNECTIONS, _connecting, is_amount=False)
    result.notes.append("files of 512 bytes and a sparse file go to the local store, 1 GiB over 30 ms and 90 MB/s")
    bench.results.append(result)


def _add(
    bench: Bench,
    result: Result,
    title: str,
    amounts: Sequence[int],
    measure: Callable[[Bench, int, Path], list[Cost]],
    *,
    is_amount: bool = True,
) -> None:
    """Measure a series, and add its rows and its bars; ``is_amount`` where there is more to do each time."""
    walls: dict[int, float] = {}
    peaks: dict[int, float] = {}
    for amount in amounts:
        with bench.disk_folder() as folder:
            costs = measure(bench, bench.count(amount) if is_amount else amount, folder)
        walls[amount] = Spread.of(cost.wall for cost in costs).median
        peaks[amount] = max(cost.peak for cost in costs) / MIB
        result.figures[title.format(amount)] = {
            "s": walls[amount],
            "CPU s": Spread.of(cost.cpu for cost in costs).median,
            "MiB": peaks[amount],
        }
    name = title.replace("{:,} ", "")
    result.bars.append(Bar(f"peak memory, {name}", max(peaks.values()), _PEAK, "MiB"))
    if is_amount:
        result.bars.append(Bar(f"growth of the time, {name}", growth_of(walls), _LINEAR, "× linear"))


def growth_of(walls: Mapping[int, float]) -> float:
    """The most that the time of an amount is, by what that of the one before would give in proportion."""
    return max(walls[more] / (walls[less] * more / less) for less, more in pairwise(sorted(walls)))


def _pushing_files(bench: Bench, count: int, folder: Path) -> list[Cost]:
    own, source = Own(folder / "home"), write_small(folder / "source", count, 512)
    return [_pushed(own, source) for _ in range(bench.rounds)]


def _pushing_bytes(bench: Bench, mebibytes: int, folder: Path) -> list[Cost]:
    own, source = Own(folder / "home"), folder / "weights.bin"
    with source.open("wb") as file:
        file.truncate(mebibytes * MIB)
    return [_pushed(own, source) for _ in range(bench.rounds)]


def _pushed(own: Own, source: Path, server: S3Server | None = None) -> Cost:
    own.begin_anew()
    if server is None:
        return own.push("growing", source)
    server.meter.reset()  # from here on its network is there
    try:
        return own.push("growing", source)
    finally:
        server.meter.load()


def _listing(bench: Bench, count: int, folder: Path) -> list[Cost]:
    own = Own(folder / "home")
    empty(own.home)
    fill(default_database_url(own.home), count)
    return [run([flexai(), "checkpoint", "list"], own.environment) for _ in range(bench.rounds)]


def _connecting(bench: Bench, connections: int, folder: Path) -> list[Cost]:
    with sink(bench.cache, *_SLOW_LINE) as server:
        own = Own(folder / "home", server, {"FLEXAI_CONCURRENCY": str(connections)})
        write_file(folder / "weights.bin", bench.size(GIB))
        return [_pushed(own, folder / "weights.bin", server) for _ in range(bench.rounds)]
