"""Shards: pieces of an operation, each of which a worker process runs by itself, on any machine.

What describes a shard is small and holds no secret: the worker opens the catalog, the store and the connection by
itself. A shard may run twice, or be killed and run elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flexai.checkpoints.catalog.shard_journal import ShardJournal
from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.errors import ConflictError, IntegrityError, SettingsError, SourceChangedError, SourceError
from flexai.checkpoints.manifest import Manifest
from flexai.checkpoints.models import Checkpoint
from flexai.checkpoints.paths import parse_path
from flexai.checkpoints.progress import CountingProgress, Progress
from flexai.checkpoints.service.store_requests import MirrorRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.beneath import Beneath
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.protocol import ObjectInfo
from flexai.checkpoints.transfer.export import DirectExporter
from flexai.checkpoints.transfer.fetch import compare_files, fetch_files, fetch_parts
from flexai.checkpoints.transfer.sources import FileSource, LocalSource, ObjectSource
from flexai.checkpoints.transfer.upload import upload, upload_parts

if TYPE_CHECKING:
    from flexai.checkpoints.service.mirror import MirrorReport


@dataclass(frozen=True, slots=True)
class ShardSource:
    """A file to be pushed, as the scan found it."""

    path: str
    """In the checkpoint."""
    place: str
    """Its path on the machine, or its key on the provider."""
    size: int
    """Bytes."""
    version: str
    """The time of its last write (ns), or the object's ETag."""
    checksums: Mapping[str, str] = field(default_factory=dict)
    claim: str = ""
    """What the manifest of an export beside it says that it is: a manifest of this file, as JSON."""
    is_untouched: bool = False
    root: str = ""
    """Of a file of the machine: the folder from which on no link is followed."""
    inside: str = ""
    """Its path below that folder."""

    @classmethod
    def of(cls, source: FileSource) -> ShardSource:
        """A source of a push."""
        if isinstance(source, LocalSource):
            return cls(
                path=source.path,
                place=str(source.local_path),
                size=source.size,
                version=str(source.identity[3]),
                root=str(source.tree.root),
                inside=source.inside,
            )
        assert isinstance(source, ObjectSource)
        return cls(
            path=source.path,
            place=source.info.key,
            size=source.size,
            version=source.version,
            checksums=dict(source.checksums),
            claim="" if source.claim is None else Manifest(files=(source.claim,)).canonical().decode(),
            is_untouched=source.is_untouched,
        )

    def open(self, place: RemotePath | None) -> FileSource:
        """The source as this machine sees it; ``place`` is where a provider's objects are.

        Raises SourceError for a local file that this machine has not got, SourceChangedError for another one.
        """
        path = parse_path(self.path)
        if place is not None:
            return ObjectSource(
                path=path,
                storage=place.storage,
                info=ObjectInfo(self.place, self.size, self.version, dict(self.checksums)),
                claim=Manifest.model_validate_json(self.claim).files[0] if self.claim else None,
                is_untouched=self.is_untouched,
            )
        try:
            tree = Beneath(Path(self.root))
            folder, name = tree.at(self.inside)
            source = LocalSource.of(path, Path(self.place), folder.status(name), tree=tree, inside=self.inside)
        except OSError as error:
            raise SourceError(
                f"source {self.place} cannot be read here: {error.strerror}",
                hint="every machine that takes part must see the files under the same path",
            ) from error
        # Not the device and the inode: a shared file system has others on each machine.
        if (source.size, str(source.identity[3])) != (self.size, self.version):
            raise SourceChangedError(f"source {self.place} changed after it was listed, or is another file here")
        return source


@dataclass(frozen=True, slots=True)
class PushShard:
    """Some files of a push, or some parts of one file."""

    label: str
    """What to call it: ``NAME 3 of 12``."""
    size: int
    """Bytes."""
    checkpoint_id: str
    claim_token: str
    store_id: str
    storage_provider: str
    """The connection's name; empty for local files."""
    source_path: str
    files: tuple[ShardSource, ...]
    blob_id: str = ""
    """The blob that holds the one file's parts; empty for whole files."""
    numbers: tuple[int, int] = (0, 0)
    """The first of the parts, and the one after the last."""


@dataclass(frozen=True, slots=True)
class PushedShard:
    """What a shard of a push stored; bytes."""

    content_ids: dict[str, int]
    """The contents of whole files in the catalog, by path."""
    moved: int
    skipped: int


@dataclass(frozen=True, slots=True)
class ExportShard:
    """Some files of an export to compare or to export, or some parts of one."""

    label: str
    size: int
    """Bytes."""
    checkpoint_id: str
    store_id: str
    storage_provider: str
    """The connection's name."""
    destination_path: str
    paths: tuple[str, ...]
    existing: tuple[ObjectInfo, ...] = ()
    """The objects to compare the files with; none where they are to be exported."""
    new_paths: frozenset[str] = frozenset()
    """Files where nothing was when the place was listed."""
    upload_id: str = ""
    """The upload of the one file; empty for whole files."""
    numbers: tuple[int, int] = (0, 0)
    """The first of the upload's parts, and the one after the last."""


@dataclass(frozen=True, slots=True)
class ExportedShard:
    """What a shard of an export did; bytes."""

    same: tuple[str, ...] = ()
    """Of the files that were compared, those that are there with the right content."""
    exported: dict[str, ObjectInfo] = field(default_factory=dict)
    """The provider's objects, by path; without those of parts."""
    upload_id: str = ""
    receipts: dict[int, str] = field(default_factory=dict)
    """What the provider gave for the parts of the upload, by their numbers."""
    moved: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class FetchShard:
    """Some files of a fetch to compare or to fetch, or some parts of one."""

    label: str
    size: int
    """Bytes."""
    checkpoint_id: str
    store_id: str
    destination: str
    """The directory, absolute."""
    witness: str
    """The name of the file that tells that a machine's directory of this path is the one that is meant."""
    paths: tuple[str, ...]
    compares: bool = False
    """Whether the files are only compared with what is there."""
    overwrite: bool = False
    place: str = ""
    """Where, below the directory, the one file's parts go; empty for whole files."""
    numbers: tuple[int, int] = (0, 0)
    """The first of the parts, and the one after the last."""


@dataclass(frozen=True, slots=True)
class FetchedShard:
    """What a shard of a fetch did; it tells of no file where the destination is not on its machine."""

    fetched: tuple[str, ...] = ()
    part_count: int = 0
    """How many parts of the one file that was fetched it brought; 0 for whole files."""
    kept: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    """Of the files that were compared, those in whose place other content is."""
    damaged: Mapping[str, IntegrityError] = field(default_factory=dict)
    moved: int = 0
    """Bytes."""
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class MirrorShard:
    """Some checkpoints of a mirror."""

    label: str
    store_id: str
    request: MirrorRequest
    checkpoints: tuple[Checkpoint, ...]


@dataclass(frozen=True, slots=True)
class MirroredShard:
    """What a shard of a mirror did; bytes."""

    report: MirrorReport
    moved: int
    skipped: int
    files: int


class ShardRunner(Protocol):
    """Runs shards and yields each result as it ends; the first error ends the others."""

    @property
    def shard_size(self) -> int:
        """About how many bytes a shard has; a smaller transfer is not cut."""

    def push(self, shards: Sequence[PushShard]) -> Iterator[PushedShard]:
        """Run shards of a push."""

    def export(self, shards: Sequence[ExportShard]) -> Iterator[ExportedShard]:
        """Run shards of an export."""

    def fetch(self, shards: Sequence[FetchShard]) -> Iterator[FetchedShard]:
        """Run shards of a fetch."""

    def mirror(self, shards: Sequence[MirrorShard]) -> Iterator[MirroredShard]:
        """Run shards of a mirror."""


def run_push_shard(system: System, shard: PushShard, *, progress: Progress) -> PushedShard:
    """Store the files, or the parts, of a shard.

    Raises ConflictError where the push has ended or was taken over, SettingsError where this machine uses another
    store, and what a push raises.
    """
    check_store(system, shard.store_id)
    journal = ShardJournal(
        system.catalog.database, shard.store_id, checkpoint_id=shard.checkpoint_id, token=shard.claim_token
    )
    journal.check()
    place = system.open_place(shard.storage_provider, shard.source_path) if shard.storage_provider else None
    sources = [file.open(place) for file in shard.files]
    counted = CountingProgress(progress)
    progress.begin(f"push {shard.label}", total_bytes=shard.size, total_files=0 if shard.blob_id else len(sources))
    try:
        if shard.blob_id:
            (source,) = sources
            blob = journal.unfinished(shard.checkpoint_id).get(source.path)
            if blob is None or blob.id != shard.blob_id:
                raise ConflictError(f"what had arrived of {source.path!r} was given up meanwhile")
            upload_parts(
                source,
                blob,
                range(*shard.numbers),
                checkpoint_id=shard.checkpoint_id,
                store=system.store,
                journal=journal,
                limits=system.settings.limits,
                progress=counted,
            )
            return PushedShard({}, counted.moved, counted.skipped)
        contents = upload(
            sources,
            checkpoint_id=shard.checkpoint_id,
            store=system.store,
            journal=journal,
            limits=system.settings.limits,
            progress=counted,
        )
        return PushedShard({path: content.id for path, content in contents.items()}, counted.moved, counted.skipped)
    finally:
        progress.end()


def run_export_shard(system: System, shard: ExportShard, *, progress: Progress) -> ExportedShard:
    """Compare or export the files, or the parts, of a shard.

    Raises NotFoundError where the checkpoint is gone, SettingsError where this machine uses another store, and what an
    export raises.
    """
    check_store(system, shard.store_id)
    files = _files_of(system, shard)
    counted = CountingProgress(progress)
    exporter = DirectExporter(
        system.open_place(shard.storage_provider, shard.destination_path),
        store=system.store,
        record=system.blobs.learn,
        limits=system.settings.limits,
        progress=counted,
    )
    verb = "compare" if shard.existing else "export"
    progress.begin(f"{verb} {shard.label}", total_bytes=shard.size, total_files=0 if shard.upload_id else len(files))
    try:
        if shard.existing:
            same = exporter.compare(list(zip(files, shard.existing, strict=True)))
            return ExportedShard(same=tuple(sorted(same)), moved=counted.moved, skipped=counted.skipped)
        if shard.upload_id:
            receipts = exporter.export_parts(files[0], shard.upload_id, range(*shard.numbers))
            return ExportedShard(
                upload_id=shard.upload_id,
                receipts={number: receipt.token for number, receipt in receipts.items()},
                moved=counted.moved,
                skipped=counted.skipped,
            )
        exported = exporter.export(files, shard.new_paths)
        return ExportedShard(exported=dict(exported), moved=counted.moved, skipped=counted.skipped)
    finally:
        progress.end()


def run_fetch_shard(system: System, shard: FetchShard, *, progress: Progress) -> FetchedShard:
    """Compare or fetch the files, or the parts, of a shard.

    It does nothing where the destination is another directory on this machine.

    Raises NotFoundError where the checkpoint is gone, SettingsError where this machine uses another store, and what a
    fetch raises.
    """
    check_store(system, shard.store_id)
    files = _files_of(system, shard)
    counted = CountingProgress(progress)
    destination, store, limits, witness = Path(shard.destination), system.store, system.settings.limits, shard.witness
    common: dict[str, Any] = {"store": store, "limits": limits, "progress": counted, "witness": witness}
    verb = "compare" if shard.compares else "fetch"
    progress.begin(f"{verb} {shard.label}", total_bytes=shard.size, total_files=0 if shard.place else len(files))
    try:
        if shard.place:
            done = fetch_parts(files[0], range(*shard.numbers), shard.place, destination, **common)
        elif shard.compares:
            done = compare_files(files, destination, record=system.learning(files), **common)
        else:
            record = system.learning(files)
            done = fetch_files(files, destination, record=record, overwrite=shard.overwrite, **common)
    finally:
        progress.end()
    return FetchedShard(
        fetched=tuple(done.fetched),
        part_count=len(range(*shard.numbers)),
        kept=tuple(done.kept),
        others=tuple(done.others),
        damaged=done.damaged,
        moved=counted.moved,
        skipped=counted.skipped,
    )


def _files_of(system: System, shard: ExportShard | FetchShard) -> list[StoredFile]:
    found = {file.path: file for file in system.files_of(system.available(shard.checkpoint_id))}
    return [found[path] for path in shard.paths]


def check_store(system: System, store_id: str) -> None:
    """Raise SettingsError where this machine uses another store than the operation that a shard is of."""
    if system.store_id != store_id:
        raise SettingsError(
            f"the managed store of this machine, {system.store.location}, is another one than the operation's",
            hint="every machine that takes part needs the same FLEXAI_STORE and FLEXAI_DATABASE_URL",
        )
