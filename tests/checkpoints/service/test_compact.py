"""A catalog's file shrinks, by hand and after a large collection."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.changes import set_due
from flexai.checkpoints.errors import StorageUnavailableError
from flexai.checkpoints.names import new_id
from flexai.checkpoints.service.change_requests import DeleteRequest
from flexai.checkpoints.service.delete import delete
from flexai.checkpoints.service.gc import compact_catalog
from tests.servers.postgresql import PostgreSQL
from tests.support.machine import Machine, check_all
from tests.support.small_disk import needs_tmpfs, small_disk
from tests.support.trees import Tree

LONG = "/".join("x" * 190 for _ in range(4))
KEPT: Tree = {"kept.bin": b"kept"}


def catalog_file(machine: Machine) -> Path:
    return machine.settings.home / "catalog.db"


def fill(machine: Machine, count: int = 4000) -> None:
    """A checkpoint of which the catalog has much to say, deleted, beside one that stays."""
    machine.push("kept", machine.write("kept", KEPT))
    machine.push("large", machine.write("large", {f"{LONG}/{number}": b"%d" % number for number in range(count)}))
    delete(machine.system, DeleteRequest("large"))


def test_a_large_collection_lets_the_file_shrink(machine: Machine) -> None:
    fill(machine)
    before = machine.system.catalog.database.size()
    machine.collect()
    assert machine.system.catalog.database.size() < before / 4
    machine.close()
    assert catalog_file(machine).stat().st_size < before / 4
    check_all(machine.again(), ["kept"], KEPT)


def test_a_small_collection_leaves_the_file_as_it_is(machine: Machine) -> None:
    fill(machine, 50)
    with sqlite3.connect(catalog_file(machine)) as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()
    machine.collect()
    assert machine.system.catalog.database.spare() > 0
    with sqlite3.connect(catalog_file(machine)) as connection:
        assert connection.execute("PRAGMA page_count").fetchone() == pages


def test_a_collection_does_without_where_another_process_writes(machine: Machine) -> None:
    fill(machine)
    compacted = machine.system.catalog.database.compact
    other = sqlite3.connect(catalog_file(machine), isolation_level=None)

    def compact(*, patience: float | None = None) -> None:
        other.execute("BEGIN IMMEDIATE")
        compacted(patience=0.01 if patience else patience)

    machine.system.catalog.database.compact = compact  # type: ignore[method-assign]
    report = machine.collect()
    other.close()
    assert report.checkpoints == 1
    assert machine.system.catalog.database.spare() > 0
    assert machine.fetched("kept") == KEPT


def test_compacting_by_hand_tells_the_sizes_and_readers_go_on(machine: Machine) -> None:
    fill(machine, 50)
    machine.collect()
    with Catalog.look(f"sqlite:///{catalog_file(machine)}") as reader:
        before, after = compact_catalog(machine.system)
        assert [one.name for one in reader.checkpoints.list_pushed()] == ["kept"]
    assert after == machine.system.catalog.database.size()
    assert machine.system.catalog.database.spare() == 0
    assert compact_catalog(machine.system)[1] < before
    check_all(machine, ["kept"], KEPT)


@needs_tmpfs
def test_without_room_for_a_copy_nothing_is_changed(machine: Machine) -> None:
    fill(machine)
    machine.close()
    size = catalog_file(machine).stat().st_size
    with small_disk(machine.root / "disk", size // 1024 + 600) as disk:
        moved = disk.folder / "catalog.db"
        moved.write_bytes(catalog_file(machine).read_bytes())
        machine = machine.again(database_url=f"sqlite:///{moved}")
        with pytest.raises(StorageUnavailableError, match="full"):
            compact_catalog(machine.system)
        assert machine.fetched("kept") == KEPT
        machine.close()


def test_a_catalog_on_a_server_is_vacuumed(postgresql: PostgreSQL, postgresql_catalog: str) -> None:
    name = postgresql.create_database(template=postgresql_catalog)
    with Catalog.open(postgresql.url(name)) as catalog:
        database = catalog.database
        for _ in range(20):
            with database.writing() as transaction:
                set_due(transaction, "job", [new_id() for _ in range(500)])
        with database.writing() as transaction:
            transaction.change("DELETE FROM records_due WHERE kind = :kind", kind="job")
        before = database.size()
        database.compact()
        assert database.size() < before
        assert database.spare() == 0
    postgresql.drop_database(name)
