"""A checkpoint's files as names, sizes and ranges, wherever they lie."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

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

    def __init__(self, name: str, sizes: Mapping[str, int], local_path: Callable[[str], Path]) -> None:
        """``name`` is the checkpoint's display name, empty for files in the output directory's root.

        ``sizes`` has each file's path below the folder (with `/`) and its bytes; ``local_path`` tells where it is.
        """
        self.name = name
        self.files = sizes
        self._local_path = local_path

    def read(self, path: str, start: int, length: int) -> bytes:
        """At most `length` bytes from offset `start`; fewer only where the file ends. Raises OSError."""
        # The file may have been replaced since: O_NOFOLLOW for a link, O_NONBLOCK so that a pipe cannot hang us.
        descriptor = os.open(self._local_path(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
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
