"""Starting, killing and hearing from processes of the program."""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.machine import PART, THRESHOLD

_ROOT = Path(__file__).resolve().parents[2]

SMALL_SETTINGS = {
    "FLEXAI_PART_SIZE": str(PART),
    "FLEXAI_PACK_THRESHOLD": str(THRESHOLD),
    "FLEXAI_PACK_SIZE": str(PART),
    "FLEXAI_CONCURRENCY": "2",
}
WORKERS = 2
"""Parts that a process moves at a time."""


@dataclass
class Ended:
    """How a process ended."""

    code: int
    """Its exit code, or minus the signal that killed it."""
    text: str
    """What it printed, errors included."""
    seconds: float
    """From its start to its end."""

    @property
    def was_killed(self) -> bool:
        """Whether it was killed before it was done."""
        return self.code == -signal.SIGKILL


@dataclass
class Run:
    """A process of the program."""

    pid: int
    output: Path
    processes: Processes
    started: float = field(default_factory=time.monotonic)

    def kill(self, *, after: float = 0.0) -> Run:
        """End it as a power cut would, some seconds from its start."""
        self.let_work(after)
        # It is there, at least as a zombie, until it is waited for.
        os.kill(self.pid, signal.SIGKILL)
        return self

    def is_running(self) -> bool:
        """Whether it has not ended."""
        with open(f"/proc/{self.pid}/stat") as status:
            return status.read().rpartition(")")[2].split()[0] != "Z"

    def let_work(self, seconds: float) -> None:
        """Wait until some seconds from its start have passed."""
        time.sleep(max(0.0, self.started + seconds - time.monotonic()))

    def wait(self) -> Ended:
        """Wait for its end."""
        # Here, so that others can be started meanwhile.
        descriptor = os.pidfd_open(self.pid)
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        ended.poll()
        os.close(descriptor)
        code = self.processes.ask({"wait": self.pid})
        # One that was killed at once has not even opened it.
        text = self.output.read_text(errors="replace") if self.output.exists() else ""
        return Ended(code, text, time.monotonic() - self.started)


class Processes:
    """Makes processes of the program on one home folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def __enter__(self) -> Processes:
        self._driver = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("driver.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=_ROOT,
            env=_clean_environment() | {"PYTHONPATH": str(_ROOT)},
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        self._driver.stdin.close()
        self._driver.stdout.close()
        self._driver.wait()

    def ask(self, order: Mapping[str, Any]) -> int:
        """Hand over an order and return the answer."""
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        with self._lock:
            self._driver.stdin.write(json.dumps(order) + "\n")
            self._driver.stdin.flush()
            return int(self._driver.stdout.readline())

    def start(
        self,
        *arguments: str,
        environment: Mapping[str, str],
        log: Path,
        kill_at: int | None = None,
        file_limit: int | None = None,
        user: int | None = None,
    ) -> Run:
        """Start ``flexai ARGUMENTS`` (or an operation of ``driver.py`` on a provider, whose place comes last).

        ``kill_at`` is the number of the file-changing call before which it kills itself, ``file_limit`` the largest
        file in bytes that it may write, ``user`` the numeric user that it is, where the tests are root.
        """
        output = self.folder / f"output-{next(self._numbers)}"
        order = {
            "arguments": arguments,
            "environment": {**_clean_environment(), **SMALL_SETTINGS, **environment},
            "output": str(output),
            "log": str(log),
            "kill_at": kill_at,
            "file_limit": file_limit,
            "user": user,
        }
        return Run(self.ask(order), output, self)


def _clean_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLEXAI_", "PREFECT_"))}
    return kept | {"DO_NOT_TRACK": "1", "NO_COLOR": "1"}
