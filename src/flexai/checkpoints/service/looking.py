"""A system that is only looked at: whatever is done with it, nothing is made or written."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from flexai.checkpoints.catalog.blobs import Blobs
from flexai.checkpoints.catalog.opening import sqlite_file
from flexai.checkpoints.contents import StoredContent
from flexai.checkpoints.owner import IDENTITY_FILE, load_owner
from flexai.checkpoints.service.system import STAT_CACHE, Connect, System, store_opener
from flexai.checkpoints.settings import Settings, load_settings
from flexai.checkpoints.transfer.stat_cache import StatCache


class LookingBlobs(Blobs):
    """The catalog's blobs, of which nothing is recorded that a look finds out."""

    def learn(self, content: StoredContent) -> None:
        """Record nothing."""


class LookingSystem(System):
    """A system whose store is not made on first use."""

    @cached_property
    def store_id(self) -> str:
        """The managed store's own id; empty where it is not made yet."""
        return self.store.read_id() or ""

    @cached_property
    def stat_cache(self) -> StatCache:
        """The digests of this machine's files that are remembered."""
        return StatCache(self.settings.home / STAT_CACHE, read_only=True)

    @cached_property
    def blobs(self) -> Blobs:
        """The catalog's blobs of the managed store."""
        return LookingBlobs(self.catalog.database, self.store_id)


@contextlib.contextmanager
def looking(settings: Settings | None = None, *, connect: Connect | None = None) -> Iterator[System]:
    """Open what the settings name to look at it; in the place of what is not there yet stands something thrown away.

    Raises what ``System.open`` raises. Tables of an older form are brought to their newest all the same.
    """
    settings = settings or load_settings()
    with tempfile.TemporaryDirectory(prefix="flexai-") as folder:
        url = settings.effective_database_url
        if not _is_there(url):
            url = f"sqlite:///{folder}/catalog.db"
        home = settings.home if (settings.home / IDENTITY_FILE).exists() else Path(folder)
        with LookingSystem(
            settings=settings,
            database_url=url,
            open_store=store_opener(settings.effective_store, connect),
            owner=load_owner(home),
        ) as system:
            yield system


def _is_there(url: str) -> bool:
    """Whether a catalog is there; one on a server is taken to be."""
    path = sqlite_file(url)
    return path is None or path.exists()
