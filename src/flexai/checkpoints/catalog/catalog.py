"""The catalog as a whole."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Set

from flexai.checkpoints.catalog.blobs import Blobs
from flexai.checkpoints.catalog.checkpoints import Checkpoints
from flexai.checkpoints.catalog.claims import CLAIM, Claim
from flexai.checkpoints.catalog.database import MIGRATION_LOCK, Database
from flexai.checkpoints.catalog.gc_queries import Garbage
from flexai.checkpoints.catalog.jobs import Jobs
from flexai.checkpoints.catalog.opening import open_database
from flexai.checkpoints.catalog.soundness import Soundness


class Catalog:
    """The database of checkpoints, training jobs and blobs."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.checkpoints = Checkpoints(database)
        self.jobs = Jobs(database)

    @classmethod
    def open(cls, url: str) -> Catalog:
        """Open the catalog at an SQLAlchemy URL; see ``open_database``."""
        return cls(open_database(url))

    def blobs(self, store_id: str) -> Blobs:
        """The blobs of one managed store."""
        return Blobs(self.database, store_id)

    def garbage(self, store_id: str) -> Garbage:
        """What nobody needs any more of one managed store."""
        return Garbage(self.database, store_id)

    def soundness(self, store_id: str) -> Soundness:
        """The soundness of one managed store's contents."""
        return Soundness(self.database, store_id)

    def at_work(self, ids: Set[str]) -> set[str]:
        """Which of the ids are those of checkpoints or training jobs that somebody is at work on."""
        found: set[str] = set()
        with self.database.reading() as transaction:
            for table in ("checkpoints", "jobs"):
                for row in transaction.records(f"SELECT id, {CLAIM} FROM {table} WHERE claim_token IS NOT NULL"):
                    holder = Claim.of_row(row)
                    if row["id"] in ids and holder is not None and holder.is_alive:
                        found.add(row["id"])
        return found

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold off every other process that asks for the same, for what must be done once."""
        with self.database.writing() as transaction:
            transaction.lock(MIGRATION_LOCK)
            yield

    def close(self) -> None:
        """Close every connection."""
        self.database.close()
