"""Pushing and fetching where a network or TLS is what is waited for.

The sink waits before each answer and each connection, bounds what each connection moves, and breaks some off.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import GIB, KIB, MIB, Bench
from benchmarks.cases.transfers import fetch, human, peak_bar, push
from benchmarks.clients import OBSTORE, RCLONE, S5CMD
from benchmarks.results import Bar, Result
from benchmarks.servers import sink
from benchmarks.sources import write_shards, write_small

_WAN = ("--first-byte-ms", "30", "--connection-rate", "90e6")
_FAR = ("--first-byte-ms", "120", "--connection-rate", "40e6")
_THIN = ("--first-byte-ms", "30", "--total-rate", "12.5e6")


@dataclass(frozen=True)
class _Work:
    name: str
    count: int
    size: int

    def write(self, bench: Bench, folder: Path, part: float) -> Path:
        """Write its files, ``part`` as many bytes, without repetition."""
        if self.size < MIB:
            return write_small(folder, bench.count(int(self.count * part)), self.size)
        return write_shards(folder, self.count, bench.size(int(self.size * part)))


_WORKS = (
    _Work("large", 1, GIB),
    _Work("shards", 8, 128 * MIB),
    _Work("small", 2000, 64 * KIB),
    _Work("one", 1, 16 * MIB),
)


def wan(bench: Bench) -> None:
    """30 ms to the first byte, 90 MB/s a connection."""
    _race(bench, "wan", _WAN, width=32)


def far(bench: Bench) -> None:
    """120 ms to the first byte, 40 MB/s a connection."""
    _race(bench, "far", _FAR, width=32)


def tls(bench: Bench) -> None:
    """TLS on loopback."""
    _race(bench, "tls", (), tls=True)


def tls_wan(bench: Bench) -> None:
    """TLS, 30 ms to the first byte, 90 MB/s a connection."""
    _race(bench, "tls-wan", _WAN, tls=True, width=32)


def thin(bench: Bench) -> None:
    """100 Mbit/s in all, 30 ms to the first byte; an eighth of the others' bytes."""
    _race(bench, "thin", _THIN, part=1 / 8, check=_check_thin)


def busy(bench: Bench) -> None:
    """503 for every twentieth request, on loopback."""
    _race(bench, "busy", ("--busy", "5"))


def _check_thin(result: Result, size: int) -> None:
    # Without the start of the process, which is each case's.
    result.bars.append(
        Bar("span, by what the line takes", result.median("flexai", "span") / (size / 12.5e6), 1.02, "×")
    )


def _check_fastest(result: Result, _size: int) -> None:
    peers: Sequence[str] = [name for name in result.runs if name != "flexai"]
    fastest = result.fastest(peers)
    if fastest is None:
        return
    result.bars.append(Bar(f"wall, by that of {fastest}", result.ratio(fastest), 1.0, "×"))
    thrifty = min(peers, key=lambda name: result.median(name, "cpu"))
    result.bars.append(Bar(f"client CPU, by that of {thrifty}", result.ratio(thrifty, "cpu"), 1.1, "×"))


def _race(
    bench: Bench,
    name: str,
    network: Sequence[str],
    *,
    tls: bool = False,
    width: int = 8,
    part: float = 1.0,
    check: Callable[[Result, int], None] = _check_fastest,
) -> None:
    with sink(bench.cache, *network, tls=tls, width=width) as server:
        for work in _WORKS:
            with bench.memory_folder(5 * GIB) as folder:
                source = work.write(bench, folder / "source", 1.0 if work.name == "one" else part)
                sizes = [path.stat().st_size for path in source.rglob("*") if path.is_file()]
                what = f"{len(sizes):,} × {human(sizes[0])}"
                for verb, act in (("push", push), ("fetch", fetch)):
                    case, title = f"{name}-{verb}-{work.name}", f"{name}: {verb} {what}"
                    result = act(bench, case, title, source, server, (S5CMD, RCLONE, OBSTORE), folder)
                    if "flexai" in result.runs:
                        check(result, sum(sizes))
                        peak_bar(result)
                shutil.rmtree(folder / "source", ignore_errors=True)
