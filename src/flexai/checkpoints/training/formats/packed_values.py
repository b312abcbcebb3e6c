"""The rule for MessagePack and Universal Binary JSON: a file is whole when one value reaches exactly to its end.

Flax writes MessagePack (`flax/serialization.py`, `to_bytes`), XGBoost Universal Binary JSON (`src/common/json.cc`).
Values are jumped over and never made; lists and maps are counted, so that none is followed by recursion.
Formats: MessagePack specification (github.com/msgpack/msgpack, spec.md), ubjson.org, types and optimized containers.
"""

from __future__ import annotations

from flexai.checkpoints.training.formats.content import Content, ContentStream, RangeStream
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError, shown

MAX_VALUES = 200_000
"""That are walked over in one file; about half a second."""
MAX_READ = 64 * 1024 * 1024
"""Bytes that are read of one file. What is jumped over does not count."""
MAX_DEPTH = 1_000


class _Walk:
    """A way through one file."""

    def __init__(self, content: Content, path: str) -> None:
        self.path = path
        self.size = content.size
        self._left = MAX_READ
        self._values = MAX_VALUES
        self._stream: ContentStream = RangeStream(content, self._spend)
        self._given_back = b""

    def take(self, length: int) -> bytes:
        data = self._given_back or self._stream.read(length)
        self._given_back = b""
        if len(data) != length:
            raise self.torn()
        return data

    def give_back(self, mark: bytes) -> None:
        """Let the next `take` of one byte have it again."""
        self._given_back = mark

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "big")

    def skip(self, length: int) -> None:
        if not self._stream.skip(length):
            raise self.torn()

    def count(self) -> None:
        """Note one more value."""
        self._values -= 1
        if self._values < 0:
            raise CannotTellError(f"{shown(self.path)} holds more than {MAX_VALUES} values, so its end was not reached")

    def finish(self) -> None:
        if self._stream.position != self.size:
            raise CannotTellError(f"{shown(self.path)} goes on behind its value")

    def torn(self) -> NotWholeError:
        return NotWholeError(f"{shown(self.path)} ends inside a value, so it is cut off")

    def strange(self) -> CannotTellError:
        return CannotTellError(f"{shown(self.path)} holds what its format does not know")

    def _spend(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise CannotTellError(f"{shown(self.path)} is too long to be read to its end")


# MessagePack

# By the first byte: how many bytes follow, or how many bytes tell how many follow (and how many more there are then).
_FIXED = dict(
    zip(
        (0xC0, 0xC2, 0xC3, *range(0xCA, 0xD9)),
        (0, 0, 0, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8, 2, 3, 5, 9, 17),
        strict=True,
    )
)
_COUNTED = {
    **{0xC4: (1, 0), 0xC5: (2, 0), 0xC6: (4, 0)},
    **{0xC7: (1, 1), 0xC8: (2, 1), 0xC9: (4, 1)},
    **{0xD9: (1, 0), 0xDA: (2, 0), 0xDB: (4, 0)},
}
_UNSIGNED = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_LISTS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}


def check_msgpack(content: Content, path: str) -> None:
    """Return when the file is one MessagePack value. Raises NotWholeError, CannotTellError."""
    walk = _Walk(content, path)
    waiting = 1
    while waiting:
        walk.count()
        waiting += _message(walk) - 1
        if waiting > walk.size:
            raise walk.torn()  # each value has a byte at least
    walk.finish()


def read_msgpack_keys(content: Content, path: str) -> dict[str, int | None]:
    """The keys of the map that a MessagePack file is, with what is a whole number under them; empty for another value.

    Raises NotWholeError, CannotTellError.
    """
    walk = _Walk(content, path)
    code = walk.take(1)[0]
    count = code & 0x0F if 0x80 <= code < 0x90 else walk.number(_LISTS[code][0]) if code in (0xDE, 0xDF) else 0
    found: dict[str, int | None] = {}
    for _ in range(count):
        walk.count()
        code = walk.take(1)[0]
        if not 0xA0 <= code < 0xC0 and code != 0xD9:
            break  # Flax's keys are short texts
        key = walk.take(code & 0x1F if code < 0xC0 else walk.number(1)).decode("utf-8", "replace")
        found[key] = _whole_number(walk)
    return found


def _whole_number(walk: _Walk) -> int | None:
    """The next value where it is a whole number; it is gone over in any case."""
    mark = walk.take(1)
    code = mark[0]
    if code < 0x80:
        return code
    if code in _UNSIGNED:
        return walk.number(_UNSIGNED[code])
    walk.give_back(mark)
    waiting = 1
    while waiting:
        walk.count()
        waiting += _message(walk) - 1
    return None


def _message(walk: _Walk) -> int:
    """Go over one value's head and bytes; how many values are in it."""
    code = walk.take(1)[0]
    if code < 0x80 or code >= 0xE0:
        return 0
    if code < 0x90:
        return 2 * (code & 0x0F)
    if code < 0xA0:
        return code & 0x0F
    if code < 0xC0:
        walk.skip(code & 0x1F)
    elif code in _FIXED:
        walk.skip(_FIXED[code])
    elif code in _COUNTED:
        length, more = _COUNTED[code]
        walk.skip(walk.number(length) + more)
    elif code in _LISTS:
        length, each = _LISTS[code]
        return walk.number(length) * each
    else:
        raise walk.strange()
    return 0


# Universal Binary JSON

_WIDTHS = {b"Z": 0, b"N": 0, b"T": 0, b"F": 0, b"i": 1, b"U": 1, b"C": 1, b"I": 2, b"l": 4, b"d": 4, b"L": 8, b"D": 8}
_INTEGERS = (b"i", b"U", b"I", b"l", b"L")
_ENDLESS = -1


def check_ubjson(content: Content, path: str) -> None:
    """Return when the file is one object of Universal Binary JSON. Raises NotWholeError, CannotTellError."""
    walk = _Walk(content, path)
    if walk.take(1) != b"{":
        raise CannotTellError(f"{shown(path)} is no object of Universal Binary JSON")
    # Each container that is open: whether it is an object, and how many values are to come (or until its end mark).
    waiting = [[True, _opened(walk, is_object=True)]]
    while waiting:
        is_object, left = waiting[-1]
        if left == 0:
            waiting.pop()
            continue
        walk.count()
        mark = walk.take(1)
        if left == _ENDLESS and mark == (b"}" if is_object else b"]"):
            waiting.pop()
            continue
        if left != _ENDLESS:
            waiting[-1][1] = left - 1
        if is_object:
            walk.skip(_length(walk, mark))  # the key
            mark = walk.take(1)
        if mark in (b"{", b"["):
            if len(waiting) >= MAX_DEPTH:
                raise CannotTellError(f"{shown(path)} is nested more than {MAX_DEPTH} deep")
            waiting.append([mark == b"{", _opened(walk, is_object=mark == b"{")])
        else:
            _skip_value(walk, mark)
    walk.finish()


def _opened(walk: _Walk, *, is_object: bool) -> int:
    """How many values a container has that begins here; none where they were jumped over."""
    mark, kind = walk.take(1), b""
    if mark == b"$":
        kind, mark = walk.take(1), walk.take(1)
        if kind not in _WIDTHS or mark != b"#" or is_object:
            raise walk.strange()
    if mark != b"#":
        walk.give_back(mark)
        return _ENDLESS
    count = _length(walk, walk.take(1))
    if not kind:
        return count
    walk.skip(count * _WIDTHS[kind])
    return 0


def _skip_value(walk: _Walk, mark: bytes) -> None:
    if mark in (b"S", b"H"):
        walk.skip(_length(walk, walk.take(1)))
    elif mark in _WIDTHS:
        walk.skip(_WIDTHS[mark])
    else:
        raise walk.strange()


def _length(walk: _Walk, mark: bytes) -> int:
    if mark not in _INTEGERS:
        raise walk.strange()
    found = int.from_bytes(walk.take(_WIDTHS[mark]), "big", signed=mark != b"U")
    if found < 0:
        raise walk.strange()
    return found
