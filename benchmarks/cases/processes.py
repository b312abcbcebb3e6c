"""Where one interpreter is the limit: the shards of a push by threads, and by processes of their own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench import GIB, KIB, MIB, Bench
from benchmarks.own import Own, own_operation
from benchmarks.race import Contestant
from benchmarks.results import Result
from benchmarks.sources import digest_tree, size_of, write_shards, write_small

_SHARDS = 8
_FEW = "flow, fewest shards"
_THREADS = "flow, threads:2"
_PROCESSES = "flow, processes:2"


def processes(bench: Bench) -> None:
    """A push as a flow whose shards threads or processes do, and the bare operation: large files, and many small."""
    size, count = bench.size(512 * MIB), bench.count(20_000)
    _race(
        bench,
        "processes-large",
        f"push 8 × {size / MIB:.4g} MiB to S3 in shards (sink; span: in the program)",
        lambda folder: write_shards(folder, 8, size),
    )
    _race(
        bench,
        "processes-small",
        f"push {count:,} × 64 KiB to S3 in shards (sink; span: in the program)",
        lambda folder: write_small(folder, count, 64 * KIB),
    )


def _race(bench: Bench, case: str, title: str, write: Callable[[Path], Path]) -> None:
    server = bench.sink
    numbers = itertools.count()
    with bench.memory_folder() as folder, bench.disk_folder() as disk:
        source = write(folder / "source")
        expected = digest_tree(source)
        shard = max(size_of(source) // _SHARDS, 64 * KIB)
        api = {"PREFECT_API_URL": f"{bench.real.prefect().url}/api", "DO_NOT_TRACK": "1"}
        names: list[str] = []

        def pushing(runner: str = "threads", shard_size: int = 0) -> Contestant:
            own = Own(disk / "home", server, api | {"FLEXAI_TASK_RUNNER": runner})

            def prepare() -> None:
                own.begin_anew()
                names.append(f"race-{next(numbers)}")

            verb, *more = ("flow", str(shard_size)) if shard_size else ("push",)
            return Contestant(
                lambda: own_operation(own, verb, names[-1], str(source), *more),
                prepare,
                lambda: own.examine(names[-1], expected, folder / "fetched"),
            )

        contestants = {
            "bare": pushing(),
            # One for large files; small ones count for a 500th each, whatever their size.
            _FEW: pushing(shard_size=1024 * GIB),
            _THREADS: pushing("threads:2", shard),
            _PROCESSES: pushing("processes:2", shard),
        }
        result = bench.race(case, title, contestants, server=server.meter, reference="bare")
        Own(disk / "home", server).begin_anew()
    _note(result)


def _note(result: Result) -> None:
    result.notes.append(f"this machine has {os.cpu_count()} cores; the server takes its share of them")
    if not {_THREADS, _PROCESSES} <= result.runs.keys():
        return
    ratio = result.median(_PROCESSES, "span") / result.median(_THREADS, "span")
    more = result.median(_PROCESSES, "cpu") - result.median(_THREADS, "cpu")
    verdict = "pay" if ratio < 1 else "do not pay"
    result.notes.append(
        f"two processes take {ratio:.2f}× the span of two threads and {more:+.1f} s of CPU: they {verdict}"
    )
