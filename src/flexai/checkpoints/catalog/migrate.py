"""Bringing the catalog's tables to their newest form; making them where there are none."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import sqlalchemy
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from flexai.checkpoints.catalog.database import HEAD_REVISION, MIGRATION_LOCK
from flexai.checkpoints.catalog.tables import metadata
from flexai.checkpoints.errors import SettingsError

# Alembic has one context for the whole process: two catalogs made at once by two threads would mix.
_MIGRATING = threading.Lock()


def migrate_sqlite(connect: Callable[[], sqlite3.Connection]) -> None:
    """Make or migrate the tables of a file that is opened so; see ``migrate``. SQLite's errors leave as its own."""
    engine = sqlalchemy.create_engine("sqlite://", creator=connect, poolclass=NullPool)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # sqlite3 itself would begin with the first change of data, and not at all for CREATE TABLE.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        migrate(engine)
    except DBAPIError as error:
        if error.orig is None:
            raise
        raise error.orig from error


def migrate(engine: Engine) -> None:
    """Make or migrate the tables of a database, while no other process does.

    Raises SettingsError for a catalog that a newer version of this program made.
    """
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
