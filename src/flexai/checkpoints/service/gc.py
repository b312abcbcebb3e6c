"""Garbage collection: the bytes that no checkpoint needs any more go.

The order lets gc die at any instant: a rerun finishes, and no checkpoint misses a byte. The catalog forgets that a
checkpoint could come back; the store forgets its manifest; one conditional update checks each blob again and takes it
out of use; its bytes go; and last the catalog forgets the blob. gc holds an interrupted push while it gives it up, so
that no other process continues it half way.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from flexai.checkpoints.documents import Document, human_size
from flexai.checkpoints.models import now
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.store_requests import GarbageRequest
from flexai.checkpoints.service.system import System


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
    """Blobs in the store that the catalog does not know, and that gc never touches (see ``recover``)."""

    def to_dict(self) -> Document:
        """What ``checkpoint gc --json`` prints; sizes in bytes beside those for people."""
        return {
            "deletedCheckpoints": self.checkpoints,
            "abandonedPushes": self.abandoned,
            "blobs": self.blobs,
            "freed": human_size(self.freed_bytes),
            "freedBytes": self.freed_bytes,
            "unreferenced": list(self.unreferenced),
        }


def collect_garbage(system: System, request: GarbageRequest, *, progress: Progress | None = None) -> GarbageReport:
    """Take what was deleted, or left by an interrupted push, longer ago than the grace period.

    Raises what the store raises; what was taken by then stays taken, and a rerun goes on.
    """
    progress = progress or Progress()
    before = now() - (system.settings.grace_period if request.grace_period is None else request.grace_period)
    garbage = system.catalog.garbage(system.store_id)
    purged = garbage.purge_deleted(before=before)
    count = len(purged) - garbage.count_parts(purged)
    for checkpoint_id in purged:
        system.store.delete_manifest(checkpoint_id)
    abandoned = garbage.give_up_abandoned(before=before, clean_up=system.store.delete_manifest)
    unneeded = system.blobs.unneeded()
    progress.begin("gc", total_bytes=sum(size for _, size, _ in unneeded), total_files=len(unneeded))
    blobs = freed = 0
    try:
        for blob_id, size, upload_id in unneeded:
            if not system.blobs.mark_deleting(blob_id):
                continue
            if upload_id:
                system.store.storage.abort_upload(system.store.blob_key(blob_id), upload_id)
            system.store.delete_blobs([blob_id])
            system.blobs.forget(blob_id)
            blobs, freed = blobs + 1, freed + size
            progress.advance(moved=size, files=1)
        _abort_strays(system, before=before.timestamp())
    finally:
        progress.end()
    for checkpoint_id in purged:
        garbage.forget(checkpoint_id)
    system.catalog.jobs.forget_deleted()
    return GarbageReport(
        checkpoints=count,
        abandoned=len(abandoned),
        blobs=blobs,
        freed_bytes=freed,
        unreferenced=find_unreferenced(system),
    )


def _abort_strays(system: System, *, before: float) -> None:
    """Give up uploads that no process will go on with: of blobs that the catalog does not know (a push announces its
    blobs before it starts an upload), and of manifests and logs that no process is writing.
    """
    before = min(before, time.time())
    blobs = [found for found in system.store.list_unfinished() if found[1].started_at <= before]
    documents = [found for found in system.store.list_unfinished_documents() if found[1].started_at <= before]
    needed = system.blobs.known(blob_id for blob_id, _ in blobs)
    needed |= system.catalog.at_work({document_id for document_id, _ in documents})
    for found_id, upload in blobs + documents:
        if found_id not in needed:
            system.store.storage.abort_upload(upload.key, upload.upload_id)


def find_unreferenced(system: System) -> tuple[str, ...]:
    """Blobs in the store that the catalog does not know."""
    there = [blob_id for blob_id, _ in system.store.list_blobs()]
    known = system.blobs.known(there)
    return tuple(blob_id for blob_id in there if blob_id not in known)
