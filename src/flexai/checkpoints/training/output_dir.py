"""What lies in a training job's output directory: checkpoints as folders, files in its root, and what is neither."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from flexai.checkpoints.storage.beneath import GONE, Beneath, Folder
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
        folder = Beneath(output).folder("")
        entries = _entries(folder)
    except FileNotFoundError:
        return found
    for name, status in entries:
        if stat.S_ISDIR(status.st_mode):
            if is_temporary_folder(name):
                found.temporary.append(name)
            else:
                found.folders[name] = Stamp.of(status)
        elif not (stat.S_ISLNK(status.st_mode) and _is_folder(folder, name)):
            # A link to a folder is how trainers point at one of their checkpoints (`latest`): no file of any.
            _enter(found.root, name, status, unfinished=is_unfinished(name))
    return found


def list_checkpoint(tree: Beneath, place: str) -> Listing:
    """List a checkpoint's folder and the folders in it; ``place`` is its path.

    Raises OSError where it cannot be read: one of ``GONE`` where it is no longer there.
    """
    found = Listing()
    pending = [("", False)]
    while pending:
        prefix, is_unfinished_folder = pending.pop()
        try:
            entries = _entries(tree.folder(f"{place}/{prefix}".strip("/")))
        except OSError as error:
            if prefix and error.errno in GONE:
                continue  # removed while we looked
            raise
        for name, status in entries:
            path = prefix + name
            unfinished = is_unfinished_folder or is_unfinished(name)
            if stat.S_ISDIR(status.st_mode):
                pending.append((path + "/", unfinished))
            else:
                _enter(found, path, status, unfinished=unfinished)
    return found


def walk_files(output: Path) -> Iterator[tuple[str, Stamp]]:
    """Yield every file below a directory, whatever its name. Raises OSError where a folder cannot be read."""
    tree = Beneath(output)
    pending = [""]
    while pending:
        base = pending.pop()
        prefix = f"{base}/" if base else ""
        for name, status in _entries(tree.folder(base)):
            if stat.S_ISDIR(status.st_mode):
                pending.append(prefix + name)
            elif not stat.S_ISLNK(status.st_mode):
                yield prefix + name, Stamp.of(status)


def _enter(listing: Listing, path: str, status: os.stat_result, *, unfinished: bool) -> None:
    if stat.S_ISREG(status.st_mode):
        (listing.unfinished if unfinished else listing.files)[path] = Stamp.of(status)
    elif stat.S_ISLNK(status.st_mode):
        listing.refusal = f"{path!r} in it is a symbolic link, and links are not followed"
    else:
        listing.refusal = f"{path!r} in it is neither a file nor a folder"


def _entries(folder: Folder) -> list[tuple[str, os.stat_result]]:
    found = []
    for name, _ in sorted(folder.entries()):
        with suppress(FileNotFoundError):  # removed while we looked
            found.append((name, folder.status(name)))
    return found


def _is_folder(folder: Folder, name: str) -> bool:
    """Whether a link leads to a folder."""
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder.number).st_mode)
    except OSError:
        return False
