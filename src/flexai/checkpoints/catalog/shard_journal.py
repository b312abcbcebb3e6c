"""The journal of a worker that runs a shard for another process, which holds the lease on the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from flexai.checkpoints.catalog.blobs import Blobs
from flexai.checkpoints.catalog.database import Database
from flexai.checkpoints.catalog.leases import LEASE_LENGTH
from flexai.checkpoints.contents import ArrivedPart, NewContent, StoredContent
from flexai.checkpoints.errors import ConflictError
from flexai.checkpoints.models import now, to_text


class ShardJournal(Blobs):
    """Blobs that are written only while a lease holds.

    So a shard ends soon after the operation that gave it out has failed, was taken over, or has died.
    """

    def __init__(self, database: Database, store_id: str, *, checkpoint_id: str, token: str) -> None:
        super().__init__(database, store_id)
        self._checkpoint_id = checkpoint_id
        self._token = token

    def check(self) -> None:
        """Raise ConflictError where the lease on the checkpoint is no longer held.

        A lease that ran out is held as long again: its holder may have a clock of its own, or renew it only now,
        after a database that was away.
        """
        query = "SELECT 1 FROM checkpoints WHERE id = :id AND claim_token = :token AND claim_until > :since"
        since = to_text(now() - LEASE_LENGTH)
        with self._database.reading() as transaction:
            if transaction.row(query, id=self._checkpoint_id, token=self._token, since=since) is None:
                raise ConflictError(
                    f"checkpoint {self._checkpoint_id} is not being stored by this operation (any more)",
                    hint="if it is, this machine uses another catalog: see FLEXAI_DATABASE_URL",
                )

    def begin(self, *, writer_id: str, path: str, size: int, part_size: int, version: str = "") -> str:
        """Announce a blob before its first byte is stored; returns its id."""
        self.check()
        return super().begin(writer_id=writer_id, path=path, size=size, part_size=part_size, version=version)

    def record_part(self, blob_id: str, part: ArrivedPart) -> None:
        """Record that the store acknowledged a part."""
        self.check()
        super().record_part(blob_id, part)

    def finish(self, blob_id: str, new: Sequence[NewContent]) -> list[StoredContent]:
        """Record that all of a blob is stored, and which contents its ranges are."""
        self.check()
        return super().finish(blob_id, new)
