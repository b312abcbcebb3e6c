"""Folders that are held by descriptors, so that no link below a root leads out of it.

A path is looked up anew by each call that takes it, and another process may put a link in the place of a folder between
two calls. So the way from the root goes folder by folder (`openat`), each opened without following a link and used by
its descriptor. The root itself may be reached through links: the user named it.

All of it raises OSError, with ELOOP for a link. Linux' `openat2` would do a walk in one call, but Python reaches it
only through `ctypes`, which alone takes longer than the walk through two folders.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from flexai.checkpoints.storage.files import make_directories, sync_directory

# Where it is known, a folder that may be passed and not listed can be opened as well (open(2)).
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
# A FIFO would otherwise keep us waiting for who opens its other end.
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_STEPS = frozenset({"", ".", ".."})
GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""Of an OSError for a path that was listed: it no longer leads to what was there."""
KEPT_OPEN = 64
"""Folders that an operation on many files keeps open: they are asked for again and again, and few processes may have
more than some hundred files open."""


class Folder:
    """An open folder. It is closed when nothing refers to it any more.

    What is not here takes `dir_fd=number`: renaming, linking and removing follow no link at the end of a path.
    """

    __slots__ = ("number", "path")

    def __init__(self, number: int, path: str) -> None:
        """Own a descriptor; ``path`` is where the folder was when it was opened, for errors."""
        self.number = number
        self.path = path

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.number)

    def enter(self, name: str) -> Folder:
        """Open a folder in it: NotADirectoryError for a file, ELOOP for a link."""
        path = f"{self.path}/{name}"
        if name in _STEPS or "/" in name:
            raise OSError(errno.EINVAL, "is no name of a folder", path)
        try:
            return Folder(os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.number), path)
        except OSError as error:
            # Where a folder is wanted, Linux says the same for a link and for a file.
            if error.errno == errno.ENOTDIR and stat.S_ISLNK(self.status(name).st_mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path) from None
            error.filename = path
            raise

    def open(self, name: str, flags: int, mode: int = 0o666) -> int:
        """Open a file in it and return the descriptor."""
        try:
            return os.open(name, flags | _FILE, mode, dir_fd=self.number)
        except OSError as error:
            error.filename = f"{self.path}/{name}"
            raise

    def status(self, name: str) -> os.stat_result:
        """What an entry is: a link is one."""
        try:
            return os.stat(name, dir_fd=self.number, follow_symlinks=False)
        except OSError as error:
            error.filename = f"{self.path}/{name}"
            raise

    def entries(self) -> list[tuple[str, bool]]:
        """The names in it, in no order, each with whether it is a folder, which a link is not."""
        # A descriptor of its own: two that share one would share the place in the list.
        descriptor = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.number)
        try:
            with os.scandir(descriptor) as found:
                return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
        finally:
            os.close(descriptor)

    def make(self, name: str, *, private: bool, same_group: bool = False) -> None:
        """Make a folder in it, if it is not there: for its owner alone, or else as the umask says.

        With ``same_group`` it belongs to the group that this one belongs to.
        """
        try:
            os.mkdir(name, stat.S_IRWXU if private else 0o777, dir_fd=self.number)
        except FileExistsError:
            return
        except OSError as error:
            error.filename = f"{self.path}/{name}"
            raise
        if private:
            descriptor = self.open(name, os.O_RDONLY | os.O_DIRECTORY)
            os.fchmod(descriptor, stat.S_IRWXU)  # which a umask may have cut
            os.close(descriptor)
        if same_group:
            self.share(name)

    def share(self, name: str) -> None:
        """Have an entry belong to the group that the folder belongs to, as it does by itself in a setgid folder."""
        group = os.fstat(self.number).st_gid
        if self.status(name).st_gid != group:
            try:
                os.chown(name, -1, group, dir_fd=self.number, follow_symlinks=False)
            except OSError as error:
                error.filename = f"{self.path}/{name}"
                raise

    def sync(self) -> None:
        """Make the names in it durable, where the file system can."""
        sync_directory(".", dir_fd=self.number)


class Beneath:
    """What lies below a root, by paths with `/` between their parts. Used from many threads."""

    def __init__(self, root: Path, *, keep: int = 0) -> None:
        """``keep`` is how many folders stay open, the root first, for the length of one operation.

        Without it each call finds the folders that are there now, as a caller needs that lives for long.
        """
        self.root = root
        self._keep = keep
        self._kept: dict[str, Folder] = {}
        self._kept_root: Folder | None = None

    def folder(self, path: str) -> Folder:
        """Open a folder; the empty path is the root."""
        found = self._kept.get(path)
        if found is not None:
            return found
        found = self._kept_root or Folder(os.open(self.root, _FOLDER), str(self.root).rstrip("/"))
        if self._keep:
            self._kept_root = found
        if not path:
            return found
        for part in path.split("/"):
            found = found.enter(part)
        if self._keep > 1:
            if len(self._kept) >= self._keep - 1:
                self._kept.clear()
            self._kept[path] = found
        return found

    def at(self, path: str) -> tuple[Folder, str]:
        """The folder that a path's last part is in, and that part."""
        folder, _, name = path.rpartition("/")
        if name in _STEPS:
            raise OSError(errno.EINVAL, "is no name of a file", str(self.root / path))
        return self.folder(folder), name

    def make(self, path: str, *, private: bool = False, same_group: bool = False, is_durable: bool = True) -> Folder:
        """Make a folder, its missing parents and the root, and open it; ``private`` as with ``make_directories``.

        With ``same_group`` those below the root belong to the group that the root belongs to.
        """
        with suppress(FileNotFoundError):
            return self.folder(path)
        make_directories(self.root, private=private)
        folder = self.folder("")
        for part in path.split("/") if path else ():
            try:
                folder = folder.enter(part)
            except FileNotFoundError:
                folder.make(part, private=private, same_group=same_group)
                if is_durable:
                    folder.sync()
                folder = folder.enter(part)
        return folder

    def remove_empty(self, path: str, *, below: str = "") -> None:
        """Remove a folder and those that it is in, up to ``below`` without it, as far as they are empty."""
        while path not in {"", below}:
            try:
                folder, name = self.at(path)
                os.rmdir(name, dir_fd=folder.number)
            except OSError:
                return  # not empty, or not ours to remove
            path = path.rpartition("/")[0]

    def start_of(self, path: str, size: int) -> bytes:
        """At most so many bytes from the start of a file. Raises OSError where it is none, or cannot be read."""
        folder, name = self.at(path)
        descriptor = folder.open(name, os.O_RDONLY)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "it is no file", path)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                return file.read(size)
        finally:
            os.close(descriptor)

    def peek(self, path: str, size: int) -> bytes:
        """At most so many bytes from the start of a file; none where it cannot be read."""
        try:
            return self.start_of(path, size)
        except OSError:
            return b""

    def forget(self) -> None:
        """Find the folders that are there now, from now on."""
        self._kept.clear()
        self._kept_root = None
