"""The machine of a pickle: its stack, its memo, and what would run. Its instructions are in `pickles.py`."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

from flexai.checkpoints.training.formats.content import Content, ContentRange, ContentStream
from flexai.checkpoints.training.formats.pickle_values import (
    ABSENT,
    LONGEST_BYTES,
    LONGEST_TEXT,
    MAX_GLOBALS,
    MAX_INSTRUCTIONS,
    MAX_MARKS,
    MAX_NESTED,
    MAX_SPARSE_MEMO,
    UNKNOWN,
    BrokenPickleError,
    Budget,
    Global,
    Made,
    Persistent,
    Pickle,
    PickleLimitError,
    Table,
    Unknown,
)

_VALUE = 64
_MEMO_GAP = 16
_WRAPPERS = frozenset({"NumpyArrayWrapper"})
_LOAD_FROM_BYTES: Final = ("torch.storage", "_load_from_bytes")
_DICTS = frozenset({("collections", "OrderedDict"), ("builtins", "dict"), ("__builtin__", "dict")})


Instructions = Mapping[int, Callable[["PickleMachine"], None]]
"""What each instruction's byte does."""


class PickleMachine:
    """Follows pickles by a table of instructions."""

    def __init__(
        self,
        stream: ContentStream,
        budget: Budget,
        instructions: Instructions,
        *,
        joblib: bool = False,
        records: bool = False,
    ) -> None:
        self.stream = stream
        self.instructions = instructions
        self.budget = budget
        self.joblib = joblib
        self.records = records
        self.seen = Pickle()
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        """The stacks under each mark."""
        self.memo: list[Any] = []
        self.sparse: dict[int, Any] = {}
        """What has a number far from the others."""
        self.memorised = 0
        self.stopped = False

    def follow(self) -> Pickle:
        """Follow the pickle that begins where the stream is."""
        try:
            self._run()
        except BrokenPickleError as error:
            self.seen.broken = f"{error} at byte {self.stream.position}"
        except PickleLimitError as error:
            self.seen.limit = f"{error}, at byte {self.stream.position}"
        return self.seen

    def _run(self) -> None:
        read, operations, budget = self.stream.read, self.instructions, self.budget
        while not self.stopped:
            if budget.instructions <= 0:
                raise PickleLimitError(f"it has more than {MAX_INSTRUCTIONS} instructions")
            budget.instructions -= 1
            code = read(1)
            if not code:
                raise BrokenPickleError("it ends before its STOP")
            operation = operations.get(code[0])
            if operation is None:
                raise BrokenPickleError(f"there is no instruction {code[0]:#04x}")
            operation(self)

    # Reading

    def take(self, length: int) -> bytes:
        data = self.stream.read(length)
        if len(data) != length:
            raise BrokenPickleError("it ends inside an instruction")
        return data

    def number(self, layout: struct.Struct) -> int:
        found = layout.unpack(self.take(layout.size))[0]
        assert isinstance(found, int)
        return found

    def length(self, layout: struct.Struct) -> int:
        found = self.number(layout)
        if found < 0:
            raise BrokenPickleError("a length is negative")
        return found

    def line(self) -> bytes | None:
        """A line without its end; None where it is too long to keep.

        Where a pickle ends without the line's end, its last byte is taken for that, as loaders do.
        """
        line = self.stream.line(LONGEST_TEXT)
        return None if line is None else line[:-1]

    def name(self) -> str | None:
        line = self.line()
        return None if line is None else line.decode("utf-8", "replace")

    # Values

    def keeps(self, size: int = 0) -> bool:
        """Whether one more value is kept."""
        self.budget.kept -= _VALUE + size
        return self.budget.kept > 0

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise BrokenPickleError("its stack is empty")
        return self.stack.pop()

    def top(self) -> Any:
        if not self.stack:
            raise BrokenPickleError("its stack is empty")
        return self.stack[-1]

    def pop_mark(self) -> list[Any]:
        if not self.below:
            raise BrokenPickleError("there is no mark")
        items, self.stack = self.stack, self.below.pop()
        return items

    def mark(self) -> None:
        if len(self.below) >= MAX_MARKS:
            raise PickleLimitError(f"it is nested more than {MAX_MARKS} deep")
        self.below.append(self.stack)
        self.stack = []

    def text(self, length: int, encoding: str = "utf-8") -> None:
        if length > LONGEST_TEXT:
            self.jump(length)
            self.push(UNKNOWN)
        else:
            data = self.take(length)
            self.push(self.decoded(data, encoding) if self.keeps(length) else UNKNOWN)

    def decoded(self, data: bytes, encoding: str) -> object:
        try:
            return data.decode(encoding, "surrogatepass" if encoding == "utf-8" else "strict")
        except UnicodeDecodeError:
            return UNKNOWN  # a loader may know another encoding

    def raw(self, length: int) -> None:
        """A bytes value: kept, or known by its place."""
        place = self.stream.place(length)
        if place is not None and length > LONGEST_BYTES:
            head = place.read(0, 4)
            self.jump(length)
            self.found_bytes(head, place)
            self.push(place)
        elif length > LONGEST_BYTES:
            self.jump(length)
            self.push(UNKNOWN)
        else:
            data = self.take(length)
            self.found_bytes(data[:4], data)
            self.push(data if self.keeps(length) else UNKNOWN)

    def found_bytes(self, head: bytes, value: object) -> None:
        if (head[:1] == b"\x80" and len(head) > 1 and 1 < head[1] <= 8) or head == b"PK\x03\x04":
            self.nest(value)

    def nest(self, value: object) -> bool:
        """Note bytes to be looked into; False where they are not known."""
        content = as_content(value)
        if content is None:
            return False
        if self.budget.nested <= 0:
            raise PickleLimitError(f"more than {MAX_NESTED} pickles lie in it")
        self.budget.nested -= 1
        self.seen.nested.append(content)
        return True

    def jump(self, length: int) -> None:
        if not self.stream.skip(length):
            raise BrokenPickleError("it ends inside a value")

    def whole(self, text: bytes | None) -> None:
        """A number that is written as text. What is no number is one that only a loader knows."""
        value: object = UNKNOWN
        if text is not None and len(text) <= 40:
            try:
                value = int(text.rstrip(b"L") or b"x")
            except ValueError:
                value = UNKNOWN
        self.push(value)

    def binary_long(self, length: int) -> None:
        if length > 32:
            self.jump(length)
            self.push(UNKNOWN)
        else:
            self.push(int.from_bytes(self.take(length), "little", signed=True))

    # Memo

    def put(self, index: int) -> None:
        value = self.top()
        if 0 <= index < len(self.memo):
            self.memorised += self.memo[index] is ABSENT
            self.memo[index] = value
            return
        if index not in self.sparse:
            self.memorised += 1
            gap = index - len(self.memo)
            if 0 <= gap <= _MEMO_GAP:
                self.memo += [ABSENT] * gap
                self.memo.append(value)
                return
            if len(self.sparse) >= MAX_SPARSE_MEMO:
                raise PickleLimitError(f"its memo has more than {MAX_SPARSE_MEMO} numbers out of order")
        self.sparse[index] = value

    def get(self, index: int) -> None:
        value = self.memo[index] if 0 <= index < len(self.memo) else ABSENT
        if value is ABSENT:
            value = self.sparse.get(index, ABSENT)
        if value is ABSENT:
            raise BrokenPickleError("its memo lacks what it takes from there")
        self.push(value)

    def memoize(self) -> None:
        self.put(self.memorised)  # the number of entries so far (`pickle.py`, load_memoize)

    def index_text(self) -> int:
        line = self.line()
        try:
            return int(line or b"")
        except ValueError:
            raise BrokenPickleError("a number of its memo is no number") from None

    # What would run

    def uncertain(self, what: str) -> None:
        self.seen.called = True
        self.seen.uncertain[what] = None

    def imported(self, module: object, name: object) -> object:
        """A global by two values of the stack."""
        if isinstance(module, str) and isinstance(name, str):
            found = Global(module, name)
            if not module:
                # Python's loader ends here; one that answers by the name alone, as torch's does for storages, goes on.
                self.uncertain(f"{name!r} of a module without a name")
                return found
            if found not in self.seen.globals:
                if len(self.seen.globals) >= MAX_GLOBALS:
                    raise PickleLimitError(f"it imports more than {MAX_GLOBALS} things")
                self.seen.globals[found] = None
            return found
        if any(isinstance(part, Made | Unknown | Persistent) for part in (module, name)):
            self.uncertain("an import under a name that is computed")
            return UNKNOWN
        raise BrokenPickleError("it imports what is no name")

    def extension(self, code: int) -> None:
        self.uncertain(f"extension code {code}, which stands for an import in the loader's registry")
        self.push(UNKNOWN)

    def call(self, function: object, arguments: object, state: object = None) -> object:
        if isinstance(function, Global):
            self.seen.called = True
            if (function.module, function.name) == _LOAD_FROM_BYTES:
                self._load_from_bytes(arguments)
            elif (decoded := _encoded(function, arguments)) is not None:
                self.found_bytes(decoded[:4], decoded)
                return decoded if self.keeps(len(decoded)) else UNKNOWN
            elif (function.module, function.name) in _DICTS:
                return _table(arguments) if self.keeps() else UNKNOWN
        elif isinstance(function, Made | Unknown | Persistent):
            self.uncertain("a call of something that is computed")
        else:
            raise BrokenPickleError("it calls what cannot be called")
        return Made(function, arguments, state) if self.keeps() else UNKNOWN

    def _load_from_bytes(self, arguments: object) -> None:
        data = arguments[0] if isinstance(arguments, tuple) and arguments else UNKNOWN
        if not self.nest(data):
            self.uncertain("torch.storage._load_from_bytes of bytes that are computed")

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if isinstance(target, Global):
            self.uncertain(f"a change of {target} itself")
        elif isinstance(target, Made):
            target.state = state
            if self.joblib and _is_array_wrapper(target):
                self._jump_over_array(state)

    def receive(self, items: list[Any]) -> None:
        """Items for the list, set or object on top of the stack."""
        target = self.top()
        if isinstance(target, Global):
            self.uncertain(f"a change of {target} itself")
        elif isinstance(target, list):
            target += items

    def receive_pairs(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, Global):
            self.uncertain(f"a change of {target} itself")
        elif isinstance(target, Table):
            self.budget.kept -= _VALUE * (len(items) // 2)
            if self.budget.kept > 0:
                target.pairs += zip(items[::2], items[1::2], strict=False)

    def _jump_over_array(self, state: object) -> None:
        """Jump over an array that joblib wrote behind its wrapper (joblib's `NumpyArrayWrapper.read_array`)."""
        size = _array_size(state, records=self.records)
        if size is None:
            raise PickleLimitError("the size of an array that joblib wrote in it cannot be told")
        items, item_size, has_objects, aligned = size
        if has_objects:
            inner = PickleMachine(self.stream, self.budget, self.instructions).follow()
            self.seen.globals |= inner.globals
            self.seen.called |= inner.called
            self.seen.uncertain |= inner.uncertain
            self.seen.nested += inner.nested
            if inner.broken:
                raise BrokenPickleError(inner.broken)
            if inner.limit:
                raise PickleLimitError(inner.limit)
            return
        if aligned:
            self.jump(self.take(1)[0])
        self.jump(items * item_size)


def as_content(value: object) -> Content | None:
    """A bytes value as something that can be read by ranges; None for any other."""
    if isinstance(value, bytes):
        return ContentRange.of(value)
    return value if isinstance(value, ContentRange) else None


def _encoded(function: Global, arguments: object) -> bytes | None:
    """The bytes that `_codecs.encode(text, "latin1")` gives: so protocol 2 writes bytes."""
    if (function.module, function.name) != ("_codecs", "encode") or not isinstance(arguments, tuple):
        return None
    match arguments:
        case (str() as text, "latin1" | "latin-1"):
            try:
                return text.encode("latin-1")
            except UnicodeEncodeError:
                return None
    return None


def _table(arguments: object) -> Table:
    """The dict that a call makes of pairs, or of nothing: other dicts are filled behind it."""
    match arguments:
        case (list() as items,):
            return Table([(pair[0], pair[1]) for pair in items if isinstance(pair, list | tuple) and len(pair) == 2])
        case (Table() as table,):
            return Table(list(table.pairs))
    return Table()


def _is_array_wrapper(made: Made) -> bool:
    kind = made.callable
    return isinstance(kind, Global) and kind.name in _WRAPPERS and kind.module.startswith("joblib.numpy_pickle")


def _array_size(state: object, *, records: bool) -> tuple[int, int, bool, bool] | None:
    """Items, bytes of each, whether they are objects, and whether padding stands before; None if it cannot be told."""
    if not isinstance(state, Table):
        return None
    shape, dtype = state.get("shape"), state.get("dtype")
    if not isinstance(shape, tuple) or not isinstance(dtype, Made) or not isinstance(dtype.arguments, tuple):
        return None
    items = 1
    for side in shape:
        if not isinstance(side, int) or not 0 <= side < 2**48:
            return None
        items = min(items * side, 2**60)
    code = dtype.arguments[0] if dtype.arguments else None
    if not isinstance(code, str) or len(code) < 2 or not code[1:].isdecimal() or len(code) > 12:
        return None
    width = int(code[1:]) * (4 if code[0] == "U" else 1)
    aligned = isinstance(state.get("numpy_array_alignment_bytes"), int)
    if code[0] == "V" and not (records and _has_no_objects(dtype.state)):
        return None
    return items, width, code[0] == "O", aligned


def _has_no_objects(state: object) -> bool:
    """Whether a dtype of records says that no object is in them (numpy's `descriptor.c`, NPY_ITEM_REFCOUNT)."""
    return isinstance(state, tuple) and len(state) > 7 and isinstance(state[7], int) and not state[7] & 1
