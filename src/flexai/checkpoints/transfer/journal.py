"""What a transfer writes down as it goes, so that a rerun continues; the catalog's blobs implement it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeAlias

from flexai.checkpoints.contents import ArrivedPart, NewContent, StoredContent, UnfinishedBlob

RecordDigests: TypeAlias = Callable[[StoredContent], None]
"""Is told the digests of a content that has been read for the first time."""


class Journal(Protocol):
    """Which blobs and parts have arrived, and which contents the store already holds."""

    def begin(self, *, writer_id: str, path: str, size: int, part_size: int, version: str = "") -> str:
        """Announce a blob before its first byte is stored; returns its id."""

    def set_upload(self, blob_id: str, upload_id: str) -> None:
        """Record the upload that a blob arrives by."""

    def record_part(self, blob_id: str, part: ArrivedPart) -> None:
        """Record that the store acknowledged a part."""

    def finish(self, blob_id: str, new: Sequence[NewContent]) -> list[StoredContent]:
        """Record that all of a blob is stored, and which contents its ranges are."""

    def unfinished(self, writer_id: str) -> dict[str, UnfinishedBlob]:
        """What an earlier try left unfinished, by the file's path."""

    def hold_by_digest(self, checkpoint_id: str, digests: Iterable[str]) -> dict[str, StoredContent]:
        """Find stored contents by their digests (hex) and refer to their blobs.

        Their sizes are the caller's to compare: a file that holds the digests of another one's parts has its digest.
        """

    def hold_by_origin(self, checkpoint_id: str, origins: Iterable[str]) -> dict[str, StoredContent]:
        """Find stored contents by the provider's objects that they are, and refer to their blobs."""

    def mark_lost(self, blob_id: str, *, size: int) -> None:
        """Record that a blob has only so many bytes, -1 where it is gone: what lay behind them is damaged."""

    def find_sizes(self, sizes: Iterable[int]) -> set[int]:
        """Which sizes (bytes) contents have that a file can be compared with."""

    def find_by_size(self, size: int) -> list[StoredContent]:
        """Stored contents of a size in bytes."""

    def hold(self, checkpoint_id: str, content: StoredContent) -> bool:
        """Refer to the blob of a content found before; False where it is gone."""
