"""What lies in a training job's output directory: its folders as they were listed last."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from flexai.checkpoints.models import Node
from flexai.checkpoints.own_folders import OwnFolders
from flexai.checkpoints.patterns import IGNORE_FILE, LONGEST_IGNORE_FILE, Patterns, of_folder
from flexai.checkpoints.storage.beneath import GONE, Beneath, Folder
from flexai.checkpoints.training.launchers import folder_suffix

MAX_DEPTH = 24
"""Folders within folders that are looked into."""
_OURS = ".flexai-"
"""Begins the names of our own folders in an output directory that is a volume of its own."""
_MOST_KNOWN = 100_000
"""Paths of which it is kept whether they are excluded."""


def place_beside(output: Path, kind: str, node: Node | None) -> Path:
    """A folder of ours for links to an output directory's files, which cannot leave a file system.

    It lies beside the output directory, or in it where that is a volume of its own. Each of several machines (``node``)
    has its own, as they may share a disk.
    """
    name = f"{_OURS}{kind}{folder_suffix(node)}"
    return output / name if output.is_mount() else output.parent / f".{output.name}{name}"


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which file it is and when it was written last: equal stamps, equal content.

    The inode's change time is no part of it: making and removing hard links changes that.
    """

    device: int
    inode: int
    size: int
    """Bytes."""
    written: int
    """Nanoseconds since the epoch."""

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp that a file's status gives."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    @property
    def identity(self) -> tuple[int, int, int, int]:
        """All of it, as the transfer compares it."""
        return self.device, self.inode, self.size, self.written

    def is_copy_of(self, other: Stamp) -> bool:
        """Whether it may be the same content in another file: copies keep the time of writing."""
        return (self.size, self.written) == (other.size, other.written)

    @property
    def file(self) -> tuple[int, int]:
        """The file itself, whatever its names and its content."""
        return self.device, self.inode


Stamps = Mapping[str, Stamp]
"""Files by their paths below a folder, with ``/``."""


@dataclass(slots=True)
class Listing:
    """One folder, without what is in its folders."""

    files: dict[str, Stamp] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)
    """Symbolic links, and what they say."""
    special: set[str] = field(default_factory=set)
    """What is neither a file nor a folder: FIFOs, sockets, devices."""


class Excluded:
    """What of an output directory is not taken, as a user's patterns, the defaults and its ``.flexaiignore`` say.

    Used from any thread.
    """

    def __init__(self, output: Path | None = None, patterns: Iterable[str] = (), own: OwnFolders | None = None) -> None:
        """``patterns`` are a user's; without an output directory nothing is excluded but by them.

        The folders of ``own`` are not even listed.
        """
        self._output = output
        self.own = own or OwnFolders()
        self._by_user = Patterns(patterns)
        self._by_folder = Patterns(())
        self._known: dict[tuple[str, bool], bool] = {}
        self._stamp: Stamp | None = None
        self._lock = threading.Lock()
        self.version = 0
        """Another one whenever the patterns have changed."""
        self.flaw = ""
        """Why what the ignore file names is taken all the same; empty where it is not."""
        if output is not None:
            self._by_folder = of_folder(b"")
            self.refresh()

    def refresh(self) -> None:
        """Read the ignore file anew where it is another one now."""
        if self._output is None:
            return
        with self._lock:
            stamp = self._look()
            if stamp == self._stamp:
                return
            own = b"" if stamp is None else self._read(self._output)
            self._stamp, self._by_folder, self._known = stamp, of_folder(own), {}
            self.version += 1

    @property
    def is_asked_for(self) -> bool:
        """Whether more is excluded than the defaults."""
        return bool(self._by_user) or self._stamp is not None

    def name(self, path: str, *, is_folder: bool = False) -> bool:
        """Whether a path, or a folder that it is in, is excluded."""
        known = self._known
        found = known.get((path, is_folder))
        if found is None:
            if len(known) >= _MOST_KNOWN:
                known.clear()
            found = self._by_user.name(path, is_folder=is_folder) or self._by_folder.name(path, is_folder=is_folder)
            known[path, is_folder] = found
        return found

    def top(self, path: str) -> str:
        """The topmost folder that is excluded and holds this excluded file, with ``/``; or the file itself."""
        parts = path.split("/")
        folders = ("/".join(parts[:count]) for count in range(1, len(parts)))
        return next((f"{folder}/" for folder in folders if self.name(folder, is_folder=True)), path)

    def _look(self) -> Stamp | None:
        assert self._output is not None
        try:
            status = (self._output / IGNORE_FILE).lstat()
        except OSError as error:
            if error.errno in GONE:
                return None
            return self._stamp  # a file system that fails for a moment
        if stat.S_ISREG(status.st_mode):
            return Stamp.of(status)
        self.flaw = f"{IGNORE_FILE} is no file, so what it names is captured"
        return None

    def _read(self, output: Path) -> bytes:
        self.flaw = ""
        try:
            content = Beneath(output).start_of(IGNORE_FILE, LONGEST_IGNORE_FILE + 1)
        except OSError as error:
            if error.errno not in GONE:
                self.flaw = f"{IGNORE_FILE} cannot be read ({error.strerror}), so what it names is captured"
            return b""
        if len(content) > LONGEST_IGNORE_FILE:
            self.flaw = (
                f"{IGNORE_FILE} is longer than {LONGEST_IGNORE_FILE // 1024} KiB: lines behind that do not count"
            )
        return content


class OutputTree:
    """The folders of an output directory, each with its listing, by their paths below it; ``""`` is itself."""

    def __init__(
        self,
        tree: Beneath,
        *,
        root: str = "",
        before: Callable[[str], object] = lambda _place: None,
        excluded: Excluded | None = None,
    ) -> None:
        """``root`` is where in the tree it lies; ``before`` is called with each folder before it is listed.

        What is ``excluded`` is listed as well, but for what flexai keeps: whether a checkpoint is whole depends on all
        of its files.
        """
        self.excluded = excluded or Excluded()
        """What is not taken of it."""
        self._tree = tree
        self._root = root
        self._before = before
        self.folders: dict[str, Listing] = {}

    def refresh(self, places: Iterable[str] | None = None) -> set[str]:
        """List folders anew (all of them where none are named) with those that appeared in them.

        Returns the folders whose listing is another one now, those that are gone included. A folder that cannot be
        read is as it was. Raises OSError where the output directory itself cannot be read; one that is not there
        (yet, or for a moment) is empty.
        """
        own = self.excluded.own
        if own.look():
            places = None  # the store was made in it just now, say
        before = set(self.folders) if places is None else set()
        pending = [""] if places is None else sorted(places)
        changed: set[str] = set()
        seen: set[str] = set()
        while pending:
            place = pending.pop()
            if place in seen or place.count("/") >= MAX_DEPTH or own.hold(place):
                continue
            seen.add(place)
            self._before(place)
            try:
                listing = self._list(place)
            except OSError as error:
                if error.errno in GONE and (place or isinstance(error, FileNotFoundError)):
                    changed |= self._forget(place)
                elif not place:
                    raise
                continue
            old = self.folders.get(place)
            if old != listing:
                changed.add(place)
                for name in old.folders - listing.folders if old else ():
                    changed |= self._forget(_join(place, name))
                self.folders[place] = listing
            known = listing.folders if places is None else listing.folders - (old.folders if old else set())
            pending.extend(_join(place, name) for name in known)
        for place in before - seen:
            changed |= self._forget(place)
        return changed

    def stamp(self, path: str) -> Stamp | None:
        """The stamp of a file, as it was listed last."""
        place, _, name = path.rpartition("/")
        listing = self.folders.get(place)
        return None if listing is None else listing.files.get(name)

    def files(self) -> Iterator[tuple[str, Stamp]]:
        """Yield every file, whatever its name."""
        for place, listing in self.folders.items():
            for name, stamp in listing.files.items():
                yield _join(place, name), stamp

    def wanted_files(self) -> Iterator[tuple[str, Stamp]]:
        """Yield every file that is not excluded."""
        return ((path, stamp) for path, stamp in self.files() if not self.excluded.name(path))

    def target(self, path: str) -> str | None:
        """What a symbolic link leads to, below the output directory; None where it leads elsewhere or nowhere."""
        for _ in range(8):  # links to links
            place, _, name = path.rpartition("/")
            listing = self.folders.get(place)
            if listing is None:
                return None
            if name in listing.files or name in listing.folders:
                return path
            text = listing.links.get(name)
            if text is None:
                return None
            if text.startswith("/"):
                root = f"{(self._tree.root / self._root).absolute()}/"
                if not text.startswith(root):
                    return None
                path = posixpath.normpath(text[len(root) :])
            else:
                path = posixpath.normpath(_join(place, text))
            if path.startswith("../") or path in {"..", "."}:
                return None
        return None

    def _list(self, place: str) -> Listing:
        folder = self._tree.folder(f"{self._root}/{place}".strip("/"))
        found = Listing()
        for name, _ in folder.entries():
            if not place and name.startswith(_OURS):
                continue
            with suppress(FileNotFoundError):  # removed while we looked
                status = folder.status(name)
                if stat.S_ISDIR(status.st_mode) and self.excluded.own.have(status):
                    self.excluded.own.met[_join(place, name)] = None
                else:
                    _enter(found, folder, name, status)
        return found

    def _forget(self, place: str) -> set[str]:
        gone = {one for one in self.folders if one == place or not place or one.startswith(f"{place}/")}
        for one in gone:
            del self.folders[one]
        return gone


def _enter(listing: Listing, folder: Folder, name: str, status: os.stat_result) -> None:
    if stat.S_ISREG(status.st_mode):
        listing.files[name] = Stamp.of(status)
    elif stat.S_ISDIR(status.st_mode):
        listing.folders.add(name)
    elif stat.S_ISLNK(status.st_mode):
        try:
            listing.links[name] = os.readlink(name, dir_fd=folder.number)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Something else has taken its place, which the next look finds.
    else:
        listing.special.add(name)


def _join(place: str, name: str) -> str:
    return f"{place}/{name}" if place else name
