"""A catalog that another process keeps locked for a while is waited for by every operation, and that is said once."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing

import pytest

from flexai.checkpoints.service.change_requests import DeleteRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete, undelete
from flexai.checkpoints.service.prune import PruneRequest, PruneScope, prune
from flexai.checkpoints.service.support.retention import RetentionPolicy
from flexai.checkpoints.storage.retry import telling_of_retries
from tests.support.machine import Machine
from tests.support.trees import noise

pytestmark = pytest.mark.slow

OPERATIONS: dict[str, Callable[[Machine], object]] = {
    "push": lambda machine: machine.push("mistral", machine.root / "run"),
    "fetch": lambda machine: machine.fetch("llama"),
    "export": lambda machine: machine.export("llama", "bucket/place"),
    "gc": lambda machine: machine.collect(),
    "delete": lambda machine: delete(machine.system, DeleteRequest("llama")),
    "undelete": lambda machine: undelete(machine.system, UndeleteRequest("gone")),
    "prune": lambda machine: prune(
        machine.system, PruneRequest(RetentionPolicy(keep_last=1), PruneScope(pushed=("*",)), apply=True)
    ),
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_operation_outlasts_a_lock(machine: Machine, operation: str) -> None:
    source = machine.write("run", {"model.bin": noise(50_000, "m")})
    for name in ("llama", "gone"):
        machine.push(name, source)
    delete(machine.system, DeleteRequest("gone"))
    machine.close()
    said, is_said = list[str](), threading.Event()

    def tell(message: str) -> None:
        said.append(message)
        is_said.set()

    with closing(
        sqlite3.connect(machine.settings.home / "catalog.db", isolation_level=None, check_same_thread=False)
    ) as other:
        # So that no process can even read it.
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")

        def release() -> None:
            is_said.wait()
            other.execute("COMMIT")
            other.close()

        thread = threading.Thread(target=release)
        thread.start()
        with telling_of_retries(tell), machine.again() as again:
            OPERATIONS[operation](again)
        thread.join()
    assert [message.endswith("; waiting for it") for message in said] == [True]
