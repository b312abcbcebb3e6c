"""What is done beside moving bytes: showing progress, a Prefect task run, and planning many files."""

from __future__ import annotations

import itertools

from benchmarks.bench import GIB, Bench
from benchmarks.own import Own, own_operation
from benchmarks.race import Contestant
from benchmarks.results import Bar
from benchmarks.sources import digest_tree, write_shards, write_small

_WARM = "bare, in a process that runs"
_TASK = "as a task, in a process that runs"


def overhead(bench: Bench) -> None:
    """A push of 2 GiB with progress on a terminal, and as a task with a Prefect server, by the bare operation.

    As a whole process, Prefect's start included, and in one that has pushed before, as a worker has Prefect loaded.
    """
    server = bench.sink
    numbers = itertools.count()
    with bench.memory_folder() as folder, bench.disk_folder() as disk:
        source = write_shards(folder / "source", 1, bench.size(2 * GIB))
        expected = digest_tree(source)
        own = Own(
            disk / "home",
            server,
            {
                "PREFECT_API_URL": f"{bench.real.prefect().url}/api",
                # As the command has it.
                "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
                "DO_NOT_TRACK": "1",
                "TERM": "xterm",
            },
        )
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
            _WARM: pushing("push-warm"),
            _TASK: pushing("task-warm"),
        }
        title = f"push {bench.size(2 * GIB) / GIB:.3g} GiB to S3: beside the bytes (sink; span: in the program)"
        result = bench.race("overhead", title, contestants, server=server.meter, reference="bare")
        own.begin_anew()
    for name, base, limit in (("with progress", "bare", 1.01), (_TASK, _WARM, 1.03)):
        if {base, name} <= result.runs.keys():
            ratio = result.median(name, "span") / result.median(base, "span")
            result.bars.append(Bar(f"time, {name}, by bare", ratio, limit, "×"))
    if {"bare", "as a task"} <= result.runs.keys():
        more = result.median("as a task") - result.median("bare")
        result.notes.append(f"a whole process takes {more:.2f} s longer with Prefect, whose start is most of that")
    if {_WARM, _TASK} <= result.runs.keys():
        more = result.median(_TASK, "span") - result.median(_WARM, "span")
        result.notes.append(f"a task run adds {more:.3f} s in a process that runs")


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
