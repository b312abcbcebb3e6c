"""One large file's way from the managed store into a directory."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING

from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.storage.files import is_hole, read_blocks, set_executable, sync_data, write_blocks
from flexai.checkpoints.storage.protocol import Block, Body
from flexai.checkpoints.transfer.crew import CountedBody, Crew
from flexai.checkpoints.transfer.digest import Part, digest_blocks, digest_each, parts_of
from flexai.checkpoints.transfer.first_reading import FirstReading, check_checksum
from flexai.checkpoints.transfer.partial_files import PartialFiles
from flexai.checkpoints.transfer.stored_body import StoredBody, check_part, damaged

if TYPE_CHECKING:
    from flexai.checkpoints.transfer.fetch import Fetch

REQUEST_SECONDS = 0.1
"""Seconds that a request should take at least: each is waited for, also where it takes but a millisecond."""
TRIES = 5
"""How often a file is written that other fetches take away."""


class PartShares:
    """How many parts of large files a thread takes at a time, to bring them by one request."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._lock = threading.Lock()
        self._waiting = 0
        """Parts that no thread has taken yet."""
        self._bytes = 0
        """What a request brings in ``REQUEST_SECONDS``, by the last one."""

    def expect(self, parts: int) -> None:
        """Count parts of a file that are to be brought."""
        with self._lock:
            self._waiting += parts

    def take(self, waiting: deque[Part]) -> list[Part]:
        """Take the next parts of a file: as many as take ``REQUEST_SECONDS``, but such that each thread has as many."""
        with self._lock:
            fair = self._waiting // (2 * self._crew.width)
            wanted = self._bytes // max(1, waiting[0].size)
            parts = [waiting.popleft() for _ in range(min(max(1, min(fair, wanted)), len(waiting)))]
            self._waiting -= len(parts)
        return parts

    def arrived(self, size: int, seconds: float) -> None:
        """Note how long a request took."""
        self._bytes = int(size * REQUEST_SECONDS / max(seconds, 1e-6))


class _Parts(ABC):
    """Parts of one large file on their way; they arrive by any threads in any order."""

    def __init__(self, fetch: Fetch, file: StoredFile) -> None:
        self._fetch = fetch
        self._file = file
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._waiting: deque[Part] = deque()
        self._left = 0
        self._descriptor = -1
        self._first = FirstReading(file.content) if file.content.digest is None else None

    def _queue(self, parts: Sequence[Part]) -> None:
        self._waiting = deque(parts)
        self._left = len(parts)
        self._fetch.crew.add(self._fetch_next, next_up=True)

    def _fetch_next(self) -> None:
        self._fetch.crew.check()
        parts = self._fetch.shares.take(self._waiting)
        if self._waiting:
            self._fetch.crew.add(self._fetch_next, next_up=True)
        if self._file.path in self._fetch.done.damaged:
            return  # what is sound of it stays beside its name for the next fetch
        try:
            self._bring(parts)
            with self._lock:
                self._left -= len(parts)
                is_last = self._left == 0
            if is_last:
                self._finish()
        except IntegrityError as error:
            self._fetch.done.damaged[self._file.path] = error

    def _bring(self, parts: Sequence[Part]) -> None:
        """Bring parts that follow each other: by one request where none of them is here."""
        content, start = self._file.content, parts[0].offset
        size = sum(part.size for part in parts)
        fresh = is_hole(self._descriptor, start, size)
        if not fresh and len(parts) > 1:
            for part in parts:
                self._bring([part])
        elif not (fresh or self._first) and (
            digest_blocks(read_blocks(self._descriptor, start, size)) == content.part_digest(parts[0].number)
        ):
            self._fetch.progress.advance(skipped=size)
        else:
            stored = StoredBody(self._fetch.store, content.blob_id, content.start + start, size)
            body = CountedBody(stored, crew=self._fetch.crew, progress=self._fetch.progress)
            asked_at = time.monotonic()
            # An error is kept until all other files are here, and what it was raised from is not to be open as long.
            with contextlib.closing(self._blocks(body)) as blocks:
                digested = digest_each(parts, blocks, self._settle)
                if write_blocks(self._descriptor, start, digested, keep_holes=fresh, turn=self._turn) != size:
                    raise damaged(self._file)
            self._fetch.shares.arrived(size, time.monotonic() - asked_at)

    def _settle(self, part: Part, digest: bytes) -> None:
        if self._first:
            self._first.take(part, digest)
        else:
            check_part(self._file, part, digest)

    def _blocks(self, body: Body) -> Generator[Block]:
        for block in body.blocks():
            self._fetch.check_store(self._fetch.crew.check)
            yield block

    @abstractmethod
    def _finish(self) -> None:
        """All of them have arrived."""


class FileFetch(_Parts):
    """One large file on its way."""

    def __init__(self, fetch: Fetch, file: StoredFile, partials: PartialFiles) -> None:
        super().__init__(fetch, file)
        self._partials = partials
        self._tries = 0
        self._temporary = ""

    def begin(self) -> None:
        """Open the file beside its name, or what an earlier fetch left of it, and queue its parts."""
        self._tries += 1
        self._temporary, self._descriptor = self._partials.open(self._file, adopt=self._tries == 1)
        parts = parts_of(self._file.content.size, self._file.content.part_size)
        if self._tries > 1:
            self._fetch.shares.expect(len(parts))
        self._queue(parts)

    def _finish(self) -> None:
        if self._first:
            check_checksum(self._file.content, read_blocks(self._descriptor, 0, self._file.content.size))
            self._first.record(self._fetch.record)
        _make_durable(self._descriptor, self._file)
        self._partials.close(self._descriptor)
        try:
            self._fetch.publish(self._temporary, self._file)
        except FileNotFoundError:
            if self._tries == TRIES:
                raise
            # Locks keep no process out here, so another fetch took it for a dead one's and finishes it.
            self.begin()


class CutFile:
    """A large file beside its name, whose parts other processes bring (``PartsFetch``)."""

    def __init__(self, fetch: Fetch, file: StoredFile) -> None:
        self._fetch = fetch
        self._file = file
        self._partials = PartialFiles(fetch.tree, [file.path], [file.path], mode=fetch.file_mode)
        self.place, self._descriptor = self._partials.open(file, adopt=True)
        """``place`` is where it lies below the directory."""
        self._missing = len(parts_of(file.content.size, file.content.part_size))

    def count_in(self, parts: int) -> bool:
        """So many more parts are there and durable; whether it has its name now, as all are.

        It gets none where another fetch has taken it over.
        """
        self._missing -= parts
        if self._missing:
            return False
        _make_durable(self._descriptor, self._file)
        try:
            self._fetch.give_name(self.place, self._file)
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        """Let go of it; what has arrived stays for the next fetch."""
        self._partials.close_all()


class PartsFetch(_Parts):
    """Some parts of a large file that another process has made beside its name (``CutFile``), and will name."""

    def __init__(self, fetch: Fetch, file: StoredFile, place: str, numbers: range) -> None:
        super().__init__(fetch, file)
        self._place = place
        self._numbers = numbers
        self.have_arrived = False

    def begin(self) -> None:
        """Open the file, and queue the parts. Raises FileNotFoundError where it is not that process's any more."""
        folder, name = self._fetch.tree.at(self._place)
        self._descriptor = folder.open(name, os.O_RDWR)
        self._check_place()
        parts = parts_of(self._file.content.size, self._file.content.part_size)
        self._queue(parts[self._numbers.start - 1 : self._numbers.stop - 1])

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def _blocks(self, body: Body) -> Generator[Block]:
        for block in super()._blocks(body):
            # The process that has made the file may be dead, and the next fetch may have given it its name.
            self._check_place()
            yield block

    def _check_place(self) -> None:
        folder, name = self._fetch.tree.at(self._place)
        there, own = folder.status(name), os.fstat(self._descriptor)
        is_same = (there.st_dev, there.st_ino, there.st_nlink) == (own.st_dev, own.st_ino, 1)
        if not (is_same and stat.S_ISREG(own.st_mode) and own.st_size == self._file.content.size):
            raise FileNotFoundError(f"{self._place} is another file by now")

    def _finish(self) -> None:
        sync_data(self._descriptor)
        self.have_arrived = True


def _make_durable(descriptor: int, file: StoredFile) -> None:
    # Also of one that is not to be executed: what was adopted may have been left by a fetch of one that is.
    set_executable(descriptor, file.is_executable)
    sync_data(descriptor)
