"""The catalog's database: transactions that read, transactions that write, and what one can ask in them.

Everything is asked as SQL that SQLite and PostgreSQL both understand, with ``:named`` values. For SQLite that goes to
Python's own ``sqlite3``, so that a push need not wait for SQLAlchemy, whose import takes longer than all else that a
small push imports. SQLAlchemy describes the tables, makes and migrates them, and connects to PostgreSQL.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, ParamSpec, Self, TypeAlias, TypeVar

from flexai.checkpoints.errors import BrokenOffError
from flexai.checkpoints.models import Actor

if TYPE_CHECKING:
    from flexai.checkpoints.catalog.changes import Records
    from flexai.checkpoints.storage.patience import Patience

Row: TypeAlias = Sequence[Any]
Record: TypeAlias = dict[str, Any]
"""A row by the names of its columns."""

HEAD_REVISION = "0007"
"""The newest migration; a test compares it with the folder of migrations."""

MIGRATION_LOCK = 0x666C6578
"""PostgreSQL advisory lock held while the tables change."""


NO_RIGHT = "flexai config show prints which catalog it is; docs/team.md tells what a user needs to read it and to write"
"""What helps where a database lets a user do less than is asked."""

BATCH = 500
"""Values in one statement: databases limit them (SQLite: 32,766)."""

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class ConstraintError(Exception):
    """A constraint of the database refused a row; the writer of the row says what that means."""


_TIMES = 5
"""That a method is begun again: other processes change what it reads each time."""


def begun_again(call: Callable[P, R]) -> Callable[P, R]:
    """Have a function begin again where its transaction, which does all or nothing, was broken off."""

    @functools.wraps(call)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        for _ in range(_TIMES):
            with contextlib.suppress(BrokenOffError):
                return call(*args, **kwargs)
        return call(*args, **kwargs)

    return run


def each_begun_again(kind: type[T]) -> type[T]:
    """Have each public method of a class begin again, as ``begun_again``."""
    for name, method in list(vars(kind).items()):
        if inspect.isfunction(method) and not name.startswith("_") and not inspect.isgeneratorfunction(method):
            setattr(kind, name, begun_again(method))
    return kind


def batches(values: Iterable[T], size: int = BATCH) -> Iterator[list[T]]:
    """Values in as many as one statement takes, or in so many."""
    iterator = iter(values)
    while batch := list(islice(iterator, size)):
        yield batch


class QueryResult(NamedTuple):
    """What the database says to a statement."""

    columns: Sequence[str]
    rows: Sequence[Row]
    changed: int
    """Rows that were changed."""


class Transaction(ABC):
    """What is asked and changed in one transaction.

    A value that is a list stands for its members, in brackets: ``id IN :ids``. SQLite has no booleans: it answers 0 or
    1 where PostgreSQL says False or True.
    """

    is_postgresql: ClassVar[bool]

    @abstractmethod
    def execute(self, sql: str, values: Mapping[str, Any]) -> QueryResult:
        """Run one statement."""

    @abstractmethod
    def execute_many(self, sql: str, values: Sequence[Mapping[str, Any]]) -> None:
        """Run one statement again and again."""

    def rows(self, sql: str, /, **values: Any) -> Sequence[Row]:
        """All rows of a query."""
        return self._run(sql, values).rows

    def row(self, sql: str, /, **values: Any) -> Row | None:
        """The first row of a query; None where there is none."""
        return next(iter(self.rows(sql, **values)), None)

    def records(self, sql: str, /, **values: Any) -> list[Record]:
        """All rows of a query, by the names of their columns."""
        answer = self._run(sql, values)
        return [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]

    def record(self, sql: str, /, **values: Any) -> Record | None:
        """The first row of a query by the names of its columns; None where there is none."""
        return next(iter(self.records(sql, **values)), None)

    def column(self, sql: str, /, **values: Any) -> list[Any]:
        """The first column of a query."""
        return [row[0] for row in self.rows(sql, **values)]

    def value(self, sql: str, /, **values: Any) -> Any:
        """The first column of the first row; None where there is none."""
        return next(iter(self.column(sql, **values)), None)

    def change(self, sql: str, /, **values: Any) -> int:
        """Run an UPDATE or DELETE; returns how many rows it changed."""
        return self._run(sql, values).changed

    def insert(self, table: str, *rows: Mapping[str, Any], otherwise: str = "") -> int:
        """Insert rows of the same columns; ``otherwise`` is what follows, such as an ``ON CONFLICT``.

        Returns how many were inserted, of several always 0. Raises ConstraintError where one is refused.
        """
        if not rows:
            return 0
        sql = f"{_insertion(table, rows[0])} {otherwise}"
        if len(rows) == 1:
            return self.execute(sql, rows[0]).changed
        self.execute_many(sql, rows)
        return 0

    def add(self, table: str, row: Mapping[str, Any]) -> Any:
        """Insert one row; returns the id that the database gives it. Raises ConstraintError where it is refused."""
        return self.value(f"{_insertion(table, row)} RETURNING id", **row)

    def update(self, table: str, new: Mapping[str, Any], where: str, /, **values: Any) -> int:
        """Set columns of the rows that a condition is true for; returns how many."""
        columns = ", ".join(f"{column} = :new_{column}" for column in new)
        values |= {f"new_{column}": value for column, value in new.items()}
        return self.change(f"UPDATE {table} SET {columns} WHERE {where}", **values)

    def update_as_read(self, table: str, new: Mapping[str, Any], read: Mapping[str, Any]) -> int:
        """Set columns of the row that still has the values that were read, some of which may be None; 0 for none."""
        conditions = (f"{name} IS NULL" if value is None else f"{name} = :{name}" for name, value in read.items())
        return self.update(table, new, " AND ".join(conditions), **read)

    def lock(self, key: int) -> None:
        """Hold off, until the transaction ends, every other one that asks for the same lock.

        On SQLite a transaction that writes is alone anyway.
        """
        if self.is_postgresql:
            self.rows("SELECT pg_advisory_xact_lock(:key)", key=key)

    def locking(self, clause: str) -> str:
        """The end of a query that locks its rows until the transaction ends, such as ``FOR UPDATE``."""
        return clause if self.is_postgresql else ""

    def revision(self) -> str | None:
        """The migration that the tables are of; None where there is none."""
        there = "to_regclass('alembic_version')" if self.is_postgresql else _SQLITE_REVISION_TABLE
        if self.value(f"SELECT {there}") is None:
            return None
        found = self.value("SELECT version_num FROM alembic_version")
        return None if found is None else str(found)

    def _run(self, sql: str, values: Mapping[str, Any]) -> QueryResult:
        return self.execute(*_spread(sql, values))


_SQLITE_REVISION_TABLE = "(SELECT name FROM sqlite_master WHERE name = 'alembic_version')"


def _insertion(table: str, columns: Iterable[str]) -> str:
    names = list(columns)
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(f':{name}' for name in names)})"


def _spread(sql: str, values: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Name each member of the values that are lists."""
    lists = {name: value for name, value in values.items() if isinstance(value, list)}
    if not lists:
        return sql, values
    spread = {name: value for name, value in values.items() if name not in lists}
    for name, members in lists.items():
        named = {f"{name}_{number}": member for number, member in enumerate(members)}
        # SQL has no empty list; nothing equals NULL.
        brackets = f"({', '.join(f':{member}' for member in named) or 'NULL'})"
        sql = re.sub(rf":{name}\b", brackets, sql)
        spread |= named
    return sql, spread


class Database(ABC):
    """A catalog's database, at its newest form."""

    is_postgresql: bool
    """Whether rows can be locked one by one; SQLite has one writer at a time."""
    is_read_only: ClassVar[bool] = False
    actor = Actor()
    """Who changes what is changed here, for the history."""
    patience: Patience
    """How long it is waited for where it is away, or locked."""
    records: Records | None = None
    """Stores what the managed store should know of a change (see ``changes``); None where no store is."""

    @abstractmethod
    def writing(self) -> contextlib.AbstractContextManager[Transaction]:
        """A transaction that writes: committed at the end of the block, undone by an error.

        What the database refuses leaves as ConstraintError, other errors of it as StorageError.
        """

    @abstractmethod
    def reading(self) -> contextlib.AbstractContextManager[Transaction]:
        """A transaction that only reads, and waits for no writer."""

    @abstractmethod
    def close(self) -> None:
        """Close every connection."""

    @abstractmethod
    def migrate(self) -> None:
        """Make the tables, or bring them to their newest form."""

    @abstractmethod
    def size(self) -> int:
        """Bytes that it takes."""

    def spare(self) -> int:
        """Bytes of those that hold nothing any more; 0 where the database sees to that by itself."""
        return 0

    @abstractmethod
    def compact(self, *, patience: float | None = None) -> None:
        """Give back the room of what was deleted; waits so many seconds, as long as usual by default, for a writer.

        Raises StorageError, also where there is no room for the copy that it takes; nothing is changed then.
        """

    def made_ready(self, before_making: Callable[[], object] = lambda: None) -> Self:
        """The database itself, with tables of the newest form; it is closed where that fails.

        ``before_making`` is called where it has no tables yet, and keeps them from being made by raising an error.
        """
        try:
            with self.reading() as transaction:
                revision = transaction.revision()
            if revision is None:
                before_making()
            if revision != HEAD_REVISION:
                self.migrate()
        except BaseException:
            self.close()
            raise
        return self


class Look(Database):
    """A catalog's database as it is at one moment: all that is asked is asked in one transaction, which writes nothing.

    It is not for several threads at once.
    """

    is_read_only = True

    def __init__(
        self,
        transaction: Transaction,
        *,
        errors: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
        close: Callable[[], object] = lambda: None,
    ) -> None:
        """``errors`` says the database's errors in our words around each question, ``close`` ends the transaction."""
        self.is_postgresql = transaction.is_postgresql
        self._transaction = transaction
        self._errors = errors
        self._close = close

    @property
    def is_empty(self) -> bool:
        """Whether no catalog is there."""
        return isinstance(self._transaction, EmptyTransaction)

    def writing(self) -> contextlib.AbstractContextManager[Transaction]:
        """Refuse to write, with a TypeError."""
        raise TypeError("a catalog that is only looked at is not written to")

    @contextlib.contextmanager
    def reading(self) -> Iterator[Transaction]:
        """The one transaction."""
        with self._errors():
            yield self._transaction

    def migrate(self) -> None:
        """Refuse to change the tables, with a TypeError."""
        self.writing()

    def size(self) -> int:
        """What is only looked at is not measured."""
        return 0

    def compact(self, *, patience: float | None = None) -> None:
        """Refuse to change the file, with a TypeError."""
        self.writing()

    def close(self) -> None:
        """End the transaction and close its connection."""
        self._close()


class EmptyTransaction(Transaction):
    """What is asked of a catalog that is not there: it answers every question with no rows."""

    is_postgresql = False

    def execute(self, sql: str, values: Mapping[str, Any]) -> QueryResult:
        """Answer with no rows."""
        return QueryResult((), (), 0)

    def execute_many(self, sql: str, values: Sequence[Mapping[str, Any]]) -> None:
        """Change nothing."""
