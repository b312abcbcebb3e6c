"""The catalog's tables, for a test that looks into them or changes them past the catalog."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event
from sqlalchemy.pool import NullPool

from flexai.checkpoints.catalog.database import Database, Transaction
from flexai.checkpoints.catalog.postgresql import PostgresqlDatabase, PostgresqlTransaction
from flexai.checkpoints.catalog.sqlite import SqliteDatabase, SqliteTransaction


@contextlib.contextmanager
def tables_of(database: Database) -> Iterator[Connection]:
    """A transaction of SQLAlchemy's own, committed at the end of the block."""
    if isinstance(database, PostgresqlDatabase):
        with database._engine.begin() as connection:
            yield connection
        return
    assert isinstance(database, SqliteDatabase)
    engine = create_engine("sqlite://", creator=database.connect, poolclass=NullPool)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with engine.begin() as connection:
        yield connection


@contextlib.contextmanager
def statements() -> Iterator[list[tuple[str, Mapping[str, Any]]]]:
    """What catalogs are asked meanwhile, with its values; of many the first ones."""
    asked: list[tuple[str, Mapping[str, Any]]] = []

    def noting(run: Callable[..., Any]) -> Callable[..., Any]:
        def run_noted(transaction: Transaction, sql: str, values: Any) -> Any:
            asked.append((sql, values[0] if isinstance(values, Sequence) else values))
            return run(transaction, sql, values)

        return run_noted

    with pytest.MonkeyPatch.context() as patch:
        for kind in (SqliteTransaction, PostgresqlTransaction):
            for name in ("execute", "execute_many"):
                patch.setattr(kind, name, noting(getattr(kind, name)))
        yield asked
