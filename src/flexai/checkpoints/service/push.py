"""Push: bring files into the managed store under a name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.errors import AlreadyExistsError, IntegrityError, NameTakenError, NotFoundError
from flexai.checkpoints.models import Checkpoint, CheckpointStatus, Source
from flexai.checkpoints.names import parse_name
from flexai.checkpoints.paths import parse_path
from flexai.checkpoints.progress import NoProgress, Progress
from flexai.checkpoints.service import commit
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.connection import RemotePath, StorageConnection
from flexai.checkpoints.transfer.scan import scan_local, scan_remote, split_spec
from flexai.checkpoints.transfer.shard_plan import weight
from flexai.checkpoints.transfer.sources import FileSource, LocalSource
from flexai.checkpoints.transfer.upload import AlreadyStored

if TYPE_CHECKING:
    from flexai.checkpoints.service.shard_work import ShardRunner


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Files of this machine."""

    specs: tuple[str, ...]
    """``SOURCE[=DESTINATION]`` each."""
    follow_symlinks: bool = False
    rehash: bool = False
    """Read files whose digests are remembered of an earlier push, too."""


@dataclass(frozen=True, slots=True)
class ProviderPath:
    """A prefix or an object on a storage provider."""

    connection: StorageConnection
    path: str
    """``BUCKET/PREFIX-or-KEY``."""


@dataclass(frozen=True, slots=True)
class ExistingCheckpoint:
    """A checkpoint that is here already, captured or pushed: it gets another name, and no byte moves."""

    reference: str


PushSource: TypeAlias = LocalFiles | ProviderPath | ExistingCheckpoint


def push(
    system: System,
    name: str,
    source: PushSource,
    *,
    if_not_exists: bool = False,
    runner: ShardRunner | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Push a checkpoint and return it, available.

    A push of the same name by the same owner that failed or was interrupted is continued. With ``if_not_exists`` a name
    that is available with the same content is no error. ``runner`` runs a large one in shards.

    Raises InvalidNameError, SourceError or UnsafePathError for what cannot be pushed, SourceChangedError for a source
    that changes meanwhile, AlreadyExistsError for a name that is available, ConflictError for one that another process
    or owner is pushing, NotFoundError for an existing checkpoint that is not there, and what a store raises.
    """
    progress = progress or NoProgress()
    scanned_ns = time.time_ns()
    checked = parse_name(name, what="checkpoint name")
    sources: Sequence[FileSource] = ()
    original: Checkpoint | None = None
    status = CheckpointStatus.UPLOADING
    match source:
        case LocalFiles(specs):
            sources = scan_files(system, source)
            # What is not UTF-8 in a name on this machine could be written into no manifest.
            named = (split_spec(spec)[0].encode(errors="replace").decode() for spec in specs)
            described = Source(from_local_files=tuple(named))
        case ProviderPath(connection, path):
            place = connection.open(path)
            sources = scan_place(place)
            status = CheckpointStatus.SYNCING
            described = Source(
                storage_provider=connection.connection_name,
                storage_provider_id=connection.connection_id,
                source_path=path,
                revision=place.revision,
            )
        case ExistingCheckpoint(reference):
            original = system.available(reference)
            described = original.source
    try:
        checkpoint, claim = system.catalog.checkpoints.begin_push(
            checked,
            owner=system.owner,
            source=described,
            status=status,
            store_id=system.store_id,
            parent_id=original.id if original else None,
        )
    except NameTakenError as error:
        return _settle(system, error.existing, sources, original, if_not_exists=if_not_exists)
    if original is not None:
        try:
            contents = _hold_all(system, checkpoint.id, system.blobs.files_of(original.id))
            return commit.commit(system, checkpoint, claim, contents, facts=original.facts)
        except BaseException as error:
            commit.give_up(system, checkpoint, claim, error)
            raise
    run_shards: Callable[[], AlreadyStored] = AlreadyStored
    if runner is not None:
        # Only flows give out shards, and every command would load what they need.
        from flexai.checkpoints.service.shard_dispatch import push_in_shards

        run_shards = partial(push_in_shards, system, checkpoint, claim, sources, runner=runner, progress=progress)
    stored, placed = commit.store(system, checkpoint, claim, sources, run_shards=run_shards, progress=progress)
    if isinstance(source, LocalFiles):
        digests = {path: content.digest.hex() for path, content in placed.items() if content.digest is not None}
        local = [one for one in sources if isinstance(one, LocalSource)]
        system.stat_cache.remember(local, digests, scanned_ns=scanned_ns)
    return stored


def scan_files(system: System, files: LocalFiles) -> Sequence[LocalSource]:
    """The files of this machine that a push is of, with their digests where these are remembered."""
    sources = scan_local(files.specs, follow_symlinks=files.follow_symlinks)
    return sources if files.rehash else system.stat_cache.recall(sources)


def scan_place(place: RemotePath) -> Sequence[FileSource]:
    """The provider's objects that a push is of."""
    return _scan_export(place) or scan_remote(place)


def is_large(source: PushSource, shard_size: int) -> bool:
    """Whether a push is worth more than one shard, which for a provider is found by listing no more than that needs.

    Raises what scanning and listing raise.
    """
    sizes: Iterable[int]
    match source:
        case LocalFiles(specs, follow_symlinks):
            sizes = (one.size for one in scan_local(specs, follow_symlinks=follow_symlinks))
        case ProviderPath(connection, path):
            place = connection.open(path)
            sizes = (info.size for info in place.storage.list(place.key))
        case _:
            return False
    total = 0
    for size in sizes:
        total += weight(size, shard_size)
        if total > shard_size:
            return True
    return False


def _scan_export(place: RemotePath) -> Sequence[FileSource]:
    """The files of an export of ours, if one lies there: exactly those that its manifest lists.

    Raises IntegrityError for a torn export, or one whose objects are missing or of another size.
    """
    # Only these pushes read what pydantic must check; the others would wait for its import.
    from flexai.checkpoints.service.export_manifest import EXPORT_MANIFEST, read_export_manifest

    if place.key.rpartition("/")[2] == EXPORT_MANIFEST or (found := read_export_manifest(place)) is None:
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
        replace(source, expected=entry, is_proven=found.etags.get(entry.path) == source.version)
        for entry in found.manifest.files
        for source in [sources[parse_path(entry.path)]]
    ]


def _hold_all(system: System, checkpoint_id: str, files: Sequence[StoredFile]) -> dict[str, StoredContent]:
    for content in {file.content.blob_id: file.content for file in files}.values():
        if not system.blobs.hold(checkpoint_id, content):
            raise NotFoundError("the checkpoint was deleted meanwhile")
    return {file.path: file.content for file in files}


def _settle(
    system: System,
    existing: Checkpoint,
    sources: Sequence[FileSource],
    original: Checkpoint | None,
    *,
    if_not_exists: bool,
) -> Checkpoint:
    """Decide what a push of a name that is available means: done already, or an error that says why."""
    if original is not None:
        same = original.manifest_digest == existing.manifest_digest
    else:
        same = commit.same_content(system, existing.id, sources)
    if same and if_not_exists:
        return existing
    raise taken(existing, same=same)


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
