"""Recover: rebuild a lost catalog from the manifests that lie beside the blobs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from flexai.checkpoints.catalog.database import ConstraintError
from flexai.checkpoints.catalog.recovery import enter_recovered
from flexai.checkpoints.errors import IntegrityError, NotFoundError
from flexai.checkpoints.foreign_json import MAX_DOCUMENT
from flexai.checkpoints.models import now
from flexai.checkpoints.names import is_uuid
from flexai.checkpoints.paths import first_of
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.support.manifest_reader import read_manifest_document
from flexai.checkpoints.service.system import System


@dataclass
class RecoverReport:
    """What was found in the store."""

    recovered: list[str] = field(default_factory=list)
    """Titles of checkpoints that the catalog knows again."""
    known: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    """Why a checkpoint could not be recovered, by its id."""


def recover(
    system: System, *, max_manifest_size: int = MAX_DOCUMENT, progress: Progress | None = None
) -> RecoverReport:
    """Enter every checkpoint that the store describes and the catalog does not know.

    A checkpoint whose manifest cannot be used, or whose blobs are not all there, is left out and named. What a manifest
    says of content is a claim: no push takes it for its own content until a verification has compared it. Names that
    are taken by now are left to their holders; such a checkpoint is found by its UUID. ``max_manifest_size`` is in
    bytes: no catalog is there to say how large a manifest must be. Raises what the store raises.
    """
    progress = progress or Progress()
    report = RecoverReport()
    sizes = {blob_id: info.size for blob_id, info in system.store.list_blobs()}
    ids = list(system.store.list_manifests())
    progress.begin("recover", total_bytes=0, total_files=len(ids))
    try:
        for checkpoint_id in ids:
            try:
                if not is_uuid(checkpoint_id):
                    raise IntegrityError("no checkpoint has such an id")
                document = system.store.read_manifest(checkpoint_id, limit=max_manifest_size)
                _recover_one(system, checkpoint_id, document, sizes, report)
            except (IntegrityError, NotFoundError) as error:
                report.problems[checkpoint_id] = error.message
            progress.advance(files=1)
    finally:
        progress.end()
    return report


def _recover_one(
    system: System, checkpoint_id: str, document: dict[str, Any], sizes: dict[str, int], report: RecoverReport
) -> None:
    checkpoint, manifest, ranges = read_manifest_document(document)
    if checkpoint.id != checkpoint_id:
        raise IntegrityError(f"the manifest under this id describes checkpoint {checkpoint.id}")
    unknown = sorted(path for path, (_, content) in ranges.items() if content.digest is None and not content.checksums)
    if unknown:
        raise IntegrityError(f"neither a digest nor a checksum is given of {first_of(unknown)}")
    missing = sorted(
        path for path, (blob_id, content) in ranges.items() if sizes.get(blob_id, -1) < content.start + content.size
    )
    if missing:
        raise IntegrityError(f"the content of {first_of(missing)} is not in the store")
    # What can change later is the catalog's alone.
    checkpoint = replace(checkpoint, store_id=system.store_id, updated_at=now(), deleted_at=None, is_protected=False)
    try:
        entered = enter_recovered(system.catalog.database, checkpoint, manifest, ranges, sizes)
    except ConstraintError as error:
        raise IntegrityError("it contradicts what the catalog has, such as a checkpoint of the same number") from error
    if entered:
        report.recovered.append(checkpoint.title)
    else:
        report.known += 1
