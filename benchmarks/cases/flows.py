"""What a flow run adds to an operation: for each of many small files, and for each shard."""

from __future__ import annotations

import itertools

from benchmarks import shards as task_runs
from benchmarks.bench import MIB, Bench
from benchmarks.own import Own, own_operation
from benchmarks.race import Contestant
from benchmarks.results import Bar
from benchmarks.sources import digest_tree, write_small

_SIZE = 512
"""Bytes of a file."""
_BARE, _FLOW, _STILL, _EMPTY = "bare", "as a flow", "as a flow, its heartbeat off", "a flow that does nothing"
_RATIO, _PEAK, _MANY = 1.3, 256.0, 20.0


def files(bench: Bench) -> None:
    """A push of 20,000 small files as a flow run, by the bare operation: each in a process that has pushed before."""
    numbers = itertools.count()
    with bench.disk_folder() as folder:
        count = bench.count(20_000)
        source = write_small(folder / "source", count, _SIZE)
        expected = digest_tree(source)
        own = Own(
            folder / "home", bench.sink, {"PREFECT_API_URL": f"{bench.real.prefect().url}/api", "DO_NOT_TRACK": "1"}
        )
        names: list[str] = []

        def pushing(verb: str, *more: str) -> Contestant:
            def prepare() -> None:
                own.begin_anew()
                names.append(f"flow-{next(numbers)}")

            return Contestant(
                lambda: own_operation(own, verb, names[-1], str(source), *more),
                prepare,
                lambda: own.examine(names[-1], expected, folder / "fetched"),
            )

        contestants = {
            _BARE: pushing("push-warm"),
            _FLOW: pushing("flow-warm"),
            _STILL: pushing("flow-warm", "off"),
            _EMPTY: Contestant(lambda: own_operation(own, "flow-empty")),
        }
        title = f"push {count:,} files of {_SIZE} bytes as a flow (span: in the program)"
        result = bench.race("flows-files", title, contestants, reference=_BARE)
    if {_BARE, _FLOW, _STILL} <= result.runs.keys():
        for flow in (_FLOW, _STILL):
            ratio = result.median(flow, "span") / result.median(_BARE, "span")
            result.bars.append(Bar(f"time, {flow}, by bare", ratio, _RATIO, "×"))
        peak = max(run.peak for run in result.runs[_FLOW]) / MIB
        result.bars.append(Bar("peak memory, as a flow", peak, _PEAK, "MiB"))
    if _EMPTY in result.runs:
        empty = result.median(_EMPTY, "span")
        result.notes.append(
            f"a flow that does nothing takes {empty:.2f} s: Prefect looks once a second whether its heartbeat may end"
        )


def many(bench: Bench) -> None:
    """A push of 100,000 small files: the whole process, and its memory."""
    with bench.disk_folder() as folder:
        count = bench.count(100_000)
        source = write_small(folder / "source", count, _SIZE)
        own = Own(folder / "home", bench.sink)
        contestants = {"flexai": Contestant(lambda: own.push("many", source), own.begin_anew)}
        result = bench.race("flows-many", f"push {count:,} files of {_SIZE} bytes", contestants)
    if "flexai" in result.runs:
        result.bars.append(Bar("wall", result.median("flexai"), _MANY, " s"))
        peak = max(run.peak for run in result.runs["flexai"]) / MIB
        result.bars.append(Bar("peak memory", peak, _PEAK, "MiB"))


def shards(bench: Bench) -> None:
    """What a shard costs for being a task run of its own; prints its own table, and needs a minute."""
    task_runs.main()
