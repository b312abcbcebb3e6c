"""Pins: hard links that keep a checkpoint's files while a trainer may already delete them.

A pin shares its file with the trainer's name for it, so it costs no room and no copy, it has the final content of a
file that was still being written, and it keeps the old content of one that is replaced (a temporary file renamed over
it). It does not protect from a file that is rewritten in place: that shows in the file's stamp. Where a trainer may do
that, ``PinSet.own`` puts a copy in the pin's place.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from flexai.checkpoints.storage.beneath import GONE, Beneath, Folder
from flexai.checkpoints.training.notices import is_written
from flexai.checkpoints.training.output_dir import Excluded, OutputTree, Stamp, Stamps

_SERIAL_DIGITS = 5
_COPY_BYTES = 16 * 1024 * 1024
_NO_SHARED_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


class Pins:
    """A folder of pins, on the same file system as the files that they pin; made when it is first needed."""

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        """``note`` is told, once for each reason, that and why pinning does not work."""
        self.folder = folder
        # From the folder above, which is the user's: the one of the pins may be swapped for a link as any below it.
        self._tree = Beneath(folder.parent)
        self._note = note
        self._serials = itertools.count(1)
        self._told: set[int | None] = set()

    def new_set(self) -> PinSet:
        """An empty set of pins."""
        while True:
            folder = self.folder / f"{next(self._serials):0{_SERIAL_DIGITS}}"
            if not os.path.lexists(folder):  # an earlier process may have left pins
                return PinSet(self._tree, folder, self._tell)

    def leftovers(self) -> list[PinSet]:
        """The sets of an earlier process that it did not remove, oldest first, each with what it holds."""
        try:
            entries = self._tree.folder(self.folder.name).entries()
        except FileNotFoundError:
            return []
        sets = [PinSet(self._tree, self.folder / name, self._tell) for name, is_folder in sorted(entries) if is_folder]
        for pins in sets:
            pins.adopt()
        return sets

    def remove(self) -> None:
        """Remove every pin and the folder. Raises OSError."""
        # Under another name first: a set of which half is left might look whole to a process that comes after a kill.
        gone = self.folder.with_name(f"{self.folder.name}.gone")
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(gone)
        with contextlib.suppress(FileNotFoundError):
            self.folder.rename(gone)
            shutil.rmtree(gone)

    def remove_empty(self) -> None:
        """Remove the folder unless something is still pinned."""
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _tell(self, error: OSError) -> None:
        if error.errno not in self._told:
            self._told.add(error.errno)
            self._note(
                f"files cannot be pinned by hard links in {self.folder} ({error.strerror}): a checkpoint that the"
                " command deletes before it is stored is lost"
            )


class PinSet:
    """The pins of one checkpoint: where each of its files can be read, and which file that is.

    Files go by their paths below the output directory, and lie under the same paths in the set's folder.
    """

    def __init__(self, tree: Beneath, folder: Path, tell: Callable[[OSError], None]) -> None:
        self.folder = folder
        self._tree = tree
        self._place = folder.relative_to(tree.root).as_posix()
        self._tell = tell
        self._pinned: dict[str, tuple[int, int]] = {}
        self._unpinned: dict[str, Beneath] = {}

    def refresh(self, source: Beneath, files: Stamps) -> dict[str, Stamp]:
        """Pin what is new or replaced among files, and let go of what is not among them.

        Returns the files that are held: one that was gone before it could be pinned is missing.
        """
        self.drop(path for path in self.paths() if path not in files)
        held = {}
        for path, stamp in files.items():
            if self._pinned.get(path) == stamp.file:
                held[path] = stamp
                continue
            self.drop([path])
            found = self._pin(source, path)
            if found is not None:
                held[path] = found
        return held

    def adopt(self, excluded: Excluded | None = None) -> OutputTree:
        """Hold the pins that are in the folder already; returns them as the output directory that they are of."""
        found = OutputTree(self._tree, root=self._place, excluded=excluded)
        found.refresh()
        self._pinned |= {path: stamp.file for path, stamp in found.files()}
        return found

    def write(self, path: str, content: bytes) -> None:
        """Hold a file of our own, which no trainer wrote so. Raises OSError."""
        self._replace(path, lambda descriptor: os.write(descriptor, content))

    def own(self, path: str, stamp: Stamp) -> Stamp | None:
        """Hold a copy of a file's content (a clone where the file system can), which no trainer can change.

        The copy has its original's time of writing. Returns the copy's stamp; None where the file is no longer what
        ``stamp`` says, or is being written. Raises OSError.
        """
        tree, place = self._found(path)
        folder, name = tree.at(place)
        with os.fdopen(folder.open(name, os.O_RDONLY), "rb", buffering=0) as source:
            number = source.fileno()

            def is_the_same() -> bool:
                return Stamp.of(os.fstat(number)) == stamp and not is_written(number)

            if not is_the_same():
                return None
            mode = stat.S_IMODE(os.fstat(number).st_mode) & stat.S_IRWXU

            def copy(descriptor: int) -> None:
                _copy(number, descriptor, stamp.size)
                os.fchmod(descriptor, mode | stat.S_IRUSR | stat.S_IWUSR)
                os.utime(descriptor, ns=(stamp.written, stamp.written))

            # Judged before the copy has its name: the trainer may write on as soon as it has.
            if not self._replace(path, copy, is_sound=is_the_same):
                self.drop([path])
                return None
        folder, name = self._tree.at(f"{self._place}/{path}")
        return Stamp.of(folder.status(name))

    def local_path(self, path: str) -> Path:
        """Where a file can be read: its pin, or itself where it could not be pinned."""
        tree, place = self._found(path)
        return tree.root / place

    def at(self, path: str) -> tuple[Folder, str]:
        """The folder of that file and its name. Raises OSError."""
        tree, place = self._found(path)
        return tree.at(place)

    def peek(self, path: str, size: int) -> bytes:
        """At most so many bytes from the start of that file; none where it cannot be read."""
        tree, place = self._found(path)
        return tree.peek(place, size)

    def stamp(self, path: str) -> Stamp:
        """What that file is now. Raises OSError."""
        folder, name = self.at(path)
        return Stamp.of(folder.status(name))

    def is_written(self, path: str) -> bool | None:
        """Whether a process has that file open for writing; None where that cannot be told. Raises OSError."""
        folder, name = self.at(path)
        descriptor = folder.open(name, os.O_RDONLY)
        try:
            return is_written(descriptor)
        finally:
            os.close(descriptor)

    def holds(self, paths: Iterable[str]) -> bool:
        """Whether all these files are pinned, so that nothing can delete them."""
        return all(path in self._pinned for path in paths)

    def drop(self, paths: Iterable[str]) -> None:
        """Let go of files."""
        for path in list(paths):
            self._unpinned.pop(path, None)
            if self._pinned.pop(path, None) is not None:
                self._unlink(path)

    def release(self) -> None:
        """Let go of everything."""
        self.drop(self.paths())

    def paths(self) -> list[str]:
        """The files that are held or known."""
        return [*self._pinned, *self._unpinned]

    def _found(self, path: str) -> tuple[Beneath, str]:
        source = self._unpinned.get(path)
        return (self._tree, f"{self._place}/{path}") if source is None else (source, path)

    def _pin(self, source: Beneath, path: str) -> Stamp | None:
        folder, _, pin = f"{self._place}/{path}".rpartition("/")
        try:
            pins = self._tree.make(folder, private=True, is_durable=False)
            files, name = source.at(path)
            os.link(name, pin, src_dir_fd=files.number, dst_dir_fd=pins.number, follow_symlinks=False)
            status = pins.status(pin)
        except FileNotFoundError:
            self._tree.remove_empty(folder, below=self.folder.parent.name)
            return None
        except OSError as error:
            self._tell(error)
            return self._leave_unpinned(source, path)
        if not stat.S_ISREG(status.st_mode):
            self._unlink(path)  # something else has taken the file's place since it was listed
            return None
        self._pinned[path] = (status.st_dev, status.st_ino)
        return Stamp.of(status)

    def _leave_unpinned(self, source: Beneath, path: str) -> Stamp | None:
        try:
            files, name = source.at(path)
            status = files.status(name)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        self._unpinned[path] = source
        return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None

    def _replace(self, path: str, write: Callable[[int], object], is_sound: Callable[[], bool] = lambda: True) -> bool:
        """Put a file of our own where the pin is, if it ``is_sound`` once it is written; tells whether it was."""
        folder, _, name = f"{self._place}/{path}".rpartition("/")
        pins = self._tree.make(folder, private=True, is_durable=False)
        beside = f"{name}.own"
        try:
            descriptor = pins.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                write(descriptor)
                status = os.fstat(descriptor)
            finally:
                os.close(descriptor)
            if not is_sound():
                os.unlink(beside, dir_fd=pins.number)
                return False
            os.rename(beside, name, src_dir_fd=pins.number, dst_dir_fd=pins.number)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(beside, dir_fd=pins.number)
            raise
        self._unpinned.pop(path, None)
        self._pinned[path] = (status.st_dev, status.st_ino)
        return True

    def _unlink(self, path: str) -> None:
        try:
            folder, name = self._tree.at(f"{self._place}/{path}")
            os.unlink(name, dir_fd=folder.number)
        except OSError as error:
            if error.errno not in GONE:
                raise
        self._tree.remove_empty(f"{self._place}/{path}".rpartition("/")[0], below=self.folder.parent.name)


def _copy(source: int, target: int, size: int) -> None:
    """Copy a file's content within the kernel, which shares it where the file system can (``copy_file_range(2)``)."""
    left = size
    try:
        while left > 0 and (count := os.copy_file_range(source, target, left)):
            left -= count
    except (OSError, AttributeError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_SHARED_COPY:
            raise
        os.lseek(source, size - left, os.SEEK_SET)
        while left > 0 and (block := os.read(source, min(left, _COPY_BYTES))):
            left -= os.write(target, block)
