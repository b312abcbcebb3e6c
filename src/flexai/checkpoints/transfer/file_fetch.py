"""One large file's way from the managed store into a directory."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.storage.files import is_hole, read_blocks, set_executable, sync_data, write_blocks
from flexai.checkpoints.transfer.crew import CountedBody
from flexai.checkpoints.transfer.digest import DigestingBody, Part, digest_blocks, parts_of
from flexai.checkpoints.transfer.first_reading import FirstReading, check_checksum
from flexai.checkpoints.transfer.partial_files import PartialFiles
from flexai.checkpoints.transfer.stored_body import StoredBody, damaged

if TYPE_CHECKING:
    from flexai.checkpoints.transfer.fetch import Fetch

TRIES = 5
"""How often a file is written that other fetches take away."""


class FileFetch:
    """One large file on its way; its parts arrive by any threads in any order."""

    def __init__(self, fetch: Fetch, file: StoredFile, partials: PartialFiles) -> None:
        self._fetch = fetch
        self._file = file
        self._partials = partials
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._left = 0
        self._tries = 0
        self._temporary = ""
        self._descriptor = -1
        self._first = FirstReading(file.content) if file.content.digest is None else None

    def begin(self) -> None:
        """Open the file beside its name, or what an earlier fetch left of it, and queue its parts."""
        self._tries += 1
        self._temporary, self._descriptor = self._partials.open(self._file, adopt=self._tries == 1)
        parts = parts_of(self._file.content.size, self._file.content.part_size)
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
            write_blocks(self._descriptor, part.offset, body.blocks(), keep_holes=fresh, turn=self._turn)
            if self._first:
                self._first.take(part, body.digest)
            elif body.digest != content.part_digest(part.number):
                raise damaged(self._file)

    def _finish(self) -> None:
        if self._first:
            check_checksum(self._file.content, read_blocks(self._descriptor, 0, self._file.content.size))
            self._first.record(self._fetch.record)
        # Also of one that is not to be executed: what was adopted may have been left by a fetch of one that is.
        set_executable(self._descriptor, self._file.is_executable)
        sync_data(self._descriptor)
        self._partials.close(self._descriptor)
        try:
            self._fetch.publish(self._temporary, self._file)
        except FileNotFoundError:
            if self._tries == TRIES:
                raise
            # Locks keep no process out here, so another fetch took it for a dead one's and finishes it.
            self.begin()
