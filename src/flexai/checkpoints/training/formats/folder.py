"""A checkpoint's files as names, sizes and ranges, wherever they lie."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from flexai.checkpoints.storage.beneath import Folder
from flexai.checkpoints.training.formats.verdict import NotWholeError, shown


class RangedFiles(Protocol):
    """Files that are read by range, wherever they lie."""

    @property
    def files(self) -> Mapping[str, int]:
        """Each file's path (with `/`) and its bytes."""

    def read(self, path: str, start: int, length: int) -> bytes:
        """At most `length` bytes from offset `start`; fewer only where the file ends. Raises OSError."""


class CheckpointFolder:
    """What the rules need of a checkpoint: its files as they were listed once."""

    excluded: Collection[str] = ()
    """Files that are there and are not taken: that they are there counts, and not what they hold."""

    def __init__(
        self,
        name: str,
        sizes: Mapping[str, int],
        at: Callable[[str], tuple[Folder, str]],
        *,
        excluded: Collection[str] = (),
    ) -> None:
        """``name`` is the checkpoint's display name, empty for files in the output directory's root.

        ``sizes`` has each file's path below the folder (with `/`) and its bytes; ``at`` finds it.
        """
        self.name = name
        self.files = sizes
        self.excluded = excluded
        self._at = at

    def read(self, path: str, start: int, length: int) -> bytes:
        """At most `length` bytes from offset `start`; fewer only where the file ends. Raises OSError."""
        folder, name = self._at(path)
        with os.fdopen(folder.open(name, os.O_RDONLY), "rb") as file:
            file.seek(start)
            return file.read(length)


def read_exactly(folder: RangedFiles, path: str, start: int, length: int) -> bytes:
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
