"""Digests of local files that were read before, so that pushing them again unchanged reads nothing.

A file is taken for the one that was read while its path, device, inode, size and time of last write are the same. A
write within the same tick of the clock would go unnoticed, so a file that was written shortly before it was read is not
remembered: git's rule for racily clean entries (https://git-scm.com/docs/racy-git).

It is a cache of this machine: losing it costs a reading, and what is wrong with it never fails an operation.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from flexai.checkpoints.local_paths import is_no_file
from flexai.checkpoints.private_folders import make_private_file
from flexai.checkpoints.transfer.sources import LocalSource

_FORMAT = 1
_BATCH = 500
_KEPT_SECONDS = 90 * 24 * 3600
_WAIT_SECONDS = 5.0
_FETCHED_SECONDS = 5 * 365 * 24 * 3600
# Beside the digests, of whose form it is no part: a version that does not know it leaves it alone.
_FETCHED = (
    "CREATE TABLE IF NOT EXISTS fetched (path BLOB PRIMARY KEY, identity TEXT NOT NULL, noted_at INTEGER NOT NULL)"
    " WITHOUT ROWID"
)
RACY_NS = 2_000_000_000
"""Between the last write and the scan: the coarsest clock of a file system that is in use (FAT) ticks so slowly."""


class StatCache:
    """The digests that are remembered, in an SQLite file of their own."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Use a file, which is made when something is first remembered; ``read_only`` only looks at it."""
        self._path = path
        self._read_only = read_only

    def recall(self, sources: Sequence[LocalSource]) -> list[LocalSource]:
        """The same sources, each with its digest where that is remembered."""
        recalled = list(sources)
        if self._path.exists():
            with self._forgiving(), self._opened() as connection:
                for start in range(0, len(sources), _BATCH):
                    paths = [_key(source) for source in sources[start : start + _BATCH]]
                    marks = ",".join("?" * len(paths))
                    query = f"SELECT path, identity, digest FROM digests WHERE path IN ({marks})"
                    found = {path: (identity, digest) for path, identity, digest in connection.execute(query, paths)}
                    for number, path in enumerate(paths, start) if found else ():
                        identity, digest = found.get(path, ("", ""))
                        if digest and identity == _identity(sources[number]):
                            recalled[number] = replace(sources[number], digest=digest)
        return recalled

    def remember(self, sources: Sequence[LocalSource], digests: Mapping[str, bytes], *, scanned_ns: int) -> None:
        """Remember sources that have been read, by the digests of their paths in the checkpoint.

        ``scanned_ns`` is when they were listed, in nanoseconds since the epoch.
        """
        today = int(time.time())
        known = [one for one in sources if one.path in digests and one.identity[3] + RACY_NS < scanned_ns]
        if not known:
            return
        # One by one, as they are written: together the rows of 100,000 files take 30 MB.
        rows = ((_key(source), _identity(source), digests[source.path].hex(), today) for source in known)
        with self._forgiving(), self._opened() as connection, connection:
            connection.execute("DELETE FROM digests WHERE used_at < ?", (today - _KEPT_SECONDS,))
            connection.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", rows)

    def note_fetched(self, folder: Path) -> None:
        """Remember that a checkpoint was fetched to a folder."""
        if self._read_only or self.was_fetched(folder):
            return
        with self._forgiving(), self._opened() as connection, connection:
            connection.execute(_FETCHED)
            row = (_place(folder), _folder_identity(folder), int(time.time()))
            connection.execute("DELETE FROM fetched WHERE noted_at < ?", (row[2] - _FETCHED_SECONDS,))
            connection.execute("INSERT OR REPLACE INTO fetched VALUES (?, ?, ?)", row)

    def was_fetched(self, folder: Path) -> bool:
        """Whether a checkpoint was fetched to this very folder, as far as that is remembered."""
        found = None
        if self._path.exists():
            with self._forgiving(), self._opened() as connection:
                query = "SELECT identity FROM fetched WHERE path = ?"
                found = connection.execute(query, (_place(folder),)).fetchone()
        return found is not None and found[0] == _folder_identity(folder)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        if not self._read_only:
            with contextlib.suppress(OSError):  # SQLite would make it as the umask says, and says what is wrong
                make_private_file(self._path)
        if is_no_file(self._path):
            raise sqlite3.OperationalError("it is no file")
        place = f"{self._path.absolute().as_uri()}?mode={'ro' if self._read_only else 'rwc'}"
        with contextlib.closing(sqlite3.connect(place, uri=True, timeout=_WAIT_SECONDS)) as connection:
            if connection.execute("PRAGMA user_version").fetchone() != (_FORMAT,):
                if self._read_only:
                    raise sqlite3.OperationalError("it is of another form")
                connection.executescript(
                    "BEGIN IMMEDIATE;"
                    "DROP TABLE IF EXISTS digests;"
                    "CREATE TABLE digests (path BLOB PRIMARY KEY, identity TEXT NOT NULL, digest TEXT NOT NULL,"
                    " used_at INTEGER NOT NULL) WITHOUT ROWID;"
                    "CREATE INDEX digests_used_at ON digests (used_at);"
                    f"PRAGMA user_version = {_FORMAT};"
                    "COMMIT;"
                )
            yield connection

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        """Remove a damaged file; one that cannot be used is as good as none."""
        try:
            yield
        except sqlite3.OperationalError:
            return  # no room, no right, or another process holds it for long
        except sqlite3.DatabaseError:
            if not self._read_only:
                self._path.unlink(missing_ok=True)


def _place(folder: Path) -> bytes:
    return os.fsencode(os.path.realpath(folder))


def _folder_identity(folder: Path) -> str:
    try:
        status = folder.stat()
    except OSError:
        return ""
    return f"{status.st_dev}:{status.st_ino}"


def _key(source: LocalSource) -> bytes:
    # Not by a ``Path``, which takes longer than all else that is done for a file here.
    return os.fsencode(source.place if source.place.startswith("/") else source.local_path.absolute())


def _identity(source: LocalSource) -> str:
    return ":".join(map(str, source.identity))
