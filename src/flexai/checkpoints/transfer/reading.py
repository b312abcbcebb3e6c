"""Stored content as a body."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import Block


@dataclass(frozen=True, slots=True)
class StoredBody:
    """A range of a blob."""

    store: ManagedStore
    blob_id: str
    start: int
    size: int

    def blocks(self) -> Iterator[Block]:
        """Yield the range from its start."""
        return self.store.read_blob(self.blob_id, start=self.start, length=self.size)
