"""How much of a large catalog the database reads for what people do all day: what it needs, found by indexes."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.catalogs import fill
from sqlalchemy import text

from flexai.checkpoints.catalog import sqlite as sqlite_module
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.database import Transaction
from flexai.checkpoints.catalog.sqlite import SqliteTransaction
from flexai.checkpoints.service.change_requests import DeleteRequest, ProtectRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete, protect, undelete
from flexai.checkpoints.service.inspect import inspect_checkpoint, inspect_training
from flexai.checkpoints.service.preview import preview_delete, preview_fetch
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.store_requests import VerifyRequest
from flexai.checkpoints.service.verify import verify
from tests.servers.postgresql import PostgreSQL
from tests.support.fixtures import NewMachine
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import Machine
from tests.support.tables import statements, tables_of
from tests.support.trees import noise

pytestmark = pytest.mark.slow

_CHECKPOINTS = 2000
"""In the catalog before anything is asked, of ten files each: what reads a table stands out from what finds a row."""

Asked = dict[str, Any]
"""What the database was asked, with the values of the first time."""


@pytest.fixture(params=["sqlite", "postgresql"])
def any_machine(request: pytest.FixtureRequest, new_machine: NewMachine, tmp_path: Path) -> Iterator[Machine]:
    """A machine with its catalog in a file, and one with it on a server."""
    if request.param == "sqlite":
        yield new_machine()
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    name = server.create_database(template=request.getfixturevalue("postgresql_catalog"))
    # The template's store belongs to the template's catalog.
    with new_machine(database_url=server.url(name), store=str(tmp_path / "store")) as machine:
        yield machine
    server.drop_database(name)


@contextlib.contextmanager
def _noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    asked: Asked = {}

    def connect(*arguments: Any) -> sqlite3.Connection:
        connection = connect_before(*arguments)
        connection.set_trace_callback(lambda statement: asked.setdefault(statement, {}))
        return connection

    connect_before = sqlite_module._connect
    monkeypatch.setattr(sqlite_module, "_connect", connect)
    with statements() as noted:
        yield asked
    for statement, values in noted:
        asked.setdefault(statement, values)


def _dear(machine: Machine, asked: Asked) -> list[str]:
    """The questions whose answers take more work than the rows that they are made of."""
    database = machine.system.catalog.database
    cost = _postgresql_cost if database.is_postgresql else _sqlite_steps
    dear = []
    with contextlib.suppress(_DoneError), database.writing() as transaction:
        if database.is_postgresql:
            transaction.execute("SET LOCAL enable_seqscan = off", {})
        for statement, values in asked.items():
            if re.match(r"\s*(SELECT|UPDATE|DELETE)\b", statement) and not re.search(
                r"sqlite_master|pg_cat", statement
            ):
                is_dear, figures = cost(transaction, statement, values)
                if is_dear:
                    dear.append(f"{figures}: {' '.join(statement.split())}")
        raise _DoneError
    return dear


class _DoneError(Exception):
    """Undoes what updates did once more."""


def _sqlite_steps(transaction: Transaction, statement: str, values: Any) -> tuple[bool, str]:
    """Count the steps of SQLite's virtual machine; finding a row by an index takes some tens."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 10

    assert isinstance(transaction, SqliteTransaction)
    raw = transaction._connection
    raw.set_progress_handler(count, 10)
    cursor = raw.execute(statement, values)
    rows = len(cursor.fetchall()) + max(cursor.rowcount, 0)
    raw.set_progress_handler(None, 0)
    return steps > 1000 + 100 * rows, f"{steps} steps for {rows} rows"


def _postgresql_cost(transaction: Transaction, statement: str, values: Any) -> tuple[bool, str]:
    """What PostgreSQL takes the plan to cost, in its own unit: a page read in order is 1, one by an index 4."""
    (row,) = transaction.execute(f"EXPLAIN (FORMAT JSON) {statement}", values).rows
    plan = row[0][0]["Plan"]
    cost, rows = plan["Total Cost"], plan["Plan Rows"]
    return cost > 200 + 15 * rows, f"cost {cost} for {rows} rows"


def _work_a_day(machine: Machine) -> None:
    """What people and training jobs do all day.

    Left out is what reads all there is by its nature: gc, recover, the report, retention, and lists of jobs.
    """
    system, url = machine.system, machine.settings.effective_database_url
    files = {"model.safetensors": noise(200_000, "model"), "config.json": b"{}", "vocabulary.txt": b"a b c"}
    folder = machine.write("made", files)
    first = machine.push("first", folder)
    machine.push("first", folder, if_not_exists=True)
    machine.push("second", machine.write("changed", files | {"config.json": b"{ }"}))
    machine.export("first")
    machine.export("first")
    machine.push_from("third", "bucket/place")
    job = begin_job(machine, "trainer")
    capture_files(machine, job, "checkpoint-1", {"model.safetensors": b"step 1"})
    for reference in ("first", first.id):
        preview_fetch(system, FetchRequest(reference, str(machine.root / "nowhere")))
        machine.fetched(reference)
    verify(system, VerifyRequest(["second"]))
    protect(system, ProtectRequest(["second"]))
    protect(system, ProtectRequest(["second"], protected=False))
    preview_delete(system, DeleteRequest("second"))
    deleted = delete(system, DeleteRequest("second"))
    undelete(system, UndeleteRequest(deleted.id))
    with Catalog.look(url) as catalog:
        catalog.checkpoints.list_pushed()
        catalog.checkpoints.list_deleted()
        for reference in ("first", deleted.id):
            inspect_checkpoint(catalog, reference)
        for reference in ("trainer", job.id):
            inspect_training(catalog, reference)
        catalog.checkpoints.list_captured(job.id)
        catalog.checkpoints.pushed_names()
        catalog.checkpoints.captured_titles()


def _fill(machine: Machine) -> None:
    fill(machine.settings.effective_database_url, _CHECKPOINTS, store_id=machine.system.store_id)


def test_a_days_work_reads_no_more_of_a_large_catalog_than_it_needs(
    any_machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(any_machine)
    with _noted(monkeypatch) as asked:
        _work_a_day(any_machine)
    assert len(asked) > 50
    assert _dear(any_machine, asked) == []


@pytest.mark.parametrize("index", ["ix_contents_digest", "ix_contents_size", "ix_blob_references_blob_id"])
def test_an_index_that_is_missing_is_noticed(any_machine: Machine, monkeypatch: pytest.MonkeyPatch, index: str) -> None:
    _fill(any_machine)
    with _noted(monkeypatch) as asked:
        _work_a_day(any_machine)
    with tables_of(any_machine.system.catalog.database) as connection:
        connection.execute(text(f"DROP INDEX {index}"))
    assert _dear(any_machine, asked)
