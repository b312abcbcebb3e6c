"""One large file on its way into the store: its blob, its parts in any order, and its end."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flexai.checkpoints.contents import ArrivedPart, UnfinishedBlob
from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.settings import Limits
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import ClonesFiles, ObjectInfo, ObjectStorage, PartReceipt
from flexai.checkpoints.transfer.crew import CountedBody
from flexai.checkpoints.transfer.digest import (
    DigestingBody,
    Part,
    digest_blocks,
    part_size_for,
    parts_of,
    spread_part_size,
)
from flexai.checkpoints.transfer.journal import Journal
from flexai.checkpoints.transfer.manifest_claim import ClaimedBody, joined_part_size
from flexai.checkpoints.transfer.sha256_order import WholeSource
from flexai.checkpoints.transfer.sources import FileSource, OpenLocalSource, OpenSource, RangeBody

if TYPE_CHECKING:
    from flexai.checkpoints.transfer.upload import Upload


def begin_blob(
    source: FileSource,
    known: UnfinishedBlob | None,
    *,
    checkpoint_id: str,
    store: ManagedStore,
    journal: Journal,
    limits: Limits,
) -> UnfinishedBlob:
    """The blob that a large file arrives by: the one that an earlier try began where that can go on, else a new one."""
    storage = store.storage
    if (
        known is not None
        and known.size == source.size
        and known.version == source.version
        and storage.has_upload(store.blob_key(known.id), known.upload_id)
    ):
        return known
    part_size = part_size_for(
        source.size,
        part_size=joined_part_size(
            source, spread_part_size(source.size, limits.part_size), min_part_size=storage.min_part_size
        ),
        max_parts=storage.max_parts,
    )
    blob_id = journal.begin(
        writer_id=checkpoint_id, path=source.path, size=source.size, part_size=part_size, version=source.version
    )
    upload_id = storage.start_upload(store.blob_key(blob_id), size=source.size)
    journal.set_upload(blob_id, upload_id)
    return UnfinishedBlob(
        id=blob_id,
        path=source.path,
        size=source.size,
        part_size=part_size,
        upload_id=upload_id,
        parts={},
        version=source.version,
    )


class FileUpload:
    """One large file on its way; its parts are stored by any threads in any order."""

    def __init__(
        self,
        upload: Upload,
        source: FileSource,
        opened: OpenSource,
        blob: UnfinishedBlob,
        twins: Sequence[FileSource],
        numbers: range | None = None,
    ) -> None:
        self._upload = upload
        self._source = source
        self._opened = opened
        self._blob = blob
        self._twins = twins
        self._key = upload.store.blob_key(blob.id)
        parts = parts_of(source.size, blob.part_size)
        self.parts = parts if numbers is None else [part for part in parts if part.number in numbers]
        self._is_whole = numbers is None
        self._arrived: dict[int, ArrivedPart] = {}
        self._lock = threading.Lock()

    def store_part(self, part: Part) -> None:
        """Store one part, or find that it has arrived before; the last one finishes the file."""
        self._upload.crew.check()
        arrived = self._already_arrived(part) or self._clone(part) or self._send(part)
        if isinstance(self._opened, WholeSource):
            self._opened.settle(part.offset)
        with self._lock:
            self._arrived[part.number] = arrived
            is_last = len(self._arrived) == len(self.parts)
        if is_last:
            self._finish()

    def _already_arrived(self, part: Part) -> ArrivedPart | None:
        known = self._blob.parts.get(part.number)
        if known is None:
            return None
        if self._blob.id in self._upload.already.blob_ids:
            return known
        if not is_same_version(self._source, self._opened, self._blob) and (
            digest_blocks(self._opened.blocks(part.offset, part.size)) != known.digest
        ):
            return None
        self._upload.progress.advance(skipped=part.size)
        return known

    def _clone(self, part: Part) -> ArrivedPart | None:
        storage = self._upload.store.storage
        if not (self._upload.can_clone and isinstance(self._opened, OpenLocalSource)):
            return None
        assert isinstance(storage, ClonesFiles)
        if not storage.clone_part(
            self._key,
            self._blob.upload_id,
            offset=part.offset,
            descriptor=self._opened.descriptor,
            start=part.offset,
            length=part.size,
        ):
            self._upload.can_clone = False
            return None
        # From the clone, which no other process writes to, not from the source.
        blocks = storage.read_upload(self._key, self._blob.upload_id, start=part.offset, length=part.size)
        self._upload.progress.advance(moved=part.size)
        return self._record(part, PartReceipt(number=part.number, token=""), digest_blocks(blocks))

    def _send(self, part: Part) -> ArrivedPart:
        body = DigestingBody(
            CountedBody(
                ClaimedBody(self._source, RangeBody(self._opened, part.offset, part.size), part.offset),
                crew=self._upload.crew,
                progress=self._upload.progress,
            )
        )
        receipt = self._upload.store.storage.put_part(
            self._key, self._blob.upload_id, number=part.number, offset=part.offset, body=body
        )
        return self._record(part, receipt, body.digest)

    def _record(self, part: Part, receipt: PartReceipt, digest: bytes) -> ArrivedPart:
        arrived = ArrivedPart(number=part.number, digest=digest, receipt=receipt.token)
        self._upload.journal.record_part(self._blob.id, arrived)
        return arrived

    def _finish(self) -> None:
        self._opened.check()
        self._upload.close(self._opened)
        if not self._is_whole:
            return
        arrived = [self._arrived[part.number] for part in self.parts]
        with self._upload.crew.aside():
            info = self._upload.store.storage.complete_upload(
                self._key, self._blob.upload_id, [PartReceipt(part.number, part.receipt) for part in arrived]
            )
            self._upload.check_blob(self._blob, info)
        content = self._upload.finish(self._source, self._blob, arrived)
        self._upload.keep([self._source.path], content, skipped=False)
        self._upload.add_chain(self._twins)


def is_same_version(source: FileSource, opened: OpenSource, blob: UnfinishedBlob) -> bool:
    """Whether what has arrived needs no comparison, which for a provider's object would mean to move it again.

    One that is compared with a digest of the whole is read whole all the same.
    """
    return bool(source.version) and source.version == blob.version and not isinstance(opened, WholeSource)


def check_size(info: ObjectInfo, size: int, storage: ObjectStorage) -> None:
    """Raise IntegrityError where a store made an object of other than ``size`` bytes from what it acknowledged."""
    if info.size != size:
        raise IntegrityError(
            f"{storage.location}/{info.key} has {info.size} bytes, where {size} bytes were sent",
            hint="run the same command again; if that does not help, the storage provider loses data",
        )
