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

from flexai.checkpoints.private_folders import make_private_folder
from flexai.checkpoints.training.output_dir import Stamp, Stamps, list_checkpoint

_SERIAL_DIGITS = 5


class Pins:
    """A folder of pins, on the same file system as the files that they pin; made when it is first needed."""

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        """``note`` is told, once for each reason, that and why pinning does not work."""
        self.folder = folder
        self._note = note
        self._serials = itertools.count(1)
        self._told: set[int | None] = set()

    def new_set(self, name: str) -> PinSet:
        """An empty set of pins for the checkpoint ``name``."""
        while True:
            folder = self.folder / f"{next(self._serials):0{_SERIAL_DIGITS}}.{name}"
            if not folder.exists():  # an earlier process may have left pins
                return PinSet(folder, self._tell)

    def leftovers(self) -> list[tuple[str, PinSet, dict[str, Stamp]]]:
        """What an earlier process pinned here and did not remove: checkpoints' names, pins and files, oldest first."""
        try:
            folders = sorted(path for path in self.folder.iterdir() if path.is_dir())
        except FileNotFoundError:
            return []
        found = []
        for folder in folders:
            pins = PinSet(folder, self._tell)
            found.append((folder.name[_SERIAL_DIGITS + 1 :], pins, pins.adopt()))
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

    def __init__(self, folder: Path, tell: Callable[[OSError], None]) -> None:
        self.folder = folder
        self._tell = tell
        self._pinned: dict[str, tuple[int, int]] = {}
        self._unpinned: dict[str, Path] = {}

    def refresh(self, source: Path, files: Stamps) -> dict[str, Stamp]:
        """Pin what is new or replaced among a folder's files, and let go of what is not among them.

        Returns the files that are held: one that was gone before it could be pinned is missing.
        """
        self.drop(path for path in self.paths() if path not in files)
        held = {}
        for path, stamp in files.items():
            if self._pinned.get(path) == stamp.file:
                held[path] = stamp
                continue
            self.drop([path])
            found = self._pin(source / path, path)
            if found is not None:
                held[path] = found
        return held

    def adopt(self) -> dict[str, Stamp]:
        """Hold the pins that are in the folder already; returns their files."""
        files = list_checkpoint(self.folder).files
        self._pinned |= {path: stamp.file for path, stamp in files.items()}
        return files

    def local_path(self, path: str) -> Path:
        """Where a file can be read: its pin, or itself where it could not be pinned."""
        return self._unpinned.get(path) or self.folder / path

    def holds(self, paths: Iterable[str]) -> bool:
        """Whether all these files are pinned, so that nothing can delete them."""
        return all(path in self._pinned for path in paths)

    def drop(self, paths: Iterable[str]) -> None:
        """Let go of files."""
        for path in list(paths):
            self._unpinned.pop(path, None)
            if self._pinned.pop(path, None) is not None:
                self._unlink(self.folder / path)

    def release(self) -> None:
        """Let go of everything."""
        self.drop(self.paths())

    def paths(self) -> list[str]:
        """The files that are held or known."""
        return [*self._pinned, *self._unpinned]

    def _pin(self, source: Path, path: str) -> Stamp | None:
        pin = self.folder / path
        try:
            make_private_folder(pin.parent)
            os.link(source, pin, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self._tell(error)
            return self._leave_unpinned(source, path)
        status = pin.lstat()
        if not stat.S_ISREG(status.st_mode):
            self._unlink(pin)  # something else has taken the file's place since it was listed
            return None
        self._pinned[path] = (status.st_dev, status.st_ino)
        return Stamp.of(status)

    def _leave_unpinned(self, source: Path, path: str) -> Stamp | None:
        try:
            status = source.lstat()
        except FileNotFoundError:
            return None
        self._unpinned[path] = source
        return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None

    def _unlink(self, pin: Path) -> None:
        pin.unlink(missing_ok=True)
        parent = pin.parent
        while parent != self.folder.parent:
            try:
                parent.rmdir()
            except OSError:
                return  # other pins are in it
            parent = parent.parent
