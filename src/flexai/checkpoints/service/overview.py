"""Overview: what the catalog and the store hold, in numbers."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flexai.checkpoints.catalog.soundness import Verification
from flexai.checkpoints.models import Checkpoint, CheckpointKind, CheckpointStatus
from flexai.checkpoints.service.system import System

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class JobSummary:
    """The checkpoints of one training job."""

    job: str
    checkpoints: int
    size: int
    """Bytes of its checkpoints, what they share counted each time."""
    last_step: int | None
    best_eval_loss: float | None


@dataclass(frozen=True, slots=True)
class Overview:
    """What there is."""

    location: str
    """Where the managed store is."""
    checkpoints: Sequence[Checkpoint]
    """Those that are not deleted, oldest first."""
    deleted: int
    """Checkpoints that can still come back."""
    blob_sizes: Mapping[str, int]
    """Bytes in the store by the blobs' status: ``stored``, ``writing``, ``deleting``."""
    verification: Verification
    free_room: int | None
    """Bytes that are free where the store is; None where that is not known, as of a bucket."""

    def of(self, kind: CheckpointKind, *statuses: CheckpointStatus) -> list[Checkpoint]:
        """The checkpoints of a kind with one of these statuses; with any where none is given."""
        return [one for one in self.checkpoints if one.kind is kind and (not statuses or one.status in statuses)]

    @property
    def failed(self) -> list[Checkpoint]:
        """Those that are not whole and that no process works on."""
        return [one for one in self.checkpoints if one.status is CheckpointStatus.FAILED]

    @property
    def jobs(self) -> list[JobSummary]:
        """The training jobs that captured checkpoints, the one with the newest first."""
        by_job: dict[str, list[Checkpoint]] = {}
        for checkpoint in reversed(self.of(CheckpointKind.CAPTURED, CheckpointStatus.AVAILABLE)):
            by_job.setdefault(checkpoint.job_name, []).append(checkpoint)
        return [
            JobSummary(
                job=job,
                checkpoints=len(captured),
                size=sum(one.size for one in captured),
                last_step=max(_known(one.facts.step for one in captured), default=None),
                best_eval_loss=min(_known(one.facts.eval_loss for one in captured), default=None),
            )
            for job, captured in by_job.items()
        ]


def overview(system: System) -> Overview:
    """Look at the catalog; of the store itself nothing is read but its id and, for a directory, its free room.

    Raises what the catalog and the store raise.
    """
    known = sorted(system.catalog.checkpoints.of_store(system.store_id), key=lambda one: (one.created_at, one.id))
    return Overview(
        location=system.store.location,
        checkpoints=[one for one in known if one.deleted_at is None],
        deleted=sum(one.deleted_at is not None and one.manifest_digest is not None for one in known),
        blob_sizes=system.blobs.totals(),
        verification=system.soundness.verification(),
        free_room=_free_room(system.settings.effective_store),
    )


def _free_room(store: str) -> int | None:
    try:
        return shutil.disk_usage(store).free if Path(store).is_dir() else None
    except OSError:
        return None


def _known(values: Iterable[T | None]) -> list[T]:
    return [value for value in values if value is not None]
