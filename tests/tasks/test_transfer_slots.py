"""The limits of connections, on a real Prefect server."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task
from prefect.exceptions import ObjectNotFound

from flexai.blocks import LocalStorageProvider, delete_connection, save_connection
from flexai.blocks.concurrency_limits import DEFAULT_MAX_TRANSFERS, limit_name
from flexai.checkpoints.errors import StorageUnavailableError
from flexai.prefect_client import with_api
from flexai.tasks import (
    export_checkpoint,
    fetch_checkpoint,
    mirror_checkpoints,
    push_checkpoint,
    scrub_store,
    transfer_slots,
    verify_checkpoints,
)
from flexai.tasks.transfer_slots import transfer_through
from tests.servers.prefect import PrefectServer
from tests.support.waiting import until

pytestmark = pytest.mark.slow


def max_transfers(connection: str) -> int | None:
    """How many transfers may use a connection at a time; None where Prefect has no limit for it."""
    try:
        return with_api(lambda client: client.read_global_concurrency_limit_by_name(limit_name(connection))).limit
    except ObjectNotFound:
        return None


HOLDER = """
import sys
from prefect import flow
from flexai.tasks.transfer_slots import transfer_through

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


def test_the_places_of_shards_are_those_that_are_free_and_more_when_they_are_given_back(
    prefect_api: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer_slots, "MORE_SECONDS", 0)
    name = f"wide-{uuid.uuid4().hex[:8]}"
    save_connection(LocalStorageProvider(root=str(tmp_path)), name, max_transfers=6)
    found: list[Any] = []

    @flow
    def share() -> None:
        with transfer_through(name, places=4) as first, transfer_through(name, places=4) as second:
            found.append((first.held, second.held, _limit(prefect_api, name)["active_slots"]))
            first.give_back()
            second.take_more()
            found.append(second.held)
        with transfer_through(name, places=20) as alone:
            found.append(alone.held)

    share()
    assert found == [(4, 2, 6), 4, 6]
    assert _limit(prefect_api, name)["active_slots"] == 0


@pytest.mark.xdist_group("waits")
def test_the_place_of_a_transfer_that_was_killed_is_free_again(prefect_api: PrefectServer, connection: str) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, connection], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    while "holding" not in holder.stdout.readline():
        assert holder.poll() is None
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert _limit(prefect_api, connection)["active_slots"] == 1

    @flow
    def next_one() -> str:
        with transfer_through(connection):
            return "moved"

    assert next_one() == "moved"


@pytest.mark.parametrize("deleted", ["the one that it waits for", "another one"])
def test_a_limit_that_is_deleted_while_a_transfer_waits_is_an_error_and_not_no_limit(
    prefect_api: PrefectServer, connection: str, tmp_path: Path, deleted: str
) -> None:
    other = f"other-{uuid.uuid4().hex[:8]}"
    LocalStorageProvider(root=str(tmp_path)).save(other)
    is_held, may_end = threading.Event(), threading.Event()

    @task
    def hold() -> None:
        with transfer_through(connection):
            is_held.set()
            assert may_end.wait(60)

    @task
    def move() -> None:
        with transfer_through(connection, other):
            pass

    @flow
    def fleet() -> None:
        holding = hold.submit()
        assert is_held.wait(60)
        moving = move.submit()
        until(lambda: max_transfers(other) is not None, "the limits, before the wait for places")
        delete_connection(other)
        if deleted == "the one that it waits for":
            delete_connection(connection)
        may_end.set()
        holding.wait()
        with pytest.raises(StorageUnavailableError, match="no place among the transfers through"):
            moving.result()

    fleet()
    if deleted == "another one":
        assert _limit(prefect_api, connection)["active_slots"] == 0


def test_whatever_moves_the_managed_stores_bytes_holds_a_place_with_its_connection_too(
    prefect_api: PrefectServer, home: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, share = f"store-{uuid.uuid4().hex[:8]}", f"share-{uuid.uuid4().hex[:8]}"
    for name in (store, share):
        (tmp_path / name).mkdir()
        save_connection(LocalStorageProvider(root=str(tmp_path / name)), name, max_transfers=1)
    monkeypatch.setenv("FLEXAI_STORE", f"{store}:bucket/store")

    @flow
    def use_all() -> None:
        push_checkpoint("tiny", files=[str(files)])
        push_checkpoint("tiny-too", from_checkpoint="tiny")
        export_checkpoint("tiny", share, "bucket/tiny")
        mirror_checkpoints(share, "bucket/mirror")
        push_checkpoint("tiny-back", storage_provider=share, source_path="bucket/tiny")
        # Both are one here, and one place is enough.
        export_checkpoint("tiny", store, "bucket/beside")
        fetch_checkpoint("tiny", str(tmp_path / "fetched"))
        verify_checkpoints()
        scrub_store(1 << 30)

    use_all()
    assert (tmp_path / store / "bucket" / "store" / "store.json").is_file()
    both = sorted([share, store])
    until(lambda: len(_taken(prefect_api, store, share)) >= 8, "the events")
    assert _taken(prefect_api, store, share) == [[store], both, both, both, [store], [store], [store], [store]]


def _limit(server: PrefectServer, connection: str) -> dict[str, Any]:
    found: dict[str, Any] = server.get(f"/v2/concurrency_limits/{limit_name(connection)}")
    return found


def _taken(server: PrefectServer, *connections: str) -> list[list[str]]:
    """The connections of which places were taken, each time that some were, in the order of time."""
    limits = {_limit(server, name)["id"]: name for name in connections}
    wanted = {
        "filter": {
            "event": {"name": ["prefect.concurrency-limit.acquired"]},
            "resource": {"id": [f"prefect.concurrency-limit.{limit}" for limit in limits]},
            "order": "ASC",
        }
    }
    found: list[dict[str, Any]] = server.post("/events/filter", wanted)["events"]
    taken = []
    for event in found:
        ids = [event["resource"]["prefect.resource.id"]]
        ids += [one["prefect.resource.id"] for one in event["related"]]
        names = [limits[limit] for one in ids if (limit := one.removeprefix("prefect.concurrency-limit.")) in limits]
        # Of several limits that were taken at once each has an event of its own.
        if names[0] == min(names):
            taken.append(sorted(names))
    return taken
