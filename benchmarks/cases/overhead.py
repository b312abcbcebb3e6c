"""What is done beside moving bytes: showing progress, a Prefect task run, and planning many files."""

from __future__ import annotations

import itertools

from benchmarks.bench import GIB, Bench
from benchmarks.own import Own, own_operation
from benchmarks.race import Contestant
from benchmarks.results import Bar
from benchmarks.sources import digest_tree, write_shards, write_small


def overhead(bench: Bench) -> None:
    """A push of 2 GiB with progress on a terminal, and as a task with a Prefect server, by the bare operation."""
    server = bench.sink
    numbers = itertools.count()
    with bench.memory_folder() as folder, bench.disk_folder() as disk:
        source = write_shards(folder / "source", 1, bench.size(2 * GIB))
        expected = digest_tree(source)
        own = Own(disk / "home", server, {"PREFECT_API_URL": f"{bench.real.prefect().url}/api", "TERM": "xterm"})
        names: list[str] = []

        def pushing(verb: str) -> Contestant:
            def prepare() -> None:
                own.begin_anew()
                names.append(f"race-{next(numbers)}")

            return Contestant(
                lambda: own_operation(own, verb, names[-1], str(source)),
                prepare,
                lambda: own.examine(names[-1], expected, folder / "fetched"),
            )

        contestants = {
            "bare": pushing("push"),
            "with progress": pushing("push-with-progress"),
            "as a task": pushing("task"),
        }
        title = f"push {bench.size(2 * GIB) / GIB:.3g} GiB to S3: beside the bytes (sink; span: in the program)"
        result = bench.race("overhead", title, contestants, server=server.meter, reference="bare")
        own.begin_anew()
    for name, limit in (("with progress", 1.01), ("as a task", 1.03)):
        if {"bare", name} <= result.runs.keys():
            ratio = result.median(name, "span") / result.median("bare", "span")
            result.bars.append(Bar(f"time, {name} by bare", ratio, limit, "×"))


def plan(bench: Bench) -> None:
    """Planning the push of 100,000 files: finding them, recalling digests, and packing."""
    with bench.disk_folder() as folder:
        count = bench.count(100_000)
        source = write_small(folder / "source", count, 512)
        own = Own(folder / "home")
        contestants = {"plan": Contestant(lambda: own_operation(own, "plan", str(source)), own.begin_anew)}
        result = bench.race(
            "plan", f"plan a push of {count:,} files (span: in the program)", contestants, reference="plan"
        )
    if "plan" in result.runs:
        result.bars.append(Bar("time", result.median("plan", "span"), 10, " s"))
