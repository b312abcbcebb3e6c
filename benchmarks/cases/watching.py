"""What a run costs while its trainer computes and saves nothing."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.bench import MIB, Bench
from benchmarks.measure import Cost, FailedError, flexai
from benchmarks.own import Own
from benchmarks.race import Contestant
from benchmarks.results import Bar

_WATCHED, _SETTLES = 30.0, 3.0
"""Seconds."""
_KEPT = 100
_IDLE_SHARE, _KEPT_SHARE = 0.3, 3.0
"""Percent of a core."""
_PEAK = 80
"""MiB."""

_TRAINER = """
for step in range({kept}):
    save(output() / f"checkpoint-{{step}}", trainer_files(step + 1))
say("computing")
sys.stdin.read()
"""


def watching(bench: Bench) -> None:
    """The processor time and memory of a run whose trainer computes, with no checkpoint and with 100 that stay."""
    with bench.disk_folder() as folder:
        own = Own(folder / "home")

        def watched(kept: int) -> Contestant:
            return Contestant(lambda: _watch(own, kept), own.begin_anew)

        contestants = {"no checkpoint": watched(0), f"{_KEPT} kept": watched(_KEPT)}
        title = f"watch an idle trainer for {_WATCHED:.0f} s"
        result = bench.race("watching", title, contestants, reference="no checkpoint")
    for name in result.runs:
        share = 100 * result.median(name, "cpu") / result.median(name, "wall")
        result.bars.append(
            Bar(f"CPU of a core, {name}", share, _IDLE_SHARE if name == "no checkpoint" else _KEPT_SHARE, "%")
        )
        result.bars.append(Bar(f"peak memory, {name}", result.median(name, "peak") / MIB, _PEAK, "MiB"))


def _watch(own: Own, kept: int) -> Cost:
    """Have so many checkpoints captured, and measure the runner from then on. FailedError where the run fails."""
    from tests.checkpoints.training.trainers import program

    with tempfile.NamedTemporaryFile("r", errors="replace") as output:
        run = subprocess.Popen(
            [flexai(), "training", "run", "watched", "--", *program(_TRAINER.format(kept=kept))],
            env=os.environ | own.environment,
            stdin=subprocess.PIPE,
            stdout=output.fileno(),
            stderr=subprocess.STDOUT,
        )
        with run:
            while "computing" not in (told := Path(output.name).read_text()) or told.count("captured") < kept:
                if run.poll() is not None:
                    raise FailedError(f"the run ended with {run.returncode}: {told[-1500:].strip()}")
                time.sleep(0.1)
            time.sleep(_SETTLES)
            began, before = time.monotonic(), _processor_seconds(run.pid)
            time.sleep(_WATCHED)
            return Cost(time.monotonic() - began, _processor_seconds(run.pid) - before, _peak(run.pid))


def _processor_seconds(process: int) -> float:
    """What all threads of a process have used (``proc(5)``, ``schedstat``: the first figure, in nanoseconds)."""
    threads = Path(f"/proc/{process}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def _peak(process: int) -> int:
    """The largest resident set of a process, in bytes."""
    _, _, told = Path(f"/proc/{process}/status").read_text().partition("VmHWM:")
    return int(told.split()[0]) * 1024
