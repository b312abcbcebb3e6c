"""Comparing a file that is read in parts, by many threads, with the digest that its provider keeps of the whole.

SHA-256 can only be taken from the first byte to the last. The part whose turn it is goes into the digest as it is read;
a part that is read ahead of its turn is kept until then, and its thread waits with it. So a file is still read
once, and what is kept is never more than the parts in flight, nor more than a few parts.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.transfer.sources import FileSource, ObjectSource, OpenSource

if TYPE_CHECKING:
    from hashlib import _Hash

_AHEAD = 96 * 1024**2
"""Bytes between the part whose turn it is and the last one that is read ahead of its turn, and kept in memory."""
_LOOK_UP = 0.2
"""Seconds after which a waiting thread sees to it that the work has not been given up."""


def open_whole(source: FileSource, check: Callable[[], None]) -> OpenSource:
    """Open a source; one whose provider keeps a SHA-256 of it is compared with that as it is read.

    ``check`` is called while a part waits for its turn, and raises where there is nothing to wait for any more.
    """
    opened = source.open()
    if isinstance(source, ObjectSource) and source.size > 0:
        sha256 = (source.info.checksums or {}).get("sha256")
        if sha256 is not None:
            return WholeSource(opened, size=source.size, sha256=sha256, name=source.path, check=check)
    return opened


@dataclass(slots=True)
class _Reading:
    """One part, as its last reading found it."""

    length: int
    digest: _Hash | None
    """The digest of everything up to this part's end, where its turn had come when it was read."""
    kept: bytearray = field(default_factory=bytearray)


class WholeSource:
    """An open source that is read part by part, each of them once or again, and settled when it has arrived.

    No part of the file may be left out: parts are asked for in any order, but a thread settles the part that it
    has before it asks for a later one, or it waits forever.
    """

    def __init__(self, opened: OpenSource, *, size: int, sha256: str, name: str, check: Callable[[], None]) -> None:
        """Read ``opened``, of ``size`` bytes; ``sha256`` in hex; ``name`` is how an error calls it."""
        self._opened = opened
        self._check = check
        self._size = size
        self._expected = sha256
        self._name = name
        self._digest = hashlib.sha256()
        self._settled = 0
        self._readings: dict[int, _Reading] = {}
        self._turn = threading.Condition()

    def blocks(self, start: int, length: int) -> Iterator[Block]:
        """Yield a part; reading it again forgets the earlier reading. One far ahead of its turn waits."""
        with self._turn:
            while start - self._settled > _AHEAD:
                self._wait()
            digest = self._digest.copy() if start == self._settled else None
            reading = self._readings[start] = _Reading(length, digest)
        for block in self._opened.blocks(start, length):
            if digest is not None:
                digest.update(block)
            else:
                reading.kept += block
            yield block

    def settle(self, start: int) -> None:
        """Take a part that has arrived into the digest, when its turn has come; the last one decides.

        Raises IntegrityError where the whole is not what the provider says.
        """
        with self._turn:
            while self._settled != start:
                self._wait()
            reading = self._readings.pop(start)
        # No other part has its turn before this one's end.
        if reading.digest is not None:
            self._digest = reading.digest
        else:
            self._digest.update(reading.kept)
        if start + reading.length == self._size and self._digest.hexdigest() != self._expected:
            raise IntegrityError(
                f"{self._name!r} does not match its provider's SHA-256",
                hint="run the same command again; if it fails again, the file is damaged where it comes from",
            )
        with self._turn:
            self._settled = start + reading.length
            self._turn.notify_all()

    def _wait(self) -> None:
        self._check()
        self._turn.wait(_LOOK_UP)

    def check(self) -> None:
        """Raise SourceChangedError where it is no longer what was listed."""
        self._opened.check()

    def close(self) -> None:
        """Let go of it."""
        self._opened.close()
