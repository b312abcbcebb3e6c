"""A directory as an object store."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import struct
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    IntegrityError,
    NotFoundError,
    SourceChangedError,
    StorageError,
    UnsafePathError,
)
from flexai.checkpoints.storage.files import (
    is_hole,
    make_directories,
    read_blocks,
    sync_data,
    sync_directory,
    write_blocks,
)
from flexai.checkpoints.storage.protocol import (
    Block,
    Body,
    ObjectInfo,
    ObjectStorage,
    PartReceipt,
    UnfinishedUpload,
)

PARTIAL_SUFFIX = ".flexai-partial"
"""Ends the name of a file that is still being written: ``.NAME.ID.flexai-partial`` beside its final name."""

_FOLDER_ATTEMPTS = 10
_FICLONERANGE = 0x4020940D
"""Linux's ioctl to share a range of blocks between two files (man 2 ioctl_ficlonerange)."""


class LocalStorage:
    """Objects as files below a root directory.

    A file gets its name only when it is whole and durable. Symbolic links below the root are never followed.
    """

    max_parts = 1_000_000
    min_part_size = 1

    def __init__(self, root: Path, *, private: bool = False) -> None:
        """Use ``root``, made on the first write; ``private`` makes new directories and files the owner's alone."""
        self.root = root.expanduser().absolute()
        self._directory_mode, self._file_mode = (0o700, 0o600) if private else (0o777, 0o666)

    @property
    def location(self) -> str:
        """The root directory."""
        return str(self.root)

    @property
    def service_identity(self) -> str:
        """All directories of a machine can copy to each other."""
        return "local"

    def put(self, key: str, body: Body) -> ObjectInfo:
        """Store an object: written beside its name, made durable, renamed."""
        upload_id = self.start_upload(key, size=body.size)
        try:
            self.put_part(key, upload_id, number=1, offset=0, body=body)
            return self.complete_upload(key, upload_id, ())
        except BaseException:
            self.abort_upload(key, upload_id)
            raise

    def get(self, key: str, *, start: int = 0, length: int | None = None, etag: str = "") -> Iterator[Block]:
        """Yield a range of an object."""
        path = self._path(key)
        with self._errors(path), _opened(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise NotFoundError(f"there is no object {key!r} in {self.location}")
            if etag and _etag(status) != etag:
                raise SourceChangedError(f"{path} changed while it was read")
            wanted = status.st_size - start if length is None else length
            if start + wanted > status.st_size:
                raise IntegrityError(f"{path} is shorter than recorded: {status.st_size} bytes")
            try:
                yield from read_blocks(descriptor, start, wanted)
            except EOFError as error:
                raise SourceChangedError(f"{path} changed while it was read: {error}") from error

    def head(self, key: str) -> ObjectInfo:
        """Describe an object."""
        path = self._path(key)
        with self._errors(path):
            status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise NotFoundError(f"there is no object {key!r} in {self.location}")
        return ObjectInfo(key=key, size=status.st_size, etag=_etag(status))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys begin with the prefix, in order of keys."""
        for key, path in self._walk(prefix):
            if path.name.endswith(PARTIAL_SUFFIX):
                continue
            with self._errors(path):
                try:
                    status = path.lstat()
                except FileNotFoundError:
                    continue
            if stat.S_ISLNK(status.st_mode):
                raise UnsafePathError(
                    f"{path} is a symbolic link", hint="replace the link by the file or folder that it means"
                )
            if stat.S_ISREG(status.st_mode):
                yield ObjectInfo(key=key, size=status.st_size, etag=_etag(status))

    def copy(self, source: ObjectStorage, source_key: str, key: str, *, etag: str = "") -> ObjectInfo:
        """Copy a file, sharing its blocks where the file system can."""
        if not isinstance(source, LocalStorage):
            raise StorageError(f"cannot copy from {source.location} to {self.location} directly")
        path = source._path(source_key)
        with source._errors(path), _opened(path, os.O_RDONLY | os.O_NOFOLLOW) as descriptor:
            status = os.fstat(descriptor)
            if etag and _etag(status) != etag:
                raise SourceChangedError(f"{path} changed before it was copied")
            upload_id = self.start_upload(key, size=status.st_size)
            try:
                if not self.clone_part(key, upload_id, offset=0, descriptor=descriptor, start=0, length=status.st_size):
                    self.put_part(key, upload_id, number=1, offset=0, body=_FileRange(descriptor, status.st_size))
                return self.complete_upload(key, upload_id, ())
            except BaseException:
                self.abort_upload(key, upload_id)
                raise

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, and the folders that this leaves empty."""
        for key in keys:
            path = self._path(key)
            with self._errors(path), contextlib.suppress(FileNotFoundError):
                path.unlink()
            self._remove_empty_parents(path)

    def start_upload(self, key: str, *, size: int) -> str:
        """Begin an object of ``size`` bytes beside its final name."""
        path = self._path(key)
        upload_id = uuid.uuid4().hex
        with self._errors(path):
            for attempt in range(_FOLDER_ATTEMPTS):
                make_directories(path.parent, mode=self._directory_mode)
                try:
                    self._create(_partial(path, upload_id), size)
                    break
                except FileNotFoundError:
                    # A delete in another process has just removed the empty folder.
                    if attempt + 1 == _FOLDER_ATTEMPTS:
                        raise
        return upload_id

    def _create(self, path: Path, size: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with _opened(path, flags, self._file_mode) as descriptor:
            os.ftruncate(descriptor, size)

    def has_upload(self, key: str, upload_id: str) -> bool:
        """Whether the unfinished file is still there."""
        return _partial(self._path(key), upload_id).is_file()

    def put_part(self, key: str, upload_id: str, *, number: int, offset: int, body: Body) -> PartReceipt:
        """Write a part at its offset and make it durable."""
        with self._upload(key, upload_id, os.O_WRONLY) as descriptor:
            write_blocks(descriptor, offset, body.blocks(), keep_holes=is_hole(descriptor, offset, body.size))
            sync_data(descriptor)
        return PartReceipt(number=number, token="")

    def complete_upload(self, key: str, upload_id: str, receipts: Iterable[PartReceipt]) -> ObjectInfo:
        """Give the file its name."""
        path = self._path(key)
        with self._errors(path):
            try:
                _partial(path, upload_id).replace(path)
            except FileNotFoundError as error:
                raise NotFoundError(f"the upload of {path} is gone") from error
            sync_directory(path.parent)
        return self.head(key)

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Remove the unfinished file."""
        path = self._path(key)
        with self._errors(path):
            _partial(path, upload_id).unlink(missing_ok=True)
        self._remove_empty_parents(path)

    def list_uploads(self, prefix: str) -> Iterator[UnfinishedUpload]:
        """Yield the unfinished files."""
        for key, path in self._walk(prefix):
            if not path.name.endswith(PARTIAL_SUFFIX):
                continue
            name, _, upload_id = path.name.removesuffix(PARTIAL_SUFFIX).removeprefix(".").rpartition(".")
            with contextlib.suppress(FileNotFoundError):
                folder = key.rpartition("/")[0]
                yield UnfinishedUpload(
                    key=f"{folder}/{name}" if folder else name,
                    upload_id=upload_id,
                    started_at=path.stat().st_mtime,
                )

    def clone_part(self, key: str, upload_id: str, *, offset: int, descriptor: int, start: int, length: int) -> bool:
        """Share a range of an open file's blocks (btrfs, xfs and other file systems with reflinks)."""
        if sys.platform != "linux" or length == 0:
            return False
        with self._upload(key, upload_id, os.O_WRONLY) as target:
            try:
                fcntl.ioctl(target, _FICLONERANGE, struct.pack("=qQQQ", descriptor, start, length, offset))
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}:
                    raise
                return False
            sync_data(target)
        return True

    def read_upload(self, key: str, upload_id: str, *, start: int, length: int) -> Iterator[Block]:
        """Yield bytes of an unfinished file."""
        with self._upload(key, upload_id, os.O_RDONLY) as descriptor:
            yield from read_blocks(descriptor, start, length)

    def _path(self, key: str) -> Path:
        """The file of a key; its parts are checked and no folder on the way may be a link."""
        parts = key.split("/")
        if any(part in {"", ".", ".."} or "\0" in part for part in parts):
            raise UnsafePathError(f"key {key!r} could leave {self.location}")
        path = self.root
        for part in parts[:-1]:
            path = path / part
            if path.is_symlink():
                raise UnsafePathError(f"{path} is a symbolic link", hint="links below a store are not followed")
        return path / parts[-1]

    def _walk(self, prefix: str) -> Iterator[tuple[str, Path]]:
        folder = prefix.rpartition("/")[0]
        start = self._path(folder) if folder else self.root
        if start.is_symlink() and start != self.root:
            raise UnsafePathError(f"{start} is a symbolic link", hint="links below a store are not followed")
        pending = [(f"{folder}/" if folder else "", start)]
        while pending:
            base, directory = pending.pop()
            if not base.endswith("/") and base:
                yield base, directory
                continue
            with self._errors(directory):
                try:
                    entries = sorted(os.scandir(directory), key=_listing_order, reverse=True)
                except (FileNotFoundError, NotADirectoryError):
                    continue
            for entry in entries:
                key = base + entry.name
                is_folder = entry.is_dir(follow_symlinks=False)
                if key.startswith(prefix) or (is_folder and prefix.startswith(f"{key}/")):
                    pending.append((f"{key}/" if is_folder else key, directory / entry.name))

    @contextlib.contextmanager
    def _upload(self, key: str, upload_id: str, flags: int) -> Iterator[int]:
        path = self._path(key)
        with self._errors(path):
            try:
                descriptor = os.open(_partial(path, upload_id), flags | os.O_NOFOLLOW)
            except FileNotFoundError as error:
                raise NotFoundError(f"the upload of {path} is gone") from error
            try:
                yield descriptor
            finally:
                os.close(descriptor)

    def _remove_empty_parents(self, path: Path) -> None:
        for parent in path.parents:
            if parent == self.root or self.root not in parent.parents:
                return
            try:
                parent.rmdir()
            except OSError:
                return  # not empty, or somebody else's to remove

    @contextlib.contextmanager
    def _errors(self, path: Path) -> Iterator[None]:
        """Say an operating system's error in our words."""
        try:
            yield
        except (CheckpointError, FileNotFoundError, NotADirectoryError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise NotFoundError(f"there is no {path.name!r} in {path.parent}") from error
        except OSError as error:
            raise storage_error(error, path) from error


def storage_error(error: OSError, path: Path) -> CheckpointError:
    """Turn an operating system's error about a file of a store into ours."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        free = _free_bytes(path)
        return StorageError(
            f"no space is left where {path} should go ({free})",
            hint="free some space and run the same command again: what has arrived is kept",
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        reason = os.strerror(error.errno).lower()
        return AccessDeniedError(f"{path} cannot be used: {reason}", hint=f"check the permissions of {path.parent}")
    return StorageError(f"{path} cannot be used: {error.strerror or error}")


def _free_bytes(path: Path) -> str:
    for parent in path.parents:
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(parent).free:,} bytes free"
    return "free space unknown"


class _FileRange:
    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self.size = size

    def blocks(self) -> Iterator[Block]:
        return read_blocks(self._descriptor, 0, self.size)


@contextlib.contextmanager
def _opened(path: Path, flags: int, mode: int = 0o666) -> Iterator[int]:
    descriptor = os.open(path, flags | os.O_CLOEXEC, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _partial(path: Path, upload_id: str) -> Path:
    return path.with_name(f".{path.name}.{upload_id}{PARTIAL_SUFFIX}")


def _etag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


def _listing_order(entry: os.DirEntry[str]) -> str:
    """Keys in order: a folder sorts as its name with the ``/`` that follows."""
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
