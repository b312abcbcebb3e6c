"""The catalog as a whole: where it is, opening it, and looking at it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Set
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from flexai.checkpoints import settings
from flexai.checkpoints.catalog.database import MIGRATION_LOCK, Database, Look
from flexai.checkpoints.errors import SettingsError

if TYPE_CHECKING:
    from flexai.checkpoints.catalog.blobs import Blobs
    from flexai.checkpoints.catalog.checkpoints import Checkpoints
    from flexai.checkpoints.catalog.gc_queries import Garbage
    from flexai.checkpoints.catalog.jobs import Jobs
    from flexai.checkpoints.catalog.parts import Parts
    from flexai.checkpoints.catalog.postgresql import PostgresqlDatabase
    from flexai.checkpoints.catalog.soundness import Soundness

_SQLITE = re.compile(r"sqlite(?:\+\w+)?:///([^?]+)(\?.*)?", re.DOTALL)

_HINT = "use sqlite:////path/to/catalog.db or postgresql://user:password@host/database"


class Catalog:
    """The database of checkpoints, training jobs and blobs.

    Each part of it is imported when it is first asked for: a command that shows a list needs one of them.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    @classmethod
    def open(cls, url: str) -> Catalog:
        """Open the catalog at an SQLAlchemy URL, making or migrating its tables on first use.

        Raises SettingsError for a URL that cannot be used, StorageUnavailableError for a server that does not answer,
        StorageError for what is no catalog.
        """
        return cls(open_database(url))

    @classmethod
    def look(cls, url: str | None = None) -> Catalog:
        """Open the catalog (the one that the settings name by default) to read it as it is at one moment.

        Nothing is made or changed: where no catalog is yet, it is empty. One of an older form is migrated first, as
        ``open`` does. Raises what ``open`` raises.
        """
        url = settings.database_url() if url is None else url
        found = _look_at(url)
        if found is None:
            open_database(url).close()
            found = _look_at(url)
        assert found is not None, "the tables have just been migrated"
        return cls(found)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints."""
        from flexai.checkpoints.catalog.checkpoints import Checkpoints

        return Checkpoints(self.database)

    @cached_property
    def parts(self) -> Parts:
        """The parts of checkpoints that several machines wrote."""
        from flexai.checkpoints.catalog.parts import Parts

        return Parts(self.database)

    @cached_property
    def jobs(self) -> Jobs:
        """The training jobs."""
        from flexai.checkpoints.catalog.jobs import Jobs

        return Jobs(self.database)

    def blobs(self, store_id: str) -> Blobs:
        """The blobs of one managed store."""
        from flexai.checkpoints.catalog.blobs import Blobs

        return Blobs(self.database, store_id)

    def garbage(self, store_id: str) -> Garbage:
        """What no checkpoint needs any more of one managed store."""
        from flexai.checkpoints.catalog.gc_queries import Garbage

        return Garbage(self.database, store_id)

    def soundness(self, store_id: str) -> Soundness:
        """The soundness of one managed store's contents."""
        from flexai.checkpoints.catalog.soundness import Soundness

        return Soundness(self.database, store_id)

    def at_work(self, ids: Set[str]) -> set[str]:
        """Which of the ids are those of checkpoints or training jobs that a process is at work on."""
        from flexai.checkpoints.catalog.leases import LEASE, is_held

        found: set[str] = set()
        with self.database.reading() as transaction:
            for table, key in (("checkpoints", "id"), ("jobs", "id"), ("job_nodes", "job_id")):
                query = f"SELECT {key} AS id, {LEASE} FROM {table} WHERE claim_token IS NOT NULL"
                for row in transaction.records(query):
                    if row["id"] in ids and is_held(row):
                        found.add(row["id"])
        return found

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold off every other process that asks for the same, for what must be done once."""
        with self.database.writing() as transaction:
            transaction.lock(MIGRATION_LOCK)
            yield

    def close(self) -> None:
        """Close every connection."""
        self.database.close()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_database(url: str) -> Database:
    """Open the database of a catalog; see ``Catalog.open``."""
    if (path := sqlite_file(url)) is None:
        return _server(url).made_ready()
    from flexai.checkpoints.catalog.sqlite import SqliteDatabase

    return SqliteDatabase.open(path, _sqlite_options(url))


def sqlite_file(url: str) -> Path | None:
    """The SQLite file that a URL means, its path as it is written; None for any other."""
    found = _SQLITE.fullmatch(url)
    return None if found is None or found[1] == ":memory:" else Path(found[1])


def _look_at(url: str) -> Look | None:
    if (path := sqlite_file(url)) is None:
        return _server(url).look()
    from flexai.checkpoints.catalog.sqlite import look_at_sqlite

    return look_at_sqlite(path, _sqlite_options(url))


def _sqlite_options(url: str) -> dict[str, object]:
    """The options that follow the path in the URL of a file, which mean what SQLAlchemy says they mean."""
    found = _SQLITE.fullmatch(url)
    if found is None or found[2] is None:
        return {}
    from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
    from sqlalchemy.engine import make_url

    try:
        (database,), options = SQLiteDialect_pysqlite().create_connect_args(make_url(url))
    except ValueError as error:
        raise SettingsError(f"the setting database_url has an option that cannot be: {error}", hint=_HINT) from error
    return {"database": database, **options}


def _server(url: str) -> PostgresqlDatabase:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        # The text may hold a password, so it is not repeated.
        raise SettingsError("the setting database_url is not an SQLAlchemy URL", hint=_HINT) from None
    if backend == "sqlite":
        raise SettingsError("the catalog must be a file that all processes can open", hint=_HINT)
    if backend != "postgresql":
        raise SettingsError(f"the catalog cannot be a database of kind {backend!r}", hint=_HINT)
    from flexai.checkpoints.catalog.postgresql import PostgresqlDatabase

    # Whatever driver the URL was written for: Prefect's own URLs name one (asyncpg) that cannot be used here.
    return PostgresqlDatabase.at(parsed.set(drivername="postgresql+psycopg"))
