"""A catalog that is away or locked for a while is waited for; what was changed is changed once."""

from __future__ import annotations

import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
import sqlalchemy
from sqlalchemy.exc import OperationalError

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.database import Transaction
from flexai.checkpoints.catalog.postgresql import PostgresqlDatabase
from flexai.checkpoints.errors import StorageUnavailableError
from flexai.checkpoints.storage.patience import Patience, without_waiting
from flexai.checkpoints.storage.retry import telling_of_retries
from tests.servers.postgresql import PostgreSQL, running_or_skipped

pytestmark = pytest.mark.slow


@pytest.fixture
def server() -> Iterator[PostgreSQL]:
    """A server of the test's own, which it may stop."""
    # One that forgets nothing when it crashes, as those of other tests do.
    with running_or_skipped({"shared_buffers": "32MB"}) as one:
        yield one


@pytest.fixture
def catalog(server: PostgreSQL) -> Iterator[Catalog]:
    """A catalog on that server, which is waited for."""
    with Catalog.open(server.url(server.create_database()), patience=Patience(600)) as opened:
        yield opened


def _due(catalog: Catalog) -> list[str]:
    with catalog.database.reading() as transaction:
        return sorted(transaction.column("SELECT id FROM records_due"))


def _commits(catalog: Catalog) -> int:
    with catalog.database.reading() as transaction:
        return int(transaction.value("SELECT COUNT(*) FROM commits"))


def _note(transaction: Transaction, *ids: str) -> None:
    rows = [{"id": one, "kind": "job", "since": ""} for one in ids]
    transaction.insert("records_due", *rows)


@pytest.mark.parametrize("as_crash", [False, True])
def test_a_change_goes_on_after_the_server_was_started_again_in_its_middle(
    server: PostgreSQL, catalog: Catalog, as_crash: bool
) -> None:
    with catalog.database.writing() as transaction:
        _note(transaction, "a")
        assert transaction.column("SELECT id FROM records_due") == ["a"]
        server.stop(as_crash=as_crash)
        server.start()
        _note(transaction, "b", "c")
        server.stop(as_crash=as_crash)
        server.start()
    assert _due(catalog) == ["a", "b", "c"]


def test_what_was_read_stands_where_the_server_stops_before_the_reading_ends(
    server: PostgreSQL, catalog: Catalog
) -> None:
    with catalog.database.reading() as transaction:
        assert transaction.column("SELECT id FROM records_due") == []
        server.stop(as_crash=False)
    server.start()


def test_a_look_goes_on_after_the_server_was_started_again(server: PostgreSQL, catalog: Catalog) -> None:
    assert isinstance(catalog.database, PostgresqlDatabase)
    look = catalog.database.look()
    assert look is not None
    with look.reading() as transaction:
        server.stop(as_crash=True)
        server.start()
        assert transaction.column("SELECT id FROM records_due") == []
    look.close()


def test_a_change_breaks_off_where_what_it_saw_is_another_by_now(server: PostgreSQL, catalog: Catalog) -> None:
    with (
        pytest.raises(StorageUnavailableError, match="changed while the connection"),
        catalog.database.writing() as transaction,
    ):
        assert transaction.column("SELECT id FROM records_due") == []
        server.stop(as_crash=False)
        server.start()
        with catalog.database.writing() as other:
            _note(other, "other")
        _note(transaction, "a")
    assert _due(catalog) == ["other"]


def test_a_server_that_is_away_is_waited_for_and_that_is_said_once(server: PostgreSQL, catalog: Catalog) -> None:
    assert _due(catalog) == []
    server.stop(as_crash=False)
    said, is_said, is_over = list[str](), threading.Event(), threading.Event()

    def start() -> None:
        is_said.wait()
        server.start()
        is_over.wait()  # it ends with the thread that starts it

    def tell(message: str) -> None:
        said.append(message)
        is_said.set()

    starter = threading.Thread(target=start)
    starter.start()
    with telling_of_retries(tell), catalog.database.writing() as transaction:
        _note(transaction, "a")
    assert _due(catalog) == ["a"]
    assert [message.endswith("; waiting for it") for message in said] == [True]
    is_over.set()
    starter.join()


@pytest.mark.parametrize("is_done", [True, False])
def test_a_commit_whose_answer_is_lost_is_done_once(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    commit: Callable[[sqlalchemy.Connection], None] = sqlalchemy.Connection.commit
    lost = list[sqlalchemy.Connection]()

    def lose(connection: sqlalchemy.Connection) -> None:
        if lost or is_done:
            commit(connection)
        if not lost:
            lost.append(connection)
            connection.invalidate()
            raise OperationalError("COMMIT", {}, psycopg.OperationalError("server closed the connection"))

    with catalog.database.writing() as transaction:
        _note(transaction, "a")
        monkeypatch.setattr(sqlalchemy.Connection, "commit", lose)
    assert lost
    assert _due(catalog) == ["a"]
    assert _commits(catalog) == 1


def test_a_transaction_that_changes_nothing_enters_no_commit(catalog: Catalog) -> None:
    with catalog.database.writing() as transaction:
        assert transaction.column("SELECT id FROM records_due") == []
        assert transaction.change("DELETE FROM records_due") == 0
    assert _commits(catalog) == 0


_HOLD_COMMITS = """
    CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END';
    CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON records_due DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION hold()
"""
"""Has each commit of a row of records_due wait while another connection has the lock."""


@pytest.mark.parametrize("is_made", [True, False])
def test_a_commit_that_the_server_is_still_at_when_it_is_asked_is_done_once(
    server: PostgreSQL, monkeypatch: pytest.MonkeyPatch, is_made: bool
) -> None:
    commit: Callable[[sqlalchemy.Connection], None] = sqlalchemy.Connection.commit
    database = server.create_database()
    sockets = list[int]()

    def note_and_commit(connection: sqlalchemy.Connection) -> None:
        assert connection.connection.driver_connection is not None
        sockets.append(connection.connection.driver_connection.fileno())
        commit(connection)

    def waiting_for(what: str) -> int:
        """The process of the server that waits for a lock of that kind, once there is one."""
        query = f"SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = '{what}'"
        while not (found := server.execute(query)):
            time.sleep(0.01)
        return int(found[0][0])

    def cut(lock: psycopg.Connection) -> None:
        pid = waiting_for("advisory")
        with socket.socket(fileno=os.dup(sockets[0])) as cut_off:
            cut_off.shutdown(socket.SHUT_RDWR)
        waiting_for("transactionid")
        if not is_made:
            server.execute(f"SELECT pg_terminate_backend({pid})")
        lock.close()

    with Catalog.open(server.url(database), patience=Patience(600)) as catalog:
        server.execute(_HOLD_COMMITS, database=database)
        lock = psycopg.connect(server.url(database))
        lock.execute("SELECT pg_advisory_lock(1)")
        cutter = threading.Thread(target=cut, args=[lock])
        cutter.start()
        with catalog.database.writing() as transaction:
            _note(transaction, "a")
            monkeypatch.setattr(sqlalchemy.Connection, "commit", note_and_commit)
        cutter.join()
        assert len(sockets) == 2 - is_made
        assert _due(catalog) == ["a"]
        assert _commits(catalog) == 1


def test_what_may_not_wait_and_what_has_no_patience_fail_at_once(server: PostgreSQL, catalog: Catalog) -> None:
    server.stop(as_crash=False)
    with pytest.raises(StorageUnavailableError), without_waiting(), catalog.database.reading():
        pass
    with pytest.raises(StorageUnavailableError, match="cannot be used") as refused:
        Catalog.open(server.url("none"))
    assert "run the same command again" in refused.value.hint


def test_a_database_that_is_not_there_is_not_waited_for(server: PostgreSQL) -> None:
    with pytest.raises(StorageUnavailableError, match="does not exist"):
        Catalog.open(server.url("none"), patience=Patience(600))


@contextmanager
def locked_until(path: Path, is_said: threading.Event) -> Iterator[None]:
    """A file that another connection keeps for itself until it is said that it is waited for."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN EXCLUSIVE")

        def release() -> None:
            is_said.wait()
            other.execute("COMMIT")

        thread = threading.Thread(target=release)
        thread.start()
        yield
        thread.join()


def test_a_file_that_is_locked_is_waited_for_and_that_is_said_once(tmp_path: Path) -> None:
    path = tmp_path / "catalog.db"
    said, is_said = list[str](), threading.Event()

    def tell(message: str) -> None:
        said.append(message)
        is_said.set()

    with Catalog.open(f"sqlite:///{path}", patience=Patience(600)) as catalog:
        with locked_until(path, is_said), telling_of_retries(tell), catalog.database.writing() as transaction:
            _note(transaction, "a")
        assert _due(catalog) == ["a"]
    assert said == [f"the catalog {path} cannot be used: database is locked; waiting for it"]


@pytest.mark.parametrize("another_commits", [False, True])
def test_a_commit_before_which_the_server_crashes_is_done_once(
    server: PostgreSQL, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, another_commits: bool
) -> None:
    commit: Callable[[sqlalchemy.Connection], None] = sqlalchemy.Connection.commit
    crashes = iter([True])

    def crash(connection: sqlalchemy.Connection) -> None:
        if next(crashes, False):
            server.stop(as_crash=True)
            server.start()
            if another_commits:  # under the same number, which the server then remembers
                with catalog.database.writing() as other:
                    _note(other, "b")
                server.stop(as_crash=False)
                server.start()
        commit(connection)

    with catalog.database.writing() as transaction:
        # The server forgets the number of a transaction of which it has kept nothing.
        _note(transaction, "a")
        monkeypatch.setattr(sqlalchemy.Connection, "commit", crash)
    assert _due(catalog) == ["a", "b"][: 1 + another_commits]
