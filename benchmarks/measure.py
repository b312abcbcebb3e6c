"""Running whole processes and saying what they cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What one command cost."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of user and system time, threads and waited-for children included."""
    peak: int
    """Bytes of the largest resident set of a process, or of all its processes at one moment where that is more."""
    inner: float | None = None
    """Seconds that the program itself took for what it was started for; None where it does not say."""


class FailedError(Exception):
    """A command failed; says how."""


# A small process that starts the command: a child's peak begins at that of the process it was forked from. A thread
# adds up the resident sets of the tree for programs of several processes; one process alone is told by the kernel.
_LAUNCHER = """
import json, os, resource, subprocess, sys, threading, time
page = os.sysconf("SC_PAGE_SIZE")
peak = 0
ended = threading.Event()

def children(pid):
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children") as file:
                below = file.read().split()
        except OSError:
            continue
        for child in below:
            yield child
            yield from children(child)

def resident(pid):
    try:
        with open(f"/proc/{pid}/statm") as file:
            values = file.read().split()
        return (int(values[1]) - int(values[2])) * page
    except (OSError, IndexError):
        return 0

def watch():
    global peak
    while not ended.wait(0.1):
        tree = list(children(os.getpid()))
        if len(tree) > 1:
            peak = max(peak, sum(map(resident, tree)))

if sys.platform == "linux":
    threading.Thread(target=watch, daemon=True).start()
started = time.monotonic()
code = subprocess.run(sys.argv[2:], stdin=subprocess.DEVNULL).returncode
wall = time.monotonic() - started
ended.set()
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as report:
    json.dump([code, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, peak], report)
"""


def run(command: Sequence[str], environment: Mapping[str, str], *, cwd: Path | None = None) -> Cost:
    """Run a command to its end and measure it; FailedError with the end of its output where it fails."""
    with (
        tempfile.NamedTemporaryFile("r") as report,
        tempfile.NamedTemporaryFile("r") as inner,
        tempfile.TemporaryFile("w+", errors="replace") as output,
    ):
        subprocess.run(
            [sys.executable, "-S", "-c", _LAUNCHER, report.name, *command],
            env={**os.environ, **environment, "FLEXAI_BENCH_INNER": inner.name},
            cwd=cwd,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=True,
        )
        code, wall, cpu, largest, tree = json.load(report)
        if code != 0:
            output.seek(0)
            raise FailedError(f"{Path(command[0]).name} ended with {code}: {output.read()[-1500:].strip()}")
        told = inner.read()
    # Kilobytes on Linux, bytes on macOS (man 2 getrusage).
    peak = max(tree, largest * (1 if sys.platform == "darwin" else 1024))
    return Cost(wall, cpu, peak, float(told) if told else None)


def flexai() -> str:
    """The program beside the interpreter that runs this."""
    return str(Path(sys.executable).with_name("flexai"))
