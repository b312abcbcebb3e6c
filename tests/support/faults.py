"""A store that counts what it is asked, and fails when a test wants it to."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from itertools import count
from typing import TypeAlias, TypeVar

from flexai.checkpoints.catalog.database import Database, Transaction
from flexai.checkpoints.errors import CheckpointError, SourceChangedError, StorageUnavailableError
from flexai.checkpoints.storage.protocol import (
    Block,
    Body,
    ObjectInfo,
    ObjectStorage,
    PartReceipt,
    UnfinishedUpload,
)

T = TypeVar("T")


class Fault(StrEnum):
    """How a call goes wrong.

    A call that hangs ends as one does whose connection has fallen silent: by a store's timeout, which turns silence
    into StorageUnavailableError. By then half of what is read has come, and all of what is stored was sent, for
    nothing. How long it was silent makes no difference above a store, so it is short; stores are tested with stalls.
    """

    BEFORE = "before it has an effect"
    AFTER = "after it had its effect"
    HANG = "after it hung for a while"
    SHORT = "half way"
    WRONG = "with other bytes"


READ_FAULTS = tuple(Fault)
WRITE_FAULTS = (Fault.BEFORE, Fault.AFTER, Fault.HANG, Fault.SHORT)


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a store."""

    name: str
    key: str
    size: int = 0
    """Bytes that were to move."""


def injected(call: str) -> StorageUnavailableError:
    """The error that a test's fault raises."""
    return StorageUnavailableError(f"{call} failed because a test wanted it to")


def _timed_out(call: str) -> StorageUnavailableError:
    """The error of a call that has heard nothing for so long."""
    time.sleep(0.01)
    return injected(call)


@dataclass
class FaultyStorage:
    """A store in front of another one. Calls are numbered from 1, in the order in which they begin."""

    inner: ObjectStorage
    faults: dict[int, Fault] = field(default_factory=dict)
    """Which calls go wrong, and how."""
    down_from: int | None = None
    """The first call of an outage: it and all later ones fail before they have an effect."""
    before_call: Callable[[int, Call], None] | None = None
    """Called before each call has an effect; what it raises is raised by the call."""
    calls: list[Call] = field(default_factory=list)
    received: int = 0
    """Bytes that bodies handed over."""
    delivered: int = 0
    """Bytes that readers were given."""
    max_parts: int = 1_000_000
    min_part_size: int = 1
    service_identity: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def location(self) -> str:
        return self.inner.location

    @property
    def versioned_place(self) -> str:
        return self.location if self.service_identity else ""

    def reset(self) -> None:
        """Forget the calls so far and the faults."""
        self.calls.clear()
        self.faults.clear()
        self.down_from = None
        self.before_call = None
        self.received = self.delivered = 0

    def named(self, *names: str) -> list[Call]:
        """The calls of some names."""
        return [call for call in self.calls if call.name in names]

    def put(self, key: str, body: Body, *, only_new: bool = False) -> ObjectInfo:
        return self._write(Call("put", key, body.size), body, lambda one: self.inner.put(key, one, only_new=only_new))

    def get(self, key: str, *, start: int = 0, length: int | None = None, etag: str = "") -> Iterator[Block]:
        fault = self._begin(Call("get", key, length or 0))
        return self._read(fault, key, start, length, etag)

    def head(self, key: str) -> ObjectInfo:
        return self._do(Call("head", key), lambda: self.inner.head(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return self._yield(self._begin(Call("list", prefix)), self.inner.list(prefix))

    def copy(self, source: ObjectStorage, source_key: str, key: str, *, etag: str = "") -> ObjectInfo:
        origin = source.inner if isinstance(source, FaultyStorage) else source
        return self._do(Call("copy", key), lambda: self.inner.copy(origin, source_key, key, etag=etag))

    def delete(self, keys: Iterable[str]) -> None:
        wanted = [*keys]
        fault = self._begin(Call("delete", wanted[0] if wanted else ""))
        self.inner.delete(wanted[: len(wanted) // 2] if fault is Fault.SHORT else wanted)
        if fault is not None:
            raise injected("delete")

    def start_upload(self, key: str, *, size: int) -> str:
        return self._do(Call("start_upload", key), lambda: self.inner.start_upload(key, size=size))

    def has_upload(self, key: str, upload_id: str) -> bool:
        return self._do(Call("has_upload", key), lambda: self.inner.has_upload(key, upload_id))

    def put_part(self, key: str, upload_id: str, *, number: int, offset: int, body: Body) -> PartReceipt:
        return self._write(
            Call("put_part", key, body.size),
            body,
            lambda one: self.inner.put_part(key, upload_id, number=number, offset=offset, body=one),
        )

    def complete_upload(
        self, key: str, upload_id: str, receipts: Iterable[PartReceipt], *, only_new: bool = False
    ) -> ObjectInfo | None:
        return self._do(
            Call("complete_upload", key),
            lambda: self.inner.complete_upload(key, upload_id, receipts, only_new=only_new),
        )

    def abort_upload(self, key: str, upload_id: str) -> None:
        self._do(Call("abort_upload", key), lambda: self.inner.abort_upload(key, upload_id))

    def list_uploads(self, prefix: str) -> Iterator[UnfinishedUpload]:
        return self._yield(self._begin(Call("list_uploads", prefix)), self.inner.list_uploads(prefix))

    def _begin(self, call: Call) -> Fault | None:
        """Count a call; raises where it must have no effect."""
        with self._lock:
            self.calls.append(call)
            number = len(self.calls)
        if self.before_call is not None:
            self.before_call(number, call)
        fault = self.faults.get(number)
        is_down = self.down_from is not None and number >= self.down_from
        if is_down or fault is Fault.BEFORE:
            raise injected(call.name)
        return fault

    def _do(self, call: Call, action: Callable[[], T]) -> T:
        fault = self._begin(call)
        if fault is Fault.HANG:
            raise _timed_out(call.name)
        if fault is Fault.SHORT:
            raise injected(call.name)
        result = action()
        if fault not in {None, Fault.WRONG}:
            raise injected(call.name)
        return result

    def _write(self, call: Call, body: Body, action: Callable[[Body], T]) -> T:
        fault = self._begin(call)
        counted = _CountedBody(body, self, cut=fault is Fault.SHORT, flip=fault is Fault.WRONG)
        if fault is Fault.HANG:
            for _ in counted.blocks():
                pass
            raise _timed_out(call.name)
        result: T | None = None
        try:
            result = action(counted)
        except SourceChangedError as error:
            if fault is Fault.SHORT:
                raise injected(call.name) from error
            raise
        if fault in {Fault.AFTER, Fault.SHORT}:
            raise injected(call.name)
        return result

    def _read(self, fault: Fault | None, key: str, start: int, length: int | None, etag: str) -> Iterator[Block]:
        left = (length or 2) // 2 if fault in {Fault.SHORT, Fault.HANG} else None
        for block in self.inner.get(key, start=start, length=length, etag=etag):
            if left is not None:
                block = block[:left]
                left -= len(block)
            if fault is Fault.WRONG and len(block):
                block = memoryview(bytes([block[0] ^ 0xFF]) + bytes(block[1:]))
                fault = None
            with self._lock:
                self.delivered += len(block)
            yield block
            if left == 0:
                break
        if fault is Fault.HANG:
            raise _timed_out("get")
        if fault is Fault.AFTER:
            raise injected("get")

    def _yield(self, fault: Fault | None, found: Iterator[T]) -> Iterator[T]:
        for number, one in zip(count(), found, strict=False):
            if fault in {Fault.SHORT, Fault.HANG} and number == 1:
                raise injected("list")
            yield one
        if fault not in {None, Fault.WRONG}:
            raise injected("list")


@dataclass(frozen=True, slots=True)
class _CountedBody:
    """A body whose bytes are counted; cut in the middle or with a wrong byte where that is wanted."""

    body: Body
    storage: FaultyStorage
    cut: bool
    flip: bool

    @property
    def size(self) -> int:
        return self.body.size

    def blocks(self) -> Iterator[Block]:
        left = self.size // 2 if self.cut else self.size
        flip = self.flip
        for block in self.body.blocks():
            if self.cut:
                block = block[:left]
            left -= len(block)
            if flip and len(block):
                block, flip = memoryview(bytes([block[0] ^ 0xFF]) + bytes(block[1:])), False
            with self.storage._lock:
                self.storage.received += len(block)
            yield block
            if self.cut and not left:
                return


class FaultyCatalog:
    """Makes transactions that write to a catalog fail. They are numbered from 1, in the order in which they begin."""

    def __init__(self, database: Database) -> None:
        self.count = 0
        self.faults: dict[int, Fault] = {}
        self.down_from: int | None = None
        self._lock = threading.Lock()
        self._writing = database.writing
        database.writing = self.writing  # type: ignore[method-assign]

    @contextlib.contextmanager
    def writing(self) -> Iterator[Transaction]:
        """A transaction: refused, undone at its end, or done and then reported as failed."""
        with self._lock:
            self.count += 1
            fault = self.faults.get(self.count)
            is_down = self.down_from is not None and self.count >= self.down_from
        if is_down or fault in {Fault.BEFORE, Fault.HANG}:
            raise injected("the catalog")
        with self._writing() as transaction:
            yield transaction
            if fault is Fault.SHORT:
                raise injected("the catalog")
        if fault is Fault.AFTER:
            raise injected("the catalog")


_Begin: TypeAlias = Callable[[], contextlib.AbstractContextManager[Transaction]]


class BetweenTransactions:
    """Does something before one of the transactions of a catalog, which are numbered from 1; no other is open then."""

    def __init__(self, database: Database, number: int, action: Callable[[], object]) -> None:
        self.has_acted = False
        self._number = number
        self._action = action
        self._open = 0
        for name in ("reading", "writing"):
            setattr(database, name, partial(self._transaction, getattr(database, name)))

    @contextlib.contextmanager
    def _transaction(
        self, begin: Callable[[], contextlib.AbstractContextManager[Transaction]]
    ) -> Iterator[Transaction]:
        if not self._open:
            self._number -= 1
            if self._number == 0:
                self.has_acted = True
                self._action()
        self._open += 1
        try:
            with begin() as transaction:
                yield transaction
        finally:
            self._open -= 1


def is_injected(error: CheckpointError) -> bool:
    """Whether an error is one that a test injected."""
    return "because a test wanted it to" in error.message
