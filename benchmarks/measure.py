"""Running whole processes and saying what they cost."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What one process cost."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of user and system time, threads and waited-for children included."""
    peak: int
    """Bytes of the largest resident set."""


# A small process that starts the command: a child's peak begins at that of the process it was forked from.
_LAUNCHER = """
import json, os, resource, subprocess, sys, time
started = time.monotonic()
code = subprocess.run(sys.argv[2:], stdin=subprocess.DEVNULL).returncode
wall = time.monotonic() - started
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as report:
    json.dump([code, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss], report)
"""


def run(command: Sequence[str], environment: Mapping[str, str], *, cwd: Path | None = None) -> Cost:
    """Run a command to its end and measure it; CalledProcessError with its output where it fails."""
    with tempfile.NamedTemporaryFile("r") as report:
        done = subprocess.run(
            [sys.executable, "-S", "-c", _LAUNCHER, report.name, *command],
            env={**os.environ, **environment},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=True,
        )
        code, wall, cpu, peak = json.load(report)
    if code != 0:
        raise subprocess.CalledProcessError(code, command, done.stdout)
    # Kilobytes on Linux, bytes on macOS (man 2 getrusage).
    return Cost(wall=wall, cpu=cpu, peak=peak * (1 if sys.platform == "darwin" else 1024))


def alternate(contestants: Mapping[str, Callable[[], Cost]], *, rounds: int) -> dict[str, list[Cost]]:
    """Run contestants in turn, after a warm-up of each, so that a busy machine is busy for all of them."""
    costs: dict[str, list[Cost]] = {name: [] for name in contestants}
    for round_number in range(rounds + 1):
        for name, contestant in contestants.items():
            cost = contestant()
            if round_number:
                costs[name].append(cost)
    return costs


def flexai() -> str:
    """The program beside the interpreter that runs this."""
    return str(Path(sys.executable).with_name("flexai"))


def print_costs(title: str, costs: Mapping[str, Sequence[Cost]], *, reference: str | None = None) -> None:
    """Print medians with their spread, and the ratio to a reference."""
    print(f"\n{title}")
    print(f"  {'':34}{'wall s (min-max)':>24}{'cpu s':>9}{'peak MiB':>10}{'ratio':>8}")
    base = statistics.median(cost.wall for cost in costs[reference]) if reference else None
    for name, runs in costs.items():
        walls = [cost.wall for cost in runs]
        wall = statistics.median(walls)
        cpu = statistics.median(cost.cpu for cost in runs)
        peak = max(cost.peak for cost in runs) / 1024**2
        ratio = f"{wall / base:8.2f}" if base else ""
        print(f"  {name:34}{wall:9.3f} ({min(walls):.3f}-{max(walls):.3f}){cpu:9.2f}{peak:10.0f}{ratio}")
