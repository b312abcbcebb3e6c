"""Pins: hard links that keep a checkpoint's files while a trainer may already delete them.

A pin shares its file with the trainer's name for it, so it costs no room and no copy, it has the final content of a
file that was still being written, and it keeps the old content of one that is replaced (a temporary file renamed over
it). It does not protect from a file that is rewritten in place: that shows in the file's stamp.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from flexai.checkpoints.storage.beneath import GONE, Beneath, Folder
from flexai.checkpoints.training.output_dir import Stamp, Stamps, list_checkpoint

_SERIAL_DIGITS = 5


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

    def new_set(self, name: str) -> PinSet:
        """An empty set of pins for the checkpoint ``name``."""
        while True:
            folder = self.folder / f"{next(self._serials):0{_SERIAL_DIGITS}}.{name}"
            if not os.path.lexists(folder):  # an earlier process may have left pins
                return PinSet(self._tree, folder, self._tell)

    def leftovers(self) -> list[tuple[str, PinSet, dict[str, Stamp]]]:
        """What an earlier process pinned here and did not remove: checkpoints' names, pins and files, oldest first."""
        try:
            entries = self._tree.folder(self.folder.name).entries()
        except FileNotFoundError:
            return []
        found = []
        for name in sorted(name for name, is_folder in entries if is_folder):
            pins = PinSet(self._tree, self.folder / name, self._tell)
            found.append((name[_SERIAL_DIGITS + 1 :], pins, pins.adopt()))
        return found

    def remove(self) -> None:
        """Remove every pin and the folder. Raises OSError."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder)

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
    """The pins of one checkpoint: where each of its files can be read, and which file that is."""

    def __init__(self, tree: Beneath, folder: Path, tell: Callable[[OSError], None]) -> None:
        self.folder = folder
        self._tree = tree
        self._place = folder.relative_to(tree.root).as_posix()
        self._tell = tell
        self._pinned: dict[str, tuple[int, int]] = {}
        self._unpinned: dict[str, tuple[Beneath, str]] = {}

    def refresh(self, source: Beneath, place: str, files: Stamps) -> dict[str, Stamp]:
        """Pin what is new or replaced among the files of the folder ``place``, and let go of what is not among them.

        Returns the files that are held: one that was gone before it could be pinned is missing.
        """
        self.drop(path for path in self.paths() if path not in files)
        held = {}
        for path, stamp in files.items():
            if self._pinned.get(path) == stamp.file:
                held[path] = stamp
                continue
            self.drop([path])
            found = self._pin(source, f"{place}/{path}" if place else path, path)
            if found is not None:
                held[path] = found
        return held

    def adopt(self) -> dict[str, Stamp]:
        """Hold the pins that are in the folder already; returns their files."""
        files = list_checkpoint(self._tree, self._place).files
        self._pinned |= {path: stamp.file for path, stamp in files.items()}
        return files

    def local_path(self, path: str) -> Path:
        """Where a file can be read: its pin, or itself where it could not be pinned."""
        tree, place = self._found(path)
        return tree.root / place

    def at(self, path: str) -> tuple[Folder, str]:
        """The folder of that file and its name. Raises OSError."""
        tree, place = self._found(path)
        return tree.at(place)

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
        return self._unpinned.get(path) or (self._tree, f"{self._place}/{path}")

    def _pin(self, source: Beneath, place: str, path: str) -> Stamp | None:
        folder, _, pin = f"{self._place}/{path}".rpartition("/")
        try:
            pins = self._tree.make(folder, private=True, is_durable=False)
            files, name = source.at(place)
            os.link(name, pin, src_dir_fd=files.number, dst_dir_fd=pins.number, follow_symlinks=False)
            status = pins.status(pin)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._tell(error)
            return self._leave_unpinned(source, place, path)
        if not stat.S_ISREG(status.st_mode):
            self._unlink(path)  # something else has taken the file's place since it was listed
            return None
        self._pinned[path] = (status.st_dev, status.st_ino)
        return Stamp.of(status)

    def _leave_unpinned(self, source: Beneath, place: str, path: str) -> Stamp | None:
        try:
            files, name = source.at(place)
            status = files.status(name)
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        self._unpinned[path] = (source, place)
        return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None

    def _unlink(self, path: str) -> None:
        try:
            folder, name = self._tree.at(f"{self._place}/{path}")
            os.unlink(name, dir_fd=folder.number)
        except OSError as error:
            if error.errno not in GONE:
                raise
        self._tree.remove_empty(f"{self._place}/{path}".rpartition("/")[0], below=self.folder.parent.name)
