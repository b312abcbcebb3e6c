"""What a person who trains feels of flexai, beside the other ways to bring a save to a store."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.bench import GIB, KIB, MIB, Bench
from benchmarks.clients import PROGRAMS
from benchmarks.measure import Cost, run
from benchmarks.own import Own
from benchmarks.race import Contestant, race
from benchmarks.results import Bar, Result
from benchmarks.servers import SinkMeter

_RATE = 100_000_000
"""Bytes a second that the store takes in."""
_STALL_MS = 10
_SLOWER = {1: 3, 2: 10}
"""Percent, by the threads of a training on a machine of two cores: one leaves a core free."""
_BASE_SECONDS = 5.0

# Bytes of a save, how many each round, and how many of those that make the training wait for the store.
_SIZES = ((KIB, 200, 50), (MIB, 200, 50), (64 * MIB, 20, 6), (GIB, 3, 1), (4 * GIB, 2, 1))
_LARGEST_IN_PLACE = GIB
_COPIES = 4.3
"""Of what Lightning saves: the tensor, its clone, and two saves in the sink's memory."""
_NAMES = {
    "flexai": "flexai",
    "upload": "upload, then go on",
    "thread": "a thread that uploads",
    "lightning": "AsyncCheckpointIO",
}


def stall(bench: Bench) -> None:
    """What a save costs a training's loop, 1 KiB to 4 GiB, while the store takes in 100 MB/s."""
    import psutil

    took: dict[str, list[float]] = defaultdict(list)
    skipped, pythons = _pythons(bench)
    wrong: dict[str, list[str]] = {}
    with _store(bench) as store:
        for size, saves, few in _SIZES:
            size = size if size <= MIB else bench.size(size)
            for place in ("new", "same") if size <= bench.size(_LARGEST_IN_PLACE) else ("new",):
                contestants = {}
                for saver, python in pythons.items():
                    if place == "same" and saver != "flexai":
                        continue
                    if saver == "lightning" and _COPIES * size > psutil.virtual_memory().available:
                        skipped[f"{_size(size)}: {_NAMES[saver]}"] = "the tensor and its clone find no memory here"
                        continue
                    count = max(2, int((few if saver == "upload" else saves) * bench.scale))
                    row = f"{_size(size)}{', written over' if place == 'same' else ''}: {_NAMES[saver]}"
                    command = [python, str(PROGRAMS / "saves.py"), saver, str(size), str(count), place]
                    contestants[row] = store.contestant(saver, command, took[row].extend)
                _, failed = race(contestants, rounds=bench.rounds, warm_up=False)
                wrong |= failed
    result = Result(
        "training-stall",
        f"what a save costs the training's loop (sink, {_RATE / 1e6:.0f} MB/s)",
        {},
        skipped=skipped,
        wrong=wrong,
        figures={row: _milliseconds(some) for row, some in took.items() if some},
    )
    for row, figures in result.figures.items():
        if row.endswith(_NAMES["flexai"]):
            result.bars.append(Bar(f"p99, {row.partition(':')[0]}", figures["p99 ms"], _STALL_MS, " ms"))
    result.notes.append(
        "AsyncCheckpointIO clones the tensors while the loop waits, and writes the file beside it; the others get a"
        " file that is written"
    )
    bench.results.append(result)


def interference(bench: Bench) -> None:
    """How much slower a training's steps are while 2 GiB are stored, with a free core and without."""
    measured: dict[str, list[dict[str, float]]] = defaultdict(list)
    skipped, pythons = _pythons(bench)
    size = bench.size(2 * GIB)
    seconds = str(max(0.5, _BASE_SECONDS * min(1.0, bench.scale * 10)))
    limits: dict[str, float] = {}
    contestants: dict[str, Contestant] = {}
    pythons.pop("upload", None)
    with _store(bench) as store:
        # It stands for another machine.
        os.setpriority(os.PRIO_PROCESS, store.process, 19)
        for rate in (_RATE, 0):
            for library, threads in ((one, two) for one in ("numpy", "torch") for two in _SLOWER):
                for saver, python in _with(library, pythons, skipped).items():
                    row = ", ".join(
                        (
                            library,
                            "a core is free" if threads == 1 else "no core is free",
                            f"{rate / 1e6:.0f} MB/s" if rate else "as fast as can be",
                        )
                    )
                    row = f"{row}: {_NAMES[saver]}"
                    if saver == "flexai":
                        limits[row] = _SLOWER[threads]
                    command = [python, str(PROGRAMS / "steps.py"), saver, library, str(threads), str(size), seconds]
                    contestants[row] = store.contestant(saver, command, measured[row].append, threads, rate)
        _, wrong = race(contestants, rounds=bench.rounds, warm_up=False)
    result = Result(
        "training-interference",
        f"how much slower steps are while {size / GIB:.3g} GiB are stored (sink)",
        {},
        skipped=skipped,
        wrong=wrong,
        figures={row: _slower(some) for row, some in measured.items() if some},
    )
    for row, limit in limits.items():
        if row in result.figures:
            result.bars.append(Bar(row.partition(":")[0], result.figures[row]["slower %"], limit, "%"))
    result.notes.append("the server shares these cores, at the lowest priority")
    bench.results.append(result)


class _Store:
    """The sink behind a limit, and folders for trainings that save to it."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        server = bench.sink
        assert isinstance(server.meter, SinkMeter)
        self._sink = server.meter.sink
        self._folder = folder
        self._own = Own(folder / "home", server)

    @property
    def process(self) -> int:
        """The server's."""
        return self._sink.process.pid

    def contestant(
        self, saver: str, command: Sequence[str], take: Any, threads: int = 1, rate: int = _RATE
    ) -> Contestant:
        """A training by a command that gets a folder and the place of its report, which ``take`` is given."""
        trains, report = self._folder / "out", self._folder / "report.json"

        def prepare() -> None:
            self._sink.limit(0)
            self._sink.clear()
            shutil.rmtree(trains, ignore_errors=True)
            if saver == "flexai":
                self._own.begin_anew()
            self._sink.limit(rate)

        def perform() -> Cost:
            some = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
            cost = run([*command, str(trains), str(report)], self._own.environment | FROM_SOURCE | some)
            take(json.loads(report.read_text()))
            return cost

        return Contestant(perform, prepare)

    def close(self) -> None:
        """Let the next case have the server as it was."""
        self._sink.limit(0)
        self._sink.clear()


_ROOT = Path(__file__).parents[2]
FROM_SOURCE = {"PYTHONPATH": f"{_ROOT}{os.pathsep}{_ROOT / 'src'}"}


@contextmanager
def _store(bench: Bench) -> Iterator[_Store]:
    with bench.disk_folder() as folder:
        store = _Store(bench, folder)
        try:
            yield store
        finally:
            store.close()


def _pythons(bench: Bench) -> tuple[dict[str, str], dict[str, str]]:
    """Why savers take no part, and the interpreter of each that does."""
    pythons = dict.fromkeys(("flexai", "upload", "thread"), sys.executable)
    skipped = {}
    python = frameworks()
    if has(python, "lightning", "boto3"):
        pythons["lightning"] = python
    else:
        skipped[_NAMES["lightning"]] = "FLEXAI_TEST_FRAMEWORKS names no environment with lightning and boto3"
    return skipped, {saver: python for saver, python in pythons.items() if saver == "flexai" or bench.wants(saver)}


def _with(library: str, pythons: Mapping[str, str], skipped: dict[str, str]) -> dict[str, str]:
    """The interpreters of the savers that train with a library."""
    if library == "numpy":
        return {saver: python for saver, python in pythons.items() if saver != "lightning"}
    python = frameworks()
    if not has(python, "torch", "boto3", "flexai.training"):
        skipped["torch"] = "FLEXAI_TEST_FRAMEWORKS names no environment with torch and what flexai needs"
        return {}
    return dict.fromkeys(pythons, python)


def frameworks() -> str:
    """The interpreter of the environment that `make frameworks` makes; empty where none is named."""
    place = os.environ.get("FLEXAI_TEST_FRAMEWORKS", "")
    return str(Path(place).resolve() / "bin" / "python") if place else ""


def has(python: str, *modules: str) -> bool:
    """Whether an interpreter has modules; none has where its path is empty."""
    if not python:
        return False
    imports = "; ".join(f"import {module}" for module in modules)
    done = subprocess.run([python, "-c", imports], env=os.environ | FROM_SOURCE, capture_output=True, check=False)
    return done.returncode == 0


def _size(size: int) -> str:
    unit, name = next((unit, name) for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")) if size >= unit)
    return f"{size / unit:.3g} {name}"


def _milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    ordered = [1000 * one for one in sorted(seconds)]
    return {
        "saves": len(ordered),
        "p50 ms": statistics.median(ordered),
        "p99 ms": ordered[math.ceil(0.99 * len(ordered)) - 1],
        "max ms": ordered[-1],
    }


def _slower(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of the runs, and their ends."""
    slower = sorted(100 * (1 - one["storing"] / one["alone"]) for one in runs)
    return {
        "slower %": statistics.median(slower),
        "least %": slower[0],
        "most %": slower[-1],
        "stored in s": statistics.median(one["seconds"] for one in runs),
    }
