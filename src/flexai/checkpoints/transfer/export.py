"""The engine that exports a checkpoint's files from the managed store to a storage provider."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.errors import CheckpointError, DestinationExistsError, UnsupportedError
from flexai.checkpoints.names import some
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.settings import Limits
from flexai.checkpoints.storage.checks import MAX_BESIDE, few_enough
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import Block, BytesBody, ObjectInfo, ObjectStorage, PartReceipt
from flexai.checkpoints.transfer.crew import CountedBody, Crew
from flexai.checkpoints.transfer.dedup import is_one_service
from flexai.checkpoints.transfer.digest import Part, join_parts, parts_of
from flexai.checkpoints.transfer.extra import MOST_EXTRA, Extra
from flexai.checkpoints.transfer.file_upload import check_size
from flexai.checkpoints.transfer.first_reading import learn
from flexai.checkpoints.transfer.journal import RecordDigests
from flexai.checkpoints.transfer.stored_body import StoredBody, VerifiedBody, damaged, has_content, holds


@dataclass
class Exported:
    """What an export did: the provider's objects, by path in the checkpoint."""

    exported: dict[str, ObjectInfo] = field(default_factory=dict)
    skipped: dict[str, ObjectInfo] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    """Those of the exported in whose place other content was."""


@dataclass
class ExportSurvey:
    """What is at a provider's prefix, before anything is written there."""

    place: RemotePath
    same: dict[str, ObjectInfo] = field(default_factory=dict)
    """The objects that have the right content, by path in the checkpoint."""
    missing: list[StoredFile] = field(default_factory=list)
    cut_off: set[str] = field(default_factory=set)
    """Those of the missing ones, by path, in whose place is an empty object of an export that was not completed: some
    services make one where a client dies before the first byte."""
    others: list[StoredFile] = field(default_factory=list)
    """Files in whose place other content is."""
    extra: list[Extra] = field(default_factory=list)
    """What else lies there, at most one more than MOST_EXTRA: neither folders' markers nor ``own`` objects."""
    is_ours: bool = False
    """Whether one of the ``own`` objects is there."""

    def in_the_way(self) -> DestinationExistsError:
        """The error that says so."""
        others = some(sorted(self.place.prefix + file.path for file in self.others), 1)
        return DestinationExistsError(f"other content is already at {self.place.storage.location}/{others}")


class Exporter(Protocol):
    """Does the long work of an export: this process does it, or shards do."""

    def compare(self, pairs: Sequence[tuple[StoredFile, ObjectInfo]]) -> Set[str]:
        """Read objects; returns the paths of the files whose content they have."""

    def export(self, files: Sequence[StoredFile], new_paths: Set[str]) -> Mapping[str, ObjectInfo]:
        """Export files; returns the provider's objects by path.

        ``new_paths`` are those of files where nothing was when the place was listed: what another writer stores there
        meanwhile is not replaced, where the provider can see to that.
        """


def export_files(
    files: Sequence[StoredFile],
    place: RemotePath,
    exporter: Exporter,
    *,
    overwrite: bool,
    earlier_etags: Mapping[str, str] | None,
    own: str,
    check: Callable[[ExportSurvey], object],
    before_writing: Callable[[], None],
    progress: Progress,
) -> Exported:
    """Export files to a provider's prefix; an object that is there with the same content is left as it is.

    ``earlier_etags`` says that a whole export of these files is there, and which ETags it left, by path: an object
    that still has its own is not read. Where it is None, or a file has to be exported, ``before_writing`` is called
    once, before the first file. ``check`` is called with what was found, before anything is written, and keeps that
    from being done by raising. For ``own`` see ``survey``.

    Raises DestinationExistsError for other content in the way, before anything is written; IntegrityError for stored
    content that is not what was recorded.
    """
    found = survey(files, place, exporter, own=own, earlier_etags=earlier_etags, progress=progress)
    check(found)
    if found.others and not overwrite:
        raise found.in_the_way()
    done = Exported(skipped=found.same, replaced=[file.path for file in found.others])
    if found.missing or found.others or earlier_etags is None:
        before_writing()
        new_paths = {file.path for file in found.missing} - found.cut_off if not overwrite else frozenset[str]()
        done.exported |= exporter.export(found.missing + found.others, new_paths)
    return done


def survey(
    files: Sequence[StoredFile],
    place: RemotePath,
    exporter: Exporter,
    *,
    own: str,
    earlier_etags: Mapping[str, str] | None,
    progress: Progress,
) -> ExportSurvey:
    """Find what an export would meet, for which objects of the right size are read; nothing is written.

    ``own`` is the name of the object by which each export says what it is: below a folder that has one, too, nothing is
    another's leftover.
    """
    wanted = {place.prefix + file.path for file in files}
    found = ExportSurvey(place)
    existing: dict[str, ObjectInfo] = {}
    others: dict[str, int] = {}
    exports: set[str] = set()
    for listed in few_enough(place.storage.list(place.prefix), place.storage.location, most=MAX_BESIDE):
        path = listed.key.removeprefix(place.prefix)
        folder, _, name = path.rpartition("/")
        if listed.key in wanted:
            existing[listed.key] = listed
        elif name == own:
            found.is_ours |= not folder
            exports.add(folder)
        elif name and len(others) <= MOST_EXTRA:
            others[path] = listed.size
    nested = tuple(f"{folder}/" for folder in exports if folder)
    found.extra = [Extra(path, size) for path, size in others.items() if not path.startswith(nested)]
    unsure = []
    for file in files:
        info = existing.get(place.prefix + file.path)
        if info is None:
            found.missing.append(file)
        elif not info.size and file.content.size and found.is_ours and earlier_etags is None:
            found.missing.append(file)
            found.cut_off.add(file.path)
        elif info.size != file.content.size:
            found.others.append(file)
        elif info.etag == (earlier_etags or {}).get(file.path):
            found.same[file.path] = info
            progress.advance(skipped=info.size, files=1)
        else:
            unsure.append((file, info))
    same = exporter.compare(unsure)
    found.same |= {file.path: info for file, info in unsure if file.path in same}
    found.others += [file for file, _ in unsure if file.path not in same]
    return found


class DirectExporter:
    """Exports from this process, by a crew of threads."""

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
        self.uploads: dict[str, str] = {}
        """The ids of the uploads that it began and has not completed, by path."""
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

    def export(self, files: Sequence[StoredFile], new_paths: Set[str]) -> Mapping[str, ObjectInfo]:
        """Export files; returns the provider's objects by path."""
        self.new_paths = new_paths
        for file in sorted(files, key=lambda file: -file.content.size):
            self.crew.add(partial(self._export, file))
        with aborted_on_error(self.place, self.uploads):
            self.crew.run()
        return self.done

    def export_parts(self, file: StoredFile, upload_id: str, numbers: range) -> Mapping[int, PartReceipt]:
        """Export some parts (from 1, as ``join_parts`` cuts them) of an upload that another process completes."""
        export = _ObjectExport(self, file)
        export.queue(upload_id, numbers)
        self.crew.run()
        return export.receipts

    def learned(self, content: StoredContent, crew: Crew) -> StoredContent:
        """A content with its digests, for which it is read where they are not known yet."""
        return learn(content, store=self.store, record=self.record, check=crew.check)

    def note(self, file: StoredFile, info: ObjectInfo) -> None:
        """Note that a file is exported."""
        self.done[file.path] = info
        self.progress.advance(files=1)

    def _export(self, file: StoredFile) -> None:
        self.crew.check()
        if self.copies and self._copy(file):
            return
        file = file._replace(content=self.learned(file.content, self.crew))
        if file.content.size < self.limits.pack_threshold:
            self._export_small(file)
        else:
            _ObjectExport(self, file).begin()

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
        self.note(file, info)
        return True

    def _export_small(self, file: StoredFile) -> None:
        """Export a file that fits in memory, where it is verified before its first byte leaves."""
        stored = StoredBody(self.store, file.content.blob_id, file.content.start, file.content.size)
        content = b"".join(bytes(block) for block in stored.blocks())
        if not has_content(memoryview(content), file.content):
            raise damaged(file)
        body = CountedBody(BytesBody(content), crew=self.crew, progress=self.progress)
        try:
            info = self.place.storage.put(self.key(file), body, only_new=file.path in self.new_paths)
        except DestinationExistsError:
            info = _find_same(file, self.place, self.crew)
        self.note(file, info)


class _ObjectExport:
    """The export of one large file; its parts leave by any threads in any order."""

    def __init__(self, exporter: DirectExporter, file: StoredFile) -> None:
        self.receipts: dict[int, PartReceipt] = {}
        self._exporter = exporter
        self._file = file
        self._key = exporter.key(file)
        self._joined = join_parts(file.content.size, file.content.part_size, exporter.place.storage)
        self._upload_id = ""
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Start the upload and queue its parts."""
        try:
            upload_id = self._exporter.place.storage.start_upload(self._key, size=self._file.content.size)
        except UnsupportedError:
            self._exporter.crew.add(self._export_whole, next_up=True)
            return
        self._exporter.uploads[self._file.path] = upload_id
        self.queue(upload_id, range(1, len(self._joined) + 1))

    def _export_whole(self) -> None:
        """Export the file with one request, to a service that takes no parts."""
        exporter, content = self._exporter, self._file.content
        verified = VerifiedBody(exporter.store, self._file, parts_of(content.size, content.part_size))
        body = CountedBody(verified, crew=exporter.crew, progress=exporter.progress)
        try:
            info = exporter.place.storage.put(self._key, body, only_new=self._file.path in exporter.new_paths)
        except DestinationExistsError:
            info = _find_same(self._file, exporter.place, exporter.crew)
        check_size(info, content.size, exporter.place.storage)
        exporter.note(self._file, info)

    def queue(self, upload_id: str, numbers: range) -> None:
        """Queue some parts of an upload that has been started."""
        self._upload_id = upload_id
        for number in reversed(numbers):
            self._exporter.crew.add(partial(self._export_part, number, self._joined[number - 1]), next_up=True)

    def _export_part(self, number: int, parts: Sequence[Part]) -> None:
        exporter = self._exporter
        exporter.crew.check()
        body = CountedBody(
            VerifiedBody(exporter.store, self._file, parts), crew=exporter.crew, progress=exporter.progress
        )
        receipt = exporter.place.storage.put_part(
            self._key, self._upload_id, number=number, offset=parts[0].offset, body=body
        )
        with self._lock:
            self.receipts[number] = receipt
            is_last = len(self.receipts) == len(self._joined)
        if is_last and self._file.path in exporter.uploads:
            is_new = self._file.path in exporter.new_paths
            info = complete(self._file, exporter.place, self._upload_id, self.receipts, only_new=is_new)
            del exporter.uploads[self._file.path]
            exporter.note(self._file, info)


@contextlib.contextmanager
def aborted_on_error(place: RemotePath, uploads: Mapping[str, str]) -> Iterator[None]:
    """Abort what uploads (their ids by path in the checkpoint) are left when an error ends the block."""
    try:
        yield
    except BaseException as error:
        for path, upload_id in uploads.items():
            try:
                place.storage.abort_upload(place.prefix + path, upload_id)
            except CheckpointError as second:
                error.add_note(f"an upload of {path} could not be given up: {second.message}")
        raise


def complete(
    file: StoredFile, place: RemotePath, upload_id: str, receipts: Mapping[int, PartReceipt], *, only_new: bool
) -> ObjectInfo:
    """Make a file of its parts; IntegrityError where the provider makes something else of them.

    Raises DestinationExistsError where only something new may be stored and something else has come there.
    """
    key = place.prefix + file.path
    try:
        info = place.storage.complete_upload(key, upload_id, receipts.values(), only_new=only_new)
        info = info or place.storage.head(key)
    except DestinationExistsError:
        info = _find_same(file, place, Crew(1))
        with contextlib.suppress(UnsupportedError):
            place.storage.abort_upload(key, upload_id)
    check_size(info, file.content.size, place.storage)
    return info


def _find_same(file: StoredFile, place: RemotePath, crew: Crew) -> ObjectInfo:
    """What has come meanwhile to where a file should go, if it is the same: another export of it was faster.

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
