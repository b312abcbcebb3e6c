"""What a setting may be: how it is read from a text or a TOML value, and written as people would.

Without pydantic, whose import takes a fetch of small files a tenth of its time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", re.IGNORECASE)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_LONGEST = timedelta(days=36_500)
_FOR_EVER = timedelta(days=365_000)
"""What longer durations are taken for: it can still be subtracted from the present."""


def parse_size(value: object) -> object:
    """Read ``64MiB`` (1024-based), ``64MB`` (1000-based) or plain bytes; other things are left as they are."""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return value
    number, unit, binary = match.groups()
    base = 1024 if binary else 1000
    return int(Fraction(number) * base ** " kmgt".index(unit.lower() or " "))


def parse_duration(value: object) -> object:
    """Read ``90s``, ``15m``, ``24h``, ``7d``, ``2w`` or plain seconds; other things are left as they are."""
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    return _duration(float(match[1]) * _SECONDS[match[2].lower()]) if match else value


def _duration(seconds: float) -> timedelta:
    longest = _FOR_EVER.total_seconds()
    return timedelta(seconds=max(-longest, min(seconds, longest)))


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text."""

    description: str
    """What the setting is for, with its unit."""
    default: Any = ""

    def read(self, value: object) -> Any:
        """The setting's value; ValueError, which never quotes what was written, for what it cannot be."""
        if not isinstance(value, str):
            raise ValueError("a text is needed")
        return value

    def write(self, value: Any) -> str:
        """A value as it can be set."""
        return str(value)


@dataclass(frozen=True, kw_only=True)
class Folder(Text):
    """A path."""

    default: None = None

    def read(self, value: object) -> Path:
        """The path."""
        return value if isinstance(value, Path) else Path(super().read(value))


@dataclass(frozen=True, kw_only=True)
class Number(Text):
    """A whole number."""

    default: Any = 0
    least: Any = 0
    most: Any = None

    def read(self, value: object) -> Any:
        """The number, which keeps to its limits."""
        found = self._parse(value)
        if found < self.least:
            raise ValueError(f"at least {self.write(self.least)} is needed")
        if self.most is not None and found > self.most:
            raise ValueError(f"at most {self.write(self.most)} can be used")
        return found

    def _parse(self, value: object) -> Any:
        number = _whole(value)
        if number is None:
            raise ValueError("a whole number is needed")
        return number


@dataclass(frozen=True, kw_only=True)
class Size(Number):
    """Bytes."""

    def write(self, value: int) -> str:
        """Bytes in their largest unit."""
        return _in_largest_unit(value, {"GiB": 1024**3, "MiB": 1024**2, "KiB": 1024}, "")

    def _parse(self, value: object) -> int:
        size = _whole(parse_size(value))
        if size is None:
            raise ValueError("a number of bytes is needed, such as 64MiB")
        return size


@dataclass(frozen=True, kw_only=True)
class Duration(Number):
    """A length of time."""

    least: timedelta = timedelta(0)
    most: timedelta = _LONGEST

    def write(self, value: timedelta) -> str:
        """A duration in its largest unit."""
        return write_duration(value)

    def _parse(self, value: object) -> timedelta:
        seconds = value if isinstance(value, float) and math.isfinite(value) else _whole(value)
        if seconds is not None:
            return _duration(seconds)
        duration = parse_duration(value)
        if not isinstance(duration, timedelta):
            raise ValueError("a duration is needed, such as 90s or 7d")
        return duration


def write_duration(value: timedelta) -> str:
    """A duration in its largest unit without a rest, as it can be set: ``7d``, ``36h``, ``90s``."""
    return _in_largest_unit(int(value.total_seconds()), {"d": 86400, "h": 3600, "m": 60}, "s")


def _whole(value: object) -> int | None:
    """A whole number, also as Python writes it (``400_000``)."""
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _in_largest_unit(number: int, units: Mapping[str, int], smallest: str) -> str:
    for unit, factor in units.items():
        if number and number % factor == 0:
            return f"{number // factor}{unit}"
    return f"{number}{smallest}"
