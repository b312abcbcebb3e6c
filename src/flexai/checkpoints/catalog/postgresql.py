"""The catalog on a PostgreSQL server, by SQLAlchemy's connections."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from flexai.checkpoints.catalog.database import (
    HEAD_REVISION,
    ConstraintError,
    Database,
    EmptyTransaction,
    Look,
    QueryResult,
    Transaction,
)
from flexai.checkpoints.errors import SettingsError, StorageError, StorageUnavailableError
from flexai.checkpoints.settings import hide_secrets


class PostgresqlTransaction(Transaction):
    """A transaction on a server."""

    is_postgresql = True

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Mapping[str, Any]) -> QueryResult:
        """Run one statement."""
        result = self._connection.execute(_parsed(sql), values)
        if not result.returns_rows:
            return QueryResult((), (), result.rowcount)
        assert result.cursor is not None
        # The driver's own rows: SQLAlchemy would wrap each of them, which a long list feels.
        answer = QueryResult(list(result.keys()), result.cursor.fetchall(), result.rowcount)
        result.close()
        return answer

    def execute_many(self, sql: str, values: Sequence[Mapping[str, Any]]) -> None:
        """Run one statement again and again."""
        self._connection.execute(_parsed(sql), values)


_parsed = lru_cache(maxsize=200)(text)


class PostgresqlDatabase(Database):
    """A catalog on a server."""

    is_postgresql = True

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def at(cls, url: URL) -> PostgresqlDatabase:
        """The catalog at a URL, which is connected to when it is first used.

        Raises SettingsError where psycopg is missing.
        """
        return cls(_engine(url))

    def look(self) -> Look | None:
        """Look at the catalog as it is; None where its tables must be migrated first. Without tables it is empty.

        Raises StorageUnavailableError for a server that does not answer.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            with self._errors():
                connection = stack.enter_context(self._engine.connect())
                # One snapshot for all queries, and the server refuses to write.
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
                transaction = PostgresqlTransaction(connection)
                revision = transaction.revision()
            if revision == HEAD_REVISION:
                return Look(transaction, errors=self._errors, close=stack.pop_all().close)
        return Look(EmptyTransaction()) if revision is None else None

    def migrate(self) -> None:
        """Make the tables, or bring them to their newest form."""
        from flexai.checkpoints.catalog.migrate import migrate

        with self._errors():
            migrate(self._engine)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Transaction]:
        """A transaction that writes: committed at the end of the block, undone by an error."""
        with self._errors(), self._engine.begin() as connection:
            yield PostgresqlTransaction(connection)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Transaction]:
        """A transaction that only reads, and waits for no writer."""
        with self._errors(), self._engine.connect() as connection:
            yield PostgresqlTransaction(connection)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Say the database's errors in our words, without its password."""
        try:
            yield
        except IntegrityError as error:
            raise ConstraintError(str(error.orig)) from error
        except (DBAPIError, PoolTimeoutError) as error:
            shown = hide_secrets(self._engine.url.render_as_string(hide_password=True))
            cause = error.orig if isinstance(error, DBAPIError) else error
            reason = next(iter(str(cause).strip().splitlines()), type(error).__name__)
            passing = isinstance(error, (OperationalError, InterfaceError, PoolTimeoutError))
            kind = StorageUnavailableError if passing else StorageError
            raise kind(
                f"the catalog {shown} cannot be used: {reason}", hint="flexai config show prints where it is set"
            ) from error


def _engine(url: URL) -> Engine:
    try:
        return sqlalchemy.create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=20)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"PostgreSQL needs the Python package {error.name!r}",
            hint="pip install 'flexai-checkpoints[postgresql]'",
        ) from error
