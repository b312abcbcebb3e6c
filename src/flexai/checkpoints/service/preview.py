"""Dry runs: look at what there is, and compute what an operation would do.

What is looked at is read as the operation itself reads it, but for local files that a push would compare: these are
said to be compared first. Nothing is written if the system is opened with ``read_only``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flexai.checkpoints.catalog.gc_queries import Purgeable
from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.documents import duration
from flexai.checkpoints.errors import AlreadyExistsError, CheckpointError, NameTakenError
from flexai.checkpoints.models import Checkpoint, now
from flexai.checkpoints.names import Name, parse_name, parse_reference
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.export import find_export, open_place
from flexai.checkpoints.service.push import is_of_others, open_source, scan, taken
from flexai.checkpoints.service.requests import DeleteRequest, ExportRequest, FetchRequest, NameRequest, PushRequest
from flexai.checkpoints.service.store_requests import GarbageRequest
from flexai.checkpoints.service.support.manifest_reader import manifest_of
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.protocol import ObjectStorage
from flexai.checkpoints.transfer import export, fetch
from flexai.checkpoints.transfer.dedup import can_be_copied, is_one_service, match_known, origins_of
from flexai.checkpoints.transfer.sources import FileSource
from flexai.checkpoints.transfer.steps import (
    Action,
    Held,
    Idle,
    Preview,
    Step,
    Wire,
    deletion_steps,
    export_steps,
    fetch_steps,
    gc_steps,
    push_steps,
    taken_name_steps,
)
from flexai.checkpoints.transfer.upload import find_twins

_HERE = Wire(is_remote=False, min_part_size=1, max_parts=1)


def preview_push(system: System, request: PushRequest, *, progress: Progress | None = None) -> Preview:
    """What a push would do; raises what that raises before it stores anything, a name that is taken left out.

    Files that others made are looked through for code where they lie.
    """
    place = open_source(system, request)
    provider = _HERE if place is None else _wire(place.storage)
    sources = scan(system, request, place)
    if request.refuse_executable or is_of_others(place, sources):
        from flexai.checkpoints.service.support.code import look_for_code, source_files

        look_for_code(source_files(sources), request.name, progress or Progress(), refuse=request.refuse_executable)
    listed = provider.listing(len(sources)) if sources else 0
    try:
        unfinished = system.catalog.checkpoints.find_push(_name_of(request), owner=system.owner)
    except NameTakenError as error:
        steps = taken_name_steps(sources, system.blobs.files_of(error.existing.id))
        conflict = _conflict(error.existing, {step.action for step in steps}, if_not_exists=request.if_not_exists)
        return Preview("push", request.name, steps, requests=listed, conflict=conflict)
    held = _held(system, sources, unfinished)
    store = _wire(system.store.storage)
    steps, requests = push_steps(sources, held, system.settings.limits, store=store, provider=provider)
    return Preview("push", request.name, steps, requests=listed + requests)


def _conflict(existing: Checkpoint, actions: set[Action], *, if_not_exists: bool) -> CheckpointError | None:
    """The error that a push of a name that is available would end with, as far as can be told without reading."""
    is_compared = actions <= {Action.SKIP, Action.COMPARE} and Action.COMPARE in actions
    same = is_compared or actions == {Action.SKIP}
    if same and if_not_exists:
        return None
    if not is_compared:
        return taken(existing, same=same)
    return AlreadyExistsError(
        f"checkpoint {existing.name!r} already exists, with files of the same sizes",
        hint="with --if-not-exists they are compared, and the same content is no error",
    )


def preview_name(system: System, request: NameRequest, *, progress: Progress | None = None) -> Preview:
    """What giving a checkpoint another name would do; raises what that raises, a name that is taken left out."""
    original = system.available(request.from_checkpoint)
    files = system.blobs.files_of(original.id)
    if request.refuse_executable or original.source.storage_provider:
        _look_for_code(system, request, request.name, files, progress)

    def steps(action: Action, why: str) -> list[Step]:
        return [Step(action, file.path, file.content.size, why) for file in files]

    try:
        system.catalog.checkpoints.find_push(_name_of(request), owner=system.owner)
    except NameTakenError as error:
        same = original.manifest_digest == error.existing.manifest_digest
        found = steps(*((Action.SKIP, "that name has it") if same else (Action.CONFLICT, "that name has other files")))
        conflict = None if same and request.if_not_exists else taken(error.existing, same=same)
        return Preview("push", request.name, found, conflict=conflict)
    requests = _wire(system.store.storage).requests(2)
    return Preview("push", request.name, steps(Action.SKIP, "stored: no byte moves"), requests=requests)


def _name_of(request: PushRequest | NameRequest) -> Name:
    return parse_name(request.name, what="checkpoint name")


def _look_for_code(
    system: System,
    request: FetchRequest | NameRequest,
    title: str,
    files: Sequence[StoredFile],
    progress: Progress | None,
) -> None:
    from flexai.checkpoints.service.support.code import look_for_code, stored_files

    look_for_code(stored_files(system.store, files), title, progress or Progress(), refuse=request.refuse_executable)


def _held(system: System, sources: Sequence[FileSource], unfinished: Checkpoint | None) -> Held:
    found = system.blobs.find_by_origin(origins_of(sources))
    found |= system.blobs.find_by_digest([source.digest for source in sources if source.digest])
    known = match_known(sources, found)
    missing = [source for source in sources if source.path not in known]
    large = [source for source in missing if source.size >= max(system.settings.limits.pack_threshold, 1)]
    return Held(
        known=known,
        sizes=system.blobs.find_sizes(source.size for source in missing),
        unfinished=system.blobs.unfinished(unfinished.id) if unfinished else {},
        twins={twin.path: chain[0].path for chain in find_twins(large) for twin in chain[1:]},
        copied={source.path for source in large if can_be_copied(source, system.store.storage)},
    )


def preview_fetch(system: System, request: FetchRequest, *, progress: Progress | None = None) -> Preview:
    """What a fetch would do; what is at the destination is compared. Raises what a fetch raises before it writes."""
    progress = progress or Progress()
    checkpoint, files = system.available_files(request.reference, request.node)
    if request.refuse_executable or checkpoint.source.storage_provider:
        _look_for_code(system, request, checkpoint.title, files, progress)
    limits = system.settings.limits
    progress.begin(f"compare {checkpoint.title}", total_bytes=checkpoint.size, total_files=checkpoint.file_count)
    try:
        there = fetch.survey(
            files,
            Path(request.destination),
            store=system.store,
            record=system.blobs.learn,
            limits=limits,
            progress=progress,
        )
    finally:
        progress.end()
    steps, requests = fetch_steps(
        there.kept,
        there.missing,
        there.others,
        begun=fetch.find_begun(there),
        overwrite=request.overwrite,
        limits=limits,
        store=_wire(system.store.storage),
    )
    conflict = there.in_the_way() if there.others and not request.overwrite else None
    return Preview("fetch", checkpoint.title, steps, requests=requests, conflict=conflict)


def preview_export(system: System, request: ExportRequest, *, progress: Progress | None = None) -> Preview:
    """What an export would do; objects at the destination are compared where their version is not the one it left.

    Raises what an export raises before it writes.
    """
    progress = progress or Progress()
    checkpoint = system.available(request.reference)
    files = system.blobs.files_of(checkpoint.id)
    place = open_place(system, request, checkpoint, files)
    limits = system.settings.limits
    progress.begin(f"compare {checkpoint.title}", total_bytes=checkpoint.size, total_files=checkpoint.file_count)
    try:
        found = None if request.overwrite else find_export(place, manifest_of(files))
        etags = found.etags if found is not None and found.complete else None
        exporter = export.DirectExporter(
            place, store=system.store, record=system.blobs.learn, limits=limits, progress=progress
        )
        there = export.survey(files, place, exporter, earlier_etags=etags, progress=progress)
    finally:
        progress.end()
    steps, requests = export_steps(
        [file for file in files if file.path in there.same],
        there.missing,
        there.others,
        copied=_copied(system, checkpoint, place.storage),
        overwrite=request.overwrite,
        is_new=etags is None,
        limits=limits,
        store=_wire(system.store.storage),
        place=_wire(place.storage),
    )
    conflict = there.in_the_way() if there.others and not request.overwrite else None
    return Preview("export", checkpoint.title, steps, requests=requests, conflict=conflict)


def _copied(system: System, checkpoint: Checkpoint, storage: ObjectStorage) -> frozenset[str]:
    """The blobs that a provider can copy by itself: those that are one file, where one service holds both."""
    if not is_one_service(system.store.storage, storage):
        return frozenset()
    sizes = system.blobs.uses_of(checkpoint.id)
    files = system.blobs.files_of(checkpoint.id)
    return frozenset(
        file.content.blob_id for file in files if sizes.get(file.content.blob_id, (-1, 0))[0] == file.content.size
    )


def preview_delete(system: System, request: DeleteRequest) -> Preview:
    """What a deletion would free, after the grace period. Raises what ``delete`` raises."""
    checkpoint = system.catalog.checkpoints.find_deletable(parse_reference(request.reference))
    files = system.blobs.files_of(checkpoint.id)
    steps, freed = deletion_steps(files, system.blobs.uses_of(checkpoint.id))
    return Preview("delete", checkpoint.title, steps, freed_bytes=freed)


def preview_garbage(system: System, request: GarbageRequest) -> Preview:
    """What gc would free."""
    time = now()
    before = time - (system.settings.grace_period if request.grace_period is None else request.grace_period)
    plan = system.catalog.garbage(system.store_id).plan(before=before)

    def why(one: Purgeable) -> str:
        ago = duration((time - one.since).total_seconds())
        return f"deleted {ago} ago" if one.is_deleted else f"interrupted, and not continued for {ago}"

    blobs_of: dict[str, list[str]] = {}
    for blob_id, (_, users) in plan.uses.items():
        for user in users:
            blobs_of.setdefault(user, []).append(blob_id)
    steps, freed = gc_steps(
        [Idle(one.title, why(one), blobs_of.get(one.id, [])) for one in plan.checkpoints], plan.garbage
    )
    # Each blob's bytes and each checkpoint's manifest are an object to delete, and gc looks at all that is there.
    store = _wire(system.store.storage)
    requests = store.requests(plan.blobs + plan.deleted + 4) + store.listing(len(plan.uses))
    return Preview("gc", system.store.location, steps, requests=requests, freed_bytes=freed)


def _wire(storage: ObjectStorage) -> Wire:
    return Wire(
        is_remote=not isinstance(storage, LocalStorage),
        min_part_size=storage.min_part_size,
        max_parts=storage.max_parts,
    )
