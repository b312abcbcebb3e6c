"""Bodies that a test makes of pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flexai.checkpoints.storage.protocol import Block


@dataclass
class Pieces:
    """A body of which the size is said, whatever its pieces hold."""

    size: int
    pieces: list[bytes]

    def blocks(self) -> Iterator[Block]:
        """Yield the pieces."""
        for piece in self.pieces:
            yield memoryview(piece)
