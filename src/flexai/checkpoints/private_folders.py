"""Folders and files that are their owner's alone, and places that are a group's or open to others."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

_OWNER = stat.S_IRUSR | stat.S_IWUSR
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def make_private_folder(folder: Path) -> None:
    """Make a folder and its missing parents, for their owner alone under any umask; what is there stays as it is.

    `Path.mkdir(mode=…, parents=True)` makes the parents as the umask says. Raises OSError.
    """
    if folder.is_dir():
        return
    if not folder.parent.exists():
        make_private_folder(folder.parent)
    try:
        folder.mkdir(mode=stat.S_IRWXU)
    except FileExistsError:
        if not folder.is_dir():
            raise
    else:
        folder.chmod(stat.S_IRWXU)  # which a umask may have cut


def make_private_file(path: Path) -> None:
    """Make an empty file, for its owner alone under any umask; what is there stays as it is. Raises OSError."""
    if path.exists():
        return
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWNER)
        os.fchmod(descriptor, _OWNER)
        os.close(descriptor)


def is_shared(folder: Path, *, home: Path) -> bool:
    """Whether a folder is a group's: its setgid bit is set, the group has rights there, and it is in no user's home.

    What is made in such a folder is the group's too (https://man7.org/linux/man-pages/man7/inode.7.html). Of a folder
    that is not there yet it is the nearest one above that says so.
    """
    if folder.is_relative_to(home):
        return False
    try:
        mode = folder.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return folder != folder.parent and is_shared(folder.parent, home=home)
    except OSError:
        return False
    return stat.S_ISDIR(mode) and bool(mode & stat.S_ISGID and mode & stat.S_IRWXG)


def make_shared_file(path: Path) -> None:
    """Make an empty file as the umask says; what is there stays as it is. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))


def close_to_others(path: Path) -> None:
    """Take the rights of other users at a file or a folder away, if it is there and ours."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & _OTHERS:
            path.chmod(mode & ~_OTHERS)


def rights_of_others(path: Path) -> str:
    """The mode of what other users have a right at, such as `0755`; empty where they have none, or it is not there."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return ""
    return f"{mode:04o}" if mode & _OTHERS else ""
