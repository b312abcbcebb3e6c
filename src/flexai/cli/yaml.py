"""Writing documents as YAML.

PyYAML takes 50 ms to import and seconds for a checkpoint of many files, and quotes by other rules than the documents
that users know: empty and doubtful texts in double quotes, lists not indented below their key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

# Plain only what no reader of YAML 1.1 or 1.2 takes for anything but a text: words and paths that begin with a letter
# or a slash, UUIDs, and sizes.
_PLAIN = re.compile(
    r"[A-Za-z/](?:[A-Za-z0-9_./ +=,()-]*[A-Za-z0-9_./=+)-])?"
    r"|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|[0-9]+(?:\.[0-9]+)? (?:bytes?|[KMGTPE]B)"
)
_SCALARS = frozenset({str, int, float, bool, type(None)})
_SPECIAL = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})


def to_yaml(document: Mapping[str, Any]) -> str:
    """A document as YAML, keys in their order."""
    lines: list[str] = []
    _add_mapping(lines, document, "", "")
    lines.append("")
    return "\n".join(lines)


def _add_mapping(lines: list[str], document: Mapping[str, Any], first: str, indent: str) -> None:
    """Add the lines of a mapping, ``first`` at the beginning of the first one."""
    for key, value in document.items():
        before = f"{first}{_key(key)}:"
        first = indent
        if type(value) is str:
            lines.append(f"{before} {value if _is_plain(value) else _quoted(value)}")
        elif type(value) in _SCALARS or not value:
            lines.append(f"{before} {_scalar(value)}")
        elif isinstance(value, Mapping):
            lines.append(before)
            _add_mapping(lines, value, indent + "  ", indent + "  ")
        elif isinstance(value, list | tuple):
            lines.append(before)
            _add_sequence(lines, value, indent, indent)
        else:
            lines.append(f"{before} {_scalar(value)}")


def _add_sequence(lines: list[str], values: Sequence[Any], first: str, indent: str) -> None:
    """Add the lines of a list, ``first`` at the beginning of the first one."""
    inner = indent + "  "
    for value in values:
        before = f"{first}- "
        first = indent
        if isinstance(value, Mapping) and value:
            _add_mapping(lines, value, before, inner)
        elif isinstance(value, list | tuple) and value:
            _add_sequence(lines, value, before, inner)
        else:
            lines.append(f"{before}{_scalar(value)}")


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return value if _is_plain(value) else _quoted(value)
    if type(value) is int:
        return str(value)
    if isinstance(value, Mapping):
        return "{}"
    if isinstance(value, list | tuple):
        return "[]"
    if isinstance(value, float):
        # YAML 1.1 takes a number for a float only where it has a point and a signed exponent.
        text = repr(value)
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    return json.dumps(value)


_key = lru_cache(maxsize=1000)(_scalar)
"""The same few, thousands of times."""


def _is_plain(text: str) -> bool:
    return _PLAIN.fullmatch(text) is not None and text.lower() not in _SPECIAL


def _quoted(text: str) -> str:
    if text.isprintable():
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '\\"':
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
