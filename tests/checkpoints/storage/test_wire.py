"""How what arrives at a socket is read."""

from __future__ import annotations

import os
import signal
import ssl
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from flexai.checkpoints.storage import wire

RECORD = 16 * 1024
"""Bytes that TLS hands over at a time."""


@dataclass
class Records:
    """A connection of TLS: each read takes from one record, of so many bytes; it waits for those that are late."""

    sizes: Sequence[int]
    late: Collection[int] = ()
    """Which records, from 0, have not come when they are first asked for."""
    timeout: float | None = 60.0
    reads: int = 0
    waits: int = 0

    def gettimeout(self) -> float | None:
        return self.timeout

    def settimeout(self, seconds: float | None) -> None:
        self.timeout = seconds

    def read(self, size: int, buffer: Any) -> int:
        if self.reads in self.late:
            if self.timeout == 0:
                raise ssl.SSLWantReadError
            self.waits += 1
        count = min(self.sizes[self.reads] if self.reads < len(self.sizes) else 0, size)
        buffer[:count] = bytes([self.reads + 1]) * count
        self.reads += 1
        return count


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


@pytest.mark.parametrize("timeout", [60.0, None])
def test_records_that_have_not_come_are_waited_for_by_themselves(timeout: float | None) -> None:
    # So that they are judged by the least rate that a server has to keep, and no other thread waits.
    tls = Records([RECORD] * 6, late={0, 2, 3}, timeout=timeout)
    room = bytearray(10 * RECORD)
    assert [wire._read_records(tls, room) for _ in range(4)] == [2 * RECORD, RECORD, 3 * RECORD, 0]
    assert tls.waits == 3
    assert tls.timeout == timeout


def test_a_forked_process_reads_though_all_threads_of_its_parent_were_reading() -> None:
    taken = 0
    while wire._readers.turns.acquire(blocking=False):
        taken += 1
    try:
        child = os.fork()
        if not child:
            signal.alarm(60)
            os._exit(wire._read_records(Records([RECORD] * 2), bytearray(2 * RECORD)) != 2 * RECORD)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        wire._readers.turns.release(taken)


def test_what_goes_wrong_among_records_that_have_come_lets_other_threads_read() -> None:
    class Broken(Records):
        def read(self, size: int, buffer: Any) -> int:
            if self.reads:
                raise ssl.SSLError("bad record")
            return super().read(size, buffer)

    for _ in range(100):
        tls = Broken([RECORD] * 2)
        with pytest.raises(ssl.SSLError, match="bad record"):
            wire._read_records(tls, bytearray(10 * RECORD))
        assert tls.timeout == 60.0
    assert wire._read_records(Records([RECORD] * 2), bytearray(10 * RECORD)) == 2 * RECORD
