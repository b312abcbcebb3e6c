"""A checkpoint's files as names, sizes and ranges, wherever they lie."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from flexai.checkpoints.training.formats.verdict import NotWholeError, shown


class CheckpointFolder(Protocol):
    """What the rules need of a checkpoint; a local directory, a pinned one or a remote prefix can give it."""

    @property
    def name(self) -> str:
        """The checkpoint's display name, a folder's name; empty for files in the output directory's root."""

    @property
    def files(self) -> Mapping[str, int]:
        """Each file's path below the folder (with `/`) and its size in bytes, as listed once."""

    def read(self, path: str, start: int, length: int) -> bytes:
        """At most `length` bytes from offset `start`; fewer only where the file ends. Raises OSError."""


class LocalFolder:
    """A directory on this host, listed once when made: regular files only, links are left out."""

    def __init__(self, path: str | os.PathLike[str], name: str | None = None, *, nested: bool = True) -> None:
        """List `path`; `name` defaults to the directory's own, `nested=False` leaves sub-directories out.

        Raises OSError (FileNotFoundError, NotADirectoryError, PermissionError) when `path` itself cannot be
        listed.
        """
        self._path = Path(path)
        self._name = self._path.name if name is None else name
        self._files = self._listed(nested)

    @property
    def name(self) -> str:
        """The display name."""
        return self._name

    @property
    def files(self) -> Mapping[str, int]:
        """Paths and sizes (bytes) at the time of listing."""
        return self._files

    def read(self, path: str, start: int, length: int) -> bytes:
        """See `CheckpointFolder.read`; raises FileNotFoundError for a path that was not listed."""
        if path not in self._files:
            raise FileNotFoundError(f"{shown(path)} is not a file of this checkpoint")
        # The file may have been replaced since: O_NOFOLLOW for a link, O_NONBLOCK so that a pipe cannot hang us.
        descriptor = os.open(self._path / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileNotFoundError(f"{shown(path)} is no longer a regular file")
            file.seek(start)
            pieces = []
            while length > 0 and (piece := file.read(length)):
                pieces.append(piece)
                length -= len(piece)
        return b"".join(pieces)

    def _listed(self, nested: bool) -> dict[str, int]:
        files = self._entries("")
        directories = [name for name, size in files.items() if size is None] if nested else []
        while directories:
            prefix = directories.pop()
            try:
                found = self._entries(prefix + "/")
            except FileNotFoundError:
                continue  # a trainer removed it while we looked
            directories += [name for name, size in found.items() if size is None]
            files |= found
        return {name: size for name, size in sorted(files.items()) if size is not None}

    def _entries(self, prefix: str) -> dict[str, int | None]:
        """One directory's regular files with their sizes, and its directories with None."""
        entries: dict[str, int | None] = {}
        with os.scandir(self._path / prefix) as scan:
            for entry in scan:
                try:
                    facts = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(facts.st_mode):
                    entries[prefix + entry.name] = None
                elif stat.S_ISREG(facts.st_mode):
                    entries[prefix + entry.name] = facts.st_size
        return entries


def read_exactly(folder: CheckpointFolder, path: str, start: int, length: int) -> bytes:
    """Exactly `length` bytes at `start`.

    Raises NotWholeError when the file has gone, cannot be read or ends earlier than listed.
    """
    try:
        data = folder.read(path, start, length)
    except FileNotFoundError:
        raise NotWholeError(f"{shown(path)} has gone") from None
    except OSError as error:
        raise NotWholeError(f"{shown(path)} could not be read ({shown(error.strerror or str(error))})") from error
    if len(data) != length:
        raise NotWholeError(f"{shown(path)} is shorter than when it was listed")
    return data
