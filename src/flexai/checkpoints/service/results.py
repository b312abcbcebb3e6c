"""What the Python API returns of checkpoints: frozen records, each with the document that the command prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING

from flexai.checkpoints.documents import (
    Document,
    captured_list_document,
    checkpoint_document,
    checkpoint_list_document,
)
from flexai.checkpoints.models import (
    Checkpoint,
    CheckpointKind,
    CheckpointStatus,
    ExportRecord,
    ListedCheckpoint,
    ListedFile,
    from_text,
    plain,
    to_text,
)
from flexai.checkpoints.names import Id, title_of

if TYPE_CHECKING:
    from flexai.checkpoints.training.formats.tensors import TensorInfo


@dataclass(frozen=True, kw_only=True)
class CheckpointDetails(Checkpoint):
    """Everything that is known of a checkpoint."""

    files: tuple[ListedFile, ...] = field(hash=False)
    """In order of their paths."""
    exports: tuple[ExportRecord, ...]
    """Where it was exported to."""
    tensors: Mapping[str, tuple[TensorInfo, ...]] | None = field(default=None, hash=False)
    """The tensors of each file that holds some, by its path; None where they were not asked for."""
    tensors_not_read: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Why the tensors of a file cannot be told."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, files: list[ListedFile], exports: list[ExportRecord]) -> CheckpointDetails:
        """Put together what the catalog knows."""
        known = {one.name: getattr(checkpoint, one.name) for one in fields(checkpoint)}
        return cls(**known, files=tuple(files), exports=tuple(exports))

    def to_dict(self) -> Document:
        """What ``flexai checkpoint inspect --json`` prints, and ``push --json``."""
        document = checkpoint_document(self, self.files, self.exports)
        if self.tensors is not None:
            from flexai.checkpoints.service.support.found_tensors import FoundTensors

            document["status"] |= FoundTensors(self.tensors, self.tensors_not_read).to_dict()
        return document


@dataclass(frozen=True, kw_only=True)
class CheckpointSummary:
    """A checkpoint in a list. What training jobs' checkpoints alone have stays empty in the lists of others."""

    id: Id
    kind: CheckpointKind
    name: str
    job_name: str
    """Of a captured checkpoint, the training job that wrote it."""
    status: CheckpointStatus
    reason: str
    """Why it failed, where it has."""
    size: int
    """Bytes in all."""
    file_count: int
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    is_protected: bool
    """Whether it is kept from being deleted."""
    node: str
    step: int | None
    train_loss: float | None
    eval_loss: float | None
    model: str
    version: str
    inference_ready: bool
    resumable: bool | None
    """Whether a training can go on from it; None where that cannot be told."""
    metrics: Mapping[str, float] = field(hash=False)
    """What was measured at its step, by name."""
    best_by: str
    """The metric that its trainer chooses the best checkpoint by."""
    pointers: tuple[str, ...]
    """What the trainer's links and pointer files called it."""
    creator: str
    """Who made it: ``user@host``."""

    @classmethod
    def of(cls, row: ListedCheckpoint) -> CheckpointSummary:
        """A row of a list."""
        found = {name: getattr(row, name) for name in _names()}
        for name in _TIMES:
            found[name] = from_text(found[name]) if found[name] else None
        found["kind"], found["status"] = CheckpointKind(row.kind), CheckpointStatus(row.status)
        found["metrics"], found["pointers"] = dict(row.metrics), tuple(row.pointers)
        return cls(**found)

    @property
    def title(self) -> str:
        """What to call it: its name, or ``JOB/FOLDER`` for a captured one."""
        return title_of(self.kind, self.name, self.job_name)

    def to_dict(self) -> Document:
        """Its entry of what ``flexai checkpoint list --json`` prints, or ``flexai training checkpoints --json``."""
        found = {name: getattr(self, name) for name in _names()}
        for name in _TIMES:
            found[name] = to_text(found[name]) if found[name] else None
        found["status"] = str(self.status)
        is_of_job = self.kind is CheckpointKind.CAPTURED and self.deleted_at is None
        document = captured_list_document if is_of_job else checkpoint_list_document
        return document([ListedCheckpoint(**found)])[0]


_TIMES = ("created_at", "updated_at", "deleted_at")


@cache
def _names() -> tuple[str, ...]:
    return tuple(one.name for one in fields(CheckpointSummary))


@dataclass(frozen=True, kw_only=True)
class DeletedCheckpoint:
    """A checkpoint that was deleted; its id brings it back for a while."""

    name: str
    id: Id
    job: str
    """Of a captured checkpoint, the training job that wrote it."""

    def to_dict(self) -> Document:
        """What ``flexai checkpoint delete --json`` prints, or ``undelete --json``."""
        document: Document = plain(self)
        return document


@dataclass(frozen=True, kw_only=True)
class ProtectedCheckpoint:
    """A checkpoint that was protected, or is so no more."""

    name: str
    id: Id
    job: str
    """Of a captured checkpoint, the training job that wrote it."""
    title: str
    """What to call it: its name, or ``JOB/FOLDER`` for a captured one."""
    protected: bool
    """Whether it is kept from being deleted now."""

    def to_dict(self) -> Document:
        """Its entry of what ``flexai checkpoint protect --json`` prints, or ``unprotect --json``."""
        document: Document = plain(self)
        return document


@dataclass(frozen=True, kw_only=True)
class RestoredCheckpoint(DeletedCheckpoint):
    """A deleted checkpoint that is back."""

    title: str
    """What to call it: its name, or ``JOB/FOLDER`` for a captured one."""
    status: CheckpointStatus
