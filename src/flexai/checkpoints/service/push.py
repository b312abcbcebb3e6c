"""Push: bring files into the managed store under a name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from flexai.checkpoints.errors import AlreadyExistsError, IntegrityError, NameTakenError
from flexai.checkpoints.models import Checkpoint, CheckpointStatus, Source
from flexai.checkpoints.names import parse_name
from flexai.checkpoints.paths import parse_path
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.requests import PushRequest
from flexai.checkpoints.service.support import commit
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.transfer.scan import scan_local, scan_remote, split_spec
from flexai.checkpoints.transfer.shard_plan import weight
from flexai.checkpoints.transfer.sources import FileSource, LocalSource
from flexai.checkpoints.transfer.upload import AlreadyStored

if TYPE_CHECKING:
    from flexai.checkpoints.service.support.shard_work import ShardRunner


def push(
    system: System,
    request: PushRequest,
    *,
    runner: ShardRunner | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Push a checkpoint and return it, available.

    A push of the same name by the same owner that failed or was interrupted is continued. ``runner`` runs a large one
    in shards.

    Raises SourceError or UnsafePathError for what cannot be pushed, SourceChangedError for a source that changes
    meanwhile, AlreadyExistsError for a name that is available (but with ``if_not_exists`` for one with the same
    content), ConflictError for one that another process or owner is pushing, and what ``system.connect`` and a store
    raise.
    """
    progress = progress or Progress()
    scanned_ns = time.time_ns()
    place = open_source(system, request)
    sources = scan(system, request, place)
    if request.refuse_executable:
        from flexai.checkpoints.service.support import code

        code.refuse_code(code.source_files(sources), request.name)
    try:
        checkpoint, lease = system.catalog.checkpoints.begin_push(
            parse_name(request.name, what="checkpoint name"),
            owner=system.owner,
            source=_describe(system, request, place),
            status=CheckpointStatus.UPLOADING if place is None else CheckpointStatus.SYNCING,
            store_id=system.store_id,
            parent_id=None,
        )
    except NameTakenError as error:
        same = commit.same_content(system, error.existing.id, sources)
        if same and request.if_not_exists:
            return error.existing
        raise taken(error.existing, same=same) from error
    run_shards: Callable[[], AlreadyStored] = AlreadyStored
    if runner is not None:
        # Only flows give out shards, and every command would load what they need.
        from flexai.checkpoints.service.support.shard_dispatch import push_in_shards

        run_shards = partial(push_in_shards, system, checkpoint, lease, sources, runner=runner, progress=progress)
    stored, placed = commit.store(system, checkpoint, lease, sources, run_shards=run_shards, progress=progress)
    if place is None:
        digests = {path: content.digest.hex() for path, content in placed.items() if content.digest is not None}
        local = [one for one in sources if isinstance(one, LocalSource)]
        system.stat_cache.remember(local, digests, scanned_ns=scanned_ns)
    elif not request.refuse_executable and is_of_others(place, sources):
        from flexai.checkpoints.service.support import code

        files = code.stored_files(system.store, system.blobs.files_of(checkpoint.id))
        code.warn_of_code(files, request.name, progress)
    return stored


def is_of_others(place: RemotePath | None, sources: Sequence[FileSource]) -> bool:
    """Whether others made what is to be pushed: it lies on the Hub, or is an export that this catalog does not know."""
    return place is not None and (bool(place.revision) or any(source.claim and not source.digest for source in sources))


def open_source(system: System, request: PushRequest) -> RemotePath | None:
    """Where a provider has what is to be pushed; None for files of this machine.

    Raises what ``system.connect`` and the connection raise.
    """
    return system.connect(request.storage_provider).open(request.source_path) if request.storage_provider else None


def scan(system: System, request: PushRequest, place: RemotePath | None) -> Sequence[FileSource]:
    """What a push is of; local files have their digests where these are remembered."""
    if place is not None:
        return _scan_export(system, request, place) or scan_remote(place)
    sources = scan_local(request.files, follow_symlinks=request.follow_symlinks)
    return sources if request.rehash else system.stat_cache.recall(sources)


def is_large(system: System, request: PushRequest, shard_size: int) -> bool:
    """Whether a push is worth more than one shard, which for a provider is found by listing no more than that needs.

    Raises what scanning and listing raise.
    """
    sizes: Iterable[int]
    if (place := open_source(system, request)) is None:
        sizes = (one.size for one in scan_local(request.files, follow_symlinks=request.follow_symlinks))
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
        # What is not UTF-8 in a name on this machine could be written into no manifest.
        named = (split_spec(spec)[0].encode(errors="replace").decode() for spec in request.files)
        return Source(from_local_files=tuple(named))
    connection = system.connect(request.storage_provider)
    return Source(
        storage_provider=connection.connection_name,
        storage_provider_id=connection.connection_id,
        source_path=request.source_path,
        revision=place.revision,
    )


def _scan_export(system: System, request: PushRequest, place: RemotePath) -> Sequence[FileSource]:
    """The files of an export of ours, if one lies there: exactly those that its manifest lists.

    Raises IntegrityError for a torn export, or one whose objects are missing or of another size.
    """
    # Only these pushes read what pydantic must check; the others would wait for its import.
    from flexai.checkpoints.service.support.export_manifest import EXPORT_MANIFEST, read_export_manifest
    from flexai.checkpoints.service.support.manifest_reader import document_limit

    if place.key.rpartition("/")[2] == EXPORT_MANIFEST:
        return ()
    size, file_count = system.catalog.checkpoints.size_exported_to(request.storage_provider, request.source_path)
    found = read_export_manifest(place, limit=document_limit(size=size, file_count=file_count))
    if found is None:
        return ()
    where = f"{place.storage.location}/{place.key}"
    if not found.complete:
        raise IntegrityError(f"the export at {where} is not complete", hint="run the export again to finish it")
    sources = {source.path: source for source in scan_remote(place)}
    for entry in found.manifest.files:
        source = sources.get(parse_path(entry.path))
        if source is None or source.size != entry.size:
            raise IntegrityError(f"{entry.path!r} of the export at {where} is missing or of another size")
    return [
        replace(source, claim=entry, is_untouched=found.etags.get(entry.path) == source.version)
        for entry in found.manifest.files
        for source in [sources[parse_path(entry.path)]]
    ]


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
