"""Reading and writing open files in blocks, with their holes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexai.checkpoints.storage.files import (
    is_hole,
    make_directories,
    read_blocks,
    sync_data,
    sync_directory,
    write_block,
    write_blocks,
)
from flexai.checkpoints.storage.protocol import BLOCK_SIZE, ZERO_BLOCK, Block

KIB = 1024


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _write_islands(descriptor: int, size: int, islands: list[tuple[int, int]]) -> bytes:
    """Make a sparse file with data at some (start, length) places; returns what a reader should see."""
    os.ftruncate(descriptor, 0)
    os.ftruncate(descriptor, size)
    content = bytearray(size)
    for start, length in islands:
        data = os.urandom(max(0, min(length, size - start)))
        os.pwrite(descriptor, data, start)
        content[start : start + len(data)] = data
    return bytes(content)


_ISLANDS = st.lists(st.tuples(st.integers(0, 3000 * KIB), st.integers(1, 1200 * KIB)), max_size=4)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(islands=_ISLANDS, size=st.integers(0, 3000 * KIB), start=st.integers(0, 3000 * KIB), data=st.data())
def test_any_range_of_any_sparse_file_is_read_as_it_is(
    tmp_path: Path, islands: list[tuple[int, int]], size: int, start: int, data: st.DataObject
) -> None:
    start = min(start, size)
    length = data.draw(st.integers(0, size - start))
    with _opened(tmp_path / "file") as descriptor:
        content = _write_islands(descriptor, size, islands)
        read = b"".join(bytes(block) for block in read_blocks(descriptor, start, length))
    assert read == content[start : start + length]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(islands=_ISLANDS, size=st.integers(1, 3000 * KIB))
def test_a_copy_of_any_sparse_file_is_the_same_and_keeps_whole_holes(
    tmp_path: Path, islands: list[tuple[int, int]], size: int
) -> None:
    with _opened(tmp_path / "source") as source, _opened(tmp_path / "copy") as copy:
        content = _write_islands(source, size, islands)
        os.ftruncate(copy, 0)
        os.ftruncate(copy, size)
        assert is_hole(copy, 0, size)
        assert write_blocks(copy, 0, read_blocks(source, 0, size), keep_holes=True) == size
    assert (tmp_path / "copy").read_bytes() == content
    if not islands and size >= 256 * KIB:  # smaller holes are not worth looking for
        assert (tmp_path / "copy").stat().st_blocks == 0


def test_blocks_of_a_hole_are_the_zero_block(tmp_path: Path) -> None:
    with _opened(tmp_path / "file") as descriptor:
        os.ftruncate(descriptor, 2 * BLOCK_SIZE + 5)
        blocks = list(read_blocks(descriptor, 0, 2 * BLOCK_SIZE + 5))
    assert [len(block) for block in blocks] == [BLOCK_SIZE, BLOCK_SIZE, 5]
    assert all(block.obj is ZERO_BLOCK.obj for block in blocks)


def test_blocks_of_data_are_as_large_as_they_may_be(tmp_path: Path) -> None:
    with _opened(tmp_path / "file") as descriptor:
        os.pwrite(descriptor, os.urandom(2 * BLOCK_SIZE + 5), 0)
        assert [len(block) for block in read_blocks(descriptor, 0, 2 * BLOCK_SIZE + 5)] == [BLOCK_SIZE, BLOCK_SIZE, 5]


def test_no_hole_is_looked_for_in_a_file_that_has_room_for_every_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise AssertionError("a search walks through all pages of a file in memory")

    with _opened(tmp_path / "file") as descriptor:
        os.pwrite(descriptor, os.urandom(BLOCK_SIZE), 0)
        os.fsync(descriptor)  # some file systems give room to what they write when they write it
        monkeypatch.setattr(os, "lseek", refuse)
        assert [len(block) for block in read_blocks(descriptor, 0, BLOCK_SIZE)] == [BLOCK_SIZE]


def test_a_file_that_ends_too_early_says_where(tmp_path: Path) -> None:
    with _opened(tmp_path / "file") as descriptor:
        os.pwrite(descriptor, b"12345", 0)
        with pytest.raises(EOFError, match="byte 5, 3 bytes too early"):
            list(read_blocks(descriptor, 2, 6))


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    with _opened(tmp_path / "file") as descriptor:
        os.pwrite(descriptor, os.urandom(3 * BLOCK_SIZE), 0)
        blocks = read_blocks(descriptor, 0, 3 * BLOCK_SIZE)
        next(blocks)
        os.ftruncate(descriptor, BLOCK_SIZE)
        with pytest.raises(EOFError):
            list(blocks)


def test_reading_leaves_the_position_of_the_file_alone(tmp_path: Path) -> None:
    with _opened(tmp_path / "file") as descriptor:
        os.write(descriptor, b"0123456789")
        os.lseek(descriptor, 4, os.SEEK_SET)
        assert [bytes(block) for block in read_blocks(descriptor, 1, 3)] == [b"123"]


def test_holes_are_written_where_something_may_lie(tmp_path: Path) -> None:
    with _opened(tmp_path / "file") as descriptor:
        os.pwrite(descriptor, b"x" * 100, 0)
        assert not is_hole(descriptor, 0, 100)
        assert write_blocks(descriptor, 10, iter([ZERO_BLOCK[:20]]), keep_holes=False) == 20
        assert os.pread(descriptor, 100, 0) == b"x" * 10 + bytes(20) + b"x" * 70


def test_zeros_that_are_data_are_written_even_where_holes_are_kept(tmp_path: Path) -> None:
    zeros: Block = memoryview(bytes(BLOCK_SIZE))
    with _opened(tmp_path / "file") as descriptor:
        os.pwrite(descriptor, b"x" * BLOCK_SIZE, 0)
        write_block(descriptor, 0, zeros, keep_hole=True)
        assert os.pread(descriptor, BLOCK_SIZE, 0) == bytes(BLOCK_SIZE)


def test_a_range_with_any_data_is_no_hole(tmp_path: Path) -> None:
    with _opened(tmp_path / "file") as descriptor:
        os.ftruncate(descriptor, 4 * BLOCK_SIZE)
        os.pwrite(descriptor, b"x", 2 * BLOCK_SIZE)
        assert is_hole(descriptor, 0, BLOCK_SIZE)
        assert not is_hole(descriptor, BLOCK_SIZE, 2 * BLOCK_SIZE)
        assert is_hole(descriptor, 3 * BLOCK_SIZE, BLOCK_SIZE)


def test_directories_are_made_with_their_parents_and_may_be_there(tmp_path: Path) -> None:
    make_directories(tmp_path / "a" / "b" / "c", private=True)
    make_directories(tmp_path / "a" / "b" / "c", private=True)
    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700


def test_a_file_in_the_way_of_a_directory_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        make_directories(tmp_path / "file" / "folder")


def test_syncing_takes_files_and_directories(tmp_path: Path) -> None:
    sync_directory(tmp_path)
    with _opened(tmp_path / "file") as descriptor:
        os.write(descriptor, b"x")
        sync_data(descriptor)
    with pytest.raises(NotADirectoryError):
        sync_directory(tmp_path / "file")


def test_a_block_is_written_in_pieces_for_which_the_kernel_needs_no_large_ones_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    write = os.pwrite

    def counting(descriptor: int, data: Block, position: int) -> int:
        sizes.append(len(data))
        return write(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", counting)
    content = os.urandom(BLOCK_SIZE)
    with (tmp_path / "file").open("wb") as file:
        write_blocks(file.fileno(), 0, iter([memoryview(content)]), keep_holes=False)
    assert sizes == [512 * 1024] * (BLOCK_SIZE // (512 * 1024))
    assert (tmp_path / "file").read_bytes() == content
