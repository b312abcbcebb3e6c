"""What a job wrote beside its checkpoints, such as logs and tables: stored with the job when an attempt ends.

Each attempt's files are one archive in the managed store, and so are those of a directory that the user named, which
attempts share. An archive is a tar file of plain files. It is read by a reader of our own, because what lies in a store
may be anything: that of the standard library takes as much memory as a header asks for.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.errors import (
    DestinationExistsError,
    IntegrityError,
    NotFoundError,
    SourceChangedError,
    UnsafePathError,
)
from flexai.checkpoints.names import Id, some
from flexai.checkpoints.own_folders import OwnFolders
from flexai.checkpoints.paths import is_path, parse_path
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.beneath import Beneath
from flexai.checkpoints.storage.files import read_blocks
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.training.job_files import AttemptPlaces

MAX_REST = 1024**3
"""Bytes of an attempt's files that are stored."""
_MAX_FILES = 50_000
_BLOCK = 512
_WINDOW = 256 * 1024
"""Bytes that are read at once where headers are looked for."""
_MAX_NAME = 64 * 1024


class RestFile(NamedTuple):
    """A file that a job wrote beside its checkpoints."""

    archive: str
    """``attempt-2``, or ``output`` for the directory that the user named."""
    path: str
    size: int
    """Bytes."""
    start: int
    """Where in the archive its content begins."""

    @property
    def place(self) -> str:
        """Its path below the directory that the files are fetched to."""
        return f"{self.archive}/{self.path}"


def store_rest(
    system: System,
    job_id: Id,
    places: AttemptPlaces,
    paths: Sequence[str],
    *,
    tell: Callable[[str], None],
    check: Callable[[], None] = lambda: None,
) -> None:
    """Store files of an attempt's output directory, as they are now; ``tell`` is told what is left out.

    That is kept on this machine: it is moved out of a directory of ours, which is removed.

    ``check`` is called on the way, and ends the storing by what it raises. Raises what the store raises, and OSError
    where the directory cannot be read.
    """
    tree = Beneath(places.output)
    members: list[_Member] = []
    left_out: list[str] = []
    room = MAX_REST
    for path in paths:
        status = _status(tree, path)
        if status is None or not stat.S_ISREG(status.st_mode):
            continue
        if status.st_size > room or len(members) >= _MAX_FILES or not is_path(path):
            left_out.append(path)
            continue
        room -= status.st_size
        members.append(_Member(path, status.st_size, int(status.st_mtime)))
    if left_out:
        shown = some([repr(path) for path in left_out])
        # A folder of ours goes with the attempt, and with it a checkpoint whose name no other file system could hold.
        fate = "" if places.is_users_output else f"; kept in {places.set_aside(left_out)}"
        tell(f"not stored with the job, which takes {human_size(MAX_REST)} beside its checkpoints: {shown}{fate}")
    if members:
        name = "output" if places.is_users_output else places.folder.name
        system.store.write_files(job_id, name, _Archive(tree, members, check))


def list_rest(system: System, job_id: Id) -> list[RestFile]:
    """The files that were stored with a job, in order of attempts; IntegrityError for a damaged archive."""
    found = sorted(system.store.list_files(job_id), key=lambda archive: (len(archive[0]), archive[0]))
    return [file for name, size in found for file in read_archive(system.store, job_id, name, size)]


def fetch_rest(
    system: System, job_id: Id, files: Sequence[RestFile], destination: Path, *, overwrite: bool = False
) -> int:
    """Bring files of a job below a directory, and return how many had to be written.

    Raises DestinationExistsError where other content is in the place of one, unless ``overwrite``; then nothing was
    written. UnsafePathError for a link in the way, UsageError for the home folder and for one in the managed store.
    """
    target = LocalStorage(destination)
    OwnFolders.of(system.settings).check("the destination", target.root, may_hold=True)
    wanted = [file for file in files if not _is_there(system.store, job_id, file, target, overwrite=overwrite)]
    for file in wanted:
        target.put(file.place, _Content(partial(system.store.read_files, job_id, file.archive, file.start), file.size))
    return len(wanted)


class _Member(NamedTuple):
    path: str
    size: int
    written: int

    @property
    def header(self) -> bytes:
        info = tarfile.TarInfo(self.path)
        info.size, info.mtime, info.mode = self.size, max(0, self.written), 0o600
        return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


class _Archive:
    """A tar file as it is stored; what changes while it is read is taken as it is, in its first length."""

    def __init__(self, tree: Beneath, members: Sequence[_Member], check: Callable[[], None]) -> None:
        self._tree = tree
        self._check = check
        self._members = members
        self.size = sum(len(one.header) + one.size + -one.size % _BLOCK for one in members) + 2 * _BLOCK

    def blocks(self) -> Iterator[Block]:
        """Yield the archive from its start."""
        for one in self._members:
            self._check()
            yield memoryview(one.header)
            left = one.size
            for block in self._content(one):
                self._check()
                yield block
                left -= len(block)
            yield from _zeros(left + -one.size % _BLOCK)
        yield from _zeros(2 * _BLOCK)

    def _content(self, member: _Member) -> Iterator[Block]:
        try:
            folder, name = self._tree.at(member.path)
            with os.fdopen(folder.open(name, os.O_RDONLY), "rb", buffering=0) as file:
                yield from read_blocks(file.fileno(), 0, min(member.size, os.fstat(file.fileno()).st_size))
        except (OSError, EOFError):
            return  # gone, or cut off: its end is zeros


class _Content:
    """A range of an archive."""

    def __init__(self, read: Callable[[int], Iterator[Block]], size: int) -> None:
        self._read = read
        self.size = size

    def blocks(self) -> Iterator[Block]:
        return self._read(self.size)


def _zeros(count: int) -> Iterator[Block]:
    while count > 0:
        yield memoryview(bytes(min(count, _WINDOW)))
        count -= _WINDOW


def _status(tree: Beneath, path: str) -> os.stat_result | None:
    try:
        folder, name = tree.at(path)
        return folder.status(name)
    except OSError:
        return None


def read_archive(store: ManagedStore, job_id: Id, name: str, size: int) -> Iterator[RestFile]:
    """Yield the files of an archive of ``size`` bytes; IntegrityError where it is none of ours."""
    damaged = IntegrityError(f"the files {name!r} of training job {job_id} are damaged in the store")
    if size > MAX_REST + _MAX_FILES * (2 * _BLOCK + _MAX_NAME):
        raise damaged
    window, window_at = b"", 0

    def read(start: int, length: int) -> bytes:
        nonlocal window, window_at
        if start + length > size:
            raise damaged
        if not window_at <= start <= start + length <= window_at + len(window):
            window_at = start
            blocks = store.read_files(job_id, name, start, min(max(length, _WINDOW), size - start))
            window = b"".join(map(bytes, blocks))
        return window[start - window_at : start - window_at + length]

    at, long_name = 0, ""
    for _ in range(2 * _MAX_FILES + 1):
        header = read(at, _BLOCK)
        if not any(header):
            return
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "replace")
        except (tarfile.HeaderError, ValueError) as error:
            raise damaged from error
        at += _BLOCK
        if info.size < 0 or at + info.size > size:
            raise damaged
        if info.type == tarfile.GNUTYPE_LONGNAME and info.size <= _MAX_NAME:
            long_name = read(at, info.size).rstrip(b"\0").decode("utf-8", "replace")
        elif info.type == tarfile.REGTYPE:
            try:
                path = parse_path(long_name or info.name)
            except UnsafePathError as error:
                raise damaged from error
            yield RestFile(name, path, info.size, at)
            long_name = ""
        else:
            raise damaged
        at += info.size + -info.size % _BLOCK
    raise damaged


def _is_there(store: ManagedStore, job_id: Id, file: RestFile, target: LocalStorage, *, overwrite: bool) -> bool:
    try:
        is_alike = target.head(file.place).size == file.size and _same(
            target.get(file.place), store.read_files(job_id, file.archive, file.start, file.size)
        )
    except NotFoundError:
        return False
    except SourceChangedError:
        is_alike = False
    if not is_alike and not overwrite:
        raise DestinationExistsError(f"{target.root / file.place} is there with other content")
    return is_alike


def _same(one: Iterator[Block], other: Iterator[Block]) -> bool:
    ours = theirs = b""
    while True:
        ours = ours or bytes(next(one, b""))
        theirs = theirs or bytes(next(other, b""))
        length = min(len(ours), len(theirs))
        if ours[:length] != theirs[:length] or not length:
            return ours == theirs
        ours, theirs = ours[length:], theirs[length:]
