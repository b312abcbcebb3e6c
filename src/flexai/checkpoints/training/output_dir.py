"""What lies in a training job's output directory: checkpoints as folders, files in its root, and what is neither."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flexai.checkpoints.training.completeness.by_format import is_temporary_folder, is_unfinished

ROOT = ""
"""The name of the checkpoint that the files in the output directory's root form."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which file it is and when it was written last: equal stamps, equal content.

    The inode's change time is no part of it: making and removing hard links changes that.
    """

    device: int
    inode: int
    size: int
    """Bytes."""
    written: int
    """Nanoseconds since the epoch."""

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp that a file's status gives."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    @property
    def identity(self) -> tuple[int, int, int, int]:
        """All of it, as the transfer compares it."""
        return self.device, self.inode, self.size, self.written

    @property
    def file(self) -> tuple[int, int]:
        """The file itself, whatever its names and its content."""
        return self.device, self.inode


Stamps = Mapping[str, Stamp]
"""Files by their paths below a folder, with ``/``."""


@dataclass(slots=True)
class Listing:
    """The files of one checkpoint."""

    files: dict[str, Stamp] = field(default_factory=dict)
    unfinished: dict[str, Stamp] = field(default_factory=dict)
    """Files that their writer has yet to rename: no part of the checkpoint."""
    refusal: str = ""
    """Why it cannot be captured; empty where it can."""


@dataclass(slots=True)
class OutputListing:
    """The checkpoints of an output directory."""

    folders: dict[str, Stamp] = field(default_factory=dict)
    root: Listing = field(default_factory=Listing)
    temporary: list[str] = field(default_factory=list)
    """Folders that are no checkpoints until they are renamed."""


def list_output(output: Path) -> OutputListing:
    """List an output directory; one that is not there (yet, or for a moment) is empty. Raises OSError."""
    found = OutputListing()
    try:
        entries = _entries(output)
    except FileNotFoundError:
        return found
    for entry, status in entries:
        if stat.S_ISDIR(status.st_mode):
            if is_temporary_folder(entry.name):
                found.temporary.append(entry.name)
            else:
                found.folders[entry.name] = Stamp.of(status)
        elif not (stat.S_ISLNK(status.st_mode) and entry.is_dir()):
            # A link to a folder is how trainers point at one of their checkpoints (`latest`): no file of any.
            _enter(found.root, entry.name, status, unfinished=is_unfinished(entry.name))
    return found


def list_checkpoint(folder: Path) -> Listing:
    """List a checkpoint's folder and the folders in it.

    Raises FileNotFoundError or NotADirectoryError where it is gone, OSError where it cannot be read.
    """
    found = Listing()
    pending = [("", False)]
    while pending:
        prefix, is_unfinished_folder = pending.pop()
        try:
            entries = _entries(folder / prefix)
        except (FileNotFoundError, NotADirectoryError):
            if prefix:
                continue  # removed while we looked
            raise
        for entry, status in entries:
            path = prefix + entry.name
            unfinished = is_unfinished_folder or is_unfinished(entry.name)
            if stat.S_ISDIR(status.st_mode):
                pending.append((path + "/", unfinished))
            else:
                _enter(found, path, status, unfinished=unfinished)
    return found


def walk_files(output: Path) -> Iterator[tuple[str, Stamp]]:
    """Yield every file below a directory, whatever its name. Raises OSError where a folder cannot be read."""
    pending = [""]
    while pending:
        prefix = pending.pop()
        for entry, status in _entries(output / prefix):
            if stat.S_ISDIR(status.st_mode):
                pending.append(f"{prefix}{entry.name}/")
            elif not stat.S_ISLNK(status.st_mode):
                yield prefix + entry.name, Stamp.of(status)


def _enter(listing: Listing, path: str, status: os.stat_result, *, unfinished: bool) -> None:
    if stat.S_ISREG(status.st_mode):
        (listing.unfinished if unfinished else listing.files)[path] = Stamp.of(status)
    elif stat.S_ISLNK(status.st_mode):
        listing.refusal = f"{path!r} in it is a symbolic link, and links are not followed"
    else:
        listing.refusal = f"{path!r} in it is neither a file nor a folder"


def _entries(folder: Path) -> list[tuple[os.DirEntry[str], os.stat_result]]:
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                found.append((entry, entry.stat(follow_symlinks=False)))
            except FileNotFoundError:
                continue  # removed while we looked
    return sorted(found, key=lambda pair: pair[0].name)
