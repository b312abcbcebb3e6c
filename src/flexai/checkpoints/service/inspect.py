"""Inspect: everything that is known of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.models import Checkpoint, ExportRecord
from flexai.checkpoints.names import parse_reference
from flexai.checkpoints.service.system import System


@dataclass(frozen=True, slots=True)
class Inspection:
    """A checkpoint, its files, and where it was exported."""

    checkpoint: Checkpoint
    files: list[StoredFile]
    exports: list[ExportRecord]


def inspect(system: System, reference: str) -> Inspection:
    """Look up a checkpoint by NAME or UUID; NotFoundError where there is none."""
    checkpoint = system.catalog.checkpoints.get(parse_reference(reference))
    checkpoint_id = checkpoint.id
    return Inspection(
        checkpoint=checkpoint,
        files=system.blobs.files_of(checkpoint_id),
        exports=system.catalog.checkpoints.exports_of(checkpoint_id),
    )
