"""The folders in which flexai keeps what is its own, met where files of a user are looked for.

They are known by their device and inode, so links, bind mounts and the way in which a path is written change nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.paths import first_of
from flexai.checkpoints.settings import Settings

ELSEWHERE = "name another one: FLEXAI_HOME and FLEXAI_STORE say which folders flexai has for itself"
"""What to do about a folder that is one of them."""
_Identity = tuple[int, int]


class OwnFolders:
    """The home folder and, where it is a folder, the managed store: neither is a part of what is pushed or captured."""

    def __init__(self, home: Path | None = None, store: Path | None = None) -> None:
        """Without folders there are none."""
        self._home = home
        self._store = store
        self._known: frozenset[_Identity] = frozenset()
        self._lies_in: dict[Path, Path | None] = {}
        self.met: dict[str, None] = {}
        """Those that were met and left out, by the paths that the caller gives them."""
        self.look()

    @classmethod
    def of(cls, settings: Settings) -> OwnFolders:
        """Those of the settings. A store in a bucket is no folder."""
        return cls(settings.home, Path(settings.effective_store))

    def look(self) -> bool:
        """See which of them are there by now; returns whether these are others than before."""
        before = self._known
        self._known = frozenset(_identities(filter(None, (self._home, self._store))))
        return self._known != before

    def have(self, status: os.stat_result) -> bool:
        """Whether a folder is one of them."""
        return (status.st_dev, status.st_ino) in self._known

    def around(self, folder: Path) -> Path | None:
        """The one of them that a folder is, or the store that it lies in; None for any other folder.

        What else lies in the home folder may be a user's: what a training job has written is.
        """
        if not self._known:
            return None
        if folder not in self._lies_in:
            real = Path(os.path.realpath(folder))
            stores = frozenset(_identities([self._store] if self._store else ()))
            places = ((one, self._known if one == real else stores) for one in (real, *real.parents))
            self._lies_in[folder] = next((one for one, own in places if own.intersection(_identities([one]))), None)
        return self._lies_in[folder]

    def hold(self, path: str) -> bool:
        """Whether a path is that of one that was met, or of what lies in it."""
        return any(path == one or path.startswith(f"{one}/") for one in self.met)

    def refused(self, what: str, path: Path, folder: Path) -> str:
        """Why a path cannot be used whose folder is this one, where it is one of them; empty where it can be."""
        place = self.around(folder)
        if place is None:
            return ""
        where = "is" if os.path.realpath(path) == str(place) else f"lies in {place},"
        return f"{what} {path} {where} where flexai keeps what is its own"

    def check(self, what: str, folder: Path, *, may_hold: bool) -> None:
        """Raise UsageError where a folder is one of them, lies in one or, unless it may, holds one."""
        refused = self.refused(what, folder, folder)
        if not refused and not may_hold and (own := first_within(folder, filter(None, (self._home, self._store)))):
            refused = f"{what} {folder} holds {own}, where flexai keeps what is its own"
        if refused:
            raise UsageError(refused, hint=ELSEWHERE)

    def told(self) -> str:
        """What to say of those that were met; empty where none was."""
        return f"{first_of(list(self.met))} left out: flexai keeps what is its own there" if self.met else ""


def first_within(folder: Path, places: Iterable[Path]) -> Path | None:
    """The first of some places that is a folder or lies in it, at any depth; what is not there lies nowhere."""
    wanted = frozenset(_identities([folder]))
    for place in places:
        real = Path(os.path.realpath(place))
        # The address of a bucket is no folder, and lies in none, though as a path it would.
        if any(_identities([real])) and wanted.intersection(_identities([real, *real.parents])):
            return real
    return None


def _identities(folders: Iterable[Path]) -> Iterable[_Identity]:
    for folder in folders:
        try:
            status = folder.stat()
        except (OSError, ValueError):
            continue  # it is not there, or it is no folder but the address of a bucket
        yield status.st_dev, status.st_ino
