"""The catalog in an SQLite file, by Python's own ``sqlite3``."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
from flexai.checkpoints.private_folders import make_private_file, make_private_folder

BUSY_TIMEOUT_SECONDS = 60
"""How long a connection waits for another writer."""


class SqliteTransaction(Transaction):
    """A transaction of an SQLite connection."""

    is_postgresql = False

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Mapping[str, Any]) -> QueryResult:
        """Run one statement."""
        cursor = self._connection.execute(sql, values)
        return QueryResult([column[0] for column in cursor.description or ()], cursor.fetchall(), cursor.rowcount)

    def execute_many(self, sql: str, values: Sequence[Mapping[str, Any]]) -> None:
        """Run one statement again and again."""
        self._connection.executemany(sql, values)


class SqliteDatabase(Database):
    """A catalog in a file."""

    is_postgresql = False

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        self._path = path
        self._options = options
        self._idle: list[sqlite3.Connection] = []
        self._is_closed = False
        # SQLite has one writer at a time, and lets others wait by sleeping for up to a tenth of a second. Threads of
        # this process wait for each other here instead, and go on at once.
        self._turn = threading.Lock()

    @classmethod
    def open(cls, path: Path, options: Mapping[str, Any] | None = None) -> SqliteDatabase:
        """Open a file, making it, and making or migrating its tables, on first use.

        ``options`` are those of ``sqlite3.connect``. Raises SettingsError for a place where no file can be,
        StorageUnavailableError for one that others keep locked, StorageError for what is no catalog.
        """
        _make_file(path)
        # Connections are opened later too, wherever the process is by then.
        return cls(path.absolute(), options or {}).made_ready()

    def migrate(self) -> None:
        """Make the tables, or bring them to their newest form."""
        from flexai.checkpoints.catalog.migrate import migrate_sqlite

        with sqlite_errors(self._path):
            migrate_sqlite(self.connect)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Transaction]:
        """A transaction that writes: committed at the end of the block, undone by an error."""
        # One that reads first and writes later would fail at once where another one wrote between.
        with self._turn, self._transaction("BEGIN IMMEDIATE") as transaction:
            yield transaction

    @contextlib.contextmanager
    def reading(self) -> Iterator[Transaction]:
        """A transaction that only reads, and waits for no writer."""
        with self._transaction("BEGIN") as transaction:
            yield transaction

    def close(self) -> None:
        """Close every connection."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    def connect(self) -> sqlite3.Connection:
        """A new connection; its holder begins and ends the transactions."""
        options: dict[str, Any] = {"timeout": BUSY_TIMEOUT_SECONDS, "database": self._path, **self._options}
        options |= {"check_same_thread": False, "isolation_level": None}
        connection = _connect(options)
        try:
            _use_write_ahead_log(connection)
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA synchronous=FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[Transaction]:
        with sqlite_errors(self._path):
            try:
                connection = self._idle.pop()
            except IndexError:
                connection = self.connect()
            try:
                connection.execute(begin)
                yield SqliteTransaction(connection)
                connection.commit()
            finally:
                self._put_back(connection)

    def _put_back(self, connection: sqlite3.Connection) -> None:
        """Keep a connection for the next transaction, and undo what it did not commit."""
        try:
            connection.rollback()
        except sqlite3.Error:
            connection.close()  # which undoes it as well
        else:
            self._idle.append(connection)
            if self._is_closed:
                self.close()


def look_at_sqlite(path: Path, options: Mapping[str, Any] | None = None) -> Look | None:
    """Look at a file as it is; None where its tables must be migrated first. One that is not there is empty.

    ``options`` are those of ``sqlite3.connect``. Raises what ``SqliteDatabase.open`` raises but for SettingsError.
    """
    if not path.exists():
        return Look(EmptyTransaction())
    with sqlite_errors(path):
        try:
            return _look(path, options or {"database": _address(path), "uri": True})
        except sqlite3.OperationalError as error:
            if options or not _is_in_closed_folder(path, error):
                raise
            return _look(path, {"database": f"{_address(path)}&immutable=1", "uri": True})


def _look(path: Path, options: Mapping[str, Any]) -> Look | None:
    usual = {"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(contextlib.closing(_connect({**usual, **options, "isolation_level": None})))
        connection.execute("PRAGMA query_only=ON")
        connection.execute("BEGIN")
        transaction = SqliteTransaction(connection)
        revision = transaction.revision()
        if revision == HEAD_REVISION:
            return Look(transaction, errors=lambda: sqlite_errors(path), close=stack.pop_all().close)
    return Look(EmptyTransaction()) if revision is None else None


def _address(path: Path) -> str:
    return f"file:{quote(str(path))}?mode=ro"


def _is_in_closed_folder(path: Path, error: sqlite3.OperationalError) -> bool:
    """Whether a file cannot be read only because SQLite would have to make others beside it.

    Those hold what a writer has not merged yet (https://www.sqlite.org/wal.html#read_only_databases). Where none is
    there, and none can be made, no process of this user writes.
    """
    journal = path.with_name(f"{path.name}-wal")
    return (
        error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}
        and path.is_file()
        and not os.access(path.parent, os.W_OK)
        and not (journal.exists() and journal.stat().st_size)
    )


def _connect(options: Mapping[str, Any]) -> sqlite3.Connection:
    connection: sqlite3.Connection = sqlite3.connect(**options)
    return connection


@contextlib.contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Say SQLite's errors in our words."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise ConstraintError(str(error)) from error
    except sqlite3.Error as error:
        kind = StorageUnavailableError if isinstance(error, sqlite3.OperationalError) else StorageError
        raise kind(
            f"the catalog {path} cannot be used: {error}", hint="flexai config show prints where it is set"
        ) from error


def _make_file(path: Path) -> None:
    try:
        make_private_folder(path.parent)
        make_private_file(path)  # SQLite would make it as the umask says
    except OSError as error:
        raise SettingsError(
            f"the catalog {path} cannot be made: {error.strerror}",
            hint="flexai config show prints where the setting database_url is set",
        ) from error


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Let readers and a writer work at once; of connections that make the change at the same time, one at a time."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            # Here SQLite gives up at once, whatever its timeout, lest two connections wait for each other.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
