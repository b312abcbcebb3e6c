"""One large file's way from the managed store into a directory."""

from __future__ import annotations

import os
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.storage.files import is_hole, read_blocks, set_executable, sync_data, write_blocks
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.transfer.crew import CountedBody
from flexai.checkpoints.transfer.digest import DigestingBody, Part, digest_blocks, parts_of
from flexai.checkpoints.transfer.first_reading import FirstReading, check_checksum
from flexai.checkpoints.transfer.partial_files import PartialFiles
from flexai.checkpoints.transfer.stored_body import StoredBody, damaged

if TYPE_CHECKING:
    from flexai.checkpoints.transfer.fetch import Fetch

TRIES = 5
"""How often a file is written that other fetches take away."""


class _Parts(ABC):
    """Parts of one large file on their way; they arrive by any threads in any order."""

    def __init__(self, fetch: Fetch, file: StoredFile) -> None:
        self._fetch = fetch
        self._file = file
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._left = 0
        self._descriptor = -1
        self._first = FirstReading(file.content) if file.content.digest is None else None

    def _queue(self, parts: Sequence[Part]) -> None:
        self._left = len(parts)
        for part in reversed(parts):
            self._fetch.crew.add(partial(self._fetch_part, part), next_up=True)

    def _fetch_part(self, part: Part) -> None:
        self._fetch.crew.check()
        if self._file.path in self._fetch.done.damaged:
            return  # what is sound of it stays beside its name for the next fetch
        try:
            self._bring_part(part)
            with self._lock:
                self._left -= 1
                is_last = self._left == 0
            if is_last:
                self._finish()
        except IntegrityError as error:
            self._fetch.done.damaged[self._file.path] = error

    def _bring_part(self, part: Part) -> None:
        content = self._file.content
        fresh = is_hole(self._descriptor, part.offset, part.size)
        if not (fresh or self._first) and (
            digest_blocks(read_blocks(self._descriptor, part.offset, part.size)) == content.part_digest(part.number)
        ):
            self._fetch.progress.advance(skipped=part.size)
        else:
            stored = StoredBody(self._fetch.store, content.blob_id, content.start + part.offset, part.size)
            body = DigestingBody(CountedBody(stored, crew=self._fetch.crew, progress=self._fetch.progress))
            write_blocks(self._descriptor, part.offset, self._blocks(body), keep_holes=fresh, turn=self._turn)
            if self._first:
                self._first.take(part, body.digest)
            elif body.digest != content.part_digest(part.number):
                raise damaged(self._file)

    def _blocks(self, body: DigestingBody) -> Iterator[Block]:
        return body.blocks()

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
        self._queue(parts_of(self._file.content.size, self._file.content.part_size))

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

    def _blocks(self, body: DigestingBody) -> Iterator[Block]:
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
