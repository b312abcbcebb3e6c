from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from flexai.checkpoints.errors import CheckpointError, ConflictError, StorageError
from flexai.checkpoints.models import now
from flexai.checkpoints.service.change_requests import DeleteRequest, ProtectRequest
from flexai.checkpoints.service.delete import delete, protect
from flexai.checkpoints.service.recover import recover
from flexai.checkpoints.service.repair import repair
from flexai.checkpoints.service.store_owner import STORE_LEASE, check_before_training, check_not_lost, take_over
from flexai.checkpoints.service.store_requests import VerifyRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.verify import verify
from flexai.checkpoints.storage.retry import RetryPolicy, retrying, telling_of_retries
from tests.servers.postgresql import PostgreSQL
from tests.support.faults import Call, injected
from tests.support.fixtures import NewMachine
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import Machine, check_nothing_is_torn, copy_of_catalog
from tests.support.trees import Tree

SOURCE: Tree = {"model.bin": b"m" * 50_000, "config.json": b"{}"}


@pytest.fixture
def first(machine: Machine) -> Machine:
    machine.push("llama", machine.write("run", SOURCE))
    return machine


@pytest.fixture
def second(first: Machine, new_machine: NewMachine) -> Machine:
    """Another home with a catalog of its own, on the first one's store."""
    machine = new_machine(store=str(first.store_folder))
    (machine.settings.home / "catalog.db").unlink()
    return machine.again()


def _release(machine: Machine) -> None:
    """Let it be long ago that the store's catalog used it."""
    long_ago = (now() - STORE_LEASE - timedelta(minutes=1)).timestamp()
    os.utime(machine.store_folder / "store.json", (long_ago, long_ago))


def test_another_catalog_is_refused_by_all_that_writes_or_collects(first: Machine, second: Machine) -> None:
    source = second.write("run", SOURCE)
    job = begin_job(second, "train")
    for attempt in (
        lambda: second.push("mistral", source),
        second.collect,
        lambda: capture_files(second, job, "step-1", SOURCE),
    ):
        with pytest.raises(ConflictError, match="belongs to another catalog") as refused:
            attempt()
        assert "flexai store adopt" in refused.value.hint
    assert first.fetched("llama") == SOURCE
    check_nothing_is_torn(first)


def test_a_catalog_that_has_used_its_store_of_late_keeps_it(first: Machine, second: Machine) -> None:
    for attempt in (lambda: take_over(second.system), lambda: recover(second.system)):
        with pytest.raises(ConflictError, match="is in use by the catalog") as refused:
            attempt()
        assert "--force" in refused.value.hint
    first.push("mistral", first.root / "run")


def test_a_machine_whose_clock_is_a_year_ahead_takes_no_store_over(
    first: Machine, second: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = now() + timedelta(days=365)
    monkeypatch.setattr("flexai.checkpoints.service.store_owner.now", lambda: ahead)
    with pytest.raises(ConflictError, match="is in use by the catalog"):
        take_over(second.system)
    first.push("mistral", first.root / "run")


def test_recover_takes_a_store_over_and_says_from_whom(first: Machine, second: Machine) -> None:
    _release(first)
    report = recover(second.system)
    assert report.taken_from is not None and str(first.settings.home) in report.taken_from.place
    assert list(report.recovered.values()) == ["llama"]
    second.push("mistral", second.write("run", SOURCE))
    with first.again() as former:
        for attempt in (
            lambda: former.push("phi-3", first.root / "run"),
            former.collect,
            lambda: delete(former.system, DeleteRequest("llama")),
            lambda: protect(former.system, ProtectRequest(["llama"])),
        ):
            with pytest.raises(ConflictError, match="belongs to another catalog"):
                attempt()
    assert {one.name for one in second.checkpoints()} == {"llama", "mistral"}
    check_nothing_is_torn(second)


def test_an_adopted_store_keeps_what_its_new_catalog_does_not_know(first: Machine, second: Machine) -> None:
    lost = first.checkpoint("llama")
    former = take_over(second.system, force=True)
    assert former is not None
    report = second.collect()
    assert (report.blobs, report.newer) == (0, (lost.id,))
    recover(second.system)
    assert second.fetched("llama") == SOURCE


def test_a_store_without_a_catalog_is_taken_by_the_first_that_uses_it(first: Machine, second: Machine) -> None:
    """As stores are that an older version of this program made."""
    path = first.store_folder / "store.json"
    store_id = first.system.store_id
    path.write_text(f'{{"format":1,"id":"{store_id}"}}')
    with first.again() as machine:
        machine.push("mistral", first.root / "run")
    with pytest.raises(ConflictError, match="belongs to another catalog"):
        second.push("phi-3", second.write("run", SOURCE))


def test_of_two_that_take_a_store_at_once_one_has_it(first: Machine, second: Machine) -> None:
    (first.store_folder / "store.json").write_text(f'{{"format":1,"id":"{first.system.store_id}"}}')
    machines = [first.again(), second.again()]
    pushed: list[str] = []

    def push(machine: Machine) -> None:
        with suppress(CheckpointError):
            pushed.append(machine.push("mistral", machine.write("mine", SOURCE)).id)

    threads = [threading.Thread(target=push, args=(machine,)) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pushed) == 1
    for machine in machines:
        machine.close()


def test_a_catalog_that_is_an_older_copy_is_refused_until_it_is_brought_up(first: Machine) -> None:
    store_id, catalog = first.system.store.read()
    assert store_id is not None and catalog is not None
    first.system.store.renew(store_id, catalog._replace(changes=1000))
    with first.again() as machine:
        with pytest.raises(ConflictError, match="older copy") as refused:
            machine.collect()
        assert "flexai checkpoint recover" in refused.value.hint
        recover(machine.system)
    with first.again() as machine:
        machine.collect()
        assert machine.fetched("llama") == SOURCE


def test_the_history_tells_who_took_a_store_and_what_is_gone_for_good(first: Machine, second: Machine) -> None:
    lost = first.checkpoint("llama")
    recover(second.system, force=True)
    delete(second.system, DeleteRequest("llama"))
    second.collect()
    with second.system.catalog.database.reading() as transaction:
        told = transaction.rows("SELECT action, kind, subject_id, title FROM history ORDER BY id")
    assert tuple(told[0]) == ("adopt", "store", first.system.store_id, str(first.store_folder))
    assert [tuple(one) for one in told if one[0] == "purge"] == [("purge", "checkpoint", lost.id, "llama")]


def test_a_store_that_is_taken_over_while_gc_looks_keeps_its_blobs(first: Machine, second: Machine) -> None:
    delete(first.system, DeleteRequest("llama"))
    before = first.blob_ids()

    def take(_number: int, call: Call) -> None:
        if call.name == "list":
            first.storage.before_call = None
            take_over(second.system, force=True)

    first.storage.before_call = take
    with pytest.raises(ConflictError, match="belongs to another catalog"):
        first.collect()
    assert first.blob_ids() == before


def test_another_catalog_repairs_nothing(first: Machine, second: Machine) -> None:
    first.push("copy", first.write("other", SOURCE | {"more.bin": b"x"}))
    recover(second.system, force=True)
    blob = first.blob_of("llama", "model.bin")
    blob.write_bytes(b"x" * blob.stat().st_size)
    damaged = verify(first.system, VerifyRequest()).damaged
    assert damaged
    with pytest.raises(ConflictError, match="belongs to another catalog"):
        repair(first.system)


def _lose_name(machine: Machine) -> tuple[Path, str]:
    """Delete what says whose the store is; returns where that was, and the store's id."""
    mark = machine.store_folder / "store.json"
    store_id = machine.system.store_id
    mark.unlink()
    return mark, store_id


_USES: dict[str, Callable[[Machine], object]] = {
    "push": lambda machine: machine.push("mistral", machine.root / "run"),
    "fetch": lambda machine: machine.fetch("llama"),
    "delete": lambda machine: delete(machine.system, DeleteRequest("llama")),
    "gc": lambda machine: machine.collect(),
    "recover": lambda machine: recover(machine.system),
    "adopt": lambda machine: take_over(machine.system),
}


@pytest.mark.parametrize("use", _USES.values(), ids=_USES)
def test_a_store_that_has_lost_its_name_gets_it_back_from_the_catalog_that_knows_it(
    first: Machine, use: Callable[[Machine], object]
) -> None:
    mark, store_id = _lose_name(first)
    _use_it(first, use)
    catalog = json.loads(mark.read_bytes())
    assert (catalog["id"], catalog["catalog"]["id"]) == (store_id, first.system.catalog.identity())
    with first.again() as machine:
        machine.push("phi-3", machine.root / "run")
        assert machine.fetched("phi-3") == SOURCE
        assert recover(machine.system).recovered == {}


def _use_it(machine: Machine, use: Callable[[Machine], object]) -> None:
    """As a new process does, which is told of what was written."""
    machine.close()
    told: list[str] = []
    with System.open(machine.settings) as system, telling_of_retries(told.append):
        use(replace(machine, system=system))
    assert len(told) == 1
    assert "store.json, which was written anew" in told[0]


def test_a_store_that_is_made_where_another_one_was_is_said_to_be_new(first: Machine) -> None:
    first.close()
    first.store_folder.rename(first.root / "not-mounted")
    told: list[str] = []
    with System.open(first.settings) as system, telling_of_retries(told.append):
        replace(first, system=system).push("mistral", first.root / "run")
    location = first.system.store.location
    assert told == [f"a new store was made at {location}: 1 checkpoint of this catalog is in another one"]


def test_a_catalog_on_a_server_gives_a_store_its_name_back(
    new_machine: NewMachine, postgresql: PostgreSQL, postgresql_catalog: str
) -> None:
    name = postgresql.create_database(template=postgresql_catalog)
    machine = new_machine(database_url=postgresql.url(name))
    (machine.store_folder / "store.json").unlink()
    with machine.again() as machine:
        machine.push("llama", machine.write("run", SOURCE))
        _, store_id = _lose_name(machine)
        _use_it(machine, lambda one: one.push("mistral", machine.root / "run"))
    with machine.again() as machine:
        assert (machine.system.store_id, machine.fetched("llama")) == (store_id, SOURCE)
    postgresql.drop_database(name)


@pytest.mark.parametrize("use", ["push", "gc", "fetch"])
def test_a_store_that_has_lost_its_name_is_taken_by_no_catalog_that_does_not_know_it(
    first: Machine, second: Machine, use: str
) -> None:
    mark, store_id = _lose_name(first)
    second.close()
    with System.open(second.settings) as system:
        machine = replace(second, system=system)
        with pytest.raises(StorageError, match=r"its store\.json is gone") as refused:
            machine.push("mistral", machine.write("run", SOURCE)) if use == "push" else system.own_store_id
        assert "flexai checkpoint recover" in refused.value.hint
        assert "flexai store adopt" in refused.value.hint
        assert not mark.exists()
        recover(system)
        assert (system.store_id, machine.fetched("llama")) == (store_id, SOURCE)
    with first.again() as machine, pytest.raises(ConflictError, match="belongs to another catalog"):
        machine.collect()


def test_a_catalog_that_a_store_was_taken_from_does_not_give_it_its_name_back(first: Machine, second: Machine) -> None:
    """Though it knows all that is there."""
    recover(second.system, force=True)
    mark, _ = _lose_name(second)
    first.close()
    with System.open(first.settings) as system, pytest.raises(StorageError, match=r"its store\.json is gone"):
        assert system.store_id
    with System.open(second.settings) as system:
        assert system.own_store_id
    assert json.loads(mark.read_bytes())["catalog"]["number"] == 2


def test_no_training_begins_beside_a_store_that_has_lost_its_name_to_an_unknown_catalog(
    first: Machine, second: Machine
) -> None:
    _lose_name(first)
    second.close()
    with System.open(second.settings) as system, pytest.raises(StorageError, match=r"its store\.json is gone"):
        check_before_training(system)


def test_an_older_copy_of_a_catalog_does_not_give_a_store_its_name_back(first: Machine) -> None:
    copy = copy_of_catalog(first)
    first.push("mistral", first.root / "run")
    _, store_id = _lose_name(first)
    first.close()
    (first.settings.home / "catalog.db").write_bytes(copy)
    with System.open(first.settings) as system:
        with pytest.raises(StorageError, match=r"its store\.json is gone"):
            assert system.own_store_id
        system.close()
    with System.open(first.settings) as system:
        assert list(recover(system).recovered.values()) == ["mistral"]
        assert system.store_id == store_id


def test_what_only_reads_gives_no_store_its_name_back(first: Machine) -> None:
    mark, store_id = _lose_name(first)
    with System.open(first.settings, read_only=True) as system:
        assert system.store_id == store_id
    assert not mark.exists()


def test_a_training_does_not_wait_for_a_store_that_is_away(first: Machine) -> None:
    waits = list[float]()

    def be_away(_number: int, call: Call) -> None:
        retrying(lambda: _raise(injected(call.name)), RetryPolicy(sleep=waits.append))

    first.storage.calls.clear()
    first.storage.before_call = be_away
    check_before_training(first.system)
    first.system.begins_anew = False
    check_not_lost(first.system)
    assert (len(first.storage.calls), waits) == (2, [])


def _raise(error: Exception) -> None:
    raise error
