"""Writing documents as JSON, with each value on a line of its own.

The standard library's encoder has that layout too, but makes it in Python: for the files of a large checkpoint it takes
half of a command's time. Its encoder in C is given the layout as what stands between two values.
"""

from __future__ import annotations

from functools import lru_cache
from json import JSONEncoder
from typing import Any


def to_json(document: Any) -> str:
    """A document as ``json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)`` writes it."""
    return _text(document, "")


def _text(value: Any, indent: str) -> str:
    if not value or not isinstance(value, dict | list | tuple):
        return _encoder("").encode(value)
    inner = f"{indent}  "
    opened, closed = "{}" if isinstance(value, dict) else "[]"
    if _is_flat(value):
        text = _encoder(inner).encode(value)[1:-1]
    elif isinstance(value, dict):
        text = f",\n{inner}".join(f"{_key(key)}: {_text(one, inner)}" for key, one in value.items())
    elif all(isinstance(one, dict) and one and _is_flat(one) for one in value):
        # All of them at once, as if they were one. No text has a line feed of its own, so this is where two meet.
        deeper = f"{inner}  "
        text = _encoder(deeper).encode(value)[2:-2].replace(f"}},\n{deeper}{{", f"\n{inner}}},\n{inner}{{\n{deeper}")
        text = f"{{\n{deeper}{text}\n{inner}}}"
    else:
        text = f",\n{inner}".join(_text(one, inner) for one in value)
    return f"{opened}\n{inner}{text}\n{indent}{closed}"


def _is_flat(value: dict[str, Any] | list[Any] | tuple[Any, ...]) -> bool:
    """Whether none of its values has values of its own."""
    values = value.values() if isinstance(value, dict) else value
    return not any(one and isinstance(one, dict | list | tuple) for one in values)


@lru_cache(maxsize=64)
def _encoder(indent: str) -> JSONEncoder:
    return JSONEncoder(separators=(f",\n{indent}", ": "), ensure_ascii=False, allow_nan=False)


@lru_cache(maxsize=1000, typed=True)
def _key(key: Any) -> str:
    return _encoder("").encode({key: 0})[1:-4]
