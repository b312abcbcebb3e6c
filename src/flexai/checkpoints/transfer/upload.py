"""The engine that brings sources into the managed store.

Parts of all files share one crew of threads. Each part is read once: it is digested from the buffer that is sent. What
an earlier try brought in is found through the journal and through the contents that the catalog knows; it is
read again and compared, never sent again.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from flexai.checkpoints.contents import CLAIMED, ArrivedPart, NewContent, StoredContent, UnfinishedBlob
from flexai.checkpoints.documents import human_size
from flexai.checkpoints.errors import (
    IntegrityError,
    NotFoundError,
    StorageFullError,
    StorageUnavailableError,
    UnsupportedError,
)
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.settings import Limits
from flexai.checkpoints.storage.at_once import Beside
from flexai.checkpoints.storage.checks import exact_blocks
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import BytesBody, ClonesFiles, HasRoom, ObjectInfo
from flexai.checkpoints.transfer.crew import CountedBody, Crew
from flexai.checkpoints.transfer.dedup import can_be_copied, find_known
from flexai.checkpoints.transfer.digest import (
    DigestingBody,
    digest_blocks,
    digest_parts,
    part_size_for,
    parts_of,
    spread_part_size,
)
from flexai.checkpoints.transfer.file_upload import FileUpload, begin_blob, check_size, is_same_version
from flexai.checkpoints.transfer.journal import Journal
from flexai.checkpoints.transfer.manifest_claim import ClaimedBody, joined_part_size
from flexai.checkpoints.transfer.pack_plan import PackQueue, UploadPlan, chain_twins, plan_upload
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
    then: Callable[[Mapping[str, StoredContent]], None] = lambda _: None,
) -> dict[str, StoredContent]:
    """Store every source for a checkpoint; returns each one's content by its path.

    ``then`` is called with these once all has arrived, while the store is asked what it has made of the last of it.
    Raises SourceChangedError or SourceError for a source, StorageFullError where the store has certainly no room for
    all, before anything is stored, and what the store raises.
    """
    transfer = Upload(checkpoint_id, store, journal, limits, progress, already)
    missing = transfer.keep_known([source for source in sources if source.path not in transfer.stored])
    transfer.check_room(missing)
    transfer.run(
        plan_upload(
            missing,
            pack_threshold=limits.pack_threshold,
            pack_size=limits.pack_size,
            is_remote=not transfer.can_clone,
        )
    )
    for source in sources:
        if isinstance(source, LocalSource):
            # Once more at the end, so that all files are of one moment.
            source.check()
    try:
        then(transfer.stored)
        transfer.check_last_blobs()
    finally:
        transfer.give_up_looks()
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
    transfer = Upload(checkpoint_id, store, journal, limits, progress)
    transfer.add_parts(source, blob, numbers)
    transfer.work()


def find_there(
    contents: Collection[StoredContent], checkpoint_id: str, *, store: ManagedStore, journal: Journal, limits: Limits
) -> set[int]:
    """The ids of those contents whose bytes are in the store, by their blobs' sizes: one request for each blob.

    The others are recorded as damaged, so that no push relies on them.
    """
    return Upload(checkpoint_id, store, journal, limits, Progress()).find_there(contents)


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


class Upload:
    """A transfer into the store: what its threads share, and how each file is stored."""

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
        self.sizes: dict[str, int] = {}
        """Bytes of the blobs that were looked at, -1 for one that is gone, or that this transfer has stored."""
        self._looks: list[tuple[UnfinishedBlob, Beside[ObjectInfo]]] = []

    def keep_known(self, sources: Sequence[FileSource]) -> list[FileSource]:
        """Keep what the store is known to hold without reading it; returns the rest.

        Local files are known by digests that are remembered, providers' objects by what these say that they are.
        """
        rest = list(sources)
        while True:
            known = find_known(rest, self.journal, self.checkpoint_id)
            there = self.find_there(known.values())
            kept = {path: content for path, content in known.items() if content.id in there}
            for path, content in kept.items():
                self.keep([path], content, skipped=True)
            rest = [source for source in rest if source.path not in kept]
            # Of what is lost the store may have the content another time.
            if len(kept) == len(known):
                return rest

    def find_there(self, contents: Collection[StoredContent]) -> set[int]:
        """The ids of those contents whose bytes are in the store, by their blobs' sizes: one request for each blob.

        The others are recorded as damaged, so that no push relies on them.
        """

        def look(blob_id: str) -> None:
            self.sizes[blob_id] = self.store.blob_size(blob_id)

        unknown = {content.blob_id for content in contents} - self.sizes.keys()
        if len(unknown) == 1:
            look(*unknown)
        elif unknown:
            crew = Crew(self.limits.concurrency)
            for blob_id in unknown:
                crew.add(partial(look, blob_id))
            crew.run()
        there = {one.id for one in contents if one.start + one.size <= self.sizes[one.blob_id]}
        lost = {one.blob_id for one in contents if one.id not in there}
        if lost and self.store.read_id() is None:
            raise StorageUnavailableError(f"the store {self.store.location} is gone")  # as a volume goes
        for blob_id in lost:
            self.journal.mark_lost(blob_id, size=self.sizes[blob_id])
        return there

    def check_room(self, sources: Sequence[FileSource]) -> None:
        """Raise StorageFullError where the store has certainly no room for what of the sources is new."""
        storage = self.store.storage
        room = storage.free_space() if isinstance(storage, HasRoom) else None
        if room is None or sum(source.size for source in sources) <= room:
            return
        # What the store may have already, equal files of this push but for one, and clones take no room.
        known = self.journal.find_sizes({source.size for source in sources})
        new = [chain[0] for chain in find_twins([source for source in sources if source.size not in known])]
        large = [
            source for source in new if isinstance(source, LocalSource) and source.size >= self.limits.pack_threshold
        ]
        if large and self._can_clone(large[0]):
            new = [source for source in new if source not in large]
        # Holes are kept as holes where a file has a blob of its own.
        holes = sum(source.holes() for source in large if source in new)
        needed = sum(source.size - self._arrived_bytes(source) for source in new) - holes
        if needed > room:
            raise StorageFullError(
                f"no space is left in the store {self.store.location} for what is pushed: {human_size(needed)} are"
                f" needed, and {human_size(room)} are free"
            )

    def _can_clone(self, source: LocalSource) -> bool:
        storage, key = self.store.storage, self.store.blob_key(uuid.uuid4().hex)
        if not isinstance(storage, ClonesFiles):
            return False
        upload_id = self.store.storage.start_upload(key, size=source.size)
        try:
            with contextlib.closing(source.open()) as opened:
                return storage.clone_part(
                    key, upload_id, offset=0, descriptor=opened.descriptor, start=0, length=source.size
                )
        finally:
            self.store.storage.abort_upload(key, upload_id)

    def _arrived_bytes(self, source: FileSource) -> int:
        """Bytes of a source that an earlier try has stored."""
        blob = self.unfinished.get(source.path)
        parts = parts_of(blob.size, blob.part_size) if blob is not None and blob.size == source.size else []
        return sum(part.size for part in parts if blob is not None and part.number in blob.parts)

    def run(self, plan: UploadPlan[FileSource]) -> None:
        for chain in find_twins(plan.whole):
            self.add_chain(chain)
        packs = PackQueue(plan.packs)
        for _ in range(min(len(plan.packs), max(1, _PACKS_MEMORY // plan.pack_size))):
            self.crew.add(partial(self._store_packs, packs, plan.pack_size, bytearray()))
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

    def _store_packs(self, packs: PackQueue[FileSource], pack_size: int, buffer: bytearray) -> None:
        """Store a pack, and then the next one: so only so many are in memory, however many threads there are.

        The buffer is used again by each: to get memory anew takes as long as to read a pack into it.
        """
        # Each pack is work for the processor, where that is what is waited for.
        pack = packs.take(pack_size if self.crew.is_wide else self.limits.pack_size)
        if not pack:
            return
        size = sum(source.size for source in pack)
        if len(buffer) < size:
            buffer = bytearray(size)
        self._store_pack(pack, memoryview(buffer))
        self.crew.add(partial(self._store_packs, packs, pack_size, buffer), next_up=True)

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
        there = self.find_there(held.values())
        for digest, (_, size) in list(ranges.items()):
            if (content := held.get(digest.hex())) and content.size == size and content.id in there:
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
        self.sizes[blob_id] = position
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
        if self._is_put_whole(source):
            self._put_whole(source, opened)
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
        file = FileUpload(self, source, opened, blob, twins)
        for part in reversed(file.parts):
            self.crew.add(partial(file.store_part, part), next_up=True)

    def _is_put_whole(self, source: FileSource) -> bool:
        """Whether a file is of one part that arrives by one request, where an upload in parts takes four."""
        part_size = joined_part_size(source, spread_part_size(source.size, self.limits.part_size), min_part_size=1)
        return (
            source.size <= part_size
            and source.path not in self.unfinished
            and not isinstance(self.store.storage, ClonesFiles)
        )

    def _put_whole(self, source: FileSource, opened: OpenSource) -> None:
        # Of no path, as a pack: what did not arrive whole is not gone on with.
        blob_id = self.journal.begin(
            writer_id=self.checkpoint_id, path="", size=source.size, part_size=max(source.size, 1)
        )
        body = DigestingBody(
            CountedBody(
                ClaimedBody(source, RangeBody(opened, 0, source.size), 0), crew=self.crew, progress=self.progress
            )
        )
        self.store.storage.put(self.store.blob_key(blob_id), body)
        if isinstance(opened, WholeSource):
            opened.settle(0)
        opened.check()
        self.close(opened)
        new = NewContent(
            start=0,
            size=source.size,
            part_size=max(source.size, 1),
            digest=body.digest,
            part_digests=body.digest,
            checksums=source.checksums,
            origin=source.origin,
        )
        self.sizes[blob_id] = source.size
        (content,) = self.journal.finish(blob_id, [new])
        self.keep([source.path], content, skipped=False)

    def add_parts(self, source: FileSource, blob: UnfinishedBlob, numbers: range) -> None:
        """Store some parts of a large file, which another process completes."""
        opened = source.open()
        self.opened.add(opened)
        file = FileUpload(self, source, opened, blob, (), numbers)
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
                if self.find_there([candidate]) and self.journal.hold(self.checkpoint_id, candidate):
                    return candidate
        return None

    def _find_claimed(self, source: FileSource, opened: OpenSource) -> StoredContent | None:
        """The content that a manifest claims a source to be, once all of the source was read and compared with that."""
        claim = source.claim
        if claim is None or claim.digest is None or can_be_copied(source, self.store.storage):
            return None
        content = self.journal.hold_by_digest(self.checkpoint_id, [claim.digest]).get(claim.digest)
        if content is None or content.size != source.size or not self.find_there([content]):
            return None
        for _ in ClaimedBody(source, RangeBody(opened, 0, source.size), 0).blocks():
            self.crew.check()
        return content

    def _find_complete(self, source: FileSource, opened: OpenSource) -> StoredContent | None:
        """A blob that an earlier try completed, dying before it could say so."""
        known = self.unfinished.get(source.path)
        if known is None or known.size != source.size:
            return None
        is_same = is_same_version(source, opened, known)
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
        self.sizes[blob_id] = info.size
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

    def check_blob(self, blob: UnfinishedBlob, info: ObjectInfo | None) -> None:
        """See that the store has made an object of a blob's size; beside what follows where no other work is left.

        ``info`` is what the store has said. Raises IntegrityError for another size.
        """
        ask = partial(self.store.storage.head, self.store.blob_key(blob.id))
        if info is None and not self.crew.has_more:
            self._looks.append((blob, Beside(ask)))
        else:
            check_size(info or ask(), blob.size, self.store.storage)

    def check_last_blobs(self) -> None:
        """Wait for what is asked beside; raises as ``check_blob``."""
        for blob, look in self._looks:
            info = look.answer()
            try:
                check_size(info, blob.size, self.store.storage)
            except IntegrityError:
                self.journal.mark_lost(blob.id, size=info.size)
                raise

    def give_up_looks(self) -> None:
        """Ask no more."""
        for _, look in self._looks:
            look.give_up()

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
        self.sizes[blob.id] = blob.size
        (content,) = self.journal.finish(blob.id, [new])
        return content


def _samples(sources: Sequence[FileSource]) -> dict[str, bytes]:
    """A sample of each local file that shares its size with another."""
    by_size: dict[int, list[LocalSource]] = {}
    for source in sources:
        if isinstance(source, LocalSource):
            by_size.setdefault(source.size, []).append(source)
    return {source.path: source.sample() for group in by_size.values() if len(group) > 1 for source in group}
