"""Garbage collection: the bytes that no checkpoint needs any more go.

The order lets gc die at any instant: a rerun finishes, and no checkpoint misses a byte. The catalog forgets that a
checkpoint could come back; the store forgets its manifest; one conditional update checks each blob again and takes it
out of use; its bytes go; and last the catalog forgets the blob.

What the store knows and the catalog does not, because the catalog was lost or is an older copy, is kept: it is named,
and ``recover`` enters it. A push that was cut off between its manifest and the catalog's word is finished: of one that
has ended since, an older copy of the catalog says the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flexai.checkpoints.catalog.database import batches
from flexai.checkpoints.catalog.gc_queries import Garbage
from flexai.checkpoints.documents import Document, human_size
from flexai.checkpoints.errors import AccessDeniedError, IntegrityError, StorageError, UnsupportedError
from flexai.checkpoints.models import now, to_text
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.recover import finish_pushes
from flexai.checkpoints.service.store_owner import look_again, write_due_records
from flexai.checkpoints.service.store_requests import GarbageRequest
from flexai.checkpoints.service.support.record_reader import read_checkpoint_record
from flexai.checkpoints.service.support.unreferenced import LostBlobs, delete_lost, find_lost, find_unreferenced, needs
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.at_once import at_once

NO_GRACE = timedelta(0)
_MUCH_SPARE = 4 * 1024**2
"""Bytes that a catalog's file holds nothing in, from which on it may be worth writing it anew."""


@dataclass(frozen=True, slots=True)
class GarbageReport:
    """What gc took, and what it leaves alone because it is not ours."""

    checkpoints: int
    """Deleted checkpoints that are gone for good."""
    abandoned: int
    """Interrupted pushes that no process continued."""
    blobs: int
    freed_bytes: int
    unreferenced: tuple[str, ...]
    """Blobs in the store that the catalog does not know, and that gc has left (see ``recover``)."""
    newer: tuple[str, ...] = ()
    """Checkpoints of which the store knows more than the catalog, by id: kept, with all that they need."""
    collected: tuple[str, ...] = ()
    """Blobs that neither the catalog nor a manifest in the store knew, where it was asked to take them; they count as
    ``blobs`` too."""
    unreadable: tuple[str, ...] = ()
    """Checkpoints whose manifests cannot be read, so that no unreferenced blob was taken."""
    skipped: tuple[str, ...] = ()
    """Why unfinished uploads are left: what the store cannot do, or its credentials may not."""
    finished: tuple[str, ...] = ()
    """Titles of interrupted pushes of which all had arrived: they are available now."""

    def to_dict(self) -> Document:
        """What ``checkpoint gc --json`` prints; sizes in bytes beside those for people."""
        return {
            "deletedCheckpoints": self.checkpoints,
            "abandonedPushes": self.abandoned,
            "blobs": self.blobs,
            "freed": human_size(self.freed_bytes),
            "freedBytes": self.freed_bytes,
            "unreferenced": list(self.unreferenced),
            "newerInStore": list(self.newer),
            "collectedUnreferenced": list(self.collected),
            "unreadableManifests": list(self.unreadable),
            "skipped": list(self.skipped),
            "finishedPushes": list(self.finished),
        }


def collect_garbage(system: System, request: GarbageRequest, *, progress: Progress | None = None) -> GarbageReport:
    """Take what was deleted, or left by an interrupted push, longer ago than the grace period.

    Raises what the store raises; what was taken by then stays taken, and a rerun goes on.
    """
    progress = progress or Progress()
    garbage = system.catalog.garbage(system.own_store_id)
    write_due_records(system)
    found = look_for_garbage(system, request, _time_at_store(system))
    finished = finish_pushes(system, found.cut_off)
    cut_off = found.cut_off - finished.keys()
    purged = garbage.purge_deleted(before=found.before, keep=found.came_back | found.young)
    count = len(purged) - garbage.count_parts(purged)
    system.store.delete_manifest(*purged)
    system.store.delete_records("checkpoint", purged)
    abandoned = garbage.give_up_abandoned(before=found.before, keep=cut_off)
    unneeded = system.blobs.unneeded()
    progress.begin("gc", total_bytes=sum(size for _, size, _ in unneeded), total_files=len(unneeded))
    blobs = freed = 0
    skipped: list[str] = []

    def gives_up(blob_id: str, upload_id: str) -> bool:
        """Give up a blob's upload; False where that is for another gc, which may be allowed to."""
        try:
            system.store.storage.abort_upload(system.store.blob_key(blob_id), upload_id)
        except (AccessDeniedError, UnsupportedError) as error:
            skipped.append(error.message)
            return isinstance(error, UnsupportedError)
        return True

    try:
        if unneeded:
            look_again(system)  # it may have been taken over while the manifests were read
        for batch in batches(one for one in unneeded if one[0] not in found.needed):
            out_of_use = set(system.blobs.mark_deleting(*(blob_id for blob_id, _, _ in batch)))
            taken = [one for one in batch if one[0] in out_of_use]
            kept = {blob_id for blob_id, _, upload_id in taken if upload_id and not gives_up(blob_id, upload_id)}
            taken = [one for one in taken if one[0] not in kept]
            ids = [blob_id for blob_id, _, _ in taken]
            system.store.delete_blobs(ids)
            system.blobs.forget(*ids)
            size = sum(size for _, size, _ in taken)
            blobs, freed = blobs + len(taken), freed + size
            progress.advance(moved=size, files=len(taken))
        try:
            _abort_strays(system, before=found.stored_before)
        except (AccessDeniedError, UnsupportedError) as error:
            skipped.append(error.message)
    finally:
        progress.end()
    garbage.forget(purged)
    system.catalog.jobs.forget_deleted()
    garbage.forget_commits()
    _compact(system)
    write_due_records(system)
    unreferenced = find_unreferenced(system)
    lost = LostBlobs({})
    if request.unreferenced:
        lost = find_lost(system, unreferenced, before=found.stored_before, progress=progress)
    collected = delete_lost(system, lost.sizes)
    return GarbageReport(
        checkpoints=count,
        abandoned=len(abandoned),
        blobs=blobs + len(collected),
        freed_bytes=freed + sum(lost.sizes[blob_id] for blob_id in collected),
        unreferenced=tuple(blob_id for blob_id in unreferenced if blob_id not in lost.sizes),
        newer=tuple(sorted(found.newer | found.came_back | cut_off)),
        collected=tuple(collected),
        unreadable=tuple(lost.unreadable),
        skipped=tuple(dict.fromkeys(skipped)),
        finished=tuple(sorted(finished.values())),
    )


@dataclass(frozen=True, slots=True)
class FoundGarbage:
    """What gc goes by: it takes what was deleted or abandoned before a time, but for what is kept."""

    before: datetime
    """By the earlier of the two clocks: the store's may be right where this machine's is ahead."""
    stored_before: float
    """The same in seconds since the epoch, by the store's clock."""
    newer: Set[str]
    """Checkpoints that the store describes and the catalog does not know."""
    needed: Set[str]
    """The blobs that these need."""
    cut_off: Set[str]
    """Abandoned pushes that the store describes: all that they needed had arrived."""
    came_back: Set[str]
    """Deleted checkpoints that the store knows a later change of."""
    young: Set[str]
    """Deleted checkpoints that a machine whose clock was behind has deleted later than it said."""

    @property
    def kept(self) -> Set[str]:
        """Of what was deleted or abandoned, what stays."""
        return self.cut_off | self.came_back | self.young


def look_for_garbage(system: System, request: GarbageRequest, present: datetime) -> FoundGarbage:
    """Find what gc would go by at a time by the store's clock; nothing is written. Raises what the store raises."""
    garbage = system.catalog.garbage(system.store_id)
    grace_period = system.settings.grace_period if request.grace_period is None else request.grace_period
    before = min(now(), present) - grace_period
    stored_before = (present - max(grace_period, NO_GRACE)).timestamp()
    described = set(system.store.list_manifests())
    newer, needed = _newer_in_store(system, garbage, described)
    purgeable = garbage.purgeable(before=before)
    changed_at = dict(system.store.record_times("checkpoint")) if purgeable else {}
    return FoundGarbage(
        before=before,
        stored_before=stored_before,
        newer=newer,
        needed=needed,
        cut_off=described & garbage.abandoned(before=before),
        came_back=_changed_since(system, purgeable, changed_at.keys()),
        young={one for one in purgeable if (changed_at.get(one) or 0.0) > stored_before},
    )


def _time_at_store(system: System) -> datetime:
    """The present by the store's own clock, which gives what lies there its times.

    Some tell it in whole seconds, so what has just been stored may be a second younger than it says.
    """
    present = system.store.read_clock()
    return now() if present is None else datetime.fromtimestamp(present + 1, UTC)


def compact_catalog(system: System) -> tuple[int, int]:
    """Give back the room that the catalog needs no more; returns how many bytes it took before, and takes now.

    Raises StorageError where the database cannot be written anew, and what the catalog raises.
    """
    database = system.catalog.database
    before = database.size()
    database.compact()
    return before, database.size()


def _compact(system: System) -> None:
    """Let the catalog's file shrink where that is worth its being written anew, and no other process is in the way."""
    database = system.catalog.database
    spare = database.spare()
    if spare >= _MUCH_SPARE and spare * 4 >= database.size():
        with contextlib.suppress(StorageError):
            database.compact(patience=1)


def _newer_in_store(system: System, garbage: Garbage, described: set[str]) -> tuple[set[str], set[str]]:
    """The checkpoints that the store describes and the catalog does not know, and the blobs that they need.

    A catalog that was restored from an older copy does not know what came after. One whose manifest cannot be read
    needs none that could be found.
    """
    newer = described - garbage.known(described)
    needed: set[str] = set()
    for checkpoint_id in newer:
        needed |= needs(system, checkpoint_id) or set()
    return newer, needed


def _changed_since(system: System, purgeable: Mapping[str, str], recorded: Set[str]) -> set[str]:
    """Those of deleted checkpoints that the store knows a later change of, or may know: they may have come back."""

    def has_changed(checkpoint_id: str) -> bool:
        try:
            record = system.store.read_record("checkpoint", checkpoint_id)
            history = () if record is None else read_checkpoint_record(record).history
        except IntegrityError:
            return True
        return any(to_text(entry.at) > purgeable[checkpoint_id] for entry in history)

    there = sorted(purgeable.keys() & recorded)
    return {one for one, changed in zip(there, at_once(has_changed, there), strict=True) if changed}


def _abort_strays(system: System, *, before: float) -> None:
    """Give up uploads that no process will go on with: of blobs that the catalog does not know (a push announces its
    blobs before it starts an upload), and of manifests and logs that no process is writing.
    """
    blobs = [found for found in system.store.list_unfinished() if found[1].started_at <= before]
    documents = [found for found in system.store.list_unfinished_documents() if found[1].started_at <= before]
    needed = system.blobs.known(blob_id for blob_id, _ in blobs)
    needed |= system.catalog.at_work({document_id for document_id, _ in documents})
    for found_id, upload in blobs + documents:
        if found_id not in needed:
            system.store.storage.abort_upload(upload.key, upload.upload_id)
