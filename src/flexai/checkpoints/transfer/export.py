"""The engine that brings a checkpoint's files out of the managed store to a storage provider."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.errors import CheckpointError, DestinationExistsError, UnsupportedError
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import Block, BytesBody, ObjectInfo, ObjectStorage, PartReceipt
from flexai.checkpoints.transfer.crew import CountedBody, Crew
from flexai.checkpoints.transfer.dedup import is_one_service
from flexai.checkpoints.transfer.digest import Part, parts_of
from flexai.checkpoints.transfer.first_reading import learn
from flexai.checkpoints.transfer.journal import RecordDigests
from flexai.checkpoints.transfer.stored_body import StoredBody, VerifiedBody, damaged, has_content, holds
from flexai.checkpoints.transfer.upload import check_size
from flexai.checkpoints.transfer_limits import Limits


@dataclass
class Delivery:
    """What an export did, by path in the checkpoint."""

    sent: dict[str, ObjectInfo] = field(default_factory=dict)
    skipped: dict[str, ObjectInfo] = field(default_factory=dict)


@dataclass
class StandingExport:
    """What is at a provider's prefix, before anything is written there."""

    place: RemotePath
    same: dict[str, ObjectInfo] = field(default_factory=dict)
    """The objects that have the right content, by path in the checkpoint."""
    missing: list[StoredFile] = field(default_factory=list)
    others: list[StoredFile] = field(default_factory=list)
    """Files in whose place other content is."""

    def in_the_way(self) -> DestinationExistsError:
        """The error that says so."""
        first = min(self.place.prefix + file.path for file in self.others)
        more = f" and {len(self.others) - 1} more" if len(self.others) > 1 else ""
        return DestinationExistsError(f"other content is already at {self.place.storage.location}/{first}{more}")


class Carrier(Protocol):
    """Who does what takes long, here or elsewhere."""

    def compare(self, pairs: Sequence[tuple[StoredFile, ObjectInfo]]) -> Set[str]:
        """Read objects; returns the paths of the files whose content they have."""

    def send(self, files: Sequence[StoredFile], new_paths: Set[str]) -> Mapping[str, ObjectInfo]:
        """Bring files there and say what they became, by path.

        ``new_paths`` are those of files where nothing was when the place was listed: what somebody brings there
        meanwhile is not replaced, where the provider can see to that.
        """


def deliver(
    files: Sequence[StoredFile],
    place: RemotePath,
    *,
    store: ManagedStore,
    record: RecordDigests,
    limits: Limits,
    overwrite: bool,
    delivered: Mapping[str, str] | None,
    before_writing: Callable[[], None],
    progress: Progress,
    carrier: Carrier | None = None,
) -> Delivery:
    """Bring files below a provider's prefix; an object that is there with the same content is left as it is.

    ``delivered`` says that a whole export of these files is there, and with which ETags it left them, by path: what
    still has its own is not read. Where it is None, or a file has to leave, ``before_writing`` is called once, before
    the first file leaves.

    Raises DestinationExistsError for other content in the way, before anything is written; IntegrityError for stored
    content that is not what was recorded.
    """
    carrier = carrier or Exporter(place, store=store, record=record, limits=limits, progress=progress)
    standing = survey(files, place, delivered=delivered, progress=progress, carrier=carrier)
    if standing.others and not overwrite:
        raise standing.in_the_way()
    done = Delivery(skipped=standing.same)
    if standing.missing or standing.others or delivered is None:
        before_writing()
        new_paths = frozenset(file.path for file in standing.missing) if not overwrite else frozenset()
        done.sent |= carrier.send(standing.missing + standing.others, new_paths)
    return done


def survey(
    files: Sequence[StoredFile],
    place: RemotePath,
    *,
    delivered: Mapping[str, str] | None,
    progress: Progress,
    carrier: Carrier,
) -> StandingExport:
    """Find what an export would meet, for which objects of the right size are read; nothing is written."""
    existing = {info.key: info for info in place.storage.list(place.prefix)}
    standing = StandingExport(place)
    unsure = []
    for file in files:
        info = existing.get(place.prefix + file.path)
        if info is None:
            standing.missing.append(file)
        elif info.size != file.content.size:
            standing.others.append(file)
        elif info.etag == (delivered or {}).get(file.path):
            standing.same[file.path] = info
            progress.advance(skipped=info.size, files=1)
        else:
            unsure.append((file, info))
    same = carrier.compare(unsure)
    standing.same |= {file.path: info for file, info in unsure if file.path in same}
    standing.others += [file for file, _ in unsure if file.path not in same]
    return standing


def spans_of(content: StoredContent, storage: ObjectStorage) -> Sequence[Sequence[Part]]:
    """The parts of an upload: each as many parts of the content as the provider's limits ask for, so that it verifies.

    They are numbered from 1, in this order.
    """
    parts = parts_of(content.size, content.part_size)
    joined = max(-(-storage.min_part_size // content.part_size), -(-len(parts) // storage.max_parts))
    return [parts[start : start + joined] for start in range(0, len(parts), joined)]


class Exporter:
    """Delivers from this process."""

    def __init__(
        self, place: RemotePath, *, store: ManagedStore, record: RecordDigests, limits: Limits, progress: Progress
    ) -> None:
        self.place = place
        self.store = store
        self.record = record
        self.limits = limits
        self.progress = progress
        self.crew = Crew(limits.concurrency, bandwidth=limits.bandwidth)
        self.done: dict[str, ObjectInfo] = {}
        self.uploads: set[tuple[str, str]] = set()
        self.new_paths: Set[str] = frozenset()
        self.copies = is_one_service(store.storage, place.storage)

    def key(self, file: StoredFile) -> str:
        """Where a file goes."""
        return self.place.prefix + file.path

    def compare(self, pairs: Sequence[tuple[StoredFile, ObjectInfo]]) -> Set[str]:
        """Read objects; returns the paths of the files whose content they have."""
        same: set[str] = set()
        crew = Crew(self.limits.concurrency)

        def compare(file: StoredFile, info: ObjectInfo) -> None:
            if _has_content(self.place.storage, info, self.learned(file.content, crew), crew):
                same.add(file.path)
                self.progress.advance(skipped=info.size, files=1)

        for file, info in pairs:
            crew.add(partial(compare, file, info))
        crew.run()
        return same

    def send(self, files: Sequence[StoredFile], new_paths: Set[str]) -> Mapping[str, ObjectInfo]:
        """Bring files there and say what they became."""
        self.new_paths = new_paths
        for file in sorted(files, key=lambda file: -file.content.size):
            self.crew.add(partial(self._send, file))
        self._work()
        return self.done

    def send_parts(self, file: StoredFile, upload_id: str, numbers: range) -> Mapping[int, PartReceipt]:
        """Send some parts (from 1, as ``spans_of`` cuts them) of an upload that somebody else began and completes."""
        delivery = _ObjectDelivery(self, file)
        delivery.queue(upload_id, numbers)
        self._work()
        return delivery.receipts

    def _work(self) -> None:
        try:
            self.crew.run()
        except BaseException as error:
            for key, upload_id in self.uploads:
                try:
                    self.place.storage.abort_upload(key, upload_id)
                except CheckpointError as second:
                    error.add_note(f"an upload of {key} could not be given up: {second.message}")
            raise

    def learned(self, content: StoredContent, crew: Crew) -> StoredContent:
        """A content with its digests, for which it is read where nobody has done so yet."""
        return learn(content, store=self.store, record=self.record, check=crew.check)

    def sent(self, file: StoredFile, info: ObjectInfo) -> None:
        """Note that a file has arrived."""
        self.done[file.path] = info
        self.progress.advance(files=1)

    def _send(self, file: StoredFile) -> None:
        self.crew.check()
        if self.copies and self._copy(file):
            return
        file = replace(file, content=self.learned(file.content, self.crew))
        if file.content.size < self.limits.pack_threshold:
            self._send_small(file)
        else:
            _ObjectDelivery(self, file).begin()

    def _copy(self, file: StoredFile) -> bool:
        """Let the provider copy a file that is a blob of its own; False for one in a pack, or where it cannot."""
        key = self.store.blob_key(file.content.blob_id)
        if self.store.storage.head(key).size != file.content.size:
            return False
        try:
            info = self.place.storage.copy(self.store.storage, key, self.key(file))
        except UnsupportedError:
            return False
        self.progress.advance(skipped=file.content.size)
        self.sent(file, info)
        return True

    def _send_small(self, file: StoredFile) -> None:
        """Send a file that fits in memory, where it is verified before the first byte leaves."""
        stored = StoredBody(self.store, file.content.blob_id, file.content.start, file.content.size)
        content = b"".join(bytes(block) for block in stored.blocks())
        if not has_content(memoryview(content), file.content):
            raise damaged(file)
        body = CountedBody(BytesBody(content), crew=self.crew, progress=self.progress)
        try:
            info = self.place.storage.put(self.key(file), body, only_new=file.path in self.new_paths)
        except DestinationExistsError:
            info = _find_same(file, self.place, self.crew)
        self.sent(file, info)


class _ObjectDelivery:
    """One large file on its way to the provider."""

    def __init__(self, delivery: Exporter, file: StoredFile) -> None:
        self.receipts: dict[int, PartReceipt] = {}
        self._delivery = delivery
        self._file = file
        self._key = delivery.key(file)
        self._spans = spans_of(file.content, delivery.place.storage)
        self._upload_id = ""
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Start the upload and queue its parts."""
        upload_id = self._delivery.place.storage.start_upload(self._key, size=self._file.content.size)
        self._delivery.uploads.add((self._key, upload_id))
        self.queue(upload_id, range(1, len(self._spans) + 1))

    def queue(self, upload_id: str, numbers: range) -> None:
        """Queue some parts of an upload that has been started."""
        self._upload_id = upload_id
        for number in reversed(numbers):
            self._delivery.crew.add(partial(self._send_part, number, self._spans[number - 1]), next_up=True)

    def _send_part(self, number: int, span: Sequence[Part]) -> None:
        storage = self._delivery.place.storage
        self._delivery.crew.check()
        body = CountedBody(
            VerifiedBody(self._delivery.store, self._file, span),
            crew=self._delivery.crew,
            progress=self._delivery.progress,
        )
        receipt = storage.put_part(self._key, self._upload_id, number=number, offset=span[0].offset, body=body)
        with self._lock:
            self.receipts[number] = receipt
            is_last = len(self.receipts) == len(self._spans)
        if is_last and (self._key, self._upload_id) in self._delivery.uploads:
            is_new = self._file.path in self._delivery.new_paths
            info = complete(self._file, self._delivery.place, self._upload_id, self.receipts, only_new=is_new)
            self._delivery.uploads.discard((self._key, self._upload_id))
            self._delivery.sent(self._file, info)


def complete(
    file: StoredFile, place: RemotePath, upload_id: str, receipts: Mapping[int, PartReceipt], *, only_new: bool
) -> ObjectInfo:
    """Make a file of its parts; IntegrityError where the provider makes something else of them.

    Raises DestinationExistsError where only something new may be stored and something else has come there.
    """
    key = place.prefix + file.path
    try:
        info = place.storage.complete_upload(key, upload_id, receipts.values(), only_new=only_new)
    except DestinationExistsError:
        info = _find_same(file, place, Crew(1))
        place.storage.abort_upload(key, upload_id)
    check_size(info, file.content.size, place.storage)
    return info


def _find_same(file: StoredFile, place: RemotePath, crew: Crew) -> ObjectInfo:
    """What somebody brought meanwhile to where a file should go, if it is the same: another export of it was faster.

    Raises DestinationExistsError where it is something else.
    """
    info = place.storage.head(place.prefix + file.path)
    if info.size != file.content.size or not _has_content(place.storage, info, file.content, crew):
        raise DestinationExistsError(f"other content has just come to {place.storage.location}/{info.key}")
    return info


def _has_content(storage: ObjectStorage, info: ObjectInfo, content: StoredContent, crew: Crew) -> bool:
    def read(part: Part) -> Iterator[Block]:
        return storage.get(info.key, start=part.offset, length=part.size, etag=info.etag)

    return holds(content, read, crew.check)
