"""A real PostgreSQL for the tests: one server a test process, reached by a socket in its own temporary folder.

The programs come from PATH or from where Debian puts them (``apt-get install postgresql``). PostgreSQL refuses to run
as root, so for root it runs as ``postgres`` or ``nobody``.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import getpass
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

_START_SECONDS = 60
_SETTINGS = {
    # Nothing here needs to survive a power cut.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "deadlock_timeout": "100ms",
}


class PostgreSQL:
    """A running server; databases are made from templates, which takes a few milliseconds."""

    def __init__(self, folder: Path, user: str, start: Callable[[], subprocess.Popen[bytes]]) -> None:
        self.folder = folder
        self.user = user
        self._numbers = itertools.count(1)
        self._start = start
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers. It ends with the thread that starts it."""
        self._process = self._start()
        _wait_until_ready(self, self._process, self.folder / "log")

    def stop(self, *, as_crash: bool) -> None:
        """Stop it, and end the connections to it: in order, or as it ends where one of its processes crashes."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if as_crash else signal.SIGINT)
            self._process.wait(_START_SECONDS)

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql://{self.user}@/{database}?host={self.folder}"

    def create_database(self, *, template: str = "template0") -> str:
        """Make a database as its template is; returns its name."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def for_prefect(self) -> dict[str, str]:
        """What has a Prefect server keep its records here: with SQLite it answers 503 on a machine that is busy."""
        url = self.url(self.create_database()).replace("postgresql:", "postgresql+asyncpg:")
        return {"PREFECT_SERVER_DATABASE_CONNECTION_URL": url}

    def drop_database(self, name: str) -> None:
        """Remove a database and end the connections to it."""
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def empty_tables(self, database: str, tables: Sequence[str]) -> None:
        """Remove every row, in the tables' order, and end the connections to the database."""
        others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
        self.execute(f"{others} AND pid <> pg_backend_pid()", database=database)
        self.execute(";".join(f"DELETE FROM {table}" for table in tables), database=database)

    def execute(self, statement: str, *, database: str = "postgres") -> list[Any]:
        """Run a statement of the server's administrator and return its rows."""
        import psycopg

        with psycopg.connect(host=str(self.folder), user=self.user, dbname=database, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A running PostgreSQL."""
    with running_or_skipped() as server:
        yield server


@contextlib.contextmanager
def running_or_skipped(settings: Mapping[str, str] | None = None) -> Iterator[PostgreSQL]:
    """Run a server as ``running`` does; a test that asks for one is skipped where PostgreSQL is not installed."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL's programs are not here: apt-get install postgresql")
    with running(programs, settings) as server:
        yield server


@contextlib.contextmanager
def running(programs: Path, settings: Mapping[str, str] | None = None) -> Iterator[PostgreSQL]:
    """Run a server by the programs in a folder, for as long as the block lasts.

    ``settings`` take the place of those for tests, which are quick to start and forget all in a power cut.
    """
    # Not pytest's folder: a socket's path is short, and the server's user must reach it.
    folder = Path(tempfile.mkdtemp(prefix="flexai-pg-", dir="/tmp" if Path("/tmp").is_dir() else None))
    try:
        yield from _run(programs, folder, _SETTINGS if settings is None else settings)
    finally:
        shutil.rmtree(folder)


@functools.cache
def find_programs() -> Path | None:
    """The folder of ``initdb`` and ``postgres``, the newest where there are several."""
    on_path = shutil.which("initdb")
    if on_path is not None:
        return Path(on_path).resolve().parent
    debian = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(debian, key=lambda path: int(path.parts[-3]), default=None)
    return newest.parent if newest else None


def _run(programs: Path, folder: Path, settings: Mapping[str, str]) -> Iterator[PostgreSQL]:
    user = getpass.getuser()
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        account = _unprivileged_account()
        user = account.pw_name
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        os.chown(folder, account.pw_uid, account.pw_gid)
    data = folder / "data"
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", user, "-A", "trust", "-E", "UTF8", "--no-sync", *_locale(programs)],
        check=True,
        capture_output=True,
        cwd=folder,
        **identity,
    )
    settings = {**settings, "listen_addresses": "", "unix_socket_directories": str(folder)}

    def start() -> subprocess.Popen[bytes]:
        with (folder / "log").open("wb") as output:
            return subprocess.Popen(
                [programs / "postgres", "-D", data, *(f"--{name}={value}" for name, value in settings.items())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - it only makes one system call
                **identity,
            )

    server = PostgreSQL(folder, user, start)
    try:
        server.start()
        yield server
    finally:
        # At once: its folder goes next, so there is nothing to leave in order.
        server.stop(as_crash=True)


def _unprivileged_account() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise LookupError("there is no user 'postgres' or 'nobody' to run PostgreSQL as")


def _locale(programs: Path) -> list[str]:
    """Order texts as a language does, where that is possible: code that counts on the order of bytes must fail."""
    options = subprocess.run([programs / "initdb", "--help"], capture_output=True, text=True, check=True).stdout
    if "--icu-locale" in options:
        return ["--locale=C", "--locale-provider=icu", "--icu-locale=en"]
    return ["--locale=C"]


def _end_with_parent() -> None:
    """Ask Linux for the signal of a fast shutdown when the test process is killed."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
        ctypes.CDLL(None).prctl(set_death_signal, signal.SIGINT)


def _wait_until_ready(server: PostgreSQL, process: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            server.execute("SELECT 1")
            return
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}") from error
            time.sleep(0.05)
