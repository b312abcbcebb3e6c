"""What a parser of foreign data is, and the tables that each room of them has."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from flexai.checkpoints.errors import CheckpointError

Kinds: TypeAlias = tuple[type[Exception], ...]
Reading: TypeAlias = Callable[[], object]


@dataclass(frozen=True)
class Parser:
    """One parser."""

    readings: Callable[[bytes], Sequence[Reading]]
    """The ways in which an input is read, each to its end."""
    seeds: Callable[[], Sequence[bytes]]
    """Real inputs."""
    tokens: tuple[bytes, ...] = ()
    """Words of the format, for inputs that are nearly right."""
    allowed: Kinds = (CheckpointError,)
    """What it may raise."""
    mend: Callable[[bytes], bytes] = bytes
    """Makes an input fit its own digest again, so that what lies behind the comparison is reached as well."""

    def read(self, data: bytes) -> object:
        """Read an input in one of the ways, the same one each time, so that a kept input fails again.

        Many inputs meet all of them, at the cost of one.
        """
        readings = self.readings(data)
        return readings[zlib.crc32(data) % len(readings)]()


class Table(dict[str, Parser]):
    """Parsers by their names, each entered by a decorator of the function that reads an input."""

    def add(
        self,
        name: str,
        seeds: Callable[[], Sequence[bytes]],
        *tokens: bytes,
        allowed: Kinds = (CheckpointError,),
        mend: Callable[[bytes], bytes] = bytes,
    ) -> Callable[[Callable[[bytes], object]], Callable[[bytes], object]]:
        """A parser that reads inputs in one way."""

        def enter(read: Callable[[bytes], object]) -> Callable[[bytes], object]:
            self[name] = Parser(lambda data: [partial(read, data)], seeds, tokens, allowed, mend)
            return read

        return enter

    def add_several(
        self, name: str, seeds: Callable[[], Sequence[bytes]], *tokens: bytes, allowed: Kinds = (CheckpointError,)
    ) -> Callable[[Callable[[bytes], Sequence[Reading]]], Callable[[bytes], Sequence[Reading]]]:
        """A parser that reads inputs in several ways, of which each input meets one."""

        def enter(readings: Callable[[bytes], Sequence[Reading]]) -> Callable[[bytes], Sequence[Reading]]:
            self[name] = Parser(readings, seeds, tokens, allowed)
            return readings

        return enter
