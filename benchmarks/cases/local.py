"""Pushing to the store in the home folder by `cp` and `sync`, and how much memory huge content takes."""

from __future__ import annotations

import os
import shutil

from benchmarks.bench import GIB, MIB, Bench
from benchmarks.measure import run
from benchmarks.own import Own
from benchmarks.race import Contestant
from benchmarks.results import Bar
from benchmarks.sources import compare, digest_file, digest_tree, write_shards

_COPY = 'cp --reflink=never "$1" "$2" && sync "$2"'
_PEAK = 256
"""MiB."""


def local_push(bench: Bench) -> None:
    """2 GiB to the local store, by `cp` followed by a sync; on a real disk, the digest included."""
    with bench.disk_folder() as folder:
        source = write_shards(folder / "source", 1, bench.size(2 * GIB))
        file = next(source.iterdir())
        expected = digest_tree(source)
        own = Own(folder / "home")
        copied = folder / "copy.bin"

        def remove() -> None:
            copied.unlink(missing_ok=True)

        def examine_copy() -> None:
            compare({"copy": expected[file.name]}, {"copy": digest_file(copied)})
            remove()

        def examine_push() -> None:
            own.examine("race", expected, folder / "fetched")
            own.begin_anew()

        contestants = {
            "cp, sync": Contestant(
                lambda: run(["sh", "-c", _COPY, "sh", str(file), str(copied)], {}), remove, examine_copy
            ),
            "flexai": Contestant(lambda: own.push("race", source), own.begin_anew, examine_push),
        }
        title = f"push {bench.size(2 * GIB) / GIB:.3g} GiB to the local store"
        result = bench.race("local-push", title, contestants, chart=True)
    if {"cp, sync", "flexai"} <= result.runs.keys():
        result.bars.append(Bar("wall, by that of cp and sync", result.ratio("cp, sync"), 1.3, "×"))


def memory(bench: Bench) -> None:
    """Peak memory of a sparse file of 16 GiB and of 100,000 small files, pushed and fetched."""
    with bench.disk_folder() as folder:
        size, count = bench.size(16 * GIB), bench.count(100_000)
        sparse, small = folder / "sparse", folder / "small"
        sparse.mkdir()
        with (sparse / "weights.bin").open("wb") as file:
            file.truncate(size)
            file.seek(size // 2)
            file.write(b"not only a hole")
        for number in range(count):
            path = small / f"{number // 1000:03}" / f"{number:06}.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(os.urandom(16) * (number % 200))
        own, fetched = Own(folder / "home"), folder / "fetched"

        def pushing(name: str) -> Contestant:
            return Contestant(lambda: own.push(name, folder / name), own.begin_anew)

        def fetching(name: str) -> Contestant:
            def prepare() -> None:
                own.begin_anew()
                own.push(name, folder / name)

            def examine() -> None:
                # It fails where anything differs.
                run(["diff", "--recursive", str(folder / name), str(fetched)], {})
                shutil.rmtree(fetched)

            return Contestant(lambda: own.fetch(name, fetched), prepare, examine)

        contestants: dict[str, Contestant] = {}
        for name in ("sparse", "small"):
            contestants |= {f"push {name}": pushing(name), f"fetch {name}": fetching(name)}
        title = f"memory: a sparse file of {size / GIB:.3g} GiB, and {count:,} small files"
        result = bench.race("memory", title, contestants)
    for name, runs in result.runs.items():
        result.bars.append(Bar(f"peak memory, {name}", max(one.peak for one in runs) / MIB, _PEAK, "MiB"))
