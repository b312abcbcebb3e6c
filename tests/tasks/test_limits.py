"""The limits of connections, on a real Prefect server."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
from prefect import flow, task

from flexai.blocks import LocalStorageProvider, delete_connection, save_connection
from flexai.blocks.limits import DEFAULT_MAX_TRANSFERS, limit_name, max_transfers
from flexai.tasks import export_checkpoint, push_checkpoint
from flexai.tasks.limits import transfer_through
from tests.servers.prefect import PrefectServer

HOLDER = """
import sys
from prefect import flow
from flexai.tasks.limits import transfer_through

@flow
def hold():
    with transfer_through(sys.argv[1]):
        print("holding", flush=True)
        sys.stdin.read()

hold()
"""


@pytest.fixture
def connection(prefect_api: PrefectServer, tmp_path: Path) -> str:
    """A connection that one transfer may use at a time."""
    name = f"narrow-{uuid.uuid4().hex[:8]}"
    save_connection(LocalStorageProvider(root=str(tmp_path)), name, max_transfers=1)
    return name


def test_a_limit_lives_as_long_as_its_connection(prefect_api: PrefectServer, connection: str, tmp_path: Path) -> None:
    assert max_transfers(connection) == 1
    block = LocalStorageProvider(root=str(tmp_path))
    save_connection(block, connection, overwrite=True)
    assert max_transfers(connection) == 1, "a connection that is saved again keeps its limit"
    save_connection(block, connection, overwrite=True, max_transfers=3)
    assert max_transfers(connection) == 3
    delete_connection(connection)
    assert max_transfers(connection) is None


def test_one_transfer_waits_for_the_other(prefect_api: PrefectServer, connection: str) -> None:
    held, most = [0], [0]
    lock = threading.Lock()
    together = threading.Barrier(2)

    @task
    def move() -> None:
        together.wait(60)
        with transfer_through(connection):
            with lock:
                held[0] += 1
                most[0] = max(most[0], held[0])
            threading.Event().wait(0.5)
            with lock:
                held[0] -= 1

    @flow
    def fleet() -> None:
        for future in [move.submit(), move.submit()]:
            future.result()

    fleet()
    assert most == [1]


def test_a_connection_that_was_saved_in_the_ui_gets_its_limit_when_it_is_first_used(
    prefect_api: PrefectServer, home: Path, files: Path, tmp_path: Path
) -> None:
    name = f"by-form-{uuid.uuid4().hex[:8]}"
    LocalStorageProvider(root=str(tmp_path / "share")).save(name)
    (tmp_path / "share").mkdir()
    assert max_transfers(name) is None
    push_checkpoint.fn("tiny", files=[str(files)])

    @flow
    def use() -> None:
        export_checkpoint("tiny", name, "bucket/tiny")

    use()
    assert max_transfers(name) == DEFAULT_MAX_TRANSFERS


def test_the_place_of_a_transfer_that_was_killed_is_free_again(prefect_api: PrefectServer, connection: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, connection], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    while "holding" not in holder.stdout.readline():
        assert holder.poll() is None
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    limit = prefect_api.get(f"/v2/concurrency_limits/{limit_name(connection)}")
    assert limit["active_slots"] == 1

    @flow
    def next_one() -> str:
        with transfer_through(connection):
            return "moved"

    assert next_one() == "moved"
