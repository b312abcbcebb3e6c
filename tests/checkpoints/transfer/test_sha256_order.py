from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.paths import parse_path
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.protocol import Block, BytesBody, ObjectInfo
from flexai.checkpoints.transfer.crew import Crew, StoppedError
from flexai.checkpoints.transfer.digest import Part, parts_of
from flexai.checkpoints.transfer.sha256_order import WholeSource, open_whole
from flexai.checkpoints.transfer.sources import ObjectSource

CONTENT = random.Random(3).randbytes(100_000)


class Bytes:
    """An open source of some bytes, in blocks from a buffer that is used again."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.closed = False

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        buffer = bytearray(1000)
        for position in range(start, start + length, len(buffer)):
            piece = self.content[position : min(position + len(buffer), start + length)]
            buffer[: len(piece)] = piece
            yield memoryview(buffer)[: len(piece)]
            buffer[: len(piece)] = bytes(len(piece))

    def check(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def never() -> None:
    pytest.fail("nothing to wait for")


def whole(content: bytes, expected: bytes = CONTENT, check: Callable[[], None] = never) -> WholeSource:
    return WholeSource(
        Bytes(content),
        size=len(expected),
        sha256=hashlib.sha256(expected).hexdigest(),
        name="model.bin",
        check=check,
    )


def exhaust(source: WholeSource, part: Part) -> bytes:
    return b"".join(bytes(block) for block in source.blocks(part.offset, part.size))


def test_parts_in_order_are_compared_without_being_kept() -> None:
    source = whole(CONTENT)
    for part in parts_of(len(CONTENT), 30_000):
        assert exhaust(source, part) == CONTENT[part.offset : part.offset + part.size]
        assert not source._readings[part.offset].kept
        source.settle(part.offset)


@pytest.mark.parametrize("position", [0, 29_999, 30_000, 99_999])
def test_a_changed_byte_anywhere_is_noticed_when_the_last_part_arrives(position: int) -> None:
    damaged = CONTENT[:position] + bytes([CONTENT[position] ^ 1]) + CONTENT[position + 1 :]
    source = whole(damaged)
    *parts, last = parts_of(len(CONTENT), 30_000)
    for part in parts:
        exhaust(source, part)
        source.settle(part.offset)
    exhaust(source, last)
    with pytest.raises(IntegrityError, match=r"model\.bin"):
        source.settle(last.offset)


def test_a_part_may_be_read_again_before_it_arrives() -> None:
    source = whole(CONTENT)
    first, second = parts_of(len(CONTENT), 50_000)
    for part in (second, first, second, first):
        exhaust(source, part)
        half = source.blocks(part.offset, part.size)
        next(half)
    for part in (second, first):
        exhaust(source, part)
    source.settle(first.offset)
    source.settle(second.offset)


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 8])
def test_threads_that_read_parts_in_any_order_agree_on_the_whole(threads: int, damaged: bool) -> None:
    crew = Crew(threads)
    source = whole(CONTENT[:-1] + b"!" if damaged else CONTENT, check=crew.check)

    def work(part: Part) -> None:
        exhaust(source, part)
        source.settle(part.offset)

    for part in reversed(parts_of(len(CONTENT), 3_000)):
        crew.add(partial(work, part), next_up=True)
    if damaged:
        with pytest.raises(IntegrityError):
            crew.run()
    else:
        crew.run()
        assert source._readings == {}


def test_who_waits_for_a_part_that_failed_is_told() -> None:
    crew = Crew(2)
    source = whole(CONTENT, check=crew.check)
    is_waiting = threading.Event()
    first, second = parts_of(len(CONTENT), 50_000)

    def fail() -> None:
        assert is_waiting.wait(timeout=30)
        raise RuntimeError("broken")

    def wait() -> None:
        exhaust(source, second)
        is_waiting.set()
        with pytest.raises(StoppedError):
            source.settle(second.offset)
        raise StoppedError

    crew.add(fail)
    crew.add(wait)
    with pytest.raises(RuntimeError, match="broken"):
        crew.run()
    assert first.offset not in source._readings


def test_a_part_far_ahead_of_its_turn_is_not_read_before_others_are_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flexai.checkpoints.transfer.sha256_order._AHEAD", 40_000)
    crew = Crew(4)
    source = whole(CONTENT, check=crew.check)
    kept: list[int] = []

    def work(part: Part) -> None:
        exhaust(source, part)
        kept.append(sum(len(reading.kept) for reading in source._readings.values()))
        source.settle(part.offset)

    for part in reversed(parts_of(len(CONTENT), 10_000)):
        crew.add(partial(work, part), next_up=True)
    crew.run()
    assert max(kept) <= 50_000


@settings(max_examples=50)
@given(st.binary(min_size=1, max_size=500), st.integers(1, 100), st.randoms(use_true_random=False))
def test_the_order_of_reading_does_not_matter(content: bytes, part_size: int, order: random.Random) -> None:
    source = whole(content, content)
    parts = list(parts_of(len(content), part_size))
    shuffled = order.sample(parts, len(parts))
    for part in shuffled:
        exhaust(source, part)
    for part in parts:
        source.settle(part.offset)


def test_only_objects_whose_provider_keeps_a_sha256_are_compared(tmp_path_factory: pytest.TempPathFactory) -> None:
    storage = LocalStorage(tmp_path_factory.mktemp("bucket"))
    plain = storage.put("file", BytesBody(CONTENT))
    path = parse_path("file")

    def opened(size: int, checksums: dict[str, str] | None) -> object:
        info = ObjectInfo(key="file", size=size, etag=plain.etag, checksums=checksums)
        return open_whole(ObjectSource(path=path, storage=storage, info=info), never)

    sha256 = hashlib.sha256(CONTENT).hexdigest()
    source = opened(len(CONTENT), {"sha256": sha256})
    assert isinstance(source, WholeSource)
    (part,) = parts_of(len(CONTENT), len(CONTENT))
    assert exhaust(source, part) == CONTENT
    source.settle(0)
    source.check()
    source.close()
    for checksums in (None, {}, {"crc32c": "00000000"}):
        assert not isinstance(opened(len(CONTENT), checksums), WholeSource)
    assert not isinstance(opened(0, {"sha256": sha256}), WholeSource)
