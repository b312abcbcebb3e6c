"""``gc --unreferenced``: what a store has that neither the catalog nor a manifest in the store knows."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.errors import ConflictError, StorageUnavailableError
from flexai.checkpoints.models import now
from flexai.checkpoints.service.preview import preview_garbage
from flexai.checkpoints.service.recover import recover
from flexai.checkpoints.service.store_owner import take_over
from flexai.checkpoints.service.store_requests import GarbageRequest
from flexai.checkpoints.storage.protocol import BytesBody, ObjectInfo
from tests.support.faults import Call, Fault
from tests.support.fixtures import NewMachine
from tests.support.machine import PART, Machine, check_nothing_is_torn, lose_catalog
from tests.support.trees import Tree, noise

SOURCE: Tree = {"model.bin": noise(3 * PART, "model"), "config.json": b"{}"}
DAY = timedelta(days=1)


@pytest.fixture
def pushed(machine: Machine) -> Machine:
    machine.push("llama", machine.write("run", SOURCE))
    return machine


def _stranger(machine: Machine, content: bytes = b"of no catalog", *, days: float = 0) -> str:
    """A blob that nothing knows, as old as that by the store's times."""
    blob_id = uuid.uuid4().hex
    machine.storage.inner.put(machine.system.store.blob_key(blob_id), BytesBody(content))
    _age(machine.blob_path(blob_id), days)
    return blob_id


def _age(path: Path, days: float) -> None:
    moment = time.time() - days * 86400
    os.utime(path, (moment, moment))


def _age_blobs(machine: Machine, days: float) -> None:
    for path in machine.store_folder.glob("blobs/*/*"):
        _age(path, days)


def _manifest(machine: Machine, name: str = "llama") -> Path:
    return machine.store_folder / "manifests" / f"{machine.checkpoint(name).id}.json"


def test_what_nothing_knows_goes_once_it_is_older_than_the_grace_period(pushed: Machine) -> None:
    old, young = _stranger(pushed, days=2), _stranger(pushed, days=0.5)
    others = [path for path in pushed.store_folder.glob("blobs/*/*") if path.name not in {old, young}]
    for path in others:
        _age(path, 2)
    assert set(pushed.collect(DAY).unreferenced) == {old, young}, "not unless it is asked for"
    report = pushed.collect(DAY, unreferenced=True)
    assert (report.collected, report.unreferenced) == ((old,), (young,))
    assert (report.blobs, report.freed_bytes) == (1, len(b"of no catalog"))
    assert not pushed.blob_path(old).exists()
    assert pushed.fetched("llama") == SOURCE
    assert pushed.collect(unreferenced=True).collected == (young,)


def test_what_a_torn_push_of_a_lost_catalog_left_is_taken(new_machine: NewMachine) -> None:
    first = new_machine()
    source = first.write("run", SOURCE | {"more.bin": noise(2 * PART, "more")})
    puts: list[str] = []

    def fail_late(number: int, call: Call) -> None:
        if call.name in {"put", "complete_upload"} and "blobs/" in call.key:
            puts.append(call.key)
            if len(puts) == 2:
                raise StorageUnavailableError("killed")

    first.storage.before_call = fail_late
    with pytest.raises(StorageUnavailableError):
        first.push("llama", source)
    machine = lose_catalog(first)
    recover(machine.system)
    _age_blobs(machine, 2)
    left = {path.name for path in machine.store_folder.glob("blobs/*/*") if not path.name.startswith(".")}
    assert left
    report = machine.collect(DAY, unreferenced=True)
    assert set(report.collected) == left
    assert not list(machine.store_folder.glob("blobs/*/*"))


def test_what_a_manifest_needs_that_the_catalog_does_not_know_stays(pushed: Machine) -> None:
    machine = lose_catalog(pushed)
    take_over(machine.system, force=True)
    _age_blobs(machine, 9)
    stranger = _stranger(machine, days=9)
    assert machine.collect(DAY, unreferenced=True).collected == (stranger,)
    recover(machine.system)
    assert machine.fetched("llama") == SOURCE


def test_what_the_manifest_of_a_known_checkpoint_needs_stays(pushed: Machine) -> None:
    """A repair gives a checkpoint other blobs, of which an older copy of the catalog knows nothing."""
    repaired = _stranger(pushed, days=9)
    path = _manifest(pushed)
    document: dict[str, Any] = json.loads(path.read_text())
    document["contents"] = [[repaired, start] for _, start in document["contents"]]
    path.write_text(json.dumps(document))
    assert pushed.collect(DAY, unreferenced=True).unreferenced == (repaired,)
    assert pushed.blob_path(repaired).exists()


def test_nothing_is_taken_where_a_manifest_cannot_be_read_and_the_catalog_does_not_know_it(pushed: Machine) -> None:
    lost = pushed.checkpoint("llama").id
    path = _manifest(pushed)
    content = path.read_bytes()
    machine = lose_catalog(pushed)
    take_over(machine.system, force=True)
    _age_blobs(machine, 9)
    path.write_bytes(content[:-7])
    report = machine.collect(DAY, unreferenced=True)
    assert (report.collected, report.unreadable) == ((), (lost,))
    path.write_bytes(content)
    recover(machine.system)
    path.write_bytes(content[:-7])
    stranger = _stranger(machine, days=9)
    assert machine.collect(DAY, unreferenced=True).collected == (stranger,), "the catalog knows what it needs"
    assert machine.fetched("llama") == SOURCE


def test_the_store_is_looked_at_again_before_anything_is_deleted(pushed: Machine, new_machine: NewMachine) -> None:
    stranger = _stranger(pushed, days=9)
    other = new_machine(store=str(pushed.store_folder))

    def adopt(number: int, call: Call) -> None:
        if call.name == "get" and "manifests/" in call.key:
            pushed.storage.before_call = None
            (other.settings.home / "catalog.db").unlink()
            take_over(other.again().system, force=True)

    pushed.storage.before_call = adopt
    with pytest.raises(ConflictError, match="belongs to another catalog"):
        pushed.collect(DAY, unreferenced=True)
    assert pushed.blob_path(stranger).exists()


def test_a_blob_of_which_the_store_tells_no_time_stays(pushed: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = _stranger(pushed, days=9)
    listed = type(pushed.system.store).list_blobs

    def without_times(store: Any) -> Iterator[tuple[str, ObjectInfo]]:
        for blob_id, info in listed(store):
            yield blob_id, ObjectInfo(info.key, info.size, info.etag)

    monkeypatch.setattr(type(pushed.system.store), "list_blobs", without_times)
    assert pushed.collect(DAY, unreferenced=True).unreferenced == (stranger,)


def test_a_collection_of_them_that_breaks_off_is_finished_by_the_next(pushed: Machine) -> None:
    strangers = {_stranger(pushed, days=9) for _ in range(3)}
    for number in range(1, 200):
        machine = pushed.again()
        machine.storage.faults = {number: Fault.BEFORE}
        try:
            machine.collect(DAY, unreferenced=True)
        except StorageUnavailableError:
            continue
        break
    check_nothing_is_torn(pushed)
    assert not strangers & pushed.blob_ids()
    assert pushed.fetched("llama") == SOURCE


def test_a_machine_whose_clock_is_ahead_takes_no_younger_ones(pushed: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = _stranger(pushed, days=0.5)
    upload = pushed.storage.inner.start_upload(pushed.system.store.blob_key(uuid.uuid4().hex), size=5)
    monkeypatch.setattr("flexai.checkpoints.service.gc.now", lambda: now() + timedelta(days=365))
    assert pushed.collect(DAY, unreferenced=True).unreferenced == (stranger,)
    assert [one.upload_id for _, one in pushed.system.store.list_unfinished()] == [upload]


def test_a_dry_run_tells_what_would_go(pushed: Machine) -> None:
    _stranger(pushed, days=9)
    preview = preview_garbage(pushed.system, GarbageRequest(DAY, unreferenced=True))
    assert [(step.name, step.size) for step in preview.steps] == [("unreferenced blobs", len(b"of no catalog"))]
    assert preview.freed_bytes == len(b"of no catalog")
    assert preview_garbage(pushed.system, GarbageRequest(DAY)).steps == []
