"""The protocol every kind of store speaks, and the few types it needs.

Keys are ``/``-separated texts below the root of the store object; nothing here knows checkpoints. A store object
is safe to use from many threads. Every method may raise

- ``UnsafePathError`` for a key that is not safe in every store (``keys.check_key``),
- ``NotFoundError`` for a key (or an upload) that is not there,
- ``AccessDeniedError`` where credentials or a permission are missing,
- ``StorageUnavailableError`` for a failure that may pass (the caller tries again),
- ``StorageError`` for one that will not.

What is acknowledged is durable: when ``put``, ``put_part`` or ``complete_upload`` returns, the bytes survive a
power loss as far as the store can promise that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

BLOCK_SIZE = 1024 * 1024
"""Bytes moved at a time. Larger ones fall out of the processor's cache, smaller ones cost interpreter time."""

Block: TypeAlias = memoryview
"""A run of bytes, valid only until the next one is asked for: its buffer is used again."""

ZERO_BLOCK: Block = memoryview(bytes(BLOCK_SIZE))
"""What a reader yields (or a slice of it) for a hole in a sparse file, so that a writer may leave a hole too."""


class Body(Protocol):
    """Bytes to be stored: a known number of them, readable from the start more than once (for a retry)."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def blocks(self) -> Iterator[Block]:
        """Yield the content from its start; each call starts over."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One stored object."""

    key: str
    size: int
    """Bytes."""
    etag: str
    """Changes whenever the content does; comparable only within one store. Not a digest."""
    checksums: Mapping[str, str] | None = None
    """Checksums the provider keeps, by algorithm (``crc32c``, ``crc64nvme``, ``sha256``, ``md5``), in hex."""
    modified_at: float | None = field(default=None, compare=False)
    """Seconds since the epoch, by the store's clock, when it was stored; None where that is not said. Those of a
    listing and of ``head`` may differ by a second."""
    told_at: float | None = field(default=None, compare=False)
    """The same of the moment when ``head`` was answered; None where that is not said."""


@dataclass(frozen=True, slots=True)
class PartReceipt:
    """What a store gives for a stored part, to be handed back when the upload is completed."""

    number: int
    """From 1."""
    token: str


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """An upload, or a put that was cut off, whose bytes take room without being visible."""

    key: str
    upload_id: str
    started_at: float
    """Seconds since the epoch; for a directory the time of the last write."""


class ObjectStorage(Protocol):
    """A store of objects under keys."""

    @property
    def location(self) -> str:
        """Where this is, for people: a directory or a URL without credentials."""

    @property
    def service_identity(self) -> str:
        """Equal for two stores exactly when ``copy`` from one to the other moves no byte through here.

        Empty for a store whose copies do: there is no reason to prefer them.
        """

    @property
    def versioned_place(self) -> str:
        """Where a key and an ``etag`` mean one content for ever; empty where an ``etag`` is no such version."""

    @property
    def max_parts(self) -> int:
        """How many parts an upload may have (S3: 10,000)."""

    @property
    def min_part_size(self) -> int:
        """Bytes below which only the last part may be (S3: 5 MiB)."""

    def put(self, key: str, body: Body, *, only_new: bool = False) -> ObjectInfo:
        """Store an object under a key, replacing what was there, all at once or not at all.

        With ``only_new`` nothing is replaced: DestinationExistsError where the key is taken. A service that has no such
        condition, or is not known to have it, takes no notice, so nothing may depend on it. An object that an earlier
        try of the same call stored, whose answer was lost, is recognised.

        A body with more or fewer bytes than it said raises SourceChangedError, here and in ``put_part``; what the
        body itself raises passes as it is.
        """

    def get(self, key: str, *, start: int = 0, length: int | None = None, etag: str = "") -> Iterator[Block]:
        """Yield ``length`` bytes of an object from ``start`` (to its end where None).

        With an ``etag`` the object must still be that one: SourceChangedError otherwise. An object that has not
        got the range raises IntegrityError. A transfer that breaks off goes on where it stopped, as long as the
        object is the same; StorageUnavailableError when that does not help.
        """

    def head(self, key: str) -> ObjectInfo:
        """Describe an object; NotFoundError where there is none."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object whose key begins with the prefix, fetched page by page.

        In order of their keys' bytes, but for services that list folder by folder (SeaweedFS).
        """

    def copy(self, source: ObjectStorage, source_key: str, key: str, *, etag: str = "") -> ObjectInfo:
        """Copy an object from a store of the same ``service_identity`` without moving its bytes through here.

        With an ``etag`` the source must still be that one: SourceChangedError otherwise.
        """

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; a key that is not there is no error."""

    def start_upload(self, key: str, *, size: int) -> str:
        """Begin to store an object of ``size`` bytes in parts; returns the upload's id."""

    def has_upload(self, key: str, upload_id: str) -> bool:
        """Whether the upload can go on: neither completed, aborted nor expired."""

    def put_part(self, key: str, upload_id: str, *, number: int, offset: int, body: Body) -> PartReceipt:
        """Store part ``number`` (from 1), whose first byte is at ``offset``, replacing an earlier try."""

    def complete_upload(
        self, key: str, upload_id: str, receipts: Iterable[PartReceipt], *, only_new: bool = False
    ) -> ObjectInfo | None:
        """Make the object of its parts visible under its key, all at once; ``only_new`` as with ``put``.

        Receipts come in any order; StorageError where one is missing in between. Returns what was made, or None where
        the service does not say that: ``head`` does, and the caller compares the size with what it sent. Completed
        twice, it describes the object again or raises NotFoundError.
        """

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Give up an upload and the bytes of its parts; one that is not there is no error."""

    def list_uploads(self, prefix: str) -> Iterator[UnfinishedUpload]:
        """Yield what ``abort_upload`` could give up below a prefix."""


@runtime_checkable
class ClonesFiles(Protocol):
    """A store that can take a local file's range by sharing its disk blocks (reflink) instead of copying."""

    def clone_part(self, key: str, upload_id: str, *, offset: int, descriptor: int, start: int, length: int) -> bool:
        """Share a range of an open file as a part; False where the file system cannot, and nothing happened."""

    def read_upload(self, key: str, upload_id: str, *, start: int, length: int) -> Iterator[Block]:
        """Yield bytes that an unfinished upload holds."""


@runtime_checkable
class PutsTogether(Protocol):
    """A store that makes several small objects durable for less than one after the other."""

    def put_together(self, objects: Mapping[str, Body]) -> None:
        """Store objects by their keys; when it returns, all are durable. Some may be there where it raises."""


@runtime_checkable
class HasRoom(Protocol):
    """A store that knows how much more it can take."""

    def free_space(self) -> int | None:
        """Bytes; None where that is not known."""


@dataclass(frozen=True, slots=True)
class BytesBody:
    """A body held in memory."""

    content: bytes | bytearray | memoryview

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self.content)

    def blocks(self) -> Iterator[Block]:
        """Yield the content from its start."""
        view = memoryview(self.content)
        for start in range(0, len(view), BLOCK_SIZE):
            yield view[start : start + BLOCK_SIZE]


@dataclass(frozen=True, slots=True)
class JoinedBody:
    """Pieces held in memory as one body; put together they would be there twice."""

    pieces: Sequence[bytes | bytearray]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(map(len, self.pieces))

    def blocks(self) -> Iterator[Block]:
        """Yield the pieces from the start of the first."""
        for piece in self.pieces:
            yield from BytesBody(piece).blocks()
