"""What a pickle would do, found by following its instructions. Nothing is imported, called or made.

A pickle is a program for a machine with a stack and a memo (`pickletools` in the standard library describes each
instruction). This machine follows the program with stand-ins: a `Global` where the loader would import, a `Made` where
it would call. So a name that is put together on the stack, or taken from the memo, is seen as the loader would see it.

Where this machine and a loader could differ, this one goes on longer: it takes any protocol number, any
text for a number, any frame. So it sees no less than a loader before a pickle breaks.

Instructions, bytes, values, memo and nesting are bounded. What lies beyond a bound is said, never passed over.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from flexai.checkpoints.training.formats.content import ContentStream
from flexai.checkpoints.training.formats.pickle_machine import PickleMachine
from flexai.checkpoints.training.formats.pickle_values import (
    UNKNOWN,
    BrokenPickleError,
    Budget,
    Global,
    Made,
    Persistent,
    Pickle,
    Table,
)


def follow(stream: ContentStream, budget: Budget, *, joblib: bool = False, records: bool = False) -> Pickle:
    """Follow one pickle from where the stream is. Behind it, the stream is behind its STOP.

    With `joblib`, the raw bytes of arrays that joblib writes between instructions are jumped over; with `records` those
    of arrays of records too, where the file itself says that they hold no objects.
    Raises only NotWholeError, where the stream cannot be read.
    """
    return PickleMachine(stream, budget, _INSTRUCTIONS, joblib=joblib, records=records).follow()


_U1, _U2, _U4, _U8 = (struct.Struct(layout) for layout in ("<B", "<H", "<L", "<Q"))
_I4 = struct.Struct("<l")
_F8 = struct.Struct(">d")
_Operation = Callable[[PickleMachine], None]


def _constant(value: object) -> _Operation:
    return lambda machine: machine.stack.append(value)


def _stop(machine: PickleMachine) -> None:
    machine.seen.value = machine.pop()
    machine.stopped = True


def _pop(machine: PickleMachine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _string(machine: PickleMachine) -> None:
    line = machine.line()
    if line is None or not machine.keeps(len(line)):
        machine.push(UNKNOWN)
        return
    text = line.strip(b" \t\r\f\v")
    quoted = len(text) >= 2 and text[:1] == text[-1:] and text[:1] in (b"'", b'"')
    try:
        machine.push(_ESCAPE.sub(_unescaped, text[1:-1] if quoted else text).decode("latin-1"))
    except ValueError:
        machine.push(UNKNOWN)


# As `codecs.escape_decode`, which a loader uses, but without its warnings about what a file holds.
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|([0-7]{1,3})|(.?))", re.DOTALL)
_LETTERS = dict(zip(b"\n\\'\"abfnrtv", (b"", *(bytes((code,)) for code in b"\\'\"\a\b\f\n\r\t\v")), strict=True))


def _unescaped(match: re.Match[bytes]) -> bytes:
    digits, octal, letter = match.groups()
    if digits:
        return bytes.fromhex(digits.decode())
    if octal:
        return bytes((int(octal, 8) & 0xFF,))
    if letter in (b"", b"x"):
        raise ValueError("it ends within an escape")
    return _LETTERS.get(letter[0], match[0])


def _unicode(machine: PickleMachine) -> None:
    line = machine.line()
    keeps = line is not None and machine.keeps(len(line))
    machine.push(machine.decoded(line, "raw-unicode-escape") if keeps and line is not None else UNKNOWN)


def _float_text(machine: PickleMachine) -> None:
    line = machine.line()
    try:
        machine.push(float(line) if line is not None and len(line) <= 400 else UNKNOWN)
    except ValueError:
        machine.push(UNKNOWN)


def _int_text(machine: PickleMachine) -> None:
    line = machine.line()
    if line in (b"00", b"01"):
        machine.push(line == b"01")
    else:
        machine.whole(line)


def _list(machine: PickleMachine) -> None:
    items = machine.pop_mark()
    machine.push(items if machine.keeps() else UNKNOWN)


def _tuple(machine: PickleMachine) -> None:
    items = machine.pop_mark()
    machine.push(tuple(items) if machine.keeps(8 * len(items)) else UNKNOWN)


def _short_tuple(length: int) -> _Operation:
    def make(machine: PickleMachine) -> None:
        if len(machine.stack) < length:
            raise BrokenPickleError("its stack is empty")
        items = tuple(machine.stack[-length:])
        del machine.stack[-length:]
        machine.push(items if machine.keeps() else UNKNOWN)

    return make


def _dict(machine: PickleMachine) -> None:
    items = machine.pop_mark()
    machine.push(Table() if machine.keeps() else UNKNOWN)
    machine.receive_pairs(items)


def _empty(kind: Callable[[], object]) -> _Operation:
    return lambda machine: machine.push(kind() if machine.keeps() else UNKNOWN)


def _frozenset(machine: PickleMachine) -> None:
    items = machine.pop_mark()
    machine.push(Made(Global("builtins", "frozenset"), (items,)) if machine.keeps() else UNKNOWN)


def _global(machine: PickleMachine) -> None:
    module, name = machine.name(), machine.name()
    machine.push(machine.imported(UNKNOWN if module is None else module, UNKNOWN if name is None else name))


def _stack_global(machine: PickleMachine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push(machine.imported(module, name))


def _reduce(machine: PickleMachine) -> None:
    arguments = machine.pop()
    machine.push(machine.call(machine.pop(), arguments))


def _new_object_with_keywords(machine: PickleMachine) -> None:
    keywords, arguments = machine.pop(), machine.pop()
    machine.push(machine.call(machine.pop(), arguments, keywords))


def _instance(machine: PickleMachine) -> None:
    module, name = machine.name(), machine.name()
    kind = machine.imported(UNKNOWN if module is None else module, UNKNOWN if name is None else name)
    arguments = machine.pop_mark()
    machine.push(machine.call(kind, tuple(arguments)))


def _object(machine: PickleMachine) -> None:
    items = machine.pop_mark()
    if not items:
        raise BrokenPickleError("it calls what cannot be called")
    machine.push(machine.call(items[0], tuple(items[1:])))


def _persistent(machine: PickleMachine) -> None:
    name = machine.pop()
    machine.push(Persistent(name) if machine.keeps() else UNKNOWN)
    if not (isinstance(name, tuple) and name and name[0] in ("storage", "module")):
        machine.seen.uncertain["a persistent id, which only its own loader understands"] = None


def _persistent_text(machine: PickleMachine) -> None:
    machine.push(machine.name())
    _persistent(machine)


def _append(machine: PickleMachine) -> None:
    machine.receive([machine.pop()])


def _set_item(machine: PickleMachine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.receive_pairs([key, value])


_INSTRUCTIONS: dict[int, _Operation] = {
    ord(code): operation
    for code, operation in {
        b"\x80": lambda machine: machine.take(1),  # PROTO
        b"\x95": lambda machine: machine.take(8),  # FRAME
        b".": _stop,
        b"(": PickleMachine.mark,
        b"0": _pop,
        b"1": lambda machine: machine.pop_mark(),
        b"2": lambda machine: machine.push(machine.top()),
        # Numbers and constants
        b"N": _constant(None),
        b"\x88": _constant(True),
        b"\x89": _constant(False),
        b"I": _int_text,
        b"L": lambda machine: machine.whole(machine.line()),
        b"F": _float_text,
        b"J": lambda machine: machine.push(machine.number(_I4)),
        b"K": lambda machine: machine.push(machine.number(_U1)),
        b"M": lambda machine: machine.push(machine.number(_U2)),
        b"G": lambda machine: machine.push(_F8.unpack(machine.take(8))[0]),
        b"\x8a": lambda machine: machine.binary_long(machine.number(_U1)),
        b"\x8b": lambda machine: machine.binary_long(machine.length(_I4)),
        # Texts and bytes
        b"S": _string,
        b"V": _unicode,
        b"T": lambda machine: machine.text(machine.length(_I4), "latin-1"),
        b"U": lambda machine: machine.text(machine.number(_U1), "latin-1"),
        b"X": lambda machine: machine.text(machine.number(_U4)),
        b"\x8c": lambda machine: machine.text(machine.number(_U1)),
        b"\x8d": lambda machine: machine.text(machine.number(_U8)),
        b"B": lambda machine: machine.raw(machine.number(_U4)),
        b"C": lambda machine: machine.raw(machine.number(_U1)),
        b"\x8e": lambda machine: machine.raw(machine.number(_U8)),
        b"\x96": lambda machine: machine.raw(machine.number(_U8)),  # BYTEARRAY8
        b"\x97": _constant(UNKNOWN),  # NEXT_BUFFER
        b"\x98": lambda machine: machine.top(),  # READONLY_BUFFER
        # Containers
        b"]": _empty(list),
        b"l": _list,
        b"a": _append,
        b"e": lambda machine: machine.receive(machine.pop_mark()),
        b")": _constant(()),
        b"t": _tuple,
        b"\x85": _short_tuple(1),
        b"\x86": _short_tuple(2),
        b"\x87": _short_tuple(3),
        b"}": _empty(Table),
        b"d": _dict,
        b"s": _set_item,
        b"u": lambda machine: machine.receive_pairs(machine.pop_mark()),
        b"\x8f": _empty(list),  # EMPTY_SET
        b"\x90": lambda machine: machine.receive(machine.pop_mark()),
        b"\x91": _frozenset,
        # The memo
        b"p": lambda machine: machine.put(machine.index_text()),
        b"q": lambda machine: machine.put(machine.number(_U1)),
        b"r": lambda machine: machine.put(machine.number(_U4)),
        b"\x94": PickleMachine.memoize,
        b"g": lambda machine: machine.get(machine.index_text()),
        b"h": lambda machine: machine.get(machine.number(_U1)),
        b"j": lambda machine: machine.get(machine.number(_U4)),
        # What runs
        b"c": _global,
        b"\x93": _stack_global,
        b"\x82": lambda machine: machine.extension(machine.number(_U1)),
        b"\x83": lambda machine: machine.extension(machine.number(_U2)),
        b"\x84": lambda machine: machine.extension(machine.number(_I4)),
        b"R": _reduce,
        b"\x81": _reduce,  # NEWOBJ: a class in place of a function
        b"\x92": _new_object_with_keywords,
        b"i": _instance,
        b"o": _object,
        b"b": PickleMachine.build,
        b"P": _persistent_text,
        b"Q": _persistent,
    }.items()
}
