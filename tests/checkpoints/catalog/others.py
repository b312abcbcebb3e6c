"""Other processes that work on the same catalog: real ones, made quickly from one that has imported everything.

Run as a program this is that one process: it reads an order a line, forks a child for each, and the child answers with
a line. The tests' own process cannot fork: pytest-xdist gives it threads.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

_ROOT = Path(__file__).resolve().parents[3]


class Other:
    """Another process."""

    def __init__(self, processes: OtherProcesses, number: int) -> None:
        self._processes = processes
        self.number = number

    def answer(self) -> Any:
        """What it found out; waits for it, and raises where it failed."""
        answer = self._processes.answer_of(self.number)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    @property
    def pid(self) -> int:
        """Its process id."""
        pid: int = self._processes.answer_of(self.number)["pid"]
        return pid

    def kill(self) -> None:
        """End it as a power cut would."""
        os.kill(self.pid, signal.SIGKILL)
        while _is_there(self.pid):
            time.sleep(0.002)


class OtherProcesses:
    """Starts other processes and hears from them."""

    def __init__(self) -> None:
        self._answers: dict[int, dict[str, Any]] = {}
        self._number = 0
        self._staying: list[Other] = []

    def __enter__(self) -> OtherProcesses:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path])},
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill_all()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def start(self, action: str, url: str, *, stay: bool = False, **details: Any) -> Other:
        """Start a process that does one of the actions below; with ``stay`` it then lives on until it is killed."""
        self._number += 1
        order = {"number": self._number, "action": action, "url": url, "stay": stay, "details": details}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        other = Other(self, self._number)
        if stay:
            self._staying.append(other)
        return other

    def answer_of(self, number: int) -> dict[str, Any]:
        """The answer of one process; reads those of others on the way."""
        assert self._process.stdout is not None
        while number not in self._answers:
            answer = json.loads(self._process.stdout.readline())
            self._answers[answer["number"]] = answer
        return self._answers[number]

    def kill_all(self) -> None:
        """End every process that lives on."""
        while self._staying:
            other = self._staying.pop()
            if _is_there(other.pid):
                other.kill()


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _begin(url: str, name: str) -> Any:
    from flexai.checkpoints.catalog.catalog import Catalog
    from flexai.checkpoints.errors import CheckpointError
    from tests.checkpoints.catalog.steps import begin

    catalog = Catalog.open(url)
    try:
        checkpoint_id, lease = begin(catalog, name)
    except CheckpointError as error:
        return {"refused": error.message, "exit_code": error.exit_code}
    return {"id": checkpoint_id, "token": lease.token}


def _begin_job(url: str, name: str) -> Any:
    from flexai.checkpoints.catalog.catalog import Catalog
    from tests.checkpoints.catalog.steps import capture

    return capture(Catalog.open(url), name)[0]


def _open(url: str) -> Any:
    from flexai.checkpoints.catalog.catalog import Catalog

    catalog = Catalog.open(url)
    return len(catalog.checkpoints.list_deleted())


def _push_many(url: str, names: list[str], common: str) -> Any:
    """Push names whose checkpoints share a file, and delete every second one; names that others won are left."""
    from flexai.checkpoints.catalog.catalog import Catalog
    from flexai.checkpoints.errors import ConflictError, NotFoundError
    from flexai.checkpoints.names import parse_reference
    from tests.checkpoints.catalog.steps import push

    catalog = Catalog.open(url)
    won = []
    for index, name in enumerate(names):
        try:
            checkpoint = push(catalog, name, {"own.bin": os.urandom(8), "common.bin": common.encode()})
        except ConflictError:
            continue
        won.append(checkpoint.id)
        if index % 2:
            try:
                catalog.checkpoints.delete(parse_reference(name))
            except NotFoundError:
                continue
    return won


def _collect_many(url: str, times: int) -> Any:
    from flexai.checkpoints.catalog.catalog import Catalog
    from tests.checkpoints.catalog.steps import STORE_ID

    blobs = Catalog.open(url).blobs(STORE_ID)
    removed = []
    for _ in range(times):
        for blob_id, _, _ in blobs.unneeded():
            if blobs.mark_deleting(blob_id):
                blobs.forget(blob_id)
                removed.append(blob_id)
    return removed


ACTIONS: Mapping[str, Callable[..., Any]] = {
    "begin": _begin,
    "capture": _begin_job,
    "open": _open,
    "push many": _push_many,
    "collect many": _collect_many,
}


def _work(order: dict[str, Any], parent: int) -> None:
    answer: dict[str, Any] = {"number": order["number"], "pid": os.getpid()}
    try:
        answer["value"] = ACTIONS[order["action"]](order["url"], **order["details"])
    except Exception as error:  # noqa: BLE001 - whatever it is, the test hears of it
        answer["error"] = f"{type(error).__name__}: {error}"
    # One write, so that the lines of several processes do not mix.
    os.write(sys.stdout.fileno(), json.dumps(answer).encode() + b"\n")
    while order["stay"] and os.getppid() == parent:
        time.sleep(0.1)


def main() -> None:
    """Fork a child for each order."""
    import alembic.command  # noqa: F401

    import flexai.checkpoints.catalog.catalog  # noqa: F401
    import tests.checkpoints.catalog.steps  # noqa: F401

    # No zombies: a process that died is gone.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    parent = os.getpid()
    for line in sys.stdin:
        if os.fork() == 0:
            _work(json.loads(line), parent)
            os._exit(0)


if __name__ == "__main__":
    main()
