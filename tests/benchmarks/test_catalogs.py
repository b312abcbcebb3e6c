from __future__ import annotations

from benchmarks.catalogs import fill, put_blobs, put_manifests

from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.names import parse_reference
from flexai.checkpoints.service.change_requests import DeleteRequest, ProtectRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete, protect, undelete
from flexai.checkpoints.service.prune import PruneRequest, prune
from flexai.checkpoints.service.recover import recover
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.training import delete_job
from flexai.checkpoints.service.training_requests import DeleteJobRequest
from tests.support.machine import Machine
from tests.support.tables import tables_of


def test_rows_of_a_filled_catalog_can_be_changed_deleted_and_collected(machine: Machine) -> None:
    store_id = machine.system.own_store_id
    filled = fill(machine.system.database_url, 1100, store_id=store_id)
    for name in (filled.name, filled.captured_id):
        protect(machine.system, ProtectRequest([name]))
        protect(machine.system, ProtectRequest([name], protected=False))
        gone = delete(machine.system, DeleteRequest(name))
        undelete(machine.system, UndeleteRequest(gone.id))
        found = machine.system.catalog.checkpoints.get(parse_reference(name))
        assert found.status is CheckpointStatus.AVAILABLE
    report = prune(machine.system, PruneRequest.of(keep_last=3, include_failed=True, apply=True))
    assert len(report.deleted) > 500
    assert report.spared == {}
    delete_job(machine.system, DeleteJobRequest(filled.job))
    made = put_blobs(machine.system)
    collected = machine.collect()
    assert collected.checkpoints > len(report.deleted)
    assert collected.blobs > 0
    left = [one for one in (machine.root / "home" / "store" / "blobs").rglob("*") if one.is_file()]
    assert len(left) == made - collected.blobs
    assert collected.newer == ()
    with tables_of(machine.system.catalog.database) as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall() == []


def test_a_filled_catalog_is_recovered_from_what_its_store_is_given(machine: Machine) -> None:
    fill(machine.system.database_url, 300, store_id=machine.system.own_store_id)
    put_blobs(machine.system)
    count = put_manifests(machine.system)
    for path in (machine.root / "home").glob("catalog.db*"):
        path.unlink()
    with System.open(machine.settings) as system:
        report = recover(system)
        assert (len(report.recovered), report.problems) == (count, {})
    assert count > 250
