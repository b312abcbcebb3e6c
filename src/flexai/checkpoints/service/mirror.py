"""Mirror: bring a set of checkpoints to a second place, where a checkpoint that is there already costs one request."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from flexai.checkpoints.errors import CheckpointError, StorageUnavailableError
from flexai.checkpoints.models import Checkpoint, CheckpointKind, CheckpointStatus, ExportRecord, now
from flexai.checkpoints.names import name_key, new_id
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.export import ExportReport, export
from flexai.checkpoints.service.requests import ExportRequest
from flexai.checkpoints.service.store_requests import MirrorRequest
from flexai.checkpoints.service.support.export_manifest import read_export_manifest
from flexai.checkpoints.service.support.manifest_reader import document_limit
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.training import inspect_job
from flexai.checkpoints.storage.connection import RemotePath

_NOT_IN_PATHS = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Mirrored:
    """One checkpoint of a mirror."""

    checkpoint: Checkpoint
    path: str
    """``BUCKET/PREFIX``."""


@dataclass
class MirrorReport:
    """What a mirror did."""

    copied: list[Mirrored] = field(default_factory=list)
    skipped: list[Mirrored] = field(default_factory=list)
    """Those that were there already."""
    failed: dict[str, CheckpointError] = field(default_factory=dict)
    """Why a checkpoint is not there, by its title or by what was asked for."""
    moved_bytes: int = 0

    def raise_if_failed(self) -> None:
        """Raise an error that names what failed, if anything did.

        It is StorageUnavailableError, worth another try, where nothing but the store's being unavailable was in the
        way.
        """
        if not self.failed:
            return
        names = list(self.failed)
        shown = ", ".join(repr(name) for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        total = len(self.failed) + len(self.copied) + len(self.skipped)
        passing = all(isinstance(error, StorageUnavailableError) for error in self.failed.values())
        kind = StorageUnavailableError if passing else CheckpointError
        first = self.failed[names[0]]
        raise kind(f"{len(names)} of {total} checkpoints could not be mirrored: {shown}", hint=first.message)


def mirror(
    system: System,
    request: MirrorRequest,
    *,
    on_copied: Callable[[ExportReport], None] | None = None,
    progress: Progress | None = None,
) -> MirrorReport:
    """Export checkpoints below ``BUCKET[/PREFIX]`` of a connection, each to a folder of its own.

    A pushed checkpoint goes to ``NAME``, a captured one to ``JOB/FOLDER-ID``. Where the export's manifest says that the
    same files are there, whole, nothing more is asked of the provider: reading them again is not what a mirror is for.
    One that fails does not stop the others; ``on_copied`` is called after each export.

    Raises NotFoundError for a training job that is not there, UsageError for a path without a bucket, and what opening
    the connection raises; what happens to single checkpoints is in the report.
    """
    progress = progress or Progress()
    report = MirrorReport()
    connection = system.connect(request.storage_provider)
    root = connection.open(request.destination_path)
    for checkpoint in _chosen(system, request, report):
        path = f"{request.destination_path.rstrip('/')}/{_folder(checkpoint)}"
        mirrored = Mirrored(checkpoint, path)
        try:
            if not request.overwrite and _is_there(
                replace(root, key=f"{root.prefix}{_folder(checkpoint)}"), checkpoint
            ):
                _record(system, checkpoint, connection.connection_name, path)
                report.skipped.append(mirrored)
                continue
            wanted = ExportRequest(checkpoint.id, request.storage_provider, path, request.overwrite)
            done = export(system, wanted, progress=progress)
        except CheckpointError as error:
            report.failed[checkpoint.title] = error
            progress.note(f"{checkpoint.title} could not be mirrored: {error.message}")
            continue
        report.moved_bytes += done.moved_bytes
        report.copied.append(mirrored)
        if on_copied is not None:
            on_copied(done)
    return report


def _chosen(system: System, request: MirrorRequest, report: MirrorReport) -> Sequence[Checkpoint]:
    """The checkpoints that are meant and can be read; one that was named and cannot be is among the failed."""
    if request.checkpoints:
        found = {}
        for reference in request.checkpoints:
            try:
                checkpoint = system.available(reference)
            except CheckpointError as error:
                report.failed[reference] = error
            else:
                found[checkpoint.id] = checkpoint
        return list(found.values())
    if request.job:
        known = system.catalog.checkpoints.of_job(inspect_job(system, request.job).id)
        return [one for one in known if _can_be_read(one, system.store_id)]
    key = name_key(request.names)
    pushed = [
        one
        for one in system.catalog.checkpoints.of_store(system.store_id)
        if one.kind is CheckpointKind.PUSHED
        and _can_be_read(one, system.store_id)
        and fnmatchcase(name_key(one.name), key)
    ]
    return sorted(pushed, key=lambda one: (one.created_at, one.id))


def _can_be_read(checkpoint: Checkpoint, store_id: str) -> bool:
    return (
        checkpoint.status is CheckpointStatus.AVAILABLE
        and checkpoint.deleted_at is None
        and checkpoint.store_id == store_id
    )


def _folder(checkpoint: Checkpoint) -> str:
    if checkpoint.kind is CheckpointKind.PUSHED:
        return checkpoint.name
    # The folder's name is not ours; attempts of a job may have written one of that name each.
    name = _NOT_IN_PATHS.sub("-", checkpoint.name).strip("-.") or "final"
    return f"{checkpoint.job_name}/{name}-{checkpoint.id[:8]}"


def _is_there(place: RemotePath, checkpoint: Checkpoint) -> bool:
    limit = document_limit(size=checkpoint.size, file_count=checkpoint.file_count)
    found = read_export_manifest(place, limit=limit)
    return found is not None and found.complete and found.manifest.digest() == checkpoint.manifest_digest


def _record(system: System, checkpoint: Checkpoint, storage_provider: str, path: str) -> None:
    """See to it that the catalog knows of an export, which a recovered one does not."""
    assert checkpoint.manifest_digest is not None
    known = system.catalog.checkpoints.exports_of(checkpoint.id)
    if any((record.storage_provider, record.destination_path) == (storage_provider, path) for record in known):
        return
    system.catalog.checkpoints.record_export(
        ExportRecord(
            id=new_id(),
            checkpoint_id=checkpoint.id,
            storage_provider=storage_provider,
            destination_path=path,
            manifest_digest=checkpoint.manifest_digest,
            exported_at=now(),
        )
    )
