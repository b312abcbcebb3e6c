"""Push: bring files into the managed store under a name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from flexai.checkpoints.contents import StoredContent
from flexai.checkpoints.errors import AlreadyExistsError, IntegrityError, NameTakenError, SourceError
from flexai.checkpoints.models import Checkpoint, CheckpointStatus, Source
from flexai.checkpoints.names import in_unicode, parse_name
from flexai.checkpoints.own_folders import OwnFolders
from flexai.checkpoints.paths import CheckpointPath, first_of, parse_path
from flexai.checkpoints.patterns import Patterns, looks_secret
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.store_owner import write_due_records
from flexai.checkpoints.service.support import commit
from flexai.checkpoints.service.system import System
from flexai.checkpoints.settings import Settings
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.transfer.scan import scan_local, scan_remote, split_spec
from flexai.checkpoints.transfer.shard_plan import weight
from flexai.checkpoints.transfer.sources import FileSource, LocalSource, ObjectSource
from flexai.checkpoints.transfer.upload import AlreadyStored, find_there, upload

if TYPE_CHECKING:
    from flexai.checkpoints.service.support.shard_work import ShardRunner


class FilesToPush(NamedTuple):
    """What of this machine is to be pushed, as one look has found it."""

    sources: Sequence[LocalSource]
    folders: Sequence[CheckpointPath]
    """The empty ones."""
    at_ns: int
    """When the look began: nanoseconds of the clock."""
    left_out: Sequence[str] = ()
    """What a folder leaves out by itself: files and folders."""
    own: str = ""
    """What to say of folders in which flexai keeps its own; empty where there is none among them."""

    def tell(self, progress: Progress) -> None:
        """Say in a line each what was left out, and which files look like secrets."""
        if self.left_out:
            progress.note(f"{first_of(self.left_out)} left out, as .flexaiignore or the defaults say")
        if self.own:
            progress.note(self.own)
        secret = [source.path for source in self.sources if looks_secret(source.path)]
        if secret:
            verb = "looks like a secret" if len(secret) == 1 else "look like secrets"
            progress.note(f"{first_of(secret)} {verb}, and will be pushed: --exclude leaves out what should not")

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(one.size for one in self.sources)


def push(
    system: System,
    request: PushRequest,
    *,
    found: FilesToPush | None = None,
    runner: ShardRunner | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Push a checkpoint and return it, available.

    A push of the same name by the same owner that failed or was interrupted is continued. ``found`` is what ``find``
    has found of the request a moment ago, so that no file is looked for twice. ``runner`` runs a large one in shards.
    What was lost or damaged in the store of files that are pushed again is healed for every checkpoint that needs it,
    and ``progress`` is told; that also goes for a name that is available with the same content.

    Raises SourceError or UnsafePathError for what cannot be pushed, SourceChangedError for a source that changes
    meanwhile, AlreadyExistsError for a name that is available (but with ``if_not_exists`` for one with the same
    content), ConflictError for one that another process or owner is pushing, and what ``system.open_place`` and a store
    raise.
    """
    progress = progress or Progress()
    system.read_ahead()
    place = open_source(system, request)
    if place is None:
        found = found or find(request, system.settings)
    scanned_ns = found.at_ns if found else 0
    if found:
        found.tell(progress)
    sources, folders = scan(system, request, place, found)
    found = None  # those whose digests are remembered are others now
    if request.refuse_executable:
        from flexai.checkpoints.service.support import code

        code.refuse_code(code.source_files(sources), request.name)
    try:
        checkpoint, lease = system.catalog.checkpoints.begin_push(
            parse_name(request.name, what="checkpoint name"),
            owner=system.owner,
            source=_describe(system, request, place),
            status=CheckpointStatus.UPLOADING if place is None else CheckpointStatus.SYNCING,
            store_id=system.claim_store(),
            parent_id=None,
        )
    except NameTakenError as error:
        same = commit.same_content(system, error.existing.id, sources)
        if same and (_store_lost(system, error.existing, sources, progress) or request.if_not_exists):
            return error.existing
        raise taken(error.existing, same=same) from error
    run_shards: Callable[[], AlreadyStored] = AlreadyStored
    if runner is not None:
        # Only flows give out shards, and every command would load what they need.
        from flexai.checkpoints.service.support.shard_dispatch import push_in_shards

        run_shards = partial(push_in_shards, system, checkpoint, lease, sources, runner=runner, progress=progress)
    stored, placed = commit.store(
        system, checkpoint, lease, sources, folders=folders, run_shards=run_shards, progress=progress
    )
    write_due_records(system)
    _heal(system, placed.values(), progress)
    if place is None:
        digests = {path: content.digest for path, content in placed.items() if content.digest is not None}
        local = [one for one in sources if isinstance(one, LocalSource)]
        system.stat_cache.remember(local, digests, scanned_ns=scanned_ns)
    elif not request.refuse_executable and is_of_others(place, sources):
        from flexai.checkpoints.service.support import code

        files = code.stored_files(system.store, system.blobs.files_of(checkpoint.id))
        code.warn_of_code(files, request.name, progress)
    return stored


def _store_lost(system: System, existing: Checkpoint, sources: Sequence[FileSource], progress: Progress) -> bool:
    """Store anew what of an available checkpoint is lost or damaged, from sources of the same content.

    Returns whether that has healed anything.
    """
    files = system.blobs.files_of(existing.id)
    contents = [file.content for file in files]
    limits = system.settings.limits
    there = find_there(contents, existing.id, store=system.store, journal=system.blobs, limits=limits)
    sound = system.blobs.contents_of(there)
    paths = {file.path for file in files if file.content.id not in sound}
    lost = [source for source in sources if source.path in paths]
    if not lost:
        return False
    progress.begin(f"heal {existing.title}", total_bytes=sum(one.size for one in lost), total_files=len(lost))
    try:
        stored = upload(
            lost, checkpoint_id=existing.id, store=system.store, journal=system.blobs, limits=limits, progress=progress
        )
    finally:
        progress.end()
    return _heal(system, stored.values(), progress)


def _heal(system: System, contents: Iterable[StoredContent], progress: Progress) -> bool:
    """Let what a push has brought, or found, take the place of damaged content; returns whether any was."""
    damaged = system.soundness.damaged(one.digest.hex() for one in contents if one.digest is not None)
    if not damaged:
        return False
    from flexai.checkpoints.service.repair import heal

    return heal(system, damaged, progress=progress)


def is_of_others(place: RemotePath | None, sources: Sequence[FileSource]) -> bool:
    """Whether others made what is to be pushed: it lies on the Hub, or is an export that this catalog does not know."""
    return place is not None and (bool(place.revision) or any(source.claim and not source.digest for source in sources))


def open_source(system: System, request: PushRequest) -> RemotePath | None:
    """Where a provider has what is to be pushed; None for files of this machine.

    Raises what ``system.open_place`` raises.
    """
    return system.open_place(request.storage_provider, request.source_path) if request.storage_provider else None


def find(request: PushRequest, settings: Settings) -> FilesToPush:
    """Look for the local files that a push is of; raises SourceError or UnsafePathError."""
    own = OwnFolders.of(settings)
    at_ns = time.time_ns()
    folders: list[CheckpointPath] = []
    left_out: list[str] = []
    sources = scan_local(
        request.files,
        follow_symlinks=request.follow_symlinks,
        exclude=request.exclude,
        default_excludes=request.default_excludes,
        folders=folders,
        left_out=left_out,
        own=own,
    )
    return FilesToPush(sources, folders, at_ns, left_out, own.told())


def scan(
    system: System, request: PushRequest, place: RemotePath | None, found: FilesToPush | None = None
) -> tuple[Sequence[FileSource], Sequence[CheckpointPath]]:
    """What a push is of, files and empty folders; local files have their digests where these are remembered."""
    if place is not None:
        return _scan_export(system, request, place) or (_scan_place(request, place), ())
    found = found or find(request, system.settings)
    return found.sources if request.rehash else system.stat_cache.recall(found.sources), found.folders


def _scan_place(request: PushRequest, place: RemotePath) -> Sequence[ObjectSource]:
    return scan_remote(place, is_folder=request.source_path.strip().endswith("/"), exclude=request.exclude)


def is_large(system: System, request: PushRequest, shard_size: int, found: FilesToPush | None = None) -> bool:
    """Whether a push is worth more than one shard, which for a provider is found by listing no more than that needs.

    Raises what scanning and listing raise.
    """
    sizes: Iterable[int]
    if (place := open_source(system, request)) is None:
        sizes = (one.size for one in (found or find(request, system.settings)).sources)
    else:
        sizes = (info.size for info in place.storage.list(place.key))
    total = 0
    for size in sizes:
        total += weight(size, shard_size)
        if total > shard_size:
            return True
    return False


def _describe(system: System, request: PushRequest, place: RemotePath | None) -> Source:
    if place is None:
        return Source(from_local_files=tuple(in_unicode(split_spec(spec)[0]) for spec in request.files))
    connection = system.connect(request.storage_provider)
    return Source(
        storage_provider=connection.connection_name,
        storage_provider_id=connection.connection_id,
        source_path=request.source_path,
        revision=place.revision,
    )


def _scan_export(
    system: System, request: PushRequest, place: RemotePath
) -> tuple[Sequence[FileSource], Sequence[CheckpointPath]] | None:
    """The files and empty folders of an export of ours, if one lies there: exactly those that its manifest lists.

    Raises IntegrityError for a torn export, or one whose objects are missing or of another size.
    """
    # Only these pushes read what pydantic must check; the others would wait for its import.
    from flexai.checkpoints.service.support.export_manifest import EXPORT_MANIFEST, read_export_manifest
    from flexai.checkpoints.service.support.manifest_reader import document_limit

    if place.key.rpartition("/")[2] == EXPORT_MANIFEST:
        return None
    size, file_count = system.catalog.exports.size_at(request.storage_provider, request.source_path)
    found = read_export_manifest(place, limit=document_limit(size=size, file_count=file_count))
    if found is None:
        return None
    where = f"{place.storage.location}/{place.key}"
    if not found.complete:
        raise IntegrityError(f"the export at {where} is not complete", hint="run the export again to finish it")
    sources = {source.path: source for source in _scan_place(request, place)}
    excluded = Patterns(request.exclude)
    wanted = [entry for entry in found.manifest.files if not excluded.name(entry.path)]
    if not wanted:
        raise SourceError(f"there is nothing to push: all of the export at {where} is excluded")
    for entry in wanted:
        source = sources.get(parse_path(entry.path))
        if source is None or source.size != entry.size:
            raise IntegrityError(
                f"{entry.path!r} of the export at {where} is missing or of another size",
                hint="run the export again, with --overwrite where other content lies there, or bring the file back",
            )
    claimed = [
        replace(source, claim=entry, is_untouched=found.etags.get(entry.path) == source.version)
        for entry in wanted
        for source in [sources[parse_path(entry.path)]]
    ]
    folders = [parse_path(folder) for folder in found.manifest.folders]
    return claimed, [folder for folder in folders if not excluded.name(folder, is_folder=True)]


def taken(existing: Checkpoint, *, same: bool) -> AlreadyExistsError:
    """The error for a name that is available, with the same content or with other."""
    if same:
        return AlreadyExistsError(
            f"checkpoint {existing.name!r} already exists with the same content",
            hint="nothing needs to be pushed; with --if-not-exists this is no error",
        )
    return AlreadyExistsError(
        f"checkpoint {existing.name!r} already exists with other content",
        hint=f"use another name, or: flexai checkpoint delete {existing.name}",
    )
