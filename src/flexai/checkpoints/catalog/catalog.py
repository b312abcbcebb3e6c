"""The catalog as a whole: where it is, opening it, and looking at it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Set
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from flexai.checkpoints import settings
from flexai.checkpoints.catalog.database import MIGRATION_LOCK, Database, Look, batches
from flexai.checkpoints.errors import SettingsError, UsageError
from flexai.checkpoints.models import now
from flexai.checkpoints.names import Id

if TYPE_CHECKING:
    from flexai.checkpoints.catalog.blobs import Blobs
    from flexai.checkpoints.catalog.checkpoint_queries import CheckpointQueries
    from flexai.checkpoints.catalog.checkpoints import Checkpoints
    from flexai.checkpoints.catalog.exports import Exports
    from flexai.checkpoints.catalog.gc_queries import Garbage
    from flexai.checkpoints.catalog.job_queries import JobQueries
    from flexai.checkpoints.catalog.jobs import Jobs
    from flexai.checkpoints.catalog.parts import Parts
    from flexai.checkpoints.catalog.postgresql import PostgresqlDatabase
    from flexai.checkpoints.catalog.soundness import Soundness
    from flexai.checkpoints.storage.patience import Patience

_HINT = "use sqlite:////path/to/catalog.db or postgresql://user:password@host/database"


class Catalog:
    """The database of checkpoints, training jobs and blobs.

    Each part of it is imported when it is first asked for: a command that shows a list needs one of them.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    @classmethod
    def open(
        cls, url: str, *, before_making: Callable[[], object] = lambda: None, patience: Patience | None = None
    ) -> Catalog:
        """Open the catalog at an SQLAlchemy URL, making or migrating its tables on first use.

        ``patience`` is how long it is waited for where it is away; without it only for a file that is locked.
        ``before_making`` is called where it has no tables yet, and keeps them from being made by raising an error.

        Raises SettingsError for a URL that cannot be used, StorageUnavailableError for a server that does not answer,
        StorageError for what is no catalog.
        """
        return cls(open_database(url, before_making, patience))

    @classmethod
    def look(cls, url: str | None = None, *, patience: Patience | None = None) -> Catalog:
        """Open the catalog (the one that the settings name by default) to read it as it is at one moment.

        Nothing is made or changed: where no catalog is yet, it is empty. One of an older form is migrated first, as
        ``open`` does. ``patience`` is that of ``open``. Raises what ``open`` raises.
        """
        url = settings.database_url() if url is None else url
        found = _look_at(url, patience)
        if found is None:
            open_database(url, patience=patience).close()
            found = _look_at(url, patience)
        assert found is not None, "the tables have just been migrated"
        return cls(found)

    @property
    def is_empty(self) -> bool:
        """Whether a look at the catalog has found none."""
        return isinstance(self.database, Look) and self.database.is_empty

    @cached_property
    def checkpoint_queries(self) -> CheckpointQueries:
        """What can be asked about the checkpoints; commands that only show them do not import what changes them."""
        from flexai.checkpoints.catalog.checkpoint_queries import CheckpointQueries

        return CheckpointQueries(self.database)

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints."""
        from flexai.checkpoints.catalog.checkpoints import Checkpoints

        return Checkpoints(self.database)

    @cached_property
    def exports(self) -> Exports:
        """Where the checkpoints were exported to."""
        from flexai.checkpoints.catalog.exports import Exports

        return Exports(self.database)

    @cached_property
    def parts(self) -> Parts:
        """The parts of checkpoints that several machines wrote."""
        from flexai.checkpoints.catalog.parts import Parts

        return Parts(self.database)

    @cached_property
    def job_queries(self) -> JobQueries:
        """What can be asked about the training jobs, without what changes them as well."""
        from flexai.checkpoints.catalog.job_queries import JobQueries

        return JobQueries(self.database)

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
        """Which of the ids are those of checkpoints or training jobs that a process is at work on.

        A process that writes a record counts, and for an hour also one that has died over that.
        """
        from flexai.checkpoints.catalog.leases import LEASE, is_held

        found: set[str] = set()
        with self.database.reading() as transaction:
            for table, key in (("checkpoints", "id"), ("jobs", "id"), ("job_nodes", "job_id")):
                query = f"SELECT {key} AS id, {LEASE} FROM {table} WHERE claim_token IS NOT NULL"
                for row in transaction.records(query):
                    if row["id"] in ids and is_held(row):
                        found.add(row["id"])
            found |= ids & set(transaction.column("SELECT id FROM records_due"))
        return found

    def stores_of(self, ids: Iterable[str]) -> dict[str, int]:
        """The ids of the stores in which checkpoints of these ids lie, and how many lie in each."""
        query = "SELECT store_id, COUNT(*) FROM checkpoints WHERE id IN :ids GROUP BY store_id"
        found: dict[str, int] = {}
        with self.database.reading() as transaction:
            for batch in batches(ids):
                for store_id, count in transaction.rows(query, ids=batch):
                    found[store_id] = found.get(store_id, 0) + count
        return found

    def identity(self) -> Id:
        """The catalog's own id, which its managed store knows it by; made where it has none yet."""
        from flexai.checkpoints.catalog.identity import identity_of

        return identity_of(self.database)

    def last_change(self) -> int:
        """The number of the last change that the history tells of; 0 for none."""
        with self.database.reading() as transaction:
            return int(transaction.value("SELECT COALESCE(MAX(id), 0) FROM history"))

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


def open_database(
    url: str, before_making: Callable[[], object] = lambda: None, patience: Patience | None = None
) -> Database:
    """Open the database of a catalog; see ``Catalog.open``."""
    if (path := sqlite_file(url)) is None:
        return _server(url, patience).made_ready(before_making)
    from flexai.checkpoints.catalog.sqlite import SqliteDatabase

    return SqliteDatabase.open(path, _sqlite_options(url), before_making, patience)


def move_aside(url: str) -> Path | None:
    """Move the file of a catalog, with what SQLite keeps beside it, out of the way; returns where it is then.

    None where no file is there. Raises UsageError for a catalog on a server.
    """
    if (path := sqlite_file(url)) is None:
        raise UsageError(
            "only a catalog in a file can be moved aside",
            hint="flexai checkpoint recover alone fills a database without tables, such as a new one",
        )
    aside = path.with_name(f"{path.name}.{now():%Y%m%dT%H%M%S.%fZ}")
    # The file last: SQLite deletes what it finds beside one that is new.
    for suffix in ("-wal", "-shm", "-journal", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside if os.path.lexists(aside) else None


def sqlite_file(url: str) -> Path | None:
    """The SQLite file that a URL means, its path as it is written; None for any other."""
    scheme, _, rest = url.partition(":///")
    path = rest.partition("?")[0]
    return Path(path) if scheme.partition("+")[0] == "sqlite" and path not in {"", ":memory:"} else None


def _look_at(url: str, patience: Patience | None) -> Look | None:
    if (path := sqlite_file(url)) is None:
        return _server(url, patience).look()
    from flexai.checkpoints.catalog.sqlite import look_at_sqlite

    return look_at_sqlite(path, _sqlite_options(url), patience)


def _sqlite_options(url: str) -> dict[str, object]:
    """The options that follow the path in the URL of a file, which mean what SQLAlchemy says they mean."""
    if "?" not in url:
        return {}
    from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
    from sqlalchemy.engine import make_url

    try:
        (database,), options = SQLiteDialect_pysqlite().create_connect_args(make_url(url))
    except ValueError as error:
        raise SettingsError(f"the setting database_url has an option that cannot be: {error}", hint=_HINT) from error
    return {"database": database, **options}


def _server(url: str, patience: Patience | None) -> PostgresqlDatabase:
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
    return PostgresqlDatabase.at(parsed.set(drivername="postgresql+psycopg"), patience)
