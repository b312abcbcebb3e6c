"""Stand-ins for what a pickle would import, call and make, and what following one may cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from flexai.checkpoints.training.formats.content import Content

MAX_INSTRUCTIONS = 2_000_000
"""Of all pickles in one file; some seconds."""
MAX_BYTES = 256 * 1024 * 1024
"""That are read of one file, unpacked. What is jumped over does not count."""
MAX_KEPT = 48 * 1024 * 1024
"""Bytes of values that are kept of one file; later values are followed as unknown ones."""
MAX_MARKS = 20_000
MAX_SPARSE_MEMO = 50_000
MAX_GLOBALS = 2_000
MAX_NESTED = 200
LONGEST_TEXT = 64 * 1024
"""Bytes of a string that is kept."""
LONGEST_BYTES = 1024 * 1024
"""Of a bytes value that is kept; of a longer one only its place."""


@dataclass(slots=True)
class Budget:
    """What following the pickles of one file may still cost."""

    instructions: int = MAX_INSTRUCTIONS
    bytes: int = MAX_BYTES
    kept: int = MAX_KEPT
    nested: int = MAX_NESTED


class BrokenPickleError(Exception):
    """A loader would stop here with an error of its own."""


class PickleLimitError(Exception):
    """A bound is reached; the message says which."""


class Unknown:
    """A value that is not followed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "UNKNOWN"


UNKNOWN: Final = Unknown()
ABSENT: Final = Unknown()
"""No value at all."""


@dataclass(frozen=True, slots=True)
class Global:
    """Something that the loader would import."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Made:
    """What a call would return: of a function, or of a class."""

    callable: object
    arguments: object
    state: object = None


@dataclass(slots=True, eq=False)
class Persistent:
    """What the loader would be asked for by an id, as a tensor's storage is."""

    id: object


@dataclass(slots=True, eq=False)
class Table:
    """A dict: its keys need not be such as can be hashed here."""

    pairs: list[tuple[object, object]] = field(default_factory=list)

    def get(self, key: str | int) -> object:
        """The last value under a key, or UNKNOWN."""
        for found, value in reversed(self.pairs):
            if type(found) is type(key) and found == key:
                return value
        return UNKNOWN


@dataclass(slots=True)
class Pickle:
    """What was seen of one pickle, up to its STOP or up to where it broke."""

    value: object = UNKNOWN
    """What would be loaded, in stand-ins; UNKNOWN where it broke."""
    globals: dict[Global, None] = field(default_factory=dict)
    """All that would be imported, in order."""
    called: bool = False
    """Whether anything that is imported would be called as well."""
    uncertain: dict[str, None] = field(default_factory=dict)
    """What would run, but could not be followed: a computed name, a call of a computed value."""
    nested: list[Content] = field(default_factory=list)
    """Bytes in it that look like a pickle or an archive, or that are loaded as one."""
    broken: str = ""
    limit: str = ""

    @property
    def ended(self) -> bool:
        """Whether it was followed to its STOP."""
        return not self.broken and not self.limit
