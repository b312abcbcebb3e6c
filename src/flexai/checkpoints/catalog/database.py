"""Opening the catalog's database and bringing its tables to their newest form."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy
from sqlalchemy import Connection, Engine, Table, event, text
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from flexai.checkpoints.catalog.schema import BUSY_TIMEOUT_SECONDS, HEAD_REVISION
from flexai.checkpoints.catalog.tables import metadata
from flexai.checkpoints.errors import SettingsError, StorageError, StorageUnavailableError

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

MIGRATION_LOCK = 0x666C6578
"""PostgreSQL advisory lock held while the tables change."""


class Database:
    """The catalog's database: transactions that read, and transactions that write."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # SQLite has one writer at a time, and lets others wait by sleeping for up to a tenth of a second. Threads of
        # this process wait for each other here instead, and go on at once.
        self._turn = contextlib.nullcontext() if self.is_postgresql else threading.Lock()

    @classmethod
    def open(cls, url: str) -> Database:
        """Open the catalog at an SQLAlchemy URL, making or migrating its tables on first use.

        Raises SettingsError for a URL that cannot be used, StorageUnavailableError for a server that does not answer,
        StorageError for what is no catalog.
        """
        parsed = _parse(url)
        engine = _sqlite_engine(parsed) if parsed.get_backend_name() == "sqlite" else _postgresql_engine(parsed)
        try:
            with database_errors(parsed):
                _migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine)

    @property
    def is_postgresql(self) -> bool:
        """Whether rows can be locked one by one; SQLite has one writer at a time."""
        return self._engine.dialect.name == "postgresql"

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes: committed at the end of the block, undone by an error.

        A violated constraint leaves as SQLAlchemy's IntegrityError, for the caller to say what it means.
        """
        with self._turn, database_errors(self._engine.url), self._engine.begin() as connection:
            yield connection

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads, and waits for no writer."""
        with database_errors(self._engine.url), self._engine.connect() as connection:
            yield connection.execution_options(**{_READ_ONLY: True})

    def insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        """An insertion that can say what to do about a row that is there already, as each dialect spells it."""
        if self.is_postgresql:
            # Only where it is needed: it takes a twentieth of a short command's time to import.
            from sqlalchemy.dialects import postgresql

            return postgresql.insert(table)
        return sqlite.insert(table)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


_READ_ONLY = "flexai_read_only"


@contextlib.contextmanager
def database_errors(url: URL) -> Iterator[None]:
    """Say the database's errors in our words, without its password."""
    try:
        yield
    except IntegrityError:
        raise
    except (DBAPIError, PoolTimeoutError) as error:
        # A password can also stand in the query, where SQLAlchemy does not hide it.
        shown = url.set(query={}).render_as_string(hide_password=True)
        cause = error.orig if isinstance(error, DBAPIError) else error
        reason = next(iter(str(cause).strip().splitlines()), type(error).__name__)
        passing = isinstance(error, (OperationalError, InterfaceError, PoolTimeoutError))
        kind = StorageUnavailableError if passing else StorageError
        raise kind(
            f"the catalog {shown} cannot be used: {reason}", hint="flexai config show prints where it is set"
        ) from error


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        # The text may hold a password, so it is not repeated.
        raise SettingsError("the setting database_url is not an SQLAlchemy URL", hint=_URL_HINT) from None
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise SettingsError("the catalog must be a file that all processes can open", hint=_URL_HINT)
        # The path as it was written: from SQLAlchemy 2.1 on, a "%" in it would begin an escape.
        return parsed.set(drivername="sqlite", database=url.partition(":///")[2].partition("?")[0])
    if backend == "postgresql":
        # Whatever driver the URL was written for: Prefect's own URLs name one (asyncpg) that cannot be used here.
        return parsed.set(drivername="postgresql+psycopg")
    raise SettingsError(f"the catalog cannot be a database of kind {backend!r}", hint=_URL_HINT)


_URL_HINT = "use sqlite:////path/to/catalog.db or postgresql://user:password@host/database"


def _sqlite_engine(url: URL) -> Engine:
    path = Path(str(url.database))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            # Made before SQLite does, so that the catalog is its owner's alone whatever the umask.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise SettingsError(f"the catalog {path} cannot be made: {error.strerror}", hint=_URL_HINT) from error
    engine = sqlalchemy.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _record: object) -> None:
        # SQLAlchemy begins transactions itself (below): sqlite3 would begin too late for BEGIN IMMEDIATE.
        connection.isolation_level = None
        cursor = connection.cursor()
        _use_write_ahead_log(cursor)
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later would fail at once where another one wrote between.
        read_only = connection.get_execution_options().get(_READ_ONLY, False)
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _use_write_ahead_log(cursor: sqlite3.Cursor) -> None:
    """Let readers and a writer work at once; of connections that make the change at the same time, one at a time."""
    deadline = time.monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            # Here SQLite gives up at once, whatever its timeout, lest two connections wait for each other.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _postgresql_engine(url: URL) -> Engine:
    try:
        return sqlalchemy.create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=20)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"PostgreSQL needs the Python package {error.name!r}",
            hint="pip install 'flexai-checkpoints[postgresql]'",
        ) from error


# Alembic has one context for the whole process: two catalogs made at once by two threads would mix.
_MIGRATING = threading.Lock()


def _migrate(engine: Engine) -> None:
    with engine.connect() as connection:
        if _read_revision(connection.execution_options(**{_READ_ONLY: True})) == HEAD_REVISION:
            return
    with _MIGRATING, engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        revision = _read_revision(connection)
        if revision == HEAD_REVISION:
            return
        if revision is None and not set(sqlalchemy.inspect(connection).get_table_names()) & set(metadata.tables):
            _create(connection)
        else:
            _upgrade(connection, revision)


def _create(connection: Connection) -> None:
    """Make a new catalog as the migrations would, without the third of a second that Alembic takes."""
    metadata.create_all(connection, checkfirst=False)
    # As Alembic makes it.
    connection.execute(
        text(
            "CREATE TABLE IF NOT EXISTS alembic_version "
            "(version_num VARCHAR(32) NOT NULL, CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
        )
    )
    connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": HEAD_REVISION})


def _upgrade(connection: Connection, revision: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    if revision is not None and revision not in {
        script.revision for script in ScriptDirectory.from_config(config).walk_revisions()
    }:
        raise SettingsError(
            f"the catalog is of a newer form ({revision}) than this program knows ({HEAD_REVISION})",
            hint="upgrade flexai-checkpoints on this machine",
        )
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _read_revision(connection: Connection) -> str | None:
    if not sqlalchemy.inspect(connection).has_table("alembic_version"):
        return None
    revision = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if revision is None else str(revision)
