"""Export: bring a checkpoint's files to a storage provider.

The write order makes it safe to die at any instant: the manifest object with ``complete: false``, the files' objects,
the manifest object with ``complete: true``, the catalog's record. Each object appears whole or not at all. So a reader
tells a whole export from a torn one, and the next export, on any machine, goes on at once: it holds no lease that had
to run out, compares the objects that are there, gives up the uploads that the dead one left, and sends the rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import NamedTuple

from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.documents import Document, identity
from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    DestinationExistsError,
    IntegrityError,
    SourceError,
    UnsupportedError,
    UsageError,
)
from flexai.checkpoints.manifest import Manifest
from flexai.checkpoints.models import Checkpoint, ExportRecord, now
from flexai.checkpoints.names import new_id
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.requests import ExportRequest
from flexai.checkpoints.service.support.export_manifest import (
    EXPORT_MANIFEST,
    ExportManifest,
    read_export_manifest,
    write_export_manifest,
)
from flexai.checkpoints.service.support.extras import check_extra, tell_extra
from flexai.checkpoints.service.support.manifest_reader import document_limit, manifest_of
from flexai.checkpoints.service.support.shard_dispatch import ShardedExporter
from flexai.checkpoints.service.support.shard_work import ShardRunner
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.transfer.export import DirectExporter, Exporter, ExportSurvey, export_files
from flexai.checkpoints.transfer.extra import Extra
from flexai.checkpoints.transfer.shard_plan import shard_target
from flexai.checkpoints.wanted import Wanted


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export did."""

    checkpoint: Checkpoint
    record: ExportRecord
    exported_files: int
    skipped_files: int
    """Files that were there already with the right content."""
    moved_bytes: int
    extra_files: int = 0
    """What else lies there; where more than 10,000 objects do, this is one more."""
    deleted_files: int = 0
    """What else lay there, and was deleted."""
    left_out_files: int = 0
    """Files of the checkpoint that were not asked for."""
    left_out_bytes: int = 0
    """Their size."""

    def to_dict(self) -> Document:
        """What ``checkpoint export --json`` prints; sizes in bytes, times in ISO 8601."""
        return {
            "checkpoint": identity(self.checkpoint),
            "storageProvider": self.record.storage_provider,
            "destinationPath": self.record.destination_path,
            "manifestDigest": self.record.manifest_digest,
            "exportedAt": self.record.exported_at.isoformat(),
            "exportedFiles": self.exported_files,
            "skippedFiles": self.skipped_files,
            "movedBytes": self.moved_bytes,
            "extraFiles": self.extra_files,
            "deletedFiles": self.deleted_files,
            "leftOutFiles": self.left_out_files,
            "leftOutBytes": self.left_out_bytes,
            "isPart": self.record.is_part,
        }


class PartToExport(NamedTuple):
    """What an export is of."""

    files: Sequence[StoredFile]
    folders: Sequence[str]
    """The empty ones."""
    left: Mapping[str, int]
    """The checkpoint's other files, by path, and their bytes."""
    is_part: bool
    """Whether the checkpoint has more files, or empty folders."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.content.size for file in self.files)

    @property
    def manifest(self) -> Manifest:
        """Of these files and folders."""
        return manifest_of(self.files, self.folders)

    def without_left(self, extra: Sequence[Extra]) -> list[Extra]:
        """Of what else lies at a place, what is no part of the checkpoint."""
        return [one for one in extra if one.path not in self.left]


def choose(request: ExportRequest, checkpoint: Checkpoint, files: Sequence[StoredFile]) -> PartToExport:
    """What is asked for of a checkpoint's files. Raises what ``Wanted.of`` raises."""
    wanted = Wanted(tuple(request.include), tuple(request.exclude), tuple(request.only))
    paths = wanted.of([file.path for file in files], checkpoint.title)
    folders = wanted.folders(checkpoint.folders)
    left = {file.path: file.content.size for file in files if file.path not in paths}
    is_part = bool(left) or len(folders) < len(checkpoint.folders)
    return PartToExport([file for file in files if file.path in paths], folders, left, is_part)


def export(
    system: System,
    request: ExportRequest,
    *,
    runner: ShardRunner | None = None,
    progress: Progress | None = None,
) -> ExportReport:
    """Bring a checkpoint's files, or a part of them, below ``BUCKET/PREFIX`` of a connection.

    A rerun continues a broken export. One of a part says so, in its manifest object and in the catalog's record; a
    later one of more of the same checkpoint adds to it.

    A manifest object is written first, saying that the export is not complete, and replaced last, so that a reader
    can tell a whole export from a torn one. Objects that are there with the same content are left as they are.
    ``runner`` runs a large one in shards.

    Raises NotFoundError for a checkpoint that is not there, or has no file that is asked for, ConflictError for one
    that is not available, DestinationExistsError for other content in the way (unless ``overwrite``), and what
    ``system.open_place`` and the provider raise.

    What else lies there is noted, or deleted once all is there (with ``delete_extra``): ExtraFilesError where the
    caller does not insist, DestinationExistsError where no checkpoint was exported to before; both before anything is
    written.
    """
    progress = progress or Progress()
    # First: a name that is mistyped is said at once, whatever the connection is.
    checkpoint = system.available(request.reference)
    connection = system.connect(request.storage_provider)
    part = choose(request, checkpoint, system.files_of(checkpoint))
    files, manifest = part.files, part.manifest
    place = open_place(system, request, checkpoint, files)
    progress.begin(f"export {checkpoint.title}", total_bytes=part.size, total_files=len(files))

    exporter: Exporter
    if runner is not None and shard_target([file.content.size for file in files], runner.shard_size):
        exporter = ShardedExporter(
            system, checkpoint, connection, request.destination_path, place, runner=runner, progress=progress
        )
    else:
        exporter = DirectExporter(
            place,
            store=system.store,
            record=system.blobs.learn,
            limits=system.settings.limits,
            progress=progress,
        )

    where = f"{place.storage.location}/{place.key}"
    met = ExportSurvey(place)
    extra: list[Extra] = []

    def check(found: ExportSurvey) -> None:
        nonlocal met, extra
        met, extra = found, part.without_left(found.extra)
        check_extra(request, extra, where, may_be_removed=met.is_ours)

    def begin() -> None:
        _give_up_leftovers(place, {EXPORT_MANIFEST, *(file.path for file in files)}, progress)
        write_export_manifest(place, checkpoint, manifest, is_part=part.is_part)

    try:
        found = None if request.overwrite else find_export(place, checkpoint, manifest)
        is_told = found is not None and found.complete and found.is_part == part.is_part
        done = export_files(
            files,
            place,
            exporter,
            overwrite=request.overwrite,
            earlier_etags=found.etags if found is not None and found.complete else None,
            own=EXPORT_MANIFEST,
            check=check,
            before_writing=begin,
            progress=progress,
        )
        if isinstance(exporter, ShardedExporter) and done.exported:
            # Those of shards that were killed and ran again.
            _give_up_leftovers(place, done.exported.keys(), progress)
        if done.exported or not is_told or (found is not None and found.manifest != manifest):
            # Read again: what had no digest yet may have been read on its way.
            manifest = choose(request, checkpoint, system.files_of(checkpoint)).manifest
            infos = done.exported | done.skipped
            write_export_manifest(place, checkpoint, manifest, is_part=part.is_part, infos=infos)
    except IntegrityError as error:
        from flexai.checkpoints.service.verify import remember_damage

        remember_damage(system, [file for file in files if file.content.blob_id == error.blob_id], error)
        raise
    finally:
        progress.end()
    record = ExportRecord(
        id=new_id(),
        checkpoint_id=checkpoint.id,
        storage_provider=connection.connection_name,
        destination_path=request.destination_path,
        manifest_digest=manifest.digest(),
        exported_at=now(),
        is_part=part.is_part,
    )
    deleted = [one.path for one in extra] if request.delete_extra else []
    also = _same_place(system, record, place)
    system.catalog.exports.record(record, gone=[*done.replaced, *deleted], also=also)
    if deleted:
        place.storage.delete(place.prefix + path for path in deleted)
    elif not request.delete_extra:
        tell_extra(extra, where, checkpoint.title, progress, may_be_removed=met.is_ours and not part.is_part)
    return ExportReport(
        checkpoint=checkpoint,
        record=record,
        exported_files=len(done.exported),
        skipped_files=len(done.skipped),
        moved_bytes=sum(info.size for info in done.exported.values()),
        extra_files=len(extra) - len(deleted),
        deleted_files=len(deleted),
        left_out_files=len(part.left),
        left_out_bytes=sum(part.left.values()),
    )


def _same_place(system: System, record: ExportRecord, place: RemotePath) -> list[str]:
    """The other connections by which the same path leads to the place of an export."""
    found = []
    for name in system.catalog.exports.providers_at(record.destination_path) - {record.storage_provider}:
        # One that is gone, or that may not look, tells nothing; what it says it led to stays.
        with contextlib.suppress(CheckpointError):
            other = system.open_place(name, record.destination_path)
            if (other.storage.location, other.key) == (place.storage.location, place.key):
                found.append(name)
    return found


def open_place(
    system: System, request: ExportRequest, checkpoint: Checkpoint, files: Sequence[StoredFile]
) -> RemotePath:
    """Open where an export goes; SourceError or UsageError where these files cannot go there."""
    if any(file.path == EXPORT_MANIFEST for file in files):
        raise SourceError(
            f"checkpoint {checkpoint.title!r} holds a file {EXPORT_MANIFEST!r}, the name of an export's own manifest",
            hint="push the checkpoint without that file",
        )
    place = system.open_place(request.storage_provider, request.destination_path)
    if not place.key:
        raise UsageError(
            f"{request.destination_path!r} names a bucket without a folder",
            hint="write BUCKET/PREFIX: an export has a place of its own",
        )
    return place


def find_export(place: RemotePath, checkpoint: Checkpoint, manifest: Manifest) -> ExportManifest | None:
    """The export of a manifest's files, or of a part of them, that is there, complete or not.

    The manifest is of the checkpoint, or of a part of it. Raises DestinationExistsError for one of other files.
    """
    limit = document_limit(size=checkpoint.size, file_count=checkpoint.file_count)
    found = read_export_manifest(place, limit=limit)
    if found is None or found.has_files_of(manifest) or found.is_within(manifest):
        return found
    where = f"{place.storage.location}/{place.key}"
    if {(entry.path, entry.size, entry.digest) for entry in manifest.files} <= {
        (entry.path, entry.size, entry.digest) for entry in found.manifest.files
    }:
        raise DestinationExistsError(
            f"more than this was exported to {where}",
            hint="choose another destination; --overwrite lets that count as an export of these files alone",
        )
    what = "other files of a checkpoint were" if found.is_part else "another checkpoint was"
    raise DestinationExistsError(f"{what} exported to {where}")


def _give_up_leftovers(place: RemotePath, paths: Set[str], progress: Progress) -> None:
    """Give up the uploads of these files that a dead export left: a provider would keep, and bill, them for ever."""
    keys = {place.prefix + path for path in paths}
    try:
        for upload in [one for one in place.storage.list_uploads(place.prefix) if one.key in keys]:
            place.storage.abort_upload(upload.key, upload.upload_id)
    except (AccessDeniedError, UnsupportedError) as error:
        progress.note(f"uploads that a broken export may have left cannot be given up: {error.message}")
