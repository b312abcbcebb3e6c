"""What else lies where a checkpoint's files go: it is told of, and removed where the caller asks for that.

Nothing is followed out of the folder: no link, and no other file system that is mounted below it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from flexai.checkpoints.paths import twin_key
from flexai.checkpoints.storage.beneath import Beneath, Folder
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX, target_name

MOST_EXTRA = 10_000
"""Of a place that are found: more are no leftovers of a checkpoint."""


class Extra(NamedTuple):
    """Something that is no part of a checkpoint."""

    path: str
    """Below the place; a folder that holds nothing ends with ``/``."""
    size: int
    """Bytes."""


def find_extra(root: Path, paths: Collection[str], folders: Collection[str]) -> list[Extra]:
    """What lies in a folder beside files and empty folders of these paths, in order; at most one more than MOST_EXTRA.

    A name that differs from one of theirs only in its case, or in its form of Unicode, may mean the same file, and is
    none. Raises OSError.
    """
    files = set(map(twin_key, paths))
    kept = _with_parents({*map(twin_key, folders)}, files)
    try:
        top = Beneath(root).folder("")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(islice(_walk(top, files, kept), MOST_EXTRA + 1))


def _walk(top: Folder, files: set[str], kept: set[str]) -> Iterator[Extra]:
    device = os.fstat(top.number).st_dev
    pending: list[tuple[str, Callable[[], Folder]]] = [("", lambda: top)]
    while pending:
        place, opened = pending.pop()
        # Removed while we looked, or not ours to look into: nothing could be removed there either.
        with suppress(FileNotFoundError, PermissionError):
            folder = opened()
            entries = folder.entries()
            if not entries and place and twin_key(place) not in kept:
                yield Extra(f"{place}/", 0)
            for name, is_folder in entries:
                path = f"{place}/{name}" if place else name
                status = folder.status(name)
                if is_folder and status.st_dev == device:
                    pending.append((path, partial(folder.enter, name)))
                elif not is_folder and not _is_of(path, files):
                    yield Extra(path, status.st_size)


def _is_of(path: str, files: set[str]) -> bool:
    """Whether a path is that of one of the files, or of what an interrupted fetch left of it."""
    folder, slash, name = path.rpartition("/")
    if name.endswith(PARTIAL_SUFFIX):
        name = target_name(name)
    return twin_key(folder + slash + name) in files


def remove_extra(root: Path, extra: Sequence[Extra], folders: Collection[str]) -> None:
    """Remove what was found, and the folders that hold nothing then, but for ``folders``. Raises OSError."""
    tree = Beneath(root)
    kept = _with_parents(set(folders), set())
    for one in extra:
        path = one.path.rstrip("/")
        try:
            folder, name = tree.at(path)
            if one.path.endswith("/"):
                os.rmdir(name, dir_fd=folder.number)
            else:
                os.unlink(name, dir_fd=folder.number)
        except FileNotFoundError:
            continue
        while (path := path.rpartition("/")[0]) and path not in kept:
            folder, name = tree.at(path)
            try:
                os.rmdir(name, dir_fd=folder.number)
            except OSError:
                break  # not empty


def _with_parents(folders: set[str], files: set[str]) -> set[str]:
    """Folders with all that they, and files, are in."""
    found = set(folders)
    for path in (*folders, *files):
        while path := path.rpartition("/")[0]:
            found.add(path)
    return found
