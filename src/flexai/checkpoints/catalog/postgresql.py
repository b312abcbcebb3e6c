"""The catalog on a PostgreSQL server, by SQLAlchemy's connections."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

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
    BrokenOffError,
    CheckpointError,
    SettingsError,
    StorageError,
    StorageUnavailableError,
)
from flexai.checkpoints.models import follow_clock, now, to_text
from flexai.checkpoints.settings import hide_secrets
from flexai.checkpoints.storage.patience import Patience

T = TypeVar("T")


class PostgresqlTransaction(Transaction):
    """A transaction on a server."""

    is_postgresql = True

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Mapping[str, Any]) -> QueryResult:
        """Run one statement."""
        result = self._connection.execute(_parsed(sql), values)
        if not result.returns_rows:
            return QueryResult((), (), result.rowcount)
        assert result.cursor is not None
        # The driver's own rows: SQLAlchemy would wrap each of them, which a long list feels.
        answer = QueryResult(list(result.keys()), result.cursor.fetchall(), result.rowcount)
        result.close()
        return answer

    def execute_many(self, sql: str, values: Sequence[Mapping[str, Any]]) -> None:
        """Run one statement again and again."""
        self._connection.execute(_parsed(sql), values)


_parsed = lru_cache(maxsize=200)(text)

_MOST_ROWS_KEPT = 20_000
"""Rows that a transaction has asked for or brought, up to which it can go on after its connection was lost."""
_ENTER_COMMIT = "INSERT INTO commits (id, at) SELECT :id, :at WHERE txid_current_if_assigned() IS NOT NULL"
"""A transaction that has changed nothing has no number, and enters nothing."""
_WRONG_ADDRESS = re.compile("resolve|translate host|password|authentication|does not exist|pg_hba|certificate", re.I)


class _LastingTransaction(PostgresqlTransaction):
    """A transaction that goes on where its connection is lost, as by a restart of the server.

    What was not committed is undone then. One that only reads asks again: it has no snapshot of its own. One that
    writes first does again what it had done, and breaks off where the answers are others by now.
    """

    def __init__(self, database: PostgresqlDatabase, *, writes: bool, at_one_moment: bool = False) -> None:
        """``at_one_moment`` shows the catalog as it was when the connection was made."""
        self._at_one_moment = at_one_moment
        self._database = database
        self._writes = writes
        self._done: list[tuple[Callable[[], QueryResult | None], QueryResult | None]] | None = []
        self._rows = 0
        self._is_open = False
        self._last(lambda: None)

    def execute(self, sql: str, values: Mapping[str, Any]) -> QueryResult:
        """Run one statement."""

        def step() -> QueryResult:
            return PostgresqlTransaction.execute(self, sql, values)

        answer = self._last(step)
        self._keep(step, answer, 1 + len(answer.rows))
        return answer

    def execute_many(self, sql: str, values: Sequence[Mapping[str, Any]]) -> None:
        """Run one statement again and again."""

        def step() -> None:
            PostgresqlTransaction.execute_many(self, sql, values)

        self._last(step)
        self._keep(step, None, len(values))

    def commit(self) -> None:
        """Commit. Where the answer is lost, the server is asked what became of it."""
        while True:
            token = self._last(self._enter_commit)
            if token is None:
                return  # nothing was changed
            try:
                self._connection.commit()
            except DBAPIError as error:
                self.close()
                if not _is_passing(error):
                    raise
                if self._was_committed(token):
                    return
            else:
                return

    def _enter_commit(self) -> str | None:
        """Enter the commit that comes next under a new token; None where there is nothing to commit.

        Each attempt has its own: the server may still hold the transaction of the one before, whose connection was cut,
        and the same token would wait for that.
        """
        token = os.urandom(16).hex()
        entered = PostgresqlTransaction.execute(self, _ENTER_COMMIT, {"id": token, "at": to_text(now())})
        return token if entered.changed else None

    def _was_committed(self, token: str) -> bool:
        """Whether the commit of a token was made.

        The token is entered once more, and that is undone. The server lets it in where the commit was not made, and
        waits before that for a transaction that it still holds.
        """
        with self._database.reading() as other:
            return not other.insert("commits", {"id": token, "at": ""}, otherwise="ON CONFLICT DO NOTHING")

    def close(self) -> None:
        """Give the connection back, and undo what was not committed."""
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(DBAPIError):  # the server is away, and has undone it
                self._connection.close()

    def _last(self, step: Callable[[], T]) -> T:
        failures = 0
        while True:
            try:
                if not self._is_open:
                    self._open()
                answer = step()
            except (DBAPIError, PoolTimeoutError) as error:
                if not _is_passing(error):
                    raise
                self.close()
                failures += 1
                said = self._database.said(error)
                assert isinstance(said, StorageUnavailableError)
                self._database.patience.wait(said, failures)
            else:
                self._database.patience.succeeded()
                return answer

    def _open(self) -> None:
        self._connection = self._database.connect()
        if self._at_one_moment:
            # One snapshot for all queries, and the server refuses to write.
            self._connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._is_open = True
        if self._done is None:
            raise BrokenOffError("the connection to the catalog was lost in the middle of a large change")
        for step, answer in self._done:
            if step() != answer:
                raise BrokenOffError("the catalog was changed while the connection to it was lost")

    def _keep(self, step: Callable[[], QueryResult | None], answer: QueryResult | None, rows: int) -> None:
        self._rows += rows
        if self._writes and self._done is not None:
            self._done.append((step, answer))
            if self._rows > _MOST_ROWS_KEPT:
                self._done = None


def _is_passing(error: DBAPIError | PoolTimeoutError) -> bool:
    """Whether a server is away, restarts, or is too busy; not a wrong address, password or database."""
    if isinstance(error, PoolTimeoutError):
        return True
    state = getattr(error.orig, "sqlstate", None)
    if not isinstance(error, OperationalError | InterfaceError):
        return False
    if state is None:
        return error.connection_invalidated or not _WRONG_ADDRESS.search(str(error.orig))
    # https://www.postgresql.org/docs/current/errcodes-appendix.html: 57014 is a statement that took too long, 53100 a
    # full disk.
    return state[:2] in {"08", "53", "57"} and state not in {"57014", "53100"}


class PostgresqlDatabase(Database):
    """A catalog on a server."""

    is_postgresql = True

    def __init__(self, engine: Engine, patience: Patience | None = None) -> None:
        self.patience = patience or Patience(0)
        self._engine = engine

    @classmethod
    def at(cls, url: URL, patience: Patience | None = None) -> PostgresqlDatabase:
        """The catalog at a URL, which is connected to when it is first used, and waited for as long as is said.

        Raises SettingsError where psycopg is missing.
        """
        return cls(_engine(url), patience)

    def look(self) -> Look | None:
        """Look at the catalog as it is; None where its tables must be migrated first. Without tables it is empty.

        Raises StorageUnavailableError for a server that does not answer.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self.close)
            with self._errors():
                transaction = _LastingTransaction(self, writes=False, at_one_moment=True)
                stack.callback(transaction.close)
                revision = transaction.revision()
            if revision == HEAD_REVISION:
                return Look(transaction, errors=self._errors, close=stack.pop_all().close)
        return Look(EmptyTransaction()) if revision is None else None

    def migrate(self) -> None:
        """Make the tables, or bring them to their newest form."""
        from flexai.checkpoints.catalog.migrate import migrate

        failures = 0
        while True:
            try:
                with self._errors():
                    migrate(self._engine)
            except StorageUnavailableError as error:
                # Each step is done as a whole or not at all.
                if not isinstance(cause := error.__cause__, DBAPIError | PoolTimeoutError) or not _is_passing(cause):
                    raise
                failures += 1
                self.patience.wait(error, failures)
            else:
                self.patience.succeeded()
                return

    @contextlib.contextmanager
    def writing(self) -> Iterator[Transaction]:
        """A transaction that writes: committed at the end of the block, undone by an error."""
        with self._transaction(writes=True) as transaction:
            yield transaction
            transaction.commit()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Transaction]:
        """A transaction that only reads, and waits for no writer."""
        with self._transaction(writes=False) as transaction:
            yield transaction

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[_LastingTransaction]:
        with self._errors(), contextlib.closing(_LastingTransaction(self, writes=writes)) as transaction:
            yield transaction

    def connect(self) -> Connection:
        """A connection, whose holder closes it."""
        return self._engine.connect()

    def size(self) -> int:
        """Bytes of the database."""
        with self.reading() as transaction:
            return int(transaction.value("SELECT pg_database_size(current_database())"))

    def compact(self, *, patience: float | None = None) -> None:
        """Let the room of deleted rows be used again, and what lies at the end be given back."""
        with self._errors(), self._engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM (ANALYZE)"))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Say the database's errors in our words, without its password."""
        try:
            yield
        except IntegrityError as error:
            raise ConstraintError(str(error.orig)) from error
        except (DBAPIError, PoolTimeoutError) as error:
            raise self.said(error) from error

    def said(self, error: DBAPIError | PoolTimeoutError) -> CheckpointError:
        """An error of the database in our words, without its password."""
        shown = hide_secrets(self._engine.url.render_as_string(hide_password=True))
        cause = error.orig if isinstance(error, DBAPIError) else error
        reason = next(iter(str(cause).strip().splitlines()), type(error).__name__)
        if getattr(cause, "sqlstate", None) == _NO_PRIVILEGE:
            return AccessDeniedError(f"the catalog {shown} refused: {reason}", hint=NO_RIGHT)
        passing = isinstance(error, (OperationalError, InterfaceError, PoolTimeoutError))
        kind = StorageUnavailableError if passing else StorageError
        hint = "flexai config show prints where it is set"
        if _is_passing(error):
            hint = f"run the same command again once it answers; {hint}"
        return kind(f"the catalog {shown} cannot be used: {reason}", hint=hint)


_NO_PRIVILEGE = "42501"
"""https://www.postgresql.org/docs/current/errcodes-appendix.html"""


def _engine(url: URL) -> Engine:
    try:
        engine = sqlalchemy.create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=20)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"PostgreSQL needs the Python package {error.name!r}",
            hint="pip install 'flexai-checkpoints[postgresql]'",
        ) from error
    sqlalchemy.event.listen(engine, "connect", _ask_server)
    return engine


def _ask_server(connection: Any, record: Any) -> None:
    """Take the server's time for the present: leases and grace periods of all machines go by one clock."""
    with connection.cursor() as cursor:
        (present,) = cursor.execute("SELECT clock_timestamp()").fetchone()
    follow_clock(present)
    connection.rollback()
