"""Mirror: bring a set of checkpoints to a second place, where a checkpoint that is there already costs one request."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from flexai.checkpoints.errors import CheckpointError, NotFoundError, StorageUnavailableError
from flexai.checkpoints.models import Checkpoint, CheckpointKind, CheckpointStatus, ExportRecord, now
from flexai.checkpoints.names import name_key, new_id, some
from flexai.checkpoints.progress import CountingProgress, Progress
from flexai.checkpoints.service.export import ExportReport, export
from flexai.checkpoints.service.requests import ExportRequest
from flexai.checkpoints.service.store_requests import MirrorRequest
from flexai.checkpoints.service.support.export_manifest import read_export_manifest
from flexai.checkpoints.service.support.manifest_reader import document_limit
from flexai.checkpoints.service.support.shard_work import MirroredShard, MirrorShard, ShardRunner, check_store
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.training import inspect_job
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.transfer.shard_plan import Bundle, cut, one_shard, shard_target, weight

_NOT_IN_PATHS = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Mirrored:
    """One checkpoint of a mirror."""

    checkpoint: Checkpoint
    path: str
    """``BUCKET/PREFIX``."""
    export: ExportReport | None = None
    """How it came there; None for what was there already."""


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
        shown = some([repr(name) for name in names], 5)
        total = len(self.failed) + len(self.copied) + len(self.skipped)
        passing = all(isinstance(error, StorageUnavailableError) for error in self.failed.values())
        kind = StorageUnavailableError if passing else CheckpointError
        first = self.failed[names[0]]
        raise kind(f"{len(names)} of {total} checkpoints could not be mirrored: {shown}", hint=first.message)


def mirror(
    system: System,
    request: MirrorRequest,
    *,
    runner: ShardRunner | None = None,
    on_copied: Callable[[ExportReport], None] | None = None,
    progress: Progress | None = None,
) -> MirrorReport:
    """Export checkpoints below ``BUCKET[/PREFIX]`` of a connection, each to a folder of its own.

    A pushed checkpoint goes to ``NAME``, a captured one to ``JOB/FOLDER-ID``. Where the export's manifest says that the
    same files are there, whole, nothing more is asked of the provider: reading them again is not what a mirror is for.
    One that fails does not stop the others; one that was not named, and is deleted meanwhile, is left out.
    ``runner`` copies what is not there in shards: several checkpoints in one, or a large one in several.
    ``on_copied`` is called after each export.

    Raises NotFoundError for a training job that is not there, UsageError for a path without a bucket, and what opening
    the connection raises; what happens to single checkpoints is in the report.
    """
    work = _Mirror(system, request, on_copied, progress or Progress())
    chosen = _chosen(system, request, work.report)
    if runner is None:
        for checkpoint in chosen:
            work.bring(checkpoint)
    else:
        work.bring_in_shards(chosen, runner)
    return work.report


def is_large(system: System, request: MirrorRequest, shard_size: int) -> bool:
    """Whether the checkpoints of a mirror are worth more than one shard; raises NotFoundError for a job that is none.

    What is there already counts too: finding that out is asking the provider.
    """
    chosen = _chosen(system, request, MirrorReport())
    return bool(shard_target([_weight(one, shard_size) for one in chosen], shard_size))


def run_mirror_shard(system: System, shard: MirrorShard, *, progress: Progress) -> MirroredShard:
    """Copy the checkpoints of a shard, one after the other.

    Raises SettingsError where this machine uses another store, and what opening the connection raises; what happens to
    single checkpoints is in the report.
    """
    check_store(system, shard.store_id)
    counted = CountingProgress(progress)
    work = _Mirror(system, shard.request, None, counted)
    for checkpoint in shard.checkpoints:
        work.bring(checkpoint)
    return MirroredShard(work.report, counted.moved, counted.skipped, counted.files)


class _Mirror:
    """Brings checkpoints to the second place, and reports what became of each."""

    def __init__(
        self,
        system: System,
        request: MirrorRequest,
        on_copied: Callable[[ExportReport], None] | None,
        progress: Progress,
    ) -> None:
        self.report = MirrorReport()
        self._system = system
        self._request = request
        self._on_copied = on_copied
        self._progress = progress
        self._root = system.open_place(request.storage_provider, request.destination_path)

    def bring(self, checkpoint: Checkpoint) -> None:
        """Copy a checkpoint that is not there."""
        with self._reporting(checkpoint):
            if not self._is_there(checkpoint):
                self._copy(checkpoint)

    def bring_in_shards(self, chosen: Sequence[Checkpoint], runner: ShardRunner) -> None:
        """Copy those that are not there: small ones in shards of some each, then large ones in several shards each."""
        missing = []
        for checkpoint in chosen:
            with self._reporting(checkpoint):
                if not self._is_there(checkpoint):
                    missing.append(checkpoint)
        large = [one for one in missing if _weight(one, runner.shard_size) > runner.shard_size]
        small = [one for one in missing if _weight(one, runner.shard_size) <= runner.shard_size]
        if small:
            self._copy_small(small, runner)
        for checkpoint in large:
            with self._reporting(checkpoint):
                self._copy(checkpoint, runner)

    def _copy_small(self, small: Sequence[Checkpoint], runner: ShardRunner) -> None:
        by_id: dict[str, Checkpoint] = {one.id: one for one in small}
        weights = [_weight(one, runner.shard_size) for one in small]
        cuts = cut(
            [Bundle((one.id,), weight) for one, weight in zip(small, weights, strict=True)],
            shard_target(weights, runner.shard_size) or one_shard(weights),
        )
        shards = [
            MirrorShard(
                label=f"{self._request.storage_provider} {number} of {len(cuts)}",
                store_id=self._system.store_id,
                request=self._request,
                checkpoints=tuple(by_id[path] for path in one.paths),
            )
            for number, one in enumerate(cuts, start=1)
        ]
        self._progress.begin(
            f"mirror to {self._request.storage_provider}",
            total_bytes=sum(one.size for one in small),
            total_files=sum(one.file_count for one in small),
        )
        try:
            for done in runner.mirror(shards):
                self._progress.advance(moved=done.moved, skipped=done.skipped, files=done.files)
                self._take(done.report)
        finally:
            self._progress.end()

    def _take(self, report: MirrorReport) -> None:
        """Take in what a shard did."""
        self.report.moved_bytes += report.moved_bytes
        self.report.copied += report.copied
        self.report.skipped += report.skipped
        self.report.failed |= report.failed
        for mirrored in report.copied:
            self._tell(mirrored)

    def _is_there(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint is there, which is asked unless it is to be overwritten, and reported."""
        place = replace(self._root, key=f"{self._root.prefix}{_folder(checkpoint)}")
        if self._request.overwrite or not _is_there(place, checkpoint):
            return False
        path = self._path(checkpoint)
        _record(self._system, checkpoint, self._system.connect(self._request.storage_provider).connection_name, path)
        self.report.skipped.append(Mirrored(checkpoint, path))
        return True

    def _copy(self, checkpoint: Checkpoint, runner: ShardRunner | None = None) -> None:
        path = self._path(checkpoint)
        wanted = ExportRequest(checkpoint.id, self._request.storage_provider, path, self._request.overwrite)
        done = export(self._system, wanted, runner=runner, progress=self._progress)
        mirrored = Mirrored(checkpoint, path, done)
        self.report.moved_bytes += done.moved_bytes
        self.report.copied.append(mirrored)
        self._tell(mirrored)

    def _tell(self, mirrored: Mirrored) -> None:
        if self._on_copied is not None and mirrored.export is not None:
            self._on_copied(mirrored.export)

    def _path(self, checkpoint: Checkpoint) -> str:
        return f"{self._request.destination_path.rstrip('/')}/{_folder(checkpoint)}"

    @contextmanager
    def _reporting(self, checkpoint: Checkpoint) -> Iterator[None]:
        """Report what is in the way of a checkpoint, and go on with the others."""
        try:
            yield
        except CheckpointError as error:
            if not self._request.checkpoints and _is_gone(self._system, checkpoint):
                self._progress.note(f"{checkpoint.title} was deleted meanwhile")
                return
            self.report.failed[checkpoint.title] = error
            self._progress.note(f"{checkpoint.title} could not be mirrored: {error.message}")


def _weight(checkpoint: Checkpoint, shard_size: int) -> int:
    """What a checkpoint counts for in a shard: its bytes, or its files where they are many."""
    return max(checkpoint.size, checkpoint.file_count * weight(0, shard_size))


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


def _is_gone(system: System, checkpoint: Checkpoint) -> bool:
    try:
        return not _can_be_read(system.catalog.checkpoints.get_by_id(checkpoint.id), checkpoint.store_id)
    except NotFoundError:
        return True


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
    known = system.catalog.checkpoints.list_exports(checkpoint.id)
    there = [one for one in known if (one.storage_provider, one.destination_path) == (storage_provider, path)]
    if any(not one.is_part for one in there):
        return
    system.catalog.exports.record(
        ExportRecord(
            id=new_id(),
            checkpoint_id=checkpoint.id,
            storage_provider=storage_provider,
            destination_path=path,
            manifest_digest=checkpoint.manifest_digest,
            exported_at=now(),
        )
    )
