"""Which database an SQLAlchemy URL means, and opening it."""

from __future__ import annotations

import re
from pathlib import Path

from flexai.checkpoints.catalog.database import Database
from flexai.checkpoints.errors import SettingsError

_SQLITE = re.compile(r"sqlite(?:\+\w+)?:///([^?]+)(\?.*)?", re.DOTALL)

_HINT = "use sqlite:////path/to/catalog.db or postgresql://user:password@host/database"


def open_database(url: str) -> Database:
    """Open the catalog at an SQLAlchemy URL, making or migrating its tables on first use.

    Raises SettingsError for a URL that cannot be used, StorageUnavailableError for a server that does not answer,
    StorageError for what is no catalog.
    """
    if (path := sqlite_file(url)) is None:
        return _open_server(url)
    from flexai.checkpoints.catalog.sqlite import SqliteDatabase

    return SqliteDatabase.open(path, _sqlite_options(url) if has_options(url) else {})


def sqlite_file(url: str) -> Path | None:
    """The SQLite file that a URL means, its path as it is written; None for any other."""
    found = _SQLITE.fullmatch(url)
    return None if found is None or found[1] == ":memory:" else Path(found[1])


def has_options(url: str) -> bool:
    """Whether options for SQLite's connections follow the path in the URL of a file."""
    found = _SQLITE.fullmatch(url)
    return found is not None and found[2] is not None


def _sqlite_options(url: str) -> dict[str, object]:
    """The options of a file's URL, which mean what SQLAlchemy says they mean."""
    from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
    from sqlalchemy.engine import make_url

    try:
        (database,), options = SQLiteDialect_pysqlite().create_connect_args(make_url(url))
    except ValueError as error:
        raise SettingsError(f"the setting database_url has an option that cannot be: {error}", hint=_HINT) from error
    return {"database": database, **options}


def _open_server(url: str) -> Database:
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
    return PostgresqlDatabase.open(parsed.set(drivername="postgresql+psycopg"))
