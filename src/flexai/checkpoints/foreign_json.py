"""The one door for JSON that this process has not written itself: manifests in a store, services' answers, headers.

A document that comes through it takes no more memory than its limit accounts for. Its numbers fit a database, its texts
are Unicode. The reader of a document says which fields it must have, and in which ranges.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

MAX_DOCUMENT = 64 * 1024**2
"""Bytes of a document, unless the reader knows that its own must be longer."""

_MEMORY_SHARE = 7 / 2
"""Bytes of memory per byte of the limit: 224 MiB, of which a manifest of 110,000 files may need 215 and takes 100."""

# What CPython takes for one, at most or nearly so: a dict with a key, a list with an item, a number or a short text
# with its place, a key with its place in the dict and in the parser's own.
_COSTS = {b"{": 150, b"[": 90, b",": 65, b":": 110}
_COST_OF_PAIR = 80
"""Bytes of memory more, while keys are looked at."""

_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_WIDE = re.compile(rb"[\xf0-\xf4]|\\u[dD][89abAB]")
_HALF_WIDE = re.compile(rb"[\xc4-\xf4]|\\u(?!00)")


class TooMuchError(ValueError):
    """A document that is longer than its limit, or would take more memory than that accounts for."""


def read_bounded(blocks: Iterable[bytes | memoryview], limit: int = MAX_DOCUMENT) -> bytes:
    """The bytes of a document; TooMuchError after more than ``limit`` of them."""
    content = bytearray()
    for block in blocks:
        content += block
        if len(content) > limit:
            raise _too_long(limit)
    return bytes(content)


def parse_json(data: bytes, *, limit: int = MAX_DOCUMENT, lenient: bool = False, unique_keys: bool = False) -> Any:
    """The value that a JSON document holds, as Python has it.

    ``limit`` is in bytes, and bounds the memory that it takes too. A ``lenient`` reader takes what trainers write as
    well: NaN and infinities, numbers that no database holds, halves of surrogate pairs. With ``unique_keys`` no object
    may have a key twice.

    Raises TooMuchError for a document beyond the limit, and ValueError, in words, for one that is no JSON, is nested
    too deeply, or has what is refused here.
    """
    if len(data) > limit:
        raise _too_long(limit)
    if _memory_for(data, unique_keys=unique_keys) > limit * _MEMORY_SHARE:
        raise TooMuchError("it has more parts than a document of its kind may have")
    has_halves = not lenient and b"\\u" in data and _HALF.search(data) is not None
    text = data.decode()
    # The caller's bytes are free from here, where it has passed them on and kept none.
    del data
    try:
        document = json.loads(
            text,
            parse_constant=None if lenient else _refuse_constant,
            parse_int=None if lenient else _whole,
            parse_float=None if lenient else _fraction,
            object_pairs_hook=_unique if unique_keys else None,
        )
        if has_halves:
            _check_halves(document)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return document


def _too_long(limit: int) -> TooMuchError:
    size = f"{limit // 1024**2} MiB" if limit >= 1024**2 else f"{limit} bytes"
    return TooMuchError(f"it is longer than {size}")


def _memory_for(data: bytes, *, unique_keys: bool) -> int:
    """Bytes that the text of a document and its parts take, at most or nearly so."""
    # All characters of a text take as much as its widest one.
    is_plain = data.isascii() and b"\\u" not in data
    width = 1 if is_plain else 4 if _WIDE.search(data) else 2 if _HALF_WIDE.search(data) else 1
    parts = sum(data.count(mark) * cost for mark, cost in _COSTS.items())
    return 2 * width * len(data) + parts + (_COST_OF_PAIR * data.count(b":") if unique_keys else 0)


def _check_halves(document: Any) -> None:
    """Refuse halves of a surrogate pair that have not met: no database, file name or terminal takes them."""
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError("it has half of a surrogate pair in a text") from None
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value
            waiting += value.values()


def _whole(digits: str) -> int:
    # The longest has a sign and 19 digits. Python takes long for thousands of them.
    value = int(digits) if len(digits) <= 20 else 2**63
    if not -(2**63) <= value < 2**63:
        raise ValueError("it has a whole number that no database holds")
    return value


def _fraction(digits: str) -> float:
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError("it has a number that is out of range")
    return value


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number that JSON knows")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("it has a duplicate key")
    return keys
