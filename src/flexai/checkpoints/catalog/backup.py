"""Copying a catalog while other processes use it: a file by SQLite's own means, a database by PostgreSQL's."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import tempfile
from pathlib import Path

from flexai.checkpoints.catalog.catalog import sqlite_file
from flexai.checkpoints.catalog.sqlite import check_is_file, sqlite_errors
from flexai.checkpoints.errors import AlreadyExistsError, NotFoundError, StorageError, UsageError
from flexai.checkpoints.settings import hide_secrets
from flexai.checkpoints.storage.files import sync_directory
from flexai.checkpoints.storage.local import storage_error


def back_up(url: str, target: Path) -> int:
    """Copy the catalog at a URL, as it is at one moment, to a file that is made; returns the copy's bytes.

    The copy of a file is one, and is checked; that of a database is an archive for ``pg_restore``. It gets its name
    when it is whole and durable. Raises NotFoundError where no catalog is there yet, or no folder for the copy,
    AlreadyExistsError for a file that is there, SettingsError for a catalog that is no file, UsageError where
    ``pg_dump`` is missing, StorageError for a catalog that is damaged or cannot be read, or a place that cannot be
    written to.
    """
    path = sqlite_file(url)
    if path is not None:
        check_is_file(path)
    if path is not None and not path.is_file():
        raise NotFoundError(f"there is no catalog {path} yet", hint="flexai config show prints where it is set")
    if not target.parent.is_dir():
        raise NotFoundError(f"there is no folder {target.parent}", hint="make it first, or name another place")
    if target.exists():
        raise AlreadyExistsError(f"{target} is there already", hint="name a file that is not there")
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        copied = Path(name)
        try:
            if path is not None:
                _copy(path, copied)
            else:
                _dump(url, copied)
            os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
            copied.replace(target)
            sync_directory(target.parent)
            return size
        finally:
            os.close(descriptor)
            copied.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error(error, target) from error


def _copy(path: Path, copied: Path) -> None:
    """Have SQLite copy page by page, and check the copy (https://www.sqlite.org/backup.html)."""
    with (
        sqlite_errors(path),
        contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as source,
        contextlib.closing(sqlite3.connect(copied)) as copy,
    ):
        source.backup(copy)
        # The copy is one file: otherwise its first reader would make two more beside it.
        copy.execute("PRAGMA journal_mode=DELETE")
        ((found, *_), *_) = copy.execute("PRAGMA quick_check(1)").fetchall()
        is_catalog = copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone() is not None
    if found != "ok":
        raise StorageError(
            f"the catalog {path} is damaged: {found}",
            hint="flexai checkpoint recover --move-aside makes it anew from the store",
        )
    if not is_catalog:
        raise StorageError(
            f"the file {path} is empty, or another program's: there is no catalog in it",
            hint="flexai checkpoint recover --move-aside makes it anew from the store",
        )


def _dump(url: str, copied: Path) -> None:
    """Have ``pg_dump`` write one snapshot (https://www.postgresql.org/docs/current/app-pgdump.html)."""
    from sqlalchemy.engine import make_url

    place = make_url(url).set(drivername="postgresql")
    # Not in the arguments, which every user of the machine can read.
    environment = dict(os.environ) | ({} if place.password is None else {"PGPASSWORD": str(place.password)})
    address = place._replace(password=None).render_as_string()
    try:
        done = subprocess.run(
            ["pg_dump", "--format=custom", f"--file={copied}", f"--dbname={address}"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        raise UsageError(
            "a catalog in PostgreSQL is backed up by pg_dump, which is not here",
            hint="install PostgreSQL's client, of the server's version or a newer one",
        ) from error
    if done.returncode:
        reason = next(iter(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        raise StorageError(f"the catalog {hide_secrets(url)} cannot be dumped: {hide_secrets(reason)}")
