"""The engine that brings sources into the managed store.

Parts of all files share one crew of threads. Each part is read once: it is digested from the buffer that is sent. What
an earlier try brought in is found through the journal and through the contents that the catalog knows; it is
read again and compared, never sent again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from flexai.checkpoints.contents import CLAIMED, ArrivedPart, NewContent, StoredContent, UnfinishedBlob
from flexai.checkpoints.errors import IntegrityError, NotFoundError, UnsupportedError
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.settings import Limits
from flexai.checkpoints.storage.checks import exact_blocks
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import BytesBody, ClonesFiles, ObjectInfo, ObjectStorage, PartReceipt
from flexai.checkpoints.transfer.crew import CountedBody, Crew
from flexai.checkpoints.transfer.dedup import can_be_copied, find_known
from flexai.checkpoints.transfer.digest import (
    DigestingBody,
    Part,
    digest_blocks,
    digest_parts,
    part_size_for,
    parts_of,
)
from flexai.checkpoints.transfer.journal import Journal
from flexai.checkpoints.transfer.manifest_claim import ClaimedBody, joined_part_size
from flexai.checkpoints.transfer.pack_plan import UploadPlan, chain_twins, plan_upload
from flexai.checkpoints.transfer.sha256_order import WholeSource, open_whole
from flexai.checkpoints.transfer.sources import (
    FileSource,
    LocalSource,
    OpenLocalSource,
    OpenSource,
    RangeBody,
)

_PACKS_MEMORY = 64 * 1024**2
"""Bytes of packs that are made at a time."""


@dataclass(frozen=True, slots=True)
class AlreadyStored:
    """What the shards of this very push have stored: it is neither read nor counted again."""

    contents: Mapping[str, StoredContent] = field(default_factory=dict)
    """Whole files, by their paths."""
    blob_ids: frozenset[str] = frozenset()
    """Blobs whose parts, where the journal has them, are theirs."""


def upload(
    sources: Sequence[FileSource],
    *,
    checkpoint_id: str,
    store: ManagedStore,
    journal: Journal,
    limits: Limits,
    progress: Progress,
    already: AlreadyStored | None = None,
) -> dict[str, StoredContent]:
    """Store every source for a checkpoint; returns each one's content by its path.

    Raises SourceChangedError or SourceError for a source, and what the store raises.
    """
    transfer = _Upload(checkpoint_id, store, journal, limits, progress, already)
    missing = transfer.keep_known([source for source in sources if source.path not in transfer.stored])
    transfer.run(plan_upload(missing, pack_threshold=limits.pack_threshold, pack_size=limits.pack_size))
    for source in sources:
        if isinstance(source, LocalSource):
            # Once more at the end, so that all files are of one moment.
            source.check()
    return transfer.stored


def upload_parts(
    source: FileSource,
    blob: UnfinishedBlob,
    numbers: range,
    *,
    checkpoint_id: str,
    store: ManagedStore,
    journal: Journal,
    limits: Limits,
    progress: Progress,
) -> None:
    """Store some parts (from 1) of a file whose blob has been begun; completing it is left to ``upload``.

    Raises what ``upload`` raises.
    """
    transfer = _Upload(checkpoint_id, store, journal, limits, progress)
    transfer.add_parts(source, blob, numbers)
    transfer.work()


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
        part_size=joined_part_size(source, limits.part_size, min_part_size=storage.min_part_size),
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


def _read_whole(source: FileSource, buffer: memoryview) -> None:
    """Read a source into a buffer of its size."""
    with contextlib.closing(source.open()) as opened:
        if isinstance(opened, OpenLocalSource):
            opened.read_into(buffer)
        else:
            position = 0
            for block in exact_blocks(ClaimedBody(source, RangeBody(opened, 0, source.size), 0)):
                buffer[position : position + len(block)] = block
                position += len(block)
        opened.check()


def find_twins(sources: Sequence[FileSource]) -> list[list[FileSource]]:
    """Group files that may be equal, so that each group is stored one after the other; most stand alone."""
    return chain_twins(sources, _samples(sources))


class _Upload:
    def __init__(
        self,
        checkpoint_id: str,
        store: ManagedStore,
        journal: Journal,
        limits: Limits,
        progress: Progress,
        already: AlreadyStored | None = None,
    ) -> None:
        self.checkpoint_id = checkpoint_id
        self.store = store
        self.journal = journal
        self.limits = limits
        self.progress = progress
        self.crew = Crew(limits.concurrency, bandwidth=limits.bandwidth)
        self.already = already or AlreadyStored()
        self.stored: dict[str, StoredContent] = dict(self.already.contents)
        self.unfinished = journal.unfinished(checkpoint_id)
        self.can_clone = isinstance(store.storage, ClonesFiles)
        self.can_copy = True
        self.opened: set[OpenSource] = set()

    def keep_known(self, sources: Sequence[FileSource]) -> list[FileSource]:
        """Keep what the store is known to hold without reading it; returns the rest.

        Local files are known by digests that are remembered, providers' objects by what these say that they are.
        """
        known = find_known(sources, self.journal, self.checkpoint_id)
        for path, content in known.items():
            self.keep([path], content, skipped=True)
        return [source for source in sources if source.path not in known]

    def run(self, plan: UploadPlan[FileSource]) -> None:
        for chain in find_twins(plan.whole):
            self.add_chain(chain)
        packs = iter(plan.packs)
        for pack in islice(packs, max(1, _PACKS_MEMORY // self.limits.pack_size)):
            self.crew.add(partial(self._store_packs, pack, packs, bytearray()))
        self.work()

    def work(self) -> None:
        """Work until nothing is left to do, and let go of every source."""
        try:
            self.crew.run()
        finally:
            for opened in self.opened:
                opened.close()

    def add_chain(self, chain: Sequence[FileSource]) -> None:
        """Store large files one after the other; an empty chain is no work."""
        if chain:
            self.crew.add(partial(self._begin_file, chain[0], chain[1:]))

    def close(self, opened: OpenSource) -> None:
        """Let go of a source that has been read."""
        self.opened.discard(opened)
        opened.close()

    def keep(self, paths: Iterable[str], content: StoredContent, *, skipped: bool) -> None:
        """Note where the content of files lies."""
        for path in paths:
            self.stored[path] = content
            self.progress.advance(files=1, skipped=content.size if skipped else 0)

    # Small files: read whole, looked up by their digests, and what is new stored as one blob.

    def _store_packs(
        self, pack: Sequence[FileSource], others: Iterator[Sequence[FileSource]], buffer: bytearray
    ) -> None:
        """Store a pack, and then one of the others: so only so many are in memory, however many threads there are.

        The buffer is used again by each: to get memory anew takes as long as to read a pack into it.
        """
        size = sum(source.size for source in pack)
        if len(buffer) < size:
            buffer = bytearray(size)
        self._store_pack(pack, memoryview(buffer))
        following = next(others, None)
        if following is not None:
            self.crew.add(partial(self._store_packs, following, others, buffer))

    def _store_pack(self, sources: Sequence[FileSource], buffer: memoryview) -> None:
        end = 0
        paths: dict[bytes, list[str]] = {}
        origins: dict[bytes, FileSource] = {}
        ranges: dict[bytes, tuple[int, int]] = {}
        for source in sources:
            self.crew.check()
            room = buffer[end : end + source.size]
            _read_whole(source, room)
            digest = digest_blocks([room])
            if digest not in ranges:
                ranges[digest] = (end, source.size)
                origins[digest] = source
                end += source.size
            paths.setdefault(digest, []).append(source.path)
        held = self.journal.hold_by_digest(self.checkpoint_id, [digest.hex() for digest in ranges])
        for digest, (_, size) in list(ranges.items()):
            if (content := held.get(digest.hex())) and content.size == size:
                self.keep(paths[digest], content, skipped=True)
                del ranges[digest]
        if ranges:
            self._send_pack(buffer[:end], ranges, paths, origins)

    def _send_pack(
        self,
        buffer: memoryview,
        ranges: Mapping[bytes, tuple[int, int]],
        paths: Mapping[bytes, list[str]],
        origins: Mapping[bytes, FileSource],
    ) -> None:
        kept: bytes | memoryview = buffer
        if sum(size for _, size in ranges.values()) < len(buffer):
            kept = b"".join(buffer[start : start + size] for start, size in ranges.values())
        new = []
        position = 0
        for digest, (_, size) in ranges.items():
            new.append(
                NewContent(
                    start=position,
                    size=size,
                    part_size=max(size, 1),
                    digest=digest,
                    part_digests=digest,
                    checksums=origins[digest].checksums,
                    origin=origins[digest].origin,
                )
            )
            position += size
        blob_id = self.journal.begin(
            writer_id=self.checkpoint_id, path="", size=position, part_size=self.limits.pack_size
        )
        self.store.storage.put(
            self.store.blob_key(blob_id), CountedBody(BytesBody(kept), crew=self.crew, progress=self.progress)
        )
        for digest, content in zip(ranges, self.journal.finish(blob_id, new), strict=True):
            self.keep(paths[digest], content, skipped=False)

    # Large files: compared with contents of the same size, else sent part by part.

    def _begin_file(self, source: FileSource, twins: Sequence[FileSource]) -> None:
        opened = open_whole(source, self.crew.check)
        self.opened.add(opened)
        content = None
        if not self._is_stored_in_parts(source):
            content = self._find_equal(source, opened) or self._find_complete(source, opened) or self._copy(source)
        if content is not None:
            opened.check()
            self.close(opened)
            self.keep([source.path], content, skipped=True)
            self.add_chain(twins)
            return
        blob = begin_blob(
            source,
            self.unfinished.pop(source.path, None),
            checkpoint_id=self.checkpoint_id,
            store=self.store,
            journal=self.journal,
            limits=self.limits,
        )
        file = _FileUpload(self, source, opened, blob, twins)
        for part in reversed(file.parts):
            self.crew.add(partial(file.store_part, part), next_up=True)

    def add_parts(self, source: FileSource, blob: UnfinishedBlob, numbers: range) -> None:
        """Store some parts of a large file, which another process completes."""
        opened = source.open()
        self.opened.add(opened)
        file = _FileUpload(self, source, opened, blob, (), numbers)
        for part in file.parts:
            self.crew.add(partial(file.store_part, part))

    def _is_stored_in_parts(self, source: FileSource) -> bool:
        known = self.unfinished.get(source.path)
        return known is not None and known.id in self.already.blob_ids

    def _find_equal(self, source: FileSource, opened: OpenSource) -> StoredContent | None:
        """Content that the store holds already; reading ends at the first part that no candidate has."""
        if source.claim is not None:
            return self._find_claimed(source, opened)
        if not source.is_local:
            return None
        candidates = self.journal.find_by_size(source.size)
        for part_size in {candidate.part_size for candidate in candidates}:
            alike = [candidate for candidate in candidates if candidate.part_size == part_size]
            for part in parts_of(source.size, part_size):
                self.crew.check()
                found = digest_blocks(opened.blocks(part.offset, part.size))
                alike = [candidate for candidate in alike if candidate.part_digest(part.number) == found]
                if not alike:
                    break
            for candidate in alike:
                if self.journal.hold(self.checkpoint_id, candidate):
                    return candidate
        return None

    def _find_claimed(self, source: FileSource, opened: OpenSource) -> StoredContent | None:
        """The content that a manifest claims a source to be, once all of the source was read and compared with that."""
        claim = source.claim
        if claim is None or claim.digest is None or can_be_copied(source, self.store.storage):
            return None
        content = self.journal.hold_by_digest(self.checkpoint_id, [claim.digest]).get(claim.digest)
        if content is None or content.size != source.size:
            return None
        for _ in ClaimedBody(source, RangeBody(opened, 0, source.size), 0).blocks():
            self.crew.check()
        return content

    def _find_complete(self, source: FileSource, opened: OpenSource) -> StoredContent | None:
        """A blob that an earlier try completed, dying before it could say so."""
        known = self.unfinished.get(source.path)
        if known is None or known.size != source.size:
            return None
        is_same = _is_same_version(source, opened, known)
        if not (is_same or source.is_local):
            return None
        parts = parts_of(known.size, known.part_size)
        key = self.store.blob_key(known.id)
        if len(known.parts) < len(parts) or self.store.storage.has_upload(key, known.upload_id):
            return None
        try:
            if self.store.storage.head(key).size != known.size:
                return None
        except NotFoundError:
            return None
        for part in () if is_same else parts:
            self.crew.check()
            if digest_blocks(opened.blocks(part.offset, part.size)) != known.parts[part.number].digest:
                return None
        del self.unfinished[source.path]
        return self.finish(source, known, [known.parts[part.number] for part in parts])

    def _copy(self, source: FileSource) -> StoredContent | None:
        """Let the provider copy an object into the store where both are one service's; None where it cannot."""
        storage = self.store.storage
        if not (self.can_copy and can_be_copied(source, storage)):
            return None
        claim = source.claim
        part_size = part_size_for(source.size, part_size=claim.part_size if claim else self.limits.part_size)
        blob_id = self.journal.begin(
            writer_id=self.checkpoint_id,
            path=source.path,
            size=source.size,
            part_size=part_size,
            version=source.version,
        )
        key = self.store.blob_key(blob_id)
        try:
            storage.copy(source.storage, source.info.key, key, etag=source.version)
        except UnsupportedError:
            self.can_copy = False
            return None
        info = storage.head(key)
        check_size(info, source.size, storage)
        (content,) = self.journal.finish(
            blob_id,
            [
                NewContent(
                    start=0,
                    size=source.size,
                    part_size=part_size,
                    # Its bytes were not seen here: what a manifest says of them is compared when they are first read.
                    digest=None,
                    part_digests=b"",
                    checksums={
                        **(info.checksums or source.checksums or {"etag": source.version}),
                        **({CLAIMED: claim.digest} if claim and claim.digest and claim.part_size == part_size else {}),
                    },
                    origin=source.origin,
                )
            ],
        )
        return content

    def finish(self, source: FileSource, blob: UnfinishedBlob, arrived: Sequence[ArrivedPart]) -> StoredContent:
        """Record a blob whose bytes are all there as the content of one file."""
        digests = [part.digest for part in arrived]
        new = NewContent(
            start=0,
            size=blob.size,
            part_size=blob.part_size,
            digest=digest_parts(digests),
            part_digests=b"".join(digests),
            checksums=source.checksums,
            origin=source.origin,
        )
        (content,) = self.journal.finish(blob.id, [new])
        return content


class _FileUpload:
    """One large file on its way; its parts are stored by any threads in any order."""

    def __init__(
        self,
        upload: _Upload,
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
        if not _is_same_version(self._source, self._opened, self._blob) and (
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
        storage = self._upload.store.storage
        info = storage.complete_upload(
            self._key, self._blob.upload_id, [PartReceipt(part.number, part.receipt) for part in arrived]
        )
        check_size(info, self._blob.size, storage)
        content = self._upload.finish(self._source, self._blob, arrived)
        self._upload.keep([self._source.path], content, skipped=False)
        self._upload.add_chain(self._twins)


def _is_same_version(source: FileSource, opened: OpenSource, blob: UnfinishedBlob) -> bool:
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


def _samples(sources: Sequence[FileSource]) -> dict[str, bytes]:
    """A sample of each local file that shares its size with another."""
    by_size: dict[int, list[LocalSource]] = {}
    for source in sources:
        if isinstance(source, LocalSource):
            by_size.setdefault(source.size, []).append(source)
    return {source.path: source.sample() for group in by_size.values() if len(group) > 1 for source in group}
