"""How what arrives at a socket is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from flexai.checkpoints.storage import wire

RECORD = 16 * 1024
"""Bytes that TLS hands over at a time."""


@dataclass
class Clock:
    """Stands in for the module ``time``."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Records:
    """A connection of TLS: each read takes from one record, after so many seconds."""

    sizes: Sequence[int]
    clock: Clock = field(default_factory=Clock)
    seconds: float = 0.0
    reads: int = 0

    def read(self, size: int, buffer: Any) -> int:
        self.clock.now += self.seconds
        count = min(self.sizes[self.reads] if self.reads < len(self.sizes) else 0, size)
        buffer[:count] = bytes([self.reads + 1]) * count
        self.reads += 1
        return count


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(wire, "time", clock)
    return clock


def test_a_buffer_for_content_is_filled_by_one_call() -> None:
    room, tls = bytearray(10 * RECORD), Records([RECORD] * 10)
    assert wire._read_records(tls, room) == len(room)
    assert room == b"".join(bytes([number]) * RECORD for number in range(1, 11))
    assert tls.reads == 10


def test_a_small_buffer_waits_for_nothing_beyond_what_is_there() -> None:
    tls = Records([100, RECORD])
    assert wire._read_records(tls, bytearray(8 * 1024)) == 100
    assert tls.reads == 1


def test_content_that_ends_early_is_handed_over() -> None:
    tls = Records([RECORD, 5])
    assert wire._read_records(tls, bytearray(10 * RECORD)) == RECORD + 5
    assert wire._read_records(tls, bytearray(10 * RECORD)) == 0


def test_records_that_come_slowly_are_handed_over_one_by_one(clock: Clock) -> None:
    # So that they are judged by the least rate that a server has to keep.
    tls = Records([RECORD] * 10, clock, seconds=1.0)
    room = bytearray(10 * RECORD)
    assert [wire._read_records(tls, room) for _ in range(2)] == [RECORD, RECORD]
