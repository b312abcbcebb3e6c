"""Dry runs: look at what there is, and compute what an operation would do.

What is looked at is read as the operation itself reads it, but for local files that a push would compare: these are
said to be compared first. Nothing is written if the system is opened with ``read_only``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from flexai.checkpoints.catalog.gc_queries import Purgeable
from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.documents import duration, human_size
from flexai.checkpoints.errors import AlreadyExistsError, CheckpointError, NameTakenError
from flexai.checkpoints.models import Checkpoint, now
from flexai.checkpoints.names import Name, parse_name, parse_reference
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.change_requests import DeleteRequest
from flexai.checkpoints.service.export import choose, find_export, open_place
from flexai.checkpoints.service.fetch import destination_of, extra_at, look_for, may_be_cleared
from flexai.checkpoints.service.gc import look_for_garbage
from flexai.checkpoints.service.push import find, is_of_others, open_source, scan, taken
from flexai.checkpoints.service.push_requests import NameRequest, PushRequest
from flexai.checkpoints.service.recover import find_arrived
from flexai.checkpoints.service.requests import ExportRequest, FetchRequest
from flexai.checkpoints.service.store_owner import check_own
from flexai.checkpoints.service.store_requests import GarbageRequest
from flexai.checkpoints.service.support.export_manifest import EXPORT_MANIFEST
from flexai.checkpoints.service.support.extras import refusal, tell_extra
from flexai.checkpoints.service.support.unreferenced import LostBlobs, find_lost, find_unreferenced
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.protocol import HasRoom, ObjectStorage
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
    extra_steps,
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
    found = None if place else find(request, system.settings)
    if found is not None:
        found.tell(progress or Progress())
    sources, _ = scan(system, request, place, found)
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
    preview = Preview("push", request.name, steps, requests=listed + requests)
    _tell_room(system, preview.moved_bytes, progress or Progress())
    return preview


def _tell_room(system: System, size: int, progress: Progress) -> None:
    """Say where the store may have too little room: files may still be cloned, or be there in other files."""
    storage = system.store.storage
    room = storage.free_space() if isinstance(storage, HasRoom) else None
    if room is not None and room < size:
        place = system.store.location
        progress.note(f"the store {place} has {human_size(room)} free, and up to {human_size(size)} would come")


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
    root = destination_of(system, request)
    checkpoint, all_files, wanted = look_for(system, request)
    system.check_store(checkpoint)
    files = [file for file in all_files if file.path in wanted.paths]
    if request.refuse_executable or checkpoint.source.storage_provider:
        _look_for_code(system, request, checkpoint.title, files, progress)
    limits = system.settings.limits
    progress.begin(
        f"compare {wanted.what(checkpoint)}", total_bytes=checkpoint.size - wanted.left_bytes, total_files=len(files)
    )
    try:
        there = fetch.survey(
            files,
            root,
            folders=wanted.folders,
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
    conflict: CheckpointError | None = there.in_the_way() if there.others and not request.overwrite else None
    conflict = conflict or fetch.lack_of_room(there)
    extra = [] if request.node is not None else extra_at(checkpoint, all_files, there.root)
    may_be_removed = bool(extra) and may_be_cleared(system, there.root)
    if request.delete_extra:
        steps += extra_steps(extra)
        conflict = conflict or refusal(extra, str(there.root), may_be_removed=may_be_removed)
    else:
        tell_extra(extra, str(there.root), checkpoint.title, progress, may_be_removed=may_be_removed)
    left_out = (wanted.left_files, wanted.left_bytes)
    return Preview("fetch", checkpoint.title, steps, requests=requests, conflict=conflict, left_out=left_out)


def preview_export(system: System, request: ExportRequest, *, progress: Progress | None = None) -> Preview:
    """What an export would do; objects at the destination are compared where their version is not the one it left.

    Raises what an export raises before it writes.
    """
    progress = progress or Progress()
    checkpoint = system.available(request.reference)
    part = choose(request, checkpoint, system.blobs.files_of(checkpoint.id))
    files = part.files
    place = open_place(system, request, checkpoint, files)
    limits = system.settings.limits
    progress.begin(f"compare {checkpoint.title}", total_bytes=part.size, total_files=len(files))
    try:
        found = None if request.overwrite else find_export(place, checkpoint, part.manifest)
        etags = found.etags if found is not None and found.complete else None
        exporter = export.DirectExporter(
            place, store=system.store, record=system.blobs.learn, limits=limits, progress=progress
        )
        there = export.survey(files, place, exporter, own=EXPORT_MANIFEST, earlier_etags=etags, progress=progress)
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
    where = f"{place.storage.location}/{place.key}"
    extra = part.without_left(there.extra)
    if request.delete_extra:
        steps += extra_steps(extra)
        conflict = conflict or refusal(extra, where, may_be_removed=there.is_ours)
    else:
        tell_extra(extra, where, checkpoint.title, progress, may_be_removed=there.is_ours and not part.is_part)
    left_out = (len(part.left), sum(part.left.values()))
    return Preview("export", checkpoint.title, steps, requests=requests, conflict=conflict, left_out=left_out)


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
    if not request.force:
        system.owner.check_made(f"checkpoint {checkpoint.title!r}", checkpoint.creator_user_id, checkpoint.creator)
    files = system.blobs.files_of(checkpoint.id)
    steps, freed = deletion_steps(files, system.blobs.uses_of(checkpoint.id))
    return Preview("delete", checkpoint.title, steps, freed_bytes=freed)


def preview_garbage(system: System, request: GarbageRequest, *, unknown: list[str] | None = None) -> Preview:
    """What gc would free, keep and finish; ``unknown`` is told of the blobs that the catalog does not know.

    Raises ConflictError where gc would: the store is not this catalog's. Times are those of the store's clock, as far
    as it tells it without anything being stored.
    """
    check_own(system)
    seen = system.store.see_clock()
    present = now() if seen is None else datetime.fromtimestamp(seen + 1, UTC)
    found = look_for_garbage(system, request, present)
    plan = system.catalog.garbage(system.store_id).plan(before=found.before, keep=found.kept)

    def why(one: Purgeable) -> str:
        ago = duration((present - one.since).total_seconds())
        return f"deleted {ago} ago" if one.is_deleted else f"interrupted, and not continued for {ago}"

    blobs_of: dict[str, list[str]] = {}
    for blob_id, (_, users) in plan.uses.items():
        for user in users:
            blobs_of.setdefault(user, []).append(blob_id)
    idle = [Idle(one.title, why(one), blobs_of.get(one.id, [])) for one in plan.checkpoints]
    unreferenced = find_unreferenced(system)
    lost = LostBlobs({})
    if request.unreferenced:
        lost = find_lost(system, unreferenced, before=found.stored_before)
    if unknown is not None:
        unknown += unreferenced.keys() - lost.sizes.keys()
    if lost.sizes:
        idle.append(Idle("unreferenced blobs", "neither the catalog nor a manifest knows them", list(lost.sizes)))
    garbage = {blob_id: size for blob_id, size in plan.garbage.items() if blob_id not in found.needed}
    steps, freed = gc_steps(idle, garbage | dict(lost.sizes))
    arrived = {one.checkpoint.id: one.checkpoint.title for one in find_arrived(system, found.cut_off)[0]}
    steps += [Step(Action.SKIP, title, 0, "all of its push has arrived: available then") for title in arrived.values()]
    more = found.newer | found.came_back | (found.cut_off - arrived.keys())
    steps += [Step(Action.SKIP, one, 0, "the store knows more of it than the catalog") for one in sorted(more)]
    # Each blob's bytes and each checkpoint's manifest are an object to delete, and gc looks at all that is there.
    store = _wire(system.store.storage)
    requests = store.requests(len(garbage) + plan.deleted + len(lost.sizes) + 4) + store.listing(len(plan.uses))
    return Preview("gc", system.store.location, steps, requests=requests, freed_bytes=freed)


def _wire(storage: ObjectStorage) -> Wire:
    return Wire(
        is_remote=not isinstance(storage, LocalStorage),
        min_part_size=storage.min_part_size,
        max_parts=storage.max_parts,
    )
