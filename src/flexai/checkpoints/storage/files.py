"""Reading and writing open files in blocks, holes included."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from flexai.checkpoints.private_folders import make_private_folder
from flexai.checkpoints.storage.protocol import BLOCK_SIZE, ZERO_BLOCK, Block

_SMALLEST_HOLE = 256 * 1024
"""Bytes below which to look for a hole costs more than to read it."""
_WRITE_SIZE = 512 * 1024
"""Bytes of one write. For more, Linux takes room for them in pieces as large (ext4, xfs), and the large ones that are
free in a virtual machine are those it has given back to its host: to get them again takes longer than to write
(measured: docs/performance.md)."""
_BLOCK_UNIT = 512
"""Bytes that ``st_blocks`` counts by, whatever the file system's own blocks: stat(2)."""


def read_blocks(descriptor: int, start: int, length: int) -> Iterator[Block]:
    """Yield ``length`` bytes of an open file from ``start`` without moving its position.

    Holes of a sparse file are not read: slices of ``ZERO_BLOCK`` stand for them. Raises EOFError where the file
    ends too early.
    """
    buffer = bytearray(min(BLOCK_SIZE, length))
    view = memoryview(buffer)
    position, end = start, start + length
    data_begins, data_ends = start, start
    while position < end:
        if position >= data_ends:
            data_begins, data_ends = _next_data(descriptor, position, end)
        if position < data_begins:
            hole = min(data_begins - position, BLOCK_SIZE)
            yield ZERO_BLOCK[:hole]
            position += hole
            continue
        wanted = min(BLOCK_SIZE, data_ends - position)
        got = os.preadv(descriptor, [view[:wanted]], position)
        if got == 0:
            raise EOFError(f"the file ends at byte {position}, {end - position} bytes too early")
        yield view[:got]
        position += got


def allocated_bytes(status: os.stat_result) -> int:
    """Bytes that a file takes on its disk, without its holes."""
    return status.st_blocks * _BLOCK_UNIT


def free_space(folder: Path) -> int | None:
    """Bytes that this user can yet write where a folder is, or is to be; None where the file system does not say.

    Raises OSError.
    """
    nearest = next(path for path in (folder, *folder.parents) if path.is_dir())
    found = os.statvfs(nearest)
    return found.f_bavail * found.f_frsize if found.f_blocks else None


def _next_data(descriptor: int, position: int, end: int) -> tuple[int, int]:
    """Where the next data begins and ends, at or after ``position``; all is data where holes are unknown."""
    if end - position < _SMALLEST_HOLE:
        return position, end
    status = os.fstat(descriptor)
    # Where every byte has its room on the disk there is no hole. Looking for one walks through all pages in memory on
    # some file systems (tmpfs), which took a sixth of a push's processor time.
    if status.st_size < end or allocated_bytes(status) >= status.st_size:
        return position, end
    try:
        begins = os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        # ENXIO: only a hole follows. Anything else: this file system does not tell.
        return (end, end) if error.errno == errno.ENXIO else (position, end)
    if begins >= end:
        return end, end
    return begins, min(os.lseek(descriptor, begins, os.SEEK_HOLE), end)


def write_blocks(
    descriptor: int,
    start: int,
    blocks: Iterator[Block],
    *,
    keep_holes: bool,
    turn: AbstractContextManager[object] | None = None,
) -> int:
    """Write blocks from ``start`` on and return how many bytes that was.

    With ``keep_holes`` nothing is written for a hole: the caller knows that the file reads as zeros there. Of many
    threads that write to one file, each takes its ``turn``: the kernel lets one write at a time, and the others would
    wait for it on the processor.
    """
    position = start
    turn = turn or contextlib.nullcontext()
    for block in blocks:
        with turn:
            write_block(descriptor, position, block, keep_hole=keep_holes)
        position += len(block)
    return position - start


def write_block(descriptor: int, position: int, block: Block, *, keep_hole: bool) -> None:
    """Write one block; with ``keep_hole`` nothing is written for a hole."""
    if keep_hole and block.obj is ZERO_BLOCK.obj:
        return
    while block:
        written = os.pwrite(descriptor, block[:_WRITE_SIZE], position)
        position += written
        block = block[written:]


def is_hole(descriptor: int, start: int, length: int) -> bool:
    """Whether a range of an open file holds no data, so that it reads as zeros."""
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA) >= start + length
    except OSError as error:
        return error.errno == errno.ENXIO


def sync_directory(path: Path | str, *, dir_fd: int | None = None) -> None:
    """Make the names in a directory durable, where the file system can; ``dir_fd`` is where the path begins."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems cannot sync a directory (fsync(2): EINVAL, EROFS).
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EROFS}:
            raise
    finally:
        os.close(descriptor)


def make_directories(path: Path, *, private: bool = False) -> None:
    """Make a directory and its missing parents, durably; ``private`` ones are their owner's alone under any umask."""
    if path.is_dir():
        return
    make_directories(path.parent, private=private)
    if private:
        make_private_folder(path)
    else:
        with contextlib.suppress(FileExistsError):
            path.mkdir()
    sync_directory(path.parent)


def sync_data(descriptor: int) -> None:
    """Make the content of an open file durable."""
    # macOS has no fdatasync.
    getattr(os, "fdatasync", os.fsync)(descriptor)


def set_executable(descriptor: int, is_executable: bool) -> None:
    """Let all who may read a file execute it, or no user at all, where the file system can say so."""
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if bool(mode & stat.S_IXUSR) is not is_executable:
        with contextlib.suppress(PermissionError):
            os.fchmod(descriptor, mode | (mode & 0o444) >> 2 if is_executable else mode & ~0o111)
