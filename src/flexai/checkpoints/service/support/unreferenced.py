"""Blobs that the store has and the catalog does not know: torn pushes of a catalog that was lost have left some.

No checkpoint that the catalog knows needs them, but one that only the store describes may: ``recover`` enters it. What
no manifest needs either, ``gc --unreferenced`` takes, once it is older than the grace period by the store's own times.
A push announces its blobs to the catalog before it stores a byte of them, and ids are never used again, so nothing that
is needed ever becomes such a blob.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from flexai.checkpoints.catalog.database import batches
from flexai.checkpoints.errors import IntegrityError, NotFoundError
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.store_owner import look_again
from flexai.checkpoints.service.support.manifest_reader import read_manifest_document
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.at_once import at_once
from flexai.checkpoints.storage.protocol import ObjectInfo


class LostBlobs(NamedTuple):
    """Unreferenced blobs that no manifest in the store needs."""

    sizes: Mapping[str, int]
    """Bytes of each."""
    unreadable: Sequence[str] = ()
    """Checkpoints that the catalog does not know and whose manifests cannot be read: what they need cannot be told, so
    nothing is lost as far as is known."""


def find_unreferenced(system: System) -> dict[str, ObjectInfo]:
    """Blobs in the store that the catalog does not know."""
    there = dict(system.store.list_blobs())
    for blob_id in system.blobs.known(there):
        del there[blob_id]
    return there


def find_lost(
    system: System, unreferenced: Mapping[str, ObjectInfo], *, before: float, progress: Progress | None = None
) -> LostBlobs:
    """Those that no manifest in the store needs, and that were stored before a time, in seconds since the epoch.

    One of which the store does not say when it was stored is none.
    """
    lost = {
        blob_id: info.size
        for blob_id, info in unreferenced.items()
        if info.modified_at is not None and info.modified_at <= before
    }
    if not lost:
        return LostBlobs({})
    progress = progress or Progress()
    # Those of known checkpoints too: a repair gives a checkpoint other blobs, and an older copy of the catalog has the
    # former ones.
    described = list(system.store.list_manifests())
    known = system.catalog.garbage(system.store_id).known(described)
    unreadable = []
    progress.begin("read manifests", total_bytes=0, total_files=len(described))
    try:
        for batch in batches(described):
            for checkpoint_id, needed in zip(batch, at_once(partial(needs, system), batch), strict=True):
                if needed is None and checkpoint_id not in known:
                    unreadable.append(checkpoint_id)
                for blob_id in needed or ():
                    lost.pop(blob_id, None)
            progress.advance(files=len(batch))
    finally:
        progress.end()
    return LostBlobs({}, unreadable) if unreadable else LostBlobs(lost)


def needs(system: System, checkpoint_id: str) -> set[str] | None:
    """The blobs that the manifest in the store needs; none where it is gone, None where it cannot be read."""
    try:
        _, _, ranges = read_manifest_document(system.store.read_manifest(checkpoint_id))
    except NotFoundError:
        return set()
    except IntegrityError:
        return None
    return {blob_id for blob_id, _ in ranges.values()}


def delete_lost(system: System, lost: Iterable[str]) -> list[str]:
    """Delete blobs that ``find_lost`` has found; returns those that are gone.

    Raises ConflictError where the store belongs to another catalog by now, and what the store raises.
    """
    gone: list[str] = []
    for batch in batches(lost):
        # It may have been taken over while the manifests were read.
        look_again(system)
        going = sorted(set(batch) - system.blobs.known(batch))
        system.store.delete_blobs(going)
        gone += going
    return gone
