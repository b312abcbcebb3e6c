"""The kernel's notices of what happens in folders (Linux' inotify), and whether a process writes to a file.

Both are evidence that looking again and again cannot give: a file that was closed and deleted between two looks was
there, and a file that no process has open for writing will not change any more. Where the kernel or the file system
has neither (macOS, network file systems), the caller looks.

``inotify(7)`` is not in Python's library. Of the packages that wrap it, none hands on the closing of a file together
with its name and does without a thread of its own, so these are the three calls by ``ctypes``.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import signal
import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path

_CLOSE_WRITE, _OPEN, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x08, 0x20, 0x40, 0x80, 0x100, 0x200
_MOVE_SELF, _OVERFLOW, _IGNORED, _IS_FOLDER = 0x800, 0x4000, 0x8000, 0x40000000
_ONLY_FOLDERS, _FOLLOW_NO_LINK = 0x01000000, 0x02000000
# That a file is opened tells nothing, but without it the kernel makes one notice of two closings in a row.
_WANTED = _CLOSE_WRITE | _OPEN | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _MOVE_SELF
_WANTED |= _ONLY_FOLDERS | _FOLLOW_NO_LINK
_EVENT = struct.Struct("iIII")
_BUFFER = 256 * 1024


@dataclass(slots=True)
class Notices:
    """What has happened since the last reading."""

    places: set[str] = field(default_factory=set)
    """Folders in which something happened."""
    closed: dict[str, int] = field(default_factory=dict)
    """Files that a process had open for writing and closed, or that were renamed to this path, and how often; the one
    of the latest notice last."""
    arrived: set[str] = field(default_factory=set)
    """Folders that were made here or renamed to this path."""
    is_all_changed: bool = False
    """Whether anything may have changed: notices were lost, or there are none."""


class FolderWatch:
    """Notices of the folders below a root, which the caller adds as it lists them."""

    def __init__(self, root: Path) -> None:
        """Raises OSError where the kernel has no such notices, or no more of them for this user."""
        if not sys.platform.startswith("linux"):
            raise OSError(errno.ENOSYS, "there are no notices of file system changes on this system")
        self._root = os.fsencode(root)
        self._library = ctypes.CDLL(None, use_errno=True)
        self._number = self._call(self._library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self._wake_read, self._wake_write = os.pipe()
        self._places: dict[int, str] = {}
        self._numbers: dict[str, int] = {}

    def add(self, place: str) -> bool:
        """Watch a folder; False where it is gone. Raises OSError where the kernel refuses, as beyond its limits."""
        path = self._root + (b"/" + os.fsencode(place) if place else b"")
        try:
            number = self._call(self._library.inotify_add_watch(self._number, path, _WANTED))
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                return False
            raise
        former = self._places.get(number)
        if former is not None:
            self._numbers.pop(former, None)  # the same folder under a new name
        self._places[number], self._numbers[place] = place, number
        return True

    def has(self, place: str) -> bool:
        """Whether a folder is watched."""
        return place in self._numbers

    def forget(self, place: str) -> None:
        """Watch a folder no more: it is gone from this path."""
        number = self._numbers.pop(place, None)
        if number is not None and self._places.get(number) == place:
            del self._places[number]
            self._library.inotify_rm_watch(self._number, number)

    def wait(self, seconds: float) -> None:
        """Return when there is a notice, at the latest after so many seconds, or at once after `wake`."""
        select.select([self._number, self._wake_read], [], [], max(0.0, seconds))

    def has_more(self) -> bool:
        """Whether something has happened since the last reading."""
        return bool(select.select([self._number], [], [], 0)[0])

    def wake(self) -> None:
        """End the present `wait` and each later one."""
        os.write(self._wake_write, b".")

    def read(self) -> Notices:
        """What has happened since the last call."""
        found = Notices()
        while True:
            try:
                data = os.read(self._number, _BUFFER)
            except BlockingIOError:
                return found
            self._take(data, found)

    def close(self) -> None:
        """Give up all watches."""
        for number in (self._number, self._wake_read, self._wake_write):
            os.close(number)

    def _take(self, data: bytes, found: Notices) -> None:
        position = 0
        while position < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size
            name = os.fsdecode(data[position : position + length].rstrip(b"\0"))
            position += length
            if mask & _OVERFLOW:
                found.is_all_changed = True
                continue
            place = self._places.get(number)
            if place is None:
                continue
            if mask & _IGNORED:
                self._places.pop(number, None)
                self._numbers.pop(place, None)
                continue
            if mask & _OPEN:
                continue
            if mask & _MOVE_SELF:
                if not place:  # what is made at its path next is another folder
                    found.is_all_changed = True
                    self._forget_below("")
                continue
            found.places.add(place)
            path = f"{place}/{name}" if place else name
            if mask & (_CLOSE_WRITE | _MOVED_TO) and not mask & _IS_FOLDER:
                found.closed[path] = found.closed.pop(path, 0) + 1
            elif mask & (_MOVED_TO | _CREATE) and mask & _IS_FOLDER:
                found.arrived.add(path)
            elif mask & _MOVED_FROM:
                found.closed.pop(path, None)  # what was closed is under another name now
                if mask & _IS_FOLDER:
                    for below in [one for one in found.closed if one.startswith(f"{path}/")]:
                        del found.closed[below]
                    self._forget_below(path)

    def _forget_below(self, place: str) -> None:
        for one in [known for known in self._numbers if not place or known == place or known.startswith(f"{place}/")]:
            self.forget(one)

    @staticmethod
    def _call(result: int) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


def is_written(descriptor: int) -> bool | None:
    """Whether any process has a file open for writing; None where the system cannot tell.

    Linux grants a read lease only on a file that no process has open for writing, mapped memory included
    (``fcntl(2)``, "Leases"). It is given back at once. A process that opens the file in that moment waits for it, and
    we are sent SIGURG, which does nothing.
    """
    if not hasattr(fcntl, "F_SETLEASE"):
        return None
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return True if error.errno == errno.EAGAIN else None
    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
