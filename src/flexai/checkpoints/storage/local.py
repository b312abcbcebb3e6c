"""A directory as an object store.

It copies and links to no source: a trainer that rewrites its file in place would change a blob that is a link to it.
Where the file system can share blocks (btrfs, xfs), a part is a clone, which costs no copy either.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    DestinationExistsError,
    IntegrityError,
    NotFoundError,
    SourceChangedError,
    StorageError,
    StorageFullError,
    UnsafePathError,
)
from flexai.checkpoints.local_paths import from_root
from flexai.checkpoints.storage.at_once import at_once
from flexai.checkpoints.storage.beneath import Beneath, Folder
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX as PARTIAL_SUFFIX
from flexai.checkpoints.storage.checks import check_key, exact_blocks, sort_receipts
from flexai.checkpoints.storage.files import free_space, is_hole, read_blocks, sync_data, write_block
from flexai.checkpoints.storage.protocol import (
    Block,
    Body,
    ObjectInfo,
    ObjectStorage,
    PartReceipt,
    UnfinishedUpload,
)

_UPLOAD_ID = re.compile(r"[0-9a-f]{32}")
_PARTIAL_NAME = re.compile(rf"\.(?P<name>.+)\.(?P<upload_id>[0-9a-f]{{32}}){re.escape(PARTIAL_SUFFIX)}", re.DOTALL)
_FOLDER_ATTEMPTS = 10
_FICLONERANGE = 0x4020940D
"""Linux's ioctl to share a range of blocks between two files (man 2 ioctl_ficlonerange)."""


class LocalStorage:
    """Objects as files below a root directory.

    A file gets its name only when it is whole and durable. Symbolic links below the root are never followed.
    """

    max_parts = 1_000_000
    min_part_size = 1

    def __init__(
        self, root: Path, *, private: bool = False, same_group: bool = False, within: Path | None = None
    ) -> None:
        """Use ``root``, made on the first write; ``private`` makes new directories and files the owner's alone.

        With ``same_group`` they belong to the root's group, with the rights that the umask leaves it.
        ``within`` is a directory above the root from which on no link is followed; without it the root may be one.
        """
        self.root = from_root(root)
        self._tree = Beneath(within or self.root)
        base = self.root.relative_to(self._tree.root).as_posix()
        self._base = "" if base == "." else f"{base}/"
        self._private = private
        self._same_group = same_group

    @property
    def location(self) -> str:
        """The root directory."""
        return str(self.root)

    @property
    def service_identity(self) -> str:
        """Empty: a copy would read the bytes here, so it is better read by who can verify them."""
        return ""

    @property
    def versioned_place(self) -> str:
        """Empty: the time of a file's last write is no version."""
        return ""

    def put(self, key: str, body: Body, *, only_new: bool = False) -> ObjectInfo:
        """Store an object: written beside its name, made durable, renamed."""
        upload_id = self.start_upload(key, size=body.size)
        try:
            self.put_part(key, upload_id, number=1, offset=0, body=body)
            return self.complete_upload(key, upload_id, (), only_new=only_new)
        except BaseException:
            self.abort_upload(key, upload_id)
            raise

    def put_together(self, objects: Mapping[str, Body]) -> None:
        """Store small objects: all are written, then each gets its name, then each folder is made durable once."""
        uploads: dict[str, str] = {}

        def write(one: tuple[str, Body]) -> None:
            key, body = one
            uploads[key] = self.start_upload(key, size=body.size)
            self.put_part(key, uploads[key], number=1, offset=0, body=body)

        try:
            at_once(write, objects.items())  # each waits for the disk
            folders: dict[str, Folder] = {}
            for key, upload_id in uploads.items():
                folder, _ = self._give_name(key, upload_id)
                folders[folder.path] = folder
            for path, folder in folders.items():
                with self._errors(Path(path)):
                    _sync(folder)
        except BaseException:
            for key, upload_id in uploads.items():
                self.abort_upload(key, upload_id)
            raise

    def get(self, key: str, *, start: int = 0, length: int | None = None, etag: str = "") -> Iterator[Block]:
        """Yield a range of an object."""
        path = self._path(key)
        with self._object(key, etag) as (descriptor, status):
            wanted = max(0, status.st_size - start) if length is None else length
            if start + wanted > status.st_size:
                raise IntegrityError(f"{path} is shorter than recorded: {status.st_size} bytes")
            yield from _FileRange(path, descriptor, start, wanted).blocks()

    def head(self, key: str) -> ObjectInfo:
        """Describe an object."""
        path = self._path(key)
        with self._errors(path):
            folder, name = self._at(key)
            status = folder.status(name)
        _check_is_file(path, status)
        return replace(_info(key, status), told_at=time.time())

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose keys begin with the prefix, in order of keys."""
        for key, folder, name in self._walk(prefix):
            if name.endswith(PARTIAL_SUFFIX) or not key.startswith(prefix):
                continue
            try:
                status = folder.status(name)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise storage_error(error, self.root / key) from error
            if stat.S_ISLNK(status.st_mode):
                raise _link_error(self.root / key)
            if stat.S_ISREG(status.st_mode):
                yield _info(key, status)

    def copy(self, source: ObjectStorage, source_key: str, key: str, *, etag: str = "") -> ObjectInfo:
        """Copy a file, sharing its blocks where the file system can."""
        if not isinstance(source, LocalStorage):
            raise StorageError(f"cannot copy from {source.location} to {self.location} directly")
        path = source._path(source_key)
        with source._object(source_key, etag) as (descriptor, status):
            size = status.st_size
            upload_id = self.start_upload(key, size=size)
            try:
                if not self.clone_part(key, upload_id, offset=0, descriptor=descriptor, start=0, length=size):
                    body = _FileRange(path, descriptor, 0, size)
                    self.put_part(key, upload_id, number=1, offset=0, body=body)
                if _etag(os.fstat(descriptor)) != _etag(status):
                    raise SourceChangedError(f"{path} changed while it was copied")
                return self.complete_upload(key, upload_id, ())
            except BaseException:
                self.abort_upload(key, upload_id)
                raise

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, and the folders that this leaves empty."""
        at_once(self._delete, keys)  # each waits for the disk

    def _delete(self, key: str) -> None:
        with contextlib.suppress(NotFoundError), self._errors(self._path(key)):
            _unlink(*self._at(key))
        self._remove_empty_parents(key)

    def start_upload(self, key: str, *, size: int) -> str:
        """Begin an object of ``size`` bytes beside its final name."""
        path = self._path(key)
        upload_id = uuid.uuid4().hex
        with self._errors(path):
            for attempt in range(_FOLDER_ATTEMPTS):
                try:
                    place = (self._base + key).rpartition("/")[0]
                    folder = self._tree.make(place, private=self._private, same_group=self._same_group)
                    self._create(folder, _partial(path.name, upload_id), size)
                    break
                except FileNotFoundError:
                    # A delete in another process has just removed the empty folder.
                    if attempt + 1 == _FOLDER_ATTEMPTS:
                        raise
                except NotADirectoryError as error:
                    raise StorageError(f"{path} cannot be written: a file is where its folder should be") from error
        return upload_id

    def _create(self, folder: Folder, name: str, size: int) -> None:
        descriptor = folder.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if self._private else 0o666)
        try:
            if self._private:
                os.fchmod(descriptor, 0o600)  # which a umask may have cut
            if self._same_group:
                folder.share(name)
            os.ftruncate(descriptor, size)
        except OSError:
            os.unlink(name, dir_fd=folder.number)
            raise
        finally:
            os.close(descriptor)

    def has_upload(self, key: str, upload_id: str) -> bool:
        """Whether the unfinished file is still there."""
        if not _is_upload_id(upload_id):
            return False
        try:
            with self._errors(self._path(key)):
                folder, name = self._at(key)
                return stat.S_ISREG(folder.status(_partial(name, upload_id)).st_mode)
        except NotFoundError:
            return False

    def put_part(self, key: str, upload_id: str, *, number: int, offset: int, body: Body) -> PartReceipt:
        """Write a part at its offset and make it durable."""
        path = self._path(key)
        with self._upload(key, upload_id, os.O_WRONLY) as descriptor:
            keep_holes = is_hole(descriptor, offset, body.size)
            position = offset
            # An error of the body is not one of this store, so it passes as it is.
            for block in exact_blocks(body):
                with self._errors(path):
                    write_block(descriptor, position, block, keep_hole=keep_holes)
                position += len(block)
            with self._errors(path):
                sync_data(descriptor)
        return PartReceipt(number=number, token="")

    def complete_upload(
        self, key: str, upload_id: str, receipts: Iterable[PartReceipt], *, only_new: bool = False
    ) -> ObjectInfo:
        """Give the file its name."""
        path = self._path(key)
        sort_receipts(receipts, str(path))
        folder, status = self._give_name(key, upload_id, only_new=only_new)
        with self._errors(path):
            _sync(folder)
        return _info(key, status)

    def _give_name(self, key: str, upload_id: str, *, only_new: bool = False) -> tuple[Folder, os.stat_result]:
        """Give an unfinished file its name, which is not durable yet; returns its folder and its status."""
        path = self._path(key)
        with self._errors(path):
            try:
                folder, name = self._at(key)
                unfinished = self._known_partial(key, upload_id)
                # Before the file gets its name: afterwards it can be replaced or deleted at any moment.
                status = folder.status(unfinished)
                if not only_new or not _claim_name(folder, unfinished, name):
                    os.replace(unfinished, name, src_dir_fd=folder.number, dst_dir_fd=folder.number)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise _upload_gone(path) from error
            except IsADirectoryError as error:
                raise StorageError(f"{path} cannot be written: a folder is in its place") from error
            except FileExistsError as error:
                raise DestinationExistsError(f"{path} is there already") from error
        return folder, status

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Remove the unfinished file."""
        with contextlib.suppress(NotFoundError), self._errors(self._path(key)):
            folder, _ = self._at(key)
            os.unlink(self._known_partial(key, upload_id), dir_fd=folder.number)
        self._remove_empty_parents(key)

    def list_uploads(self, prefix: str) -> Iterator[UnfinishedUpload]:
        """Yield the unfinished files."""
        for key, folder, name in self._walk(prefix):
            match = _PARTIAL_NAME.fullmatch(name)
            if match is None:
                continue
            final_key = key[: -len(name)] + match["name"]
            if not final_key.startswith(prefix):
                continue
            try:
                with self._errors(self.root / key):
                    written_at = folder.status(name).st_mtime
            except NotFoundError:
                continue  # completed or given up while this list was read
            yield UnfinishedUpload(key=final_key, upload_id=match["upload_id"], started_at=written_at)

    def free_space(self) -> int | None:
        """Bytes that this user can yet write here; None where the file system does not say."""
        with self._errors(self.root):
            return free_space(self.root)

    def clone_part(self, key: str, upload_id: str, *, offset: int, descriptor: int, start: int, length: int) -> bool:
        """Share a range of an open file's blocks (btrfs, xfs and other file systems with reflinks)."""
        if sys.platform != "linux" or length == 0:
            return False
        path = self._path(key)
        with self._upload(key, upload_id, os.O_WRONLY) as target, self._errors(path):
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
        path = self._path(key)
        with self._upload(key, upload_id, os.O_RDONLY) as descriptor:
            yield from _FileRange(path, descriptor, start, length).blocks()

    def _path(self, key: str) -> Path:
        """What an error calls the file of a key, which is checked."""
        return self.root / check_key(key, self.location)

    def _at(self, key: str) -> tuple[Folder, str]:
        """The folder that a checked key's file is in, and the file's name. Raises OSError."""
        return self._tree.at(self._base + key)

    def _walk(self, prefix: str) -> Iterator[tuple[str, Folder, str]]:
        """Yield the keys, folders and names of all that is no folder, in order of keys."""
        base = prefix.rpartition("/")[0]
        if base:
            check_key(base, self.location)
        top = partial(self._tree.folder, (self._base + base).rstrip("/"))
        pending = [*self._entries(f"{base}/" if base else "", top)]
        while pending:
            key, folder, name = pending.pop()
            if not key.endswith("/"):
                yield key, folder, name
            elif key.startswith(prefix):
                pending += self._entries(key, partial(folder.enter, name))

    def _entries(self, base: str, opened: Callable[[], Folder]) -> Sequence[tuple[str, Folder, str]]:
        """What is in a folder, last key first, a folder with ``/`` at its key's end; nothing where it has gone."""
        try:
            folder = opened()
            entries = folder.entries()
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise storage_error(error, self.root / base) from error
        # A folder sorts as its name with the `/` that follows.
        ordered = sorted(((f"{name}/" if is_folder else name, name) for name, is_folder in entries), reverse=True)
        return [(base + shown, folder, name) for shown, name in ordered]

    @contextlib.contextmanager
    def _object(self, key: str, etag: str) -> Iterator[tuple[int, os.stat_result]]:
        """An object's file, open for reading, and its status; it is the one of the etag, if one is given."""
        path = self.root / key
        with self._errors(path):
            folder, name = self._at(key)
            descriptor = folder.open(name, os.O_RDONLY)
        try:
            status = os.fstat(descriptor)
            _check_is_file(path, status)
            if etag and _etag(status) != etag:
                raise SourceChangedError(f"{path} changed while it was read")
            yield descriptor, status
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _upload(self, key: str, upload_id: str, flags: int) -> Iterator[int]:
        path = self.root / key
        with self._errors(path):
            try:
                folder, _ = self._at(key)
                descriptor = folder.open(self._known_partial(key, upload_id), flags)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise _upload_gone(path) from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _known_partial(self, key: str, upload_id: str) -> str:
        """The unfinished file of an upload id that comes from outside; NotFoundError for what is no such id."""
        if not _is_upload_id(upload_id):
            raise _upload_gone(self.root / key)
        return _partial(key.rpartition("/")[2], upload_id)

    def _remove_empty_parents(self, key: str) -> None:
        self._tree.remove_empty((self._base + key).rpartition("/")[0], below=self._base.rstrip("/"))

    @contextlib.contextmanager
    def _errors(self, path: Path) -> Iterator[None]:
        """Say an operating system's error in our words."""
        try:
            yield
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"there is no {path.name!r} in {path.parent}") from error
        except OSError as error:
            failure = storage_error(error, path)
            if self._same_group and isinstance(failure, AccessDeniedError):
                failure.hint = (
                    f"the group of {self.root} needs the rights there, which each user's umask leaves it (002, 007);"
                    f" what is there already gets them by: chmod -R g+rwX {self.root}"
                )
            raise failure from error


def storage_error(error: OSError, path: Path) -> CheckpointError:
    """Turn an operating system's error about a file of a store into ours."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        free = _free_bytes(path)
        return StorageFullError(f"no space is left where {path} should go ({free})")
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        reason = os.strerror(error.errno).lower()
        return AccessDeniedError(f"{path} cannot be used: {reason}", hint=f"check the permissions of {path.parent}")
    if error.errno == errno.ELOOP:
        return _link_error(path.parent / error.filename if isinstance(error.filename, str) else path)
    return StorageError(f"{path} cannot be used: {error.strerror or error}")


def _free_bytes(path: Path) -> str:
    import shutil

    for parent in path.parents:
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(parent).free:,} bytes free"
    return "free space unknown"


class _FileRange:
    """A range of an open file of a store."""

    def __init__(self, path: Path, descriptor: int, start: int, size: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._start = start
        self.size = size

    def blocks(self) -> Iterator[Block]:
        blocks = read_blocks(self._descriptor, self._start, self.size)
        while True:
            try:
                block = next(blocks)
            except StopIteration:
                return
            except EOFError as error:
                raise SourceChangedError(f"{self._path} changed while it was read: {error}") from error
            except OSError as error:
                raise storage_error(error, self._path) from error
            yield block


def _partial(name: str, upload_id: str) -> str:
    return f".{name}.{upload_id}{PARTIAL_SUFFIX}"


def _sync(folder: Folder) -> None:
    """Make the names in a folder durable; one that was emptied and removed since needs none."""
    with contextlib.suppress(FileNotFoundError):
        folder.sync()


def _claim_name(folder: Folder, unfinished: str, name: str) -> bool:
    """Give a file a name that nothing has yet: FileExistsError otherwise. False where there are no hard links."""
    try:
        os.link(unfinished, name, src_dir_fd=folder.number, dst_dir_fd=folder.number, follow_symlinks=False)
    except OSError as error:
        # FAT and many network and FUSE file systems have none: link(2), EPERM and others.
        if error.errno in {errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK}:
            return False
        raise
    os.unlink(unfinished, dir_fd=folder.number)
    return True


def _is_upload_id(text: str) -> bool:
    return _UPLOAD_ID.fullmatch(text) is not None


def _upload_gone(path: Path) -> NotFoundError:
    return NotFoundError(f"the upload of {path} is gone", hint="run the same command again: it starts a new one")


def _unlink(folder: Folder, name: str) -> None:
    """Remove a file; a folder is no object and stays."""
    try:
        os.unlink(name, dir_fd=folder.number)
    except (IsADirectoryError, PermissionError):
        # macOS says EPERM for a folder.
        if not stat.S_ISDIR(folder.status(name).st_mode):
            raise


def _check_is_file(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise _link_error(path)
    if not stat.S_ISREG(status.st_mode):
        raise NotFoundError(f"there is no {path.name!r} in {path.parent}: a folder or device is no object")


def _link_error(path: Path) -> UnsafePathError:
    return UnsafePathError(f"{path} is a symbolic link", hint="replace the link by the file or folder that it means")


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(key=key, size=status.st_size, etag=_etag(status), modified_at=status.st_mtime)


def _etag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"
