"""The catalog in an SQLite file, by Python's own ``sqlite3``."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from flexai.checkpoints.catalog.database import (
    HEAD_REVISION,
    NO_RIGHT,
    ConstraintError,
    Database,
    EmptyTransaction,
    Look,
    QueryResult,
    Transaction,
)
from flexai.checkpoints.errors import (
    AccessDeniedError,
    SettingsError,
    StorageError,
    StorageFullError,
    StorageUnavailableError,
)
from flexai.checkpoints.local_paths import is_no_file

if TYPE_CHECKING:
    from flexai.checkpoints.storage.patience import Patience

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 60
"""How long another writer is waited for where no other patience is given."""
_TURN_SECONDS = 1.0
"""How long SQLite itself waits, before it is said that it does."""

REBUILD = (
    "flexai checkpoint recover --move-aside keeps the file under another name, and makes the catalog anew from what"
    " the store knows"
)
"""What to do about a file that is no catalog."""
_WHERE_SET = "flexai config show prints where the setting database_url is set"


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

    def __init__(self, path: Path, options: Mapping[str, Any], patience: Patience | None = None) -> None:
        self.patience = patience or _usual_patience()
        self._path = path
        self._options = options
        self._idle: list[sqlite3.Connection] = []
        self._is_closed = False
        # SQLite has one writer at a time, and lets others wait by sleeping for up to a tenth of a second. Threads of
        # this process wait for each other here instead, and go on at once.
        self._turn = threading.Lock()

    @classmethod
    def open(
        cls,
        path: Path,
        options: Mapping[str, Any] | None = None,
        before_making: Callable[[], object] = lambda: None,
        patience: Patience | None = None,
    ) -> SqliteDatabase:
        """Open a file, making it, and making or migrating its tables, on first use.

        ``options`` are those of ``sqlite3.connect``, ``before_making`` is that of ``made_ready``.

        Raises SettingsError for a place where no file can be, StorageUnavailableError for one that others keep locked,
        StorageError for what is no catalog.
        """
        _make_file(path)
        # Connections are opened later too, wherever the process is by then.
        return cls(path.absolute(), options or {}, patience).made_ready(before_making)

    def migrate(self) -> None:
        """Make the tables, or bring them to their newest form."""
        from flexai.checkpoints.catalog.migrate import migrate_sqlite

        with sqlite_errors(self._path):
            _lasting(self.patience, self._path, lambda: migrate_sqlite(self.connect))

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

    def size(self) -> int:
        """Bytes of the file, and of the log beside it."""
        files = (self._path, self._path.with_name(f"{self._path.name}-wal"))
        return sum(path.stat().st_size for path in files if path.exists())

    def spare(self) -> int:
        """Bytes of pages that hold nothing any more."""
        with self.reading() as transaction:
            pages, size = (transaction.value(f"PRAGMA {name}") for name in ("freelist_count", "page_size"))
        return int(pages) * int(size)

    def compact(self, *, patience: float | None = None) -> None:
        """Write the file anew without what it holds nothing in, and merge the log into it."""
        with self._turn, sqlite_errors(self._path), contextlib.closing(self.connect()) as connection:
            seconds = self.patience.left if patience is None else patience
            connection.execute(f"PRAGMA busy_timeout={int(seconds * 1000)}")
            connection.execute("VACUUM")
            # While another process reads what was there before, this has to wait: a later writer does it, then.
            connection.execute("PRAGMA busy_timeout=500")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close every connection."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()

    def connect(self) -> sqlite3.Connection:
        """A new connection; its holder begins and ends the transactions."""
        options: dict[str, Any] = {"timeout": _TURN_SECONDS, "database": self._path, **self._options}
        options |= {"check_same_thread": False, "isolation_level": None}
        connection = _connect(self._path, options)
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
            connection = _lasting(self.patience, self._path, lambda: self._begun(begin))
            try:
                yield SqliteTransaction(connection)
                # One that could not be committed because of a lock can be committed later.
                _lasting(self.patience, self._path, connection.commit)
            finally:
                self._put_back(connection)

    def _begun(self, begin: str) -> sqlite3.Connection:
        """A connection whose transaction has begun, and has looked at the file."""
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self.connect()
        try:
            connection.execute(begin)
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
        except BaseException:
            self._put_back(connection)
            raise
        return connection

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


def look_at_sqlite(
    path: Path, options: Mapping[str, Any] | None = None, patience: Patience | None = None
) -> Look | None:
    """Look at a file as it is; None where its tables must be migrated first. One that is not there is empty.

    ``options`` are those of ``sqlite3.connect``. Raises what ``SqliteDatabase.open`` raises.
    """
    check_is_file(path)
    if not path.exists():
        return Look(EmptyTransaction())
    with sqlite_errors(path):
        asked = options or {"database": _address(path), "uri": True}
        try:
            return _lasting(patience, path, lambda: _look(path, asked))
        except sqlite3.OperationalError as error:
            if options or not _is_in_closed_folder(path, error):
                raise
            return _look(path, {"database": f"{_address(path)}&immutable=1", "uri": True})


def _look(path: Path, options: Mapping[str, Any]) -> Look | None:
    usual = {"timeout": _TURN_SECONDS, "check_same_thread": False}
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(
            contextlib.closing(_connect(path, {**usual, **options, "isolation_level": None}))
        )
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


class _Connection(sqlite3.Connection):
    path: Path

    def close(self) -> None:
        """Close it, which a process that is forked from now on need not know of."""
        super().close()
        _open.discard(self)


_open: weakref.WeakSet[_Connection] = weakref.WeakSet()
_inherited: list[_Connection] = []
"""Those that were open in the process that this one was forked from: never used, and never closed."""


def _connect(path: Path, options: Mapping[str, Any]) -> sqlite3.Connection:
    """Raises StorageError in a process that was forked while its parent used the file.

    SQLite keeps in memory which locks the process holds, and a forked one holds none of them: it would write where
    others do (https://www.sqlite.org/howtocorrupt.html, 2.6).
    """
    if any(os.path.realpath(path) == os.path.realpath(one.path) for one in _inherited):
        raise StorageError(
            f"the catalog {path} cannot be used: this process was forked while its parent used it",
            hint="fork while no call is on its way, or start processes with multiprocessing's 'spawn' or 'forkserver'",
        )
    connection = sqlite3.connect(**options, factory=_Connection)
    connection.path = path
    _open.add(connection)
    return connection


os.register_at_fork(after_in_child=lambda: _inherited.extend(_open))


def _usual_patience() -> Patience:
    """How long a file that is locked is waited for where nothing else is said."""
    from flexai.checkpoints.storage.patience import Patience

    return Patience(BUSY_TIMEOUT_SECONDS)


def _lasting(patience: Patience | None, path: Path, act: Callable[[], T]) -> T:
    """Do what has no effect where the file is locked, again and again while that is so and the patience lasts."""
    failures = 0
    while True:
        try:
            done = act()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise
            failures += 1
            patience = patience or _usual_patience()
            patience.wait(StorageUnavailableError(f"the catalog {path} cannot be used: {error}"), failures)
        else:
            if patience is not None:
                patience.succeeded()
            return done


@contextlib.contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Say SQLite's errors in our words."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise ConstraintError(str(error)) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_READONLY:
            raise AccessDeniedError(f"the catalog {path} refused: {error}", hint=NO_RIGHT) from error
        if code == sqlite3.SQLITE_FULL:
            raise StorageFullError(f"the catalog {path} cannot be used: {error}") from error
        if code == sqlite3.SQLITE_CANTOPEN and path.parent.is_dir() and not os.access(path.parent, os.W_OK):
            # SQLite makes files beside it while it writes.
            raise AccessDeniedError(
                f"the catalog {path} is in a folder that cannot be written to", hint=NO_RIGHT
            ) from error
        is_damaged = _is_damaged(error)
        passing = isinstance(error, sqlite3.OperationalError) and not is_damaged
        kind = StorageUnavailableError if passing else StorageError
        hint = REBUILD if is_damaged else "flexai config show prints where it is set"
        raise kind(f"the catalog {path} cannot be used: {error}", hint=hint) from error


def _is_damaged(error: sqlite3.Error) -> bool:
    """Whether a file is no catalog, or no longer a whole one."""
    code = getattr(error, "sqlite_errorcode", None)
    if isinstance(error, sqlite3.OperationalError):
        # A table or a column is missing, or a text is none.
        return code in {None, sqlite3.SQLITE_ERROR}
    return code is not None and code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def check_is_file(path: Path) -> None:
    """Raise SettingsError for what is there and is no file: to SQLite a folder looks like a file that is away."""
    if is_no_file(path):
        raise SettingsError(f"the catalog {path} is no file", hint=_WHERE_SET)


def _make_file(path: Path) -> None:
    # Not at the head: to look at a catalog takes none of them.
    from flexai.checkpoints.private_folders import is_shared, make_private_file, make_private_folder, make_shared_file
    from flexai.checkpoints.settings import home_path

    try:
        # SQLite would make it as the umask says, but never for the group to write to.
        if path.parent.is_dir() and is_shared(path.parent.absolute(), home=home_path()):
            make_shared_file(path)
        else:
            make_private_folder(path.parent)
            make_private_file(path)
        check_is_file(path)
    except OSError as error:
        raise SettingsError(f"the catalog {path} cannot be made: {error.strerror}", hint=_WHERE_SET) from error


def _use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Let readers and a writer work at once; of connections that make the change at the same time, one at a time."""
    deadline = time.monotonic() + _TURN_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            # Here SQLite gives up at once, whatever its timeout, lest two connections wait for each other.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
