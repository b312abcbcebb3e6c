"""What the tests of the suite work with: a store, its uploads, and bodies to send."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from flexai.checkpoints.errors import CheckpointError, NotFoundError, StorageUnavailableError
from flexai.checkpoints.storage.protocol import (
    BLOCK_SIZE,
    ZERO_BLOCK,
    Block,
    Body,
    BytesBody,
    ObjectInfo,
    ObjectStorage,
    PartReceipt,
)

PAGE_SIZE = 7
"""Objects per page of a listing, and per request of a deletion: few, so that small tests cross pages."""
PART_SIZE = 300_000
"""Bytes of a part where the store has no minimum."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What a kind of store does differently; the defaults are what the protocol asks for."""

    holds_file_and_folder: bool = True
    """Whether ``a`` and ``a/b`` can both be objects. A directory cannot."""
    keeps_backslashes: bool = True
    """Whether a backslash in a key stays one."""
    lists_in_order: bool = True
    """Whether a listing is in order of the keys' bytes."""
    takes_folders_for_objects: bool = False
    """Whether deleting a folder's name fails, deleting what would lie below an object deletes that object, and storing
    an object in a folder's place fails but removes the folder."""
    completes_twice: bool = False
    """Whether completing an upload a second time describes the object again, rather than raising NotFoundError."""
    upload_changes_etag: bool = True
    """Whether an upload that replaces an object changes its etag. The fake of GCS composes into the old generation."""
    replaces_parts: bool = True
    """Whether a part can be sent again, even the first one."""
    ties_uploads_to_keys: bool = True
    """Whether an upload's id is good for its own key alone."""
    notices_a_missing_last_part: bool = True
    """Whether an upload that is completed without its last part fails or has fewer bytes."""
    heeds_only_new: bool = True
    """Whether an object that is to be stored only if it is new replaces none that is there."""
    lets_one_be_new: bool = True
    """Whether of several that store at once what is to be new only one is let. Swift looks first, and stores then."""
    keeps_uploads_open: bool = False
    """Whether an upload that is complete still seems to be open."""
    tells_of_gone_uploads: bool = True
    """Whether it says so where an upload is gone, rather than failing (500)."""
    tells_upload_times: bool = True
    """Whether it says when an upload began. moto says the same of all."""
    tells_times: bool = True
    """Whether it says when an object was stored."""
    keeps_what_comes_to_an_emptied_folder: bool = True
    """Whether what is stored while its folder's last object is deleted stays. rclone removes the folder with it."""
    lists_once: bool = True
    """Whether an object that several store at once is listed once. On a busy machine rclone lists it twice at times."""
    refuses: Mapping[str, type[CheckpointError]] = field(default_factory=dict)
    """The methods that it has not got, and what they raise. The suite's writing tests leave such a store out, and those
    that are marked with ``reads`` find in it what it was given beforehand."""

    @property
    def can_write(self) -> bool:
        """Whether anything can be stored in it."""
        return "put" not in self.refuses


WRITING = ("put", "copy", "delete", "start_upload", "put_part", "complete_upload", "abort_upload")
"""The methods that change what is stored."""


@dataclass
class Store:
    """One store, and a prefix in it that belongs to one test alone."""

    traits: Traits
    prefix: str
    """Ends in ``/``."""
    open: Callable[[], ObjectStorage]
    """Opens the same store once more, as another process would."""
    open_other: Callable[[], ObjectStorage]
    """Opens another bucket of the same service."""
    fill: Callable[[str, bytes], None] | None = None
    """How another program brings content to a key where the store itself cannot."""
    storage: ObjectStorage = field(init=False)

    def __post_init__(self) -> None:
        self.storage = self.open()

    @property
    def part_size(self) -> int:
        """Bytes of a part in these tests."""
        return max(self.storage.min_part_size, PART_SIZE)

    @property
    def gone(self) -> tuple[type[CheckpointError], ...]:
        """What is raised for an upload that is gone."""
        return (NotFoundError,) if self.traits.tells_of_gone_uploads else (NotFoundError, StorageUnavailableError)

    def key(self, name: str) -> str:
        """A key of this test's own."""
        return self.prefix + name

    def put_new(self, name: str, content: bytes) -> ObjectInfo:
        """Store some bytes where there is no object yet."""
        return self.storage.put(self.key(name), BytesBody(content), only_new=True)

    def put(self, name: str, content: bytes) -> ObjectInfo:
        """Store some bytes."""
        return self.storage.put(self.key(name), BytesBody(content))

    def give(self, name: str, content: bytes) -> ObjectInfo:
        """See to it that some bytes are there, for a test that only reads."""
        if self.fill is None:
            return self.put(name, content)
        self.fill(self.key(name), content)
        # What is open already goes on reading the commit that it found.
        self.storage = self.open()
        return self.storage.head(self.key(name))

    def read(self, name: str, *, start: int = 0, length: int | None = None, etag: str = "") -> bytes:
        """The bytes that are stored."""
        return content_of(self.storage.get(self.key(name), start=start, length=length, etag=etag))

    def names(self, prefix: str = "") -> list[str]:
        """The names of this test's own objects, as listed."""
        return [info.key.removeprefix(self.prefix) for info in self.storage.list(self.key(prefix))]

    def delete(self, *names: str) -> None:
        """Delete some objects."""
        self.storage.delete(self.key(name) for name in names)

    def start(self, name: str, size: int) -> Upload:
        """Begin an upload of ``size`` bytes."""
        return Upload(self, name, self.storage.start_upload(self.key(name), size=size))

    def upload(self, name: str, content: bytes) -> ObjectInfo:
        """Store some bytes in parts."""
        upload = self.start(name, len(content))
        return upload.complete(upload.put_all(content))


@dataclass
class Upload:
    """One upload in parts."""

    store: Store
    name: str
    upload_id: str

    @property
    def key(self) -> str:
        """The key that the object will have."""
        return self.store.key(self.name)

    def put(self, number: int, content: bytes, *, part_size: int | None = None) -> PartReceipt:
        """Store a part."""
        return self.put_body(number, BytesBody(content), part_size=part_size)

    def put_body(self, number: int, body: Body, *, part_size: int | None = None) -> PartReceipt:
        """Store a part."""
        offset = (number - 1) * (part_size or self.store.part_size)
        return self.store.storage.put_part(self.key, self.upload_id, number=number, offset=offset, body=body)

    def put_all(self, content: bytes) -> list[PartReceipt]:
        """Store the content part by part."""
        return [self.put(number, part) for number, part in enumerate(cut(content, self.store.part_size), start=1)]

    def complete(self, receipts: Iterable[PartReceipt], *, only_new: bool = False) -> ObjectInfo:
        """Make the object of its parts."""
        made = self.store.storage.complete_upload(self.key, self.upload_id, receipts, only_new=only_new)
        return made or self.store.storage.head(self.key)

    def abort(self) -> None:
        """Give it up."""
        self.store.storage.abort_upload(self.key, self.upload_id)

    @property
    def is_open(self) -> bool:
        """Whether it can go on."""
        return self.store.storage.has_upload(self.key, self.upload_id)


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes without repetition, the same for the same seed."""
    return random.Random(seed).randbytes(size)


def cut(content: bytes, part_size: int) -> list[bytes]:
    """The content in parts; of nothing, one empty part."""
    return [content[start : start + part_size] for start in range(0, max(1, len(content)), part_size)]


def content_of(blocks: Iterator[Block]) -> bytes:
    """The bytes of some blocks, each copied before the next is asked for."""
    return b"".join(bytes(block) for block in blocks)


@dataclass
class OddBody:
    """A body that does not keep its word: it has other bytes than its size says, or fails on the way."""

    size: int
    content: bytes
    error: BaseException | None = None
    """Raised after the content."""
    readings: int = 0

    def blocks(self) -> Iterator[Block]:
        """Yield the content, in blocks smaller than most."""
        self.readings += 1
        for start in range(0, len(self.content), BLOCK_SIZE // 4):
            yield memoryview(self.content)[start : start + BLOCK_SIZE // 4]
        if self.error is not None:
            raise self.error


@dataclass
class ReusedBufferBody:
    """A body that yields the same buffer again and again, as a reader of files does."""

    content: bytes

    @property
    def size(self) -> int:
        """Bytes in all."""
        return len(self.content)

    def blocks(self) -> Iterator[Block]:
        """Yield the content; each block is overwritten by the next."""
        buffer = bytearray(BLOCK_SIZE // 8)
        view = memoryview(buffer)
        for start in range(0, len(self.content), len(buffer)):
            piece = self.content[start : start + len(buffer)]
            view[: len(piece)] = piece
            yield view[: len(piece)]
            view[: len(piece)] = bytes(len(piece))


@dataclass
class HollowBody:
    """Some bytes, a long hole, and the same bytes again."""

    edge: bytes
    hole: int

    @property
    def size(self) -> int:
        """Bytes in all."""
        return 2 * len(self.edge) + self.hole

    @property
    def content(self) -> bytes:
        """What a reader should see."""
        return self.edge + bytes(self.hole) + self.edge

    def blocks(self) -> Iterator[Block]:
        """Yield the content, the hole as slices of ``ZERO_BLOCK``."""
        yield memoryview(self.edge)
        rest = self.hole
        while rest:
            block = ZERO_BLOCK[: min(rest, BLOCK_SIZE)]
            yield block
            rest -= len(block)
        yield memoryview(self.edge)
