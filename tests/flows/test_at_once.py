"""Many flow runs at once on one worker, which share a catalog and a bucket."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from prefect.types.entrypoint import EntrypointType

from flexai.blocks import MinIOStorageProvider, save_connection
from flexai.flows.push import push
from flexai.prefect_server.credential import read_credential
from flexai.tasks import push_checkpoint
from tests.cli.program import Program
from tests.flows.test_sharding import stored_bytes
from tests.servers.fixtures import S3Server
from tests.servers.postgresql import PostgreSQL
from tests.servers.prefect import PrefectServer, using
from tests.support.trees import Tree, noise, write_tree

pytestmark = pytest.mark.slow

RUNS = 50 if "FLEXAI_CHAOS_ROUNDS" in os.environ else 8
"""Flow runs at once: fifty in `make chaos`, which keep two cores busy for two or three minutes."""

BASE: Tree = {"model.safetensors": noise(5_000_000, "base"), "config.json": b"{}"}
"""What all of them push, besides something of their own."""


class OtherWriter:
    """Takes the one place of a writer in the catalog over and over, as one more process would, and counts."""

    PATIENCE_SECONDS = 10
    """What waiting for long means; the program itself waits for a minute."""

    def __init__(self, catalog: Path) -> None:
        self.turns = 0
        self.waited = 0
        """Turns for which it had to wait."""
        self.gave_up = 0
        self._catalog = catalog
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> OtherWriter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def _write(self) -> None:
        connection = sqlite3.connect(self._catalog, isolation_level=None)
        while not self._is_over.wait(0.02):
            self.turns += 1
            if not self._takes_turn(connection, patience=0):
                self.waited += 1
                self.gave_up += not self._takes_turn(connection, patience=self.PATIENCE_SECONDS)
        connection.close()

    def _takes_turn(self, connection: sqlite3.Connection, *, patience: int) -> bool:
        connection.execute(f"PRAGMA busy_timeout={patience * 1000}")
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            assert error.sqlite_errorcode == sqlite3.SQLITE_BUSY, error
            return False
        connection.execute("ROLLBACK")
        return True


@pytest.fixture
def server(
    postgresql: PostgreSQL, juicefs: S3Server, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PrefectServer]:
    """What ``flexai up`` starts, with PostgreSQL for so many runs, and the store in a bucket.

    Prefect's server stands still for a minute at a time with SQLite when eight runs are at work, and fails with fifty.
    """
    store = f"store:{juicefs.bucket}/store-{uuid.uuid4().hex[:8]}"
    program = Program(tmp_path / "up")
    program.environment |= postgresql.for_prefect() | {
        "FLEXAI_HOME": str(home),
        "FLEXAI_STORE": store,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    try:
        up = program.run("up")
        assert up.code == 0, up.err
        monkeypatch.setenv("FLEXAI_STORE", store)
        server = PrefectServer(f"{up.out.strip()}/api", credential=read_credential(home))
        with using(server, tmp_path / "prefect-home", monkeypatch):
            block = MinIOStorageProvider(
                endpoint_url=juicefs.url,
                access_key_id=juicefs.access_key_id,
                secret_access_key=juicefs.secret_access_key,
            )
            save_connection(block, "store", max_transfers=RUNS)
            yield server
    finally:
        program.run("down", "--grace", "5")


@pytest.mark.xdist_group("waits")
def test_many_runs_at_once_on_one_worker_share_a_catalog_and_a_bucket(
    server: PrefectServer, home: Path, tmp_path: Path
) -> None:
    write_tree(tmp_path / "base", BASE)
    push_checkpoint.fn("base", files=[str(tmp_path / "base")])
    deployment: Any = push.to_deployment(
        "at-once", work_pool_name="flexai-local", entrypoint_type=EntrypointType.MODULE_PATH
    )
    deployment_id = str(deployment.apply())
    # All are there before the first one begins, which would keep the server from making the others.
    at = (datetime.now(UTC) + timedelta(seconds=5 + RUNS / 5)).isoformat()
    for number in range(RUNS):
        folder = tmp_path / f"run-{number}"
        write_tree(folder, {**BASE, "own.bin": noise(20_000 + number, str(number))})
        request = {"name": f"run-{number}", "source": {"files": [str(folder)]}}
        state = {"type": "SCHEDULED", "state_details": {"scheduled_time": at}}
        server.post(
            f"/deployments/{deployment_id}/create_flow_run", {"parameters": {"request": request}, "state": state}
        )
    of_deployment = {"deployments": {"id": {"any_": [deployment_id]}}}

    def runs() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = server.post("/flow_runs/filter", of_deployment)
        return found

    with OtherWriter(home / "catalog.db") as other:
        deadline = time.monotonic() + 480
        while any(run["state_type"] in {"SCHEDULED", "PENDING", "RUNNING"} for run in runs()):
            assert time.monotonic() < deadline, [run["state_name"] for run in runs()]
            time.sleep(2)
    log = (home / "prefect" / "worker.log").read_text()
    assert [run["state_type"] for run in runs()] == ["COMPLETED"] * RUNS, log[-5000:]
    # No task was told that the catalog is locked, which a task would have answered by another try.
    assert {run["run_count"] for run in [*runs(), *server.post("/task_runs/filter", of_deployment)]} == {1}
    assert "trying again" not in log
    print(f"another writer took {other.turns} turns, and waited for {other.waited} of them")
    assert other.turns and not other.gave_up
    assert stored_bytes() == sum(map(len, BASE.values())) + sum(20_000 + number for number in range(RUNS))
