"""Paths of this machine, as a user writes them: what ``~`` and the working directory stand for."""

from __future__ import annotations

import os
from pathlib import Path

from flexai.checkpoints.errors import UsageError


def absolute(path: str | os.PathLike[str]) -> Path:
    """A path of this machine from its root, with ``~`` for the home directory; links in it stay as they are.

    Raises RuntimeError for a user without a home directory, UsageError where the path begins in a working directory
    that has been deleted.
    """
    return Path(os.path.abspath(from_root(path)))  # noqa: PTH100 - ``Path.absolute`` keeps ``..``


def from_root(path: str | os.PathLike[str]) -> Path:
    """The same with each ``..`` that is in it: what that leads to depends on the links before it."""
    found = expanded(Path(path))
    if found.is_absolute():
        return found
    if (start := working_directory()) is None:
        raise UsageError(
            f"{str(path)!r} cannot be found: the working directory has been deleted",
            hint="change to a directory that is there, or give a path from the root",
        )
    return start / found


def working_directory() -> Path | None:
    """The working directory; None where it has been deleted, as below a notebook that lives on."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def is_no_file(path: Path) -> bool:
    """Whether what is there is no file. It is asked before the path is opened: a FIFO may keep us waiting for ever."""
    return path.exists() and not path.is_file()


def expanded(path: Path) -> Path:
    """A path with the home directory in the place of ``~``.

    A HOME that is empty counts as one that is not set, where ``Path.expanduser`` would take the root: then the
    system's list of users says it. Raises RuntimeError for a user without a home directory.
    """
    if os.environ.get("HOME") != "" or path.parts[:1] != ("~",):
        return path.expanduser()
    import pwd

    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        home = ""
    if not home:
        raise RuntimeError("Could not determine home directory.")
    return Path(home, *path.parts[1:])
