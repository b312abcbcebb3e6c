"""What the commands show, made from plain rows of the catalog: documents, list rows, sizes and ages for people.

Nothing here reads anything or imports more than the standard library, so that commands which only show something
start at once. Fields and their order are FlexAI's (https://docs.flex.ai/commands/checkpoint); ours follow after them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from flexai.checkpoints.names import NIL_ID, title_of

Document = dict[str, Any]
"""A document as YAML and JSON know it: texts, numbers, booleans, None, lists and dicts."""


_UNITS = ("KB", "MB", "GB", "TB", "PB", "EB")


@dataclass(slots=True)
class CheckpointRow:
    """What lists show of a checkpoint. Times are ISO 8601 texts in UTC, sizes bytes."""

    id: str
    kind: str
    name: str
    job_name: str
    status: str
    reason: str
    size: int
    file_count: int
    created_at: str
    updated_at: str
    deleted_at: str | None
    is_protected: bool = False

    @property
    def title(self) -> str:
        """What to call it: its name, or ``JOB/FOLDER`` for a captured one."""
        return title_of(self.kind, self.name, self.job_name)


@dataclass(slots=True)
class CapturedRow:
    """What lists show of a checkpoint that a training job wrote."""

    id: str
    name: str
    node: str
    step: int | None
    train_loss: float | None
    eval_loss: float | None
    model: str
    version: str
    inference_ready: bool
    resumable: bool
    status: str
    reason: str
    size: int
    file_count: int
    created_at: str
    is_protected: bool = False


@dataclass(slots=True)
class FileRow:
    """One file of a checkpoint."""

    path: str
    size: int
    digest: str | None
    """BLAKE3 in hex; None where only the provider's checksums are known."""
    checksums: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class ExportRow:
    """Where a checkpoint was exported."""

    storage_provider: str
    destination_path: str
    manifest_digest: str
    exported_at: str


@dataclass(slots=True)
class CheckpointDetails:
    """Everything that the catalog knows of one checkpoint."""

    id: str
    kind: str
    name: str
    creator_user_id: str
    owner_org_id: str
    source: Mapping[str, Any]
    """Where its files came from: the fields of ``models.Source``."""
    status: str
    reason: str
    size: int
    file_count: int
    manifest_digest: str | None
    parent_id: str | None
    job_id: str | None
    job_name: str
    node: str
    sequence: int
    step: int | None
    train_loss: float | None
    eval_loss: float | None
    model: str
    version: str
    inference_ready: bool
    inference_missing: Sequence[str]
    resumable: bool
    resumable_missing: Sequence[str]
    created_at: str
    updated_at: str
    store_id: str = ""
    """Which managed store its bytes lie in."""
    is_protected: bool = False

    @property
    def title(self) -> str:
        """What to call it: its name, or ``JOB/FOLDER`` for a captured one."""
        return title_of(self.kind, self.name, self.job_name)


@dataclass(slots=True)
class JobRow:
    """A training job."""

    id: str
    name: str
    creator_user_id: str
    owner_org_id: str
    status: str
    reason: str
    command: Sequence[str]
    env_names: Sequence[str]
    attempt: int
    exit_code: int | None
    input_checkpoint_id: str | None
    input_checkpoint_name: str
    output_dir: str
    log_path: str
    host: str
    code_commit: str
    checkpoint_count: int
    created_at: str
    started_at: str
    ended_at: str | None
    updated_at: str


def human_size(size: int, *, digits: int = 2) -> str:
    """Bytes for people: ``725 bytes``, ``343.79 MB``, ``17 GB``. Units are of 1,024, as FlexAI counts them."""
    if size < 1024:
        return f"{size} byte" if size == 1 else f"{size} bytes"
    power = 1
    # What would be rounded up to 1024 is one of the next unit.
    while round(size / 1024**power, digits) >= 1024 and power < len(_UNITS):
        power += 1
    text = f"{size / 1024**power:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if digits else text} {_UNITS[power - 1]}"


def short_size(size: int) -> str:
    """Bytes for a column: as :func:`human_size`, with one digit after the point where it says something."""
    text = human_size(size, digits=1)
    number, _, unit = text.partition(" ")
    return human_size(size, digits=0) if "." in number and float(number) >= 10 and unit in _UNITS else text


def age(time: str, now: datetime) -> str:
    """How long ago an ISO 8601 time was: ``45s``, ``12m``, ``2h``, ``16d``."""
    return duration((now - datetime.fromisoformat(time)).total_seconds())


def duration(seconds: float) -> str:
    """Seconds in the largest whole unit: ``45s``, ``12m``, ``2h``, ``16d``."""
    whole = max(0, int(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= length:
            return f"{whole // length}{unit}"
    return f"{whole}s"


def running_seconds(job: JobRow, now: datetime) -> float:
    """How long a job has been running, or ran: until its end, or until it was last heard of."""
    end = job.ended_at or (job.updated_at if job.status == "interrupted" else None)
    last = now if end is None else datetime.fromisoformat(end)
    return max(0.0, (last - datetime.fromisoformat(job.started_at)).total_seconds())


def present() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


def checkpoint_document(
    checkpoint: CheckpointDetails, files: Iterable[FileRow], exports: Iterable[ExportRow] = ()
) -> Document:
    """What ``checkpoint inspect`` shows."""
    source = checkpoint.source
    spec: Document = {
        "fromLocalFiles": list(source.get("from_local_files", ())),
        "storageProvider": source.get("storage_provider", ""),
        "sourcePath": source.get("source_path", ""),
        "revision": source.get("revision", ""),
        "fromCheckpoint": checkpoint.parent_id or "",
    }
    status: Document = {
        "status": checkpoint.status,
        "files": [_file_document(file) for file in files],
        "storageProviderID": str(source.get("storage_provider_id", NIL_ID)),
        "size": human_size(checkpoint.size),
        "createdAt": checkpoint.created_at,
        "updatedAt": checkpoint.updated_at,
        "sizeBytes": checkpoint.size,
        "filesCount": checkpoint.file_count,
        "reason": checkpoint.reason,
        "manifestDigest": checkpoint.manifest_digest or "",
        "protected": checkpoint.is_protected,
    }
    if checkpoint.kind == "captured":
        status["metadata"] = _captured_metadata(checkpoint)
    status["exports"] = [
        {
            "storageProvider": export.storage_provider,
            "destinationPath": export.destination_path,
            "manifestDigest": export.manifest_digest,
            "exportedAt": export.exported_at,
        }
        for export in exports
    ]
    return {
        "kind": "Checkpoint",
        "metadata": {
            "name": checkpoint.name,
            "id": checkpoint.id,
            "creatorUserID": checkpoint.creator_user_id,
            "ownerOrgID": checkpoint.owner_org_id,
        },
        "spec": spec,
        "status": status,
    }


def _file_document(file: FileRow) -> Document:
    document: Document = {
        "path": file.path,
        "size": human_size(file.size),
        "sizeBytes": file.size,
        "digest": file.digest or "",
        "digestOrigin": "provider" if file.digest is None else "computed",
    }
    if file.digest is None:
        document["checksums"] = dict(file.checksums)
    return document


def _captured_metadata(checkpoint: CheckpointDetails) -> Document:
    return {
        "name": checkpoint.name,
        "node": checkpoint.node,
        "step": checkpoint.step,
        "trainLoss": _finite(checkpoint.train_loss),
        "evalLoss": _finite(checkpoint.eval_loss),
        "model": checkpoint.model,
        "version": checkpoint.version,
        "inferenceReady": checkpoint.inference_ready,
        "inferenceMissing": list(checkpoint.inference_missing),
        "resumable": checkpoint.resumable,
        "resumableMissing": list(checkpoint.resumable_missing),
        "job": checkpoint.job_name,
        "jobID": checkpoint.job_id or "",
        "sequence": checkpoint.sequence,
    }


def checkpoint_list_document(rows: Iterable[CheckpointRow]) -> list[Document]:
    """What ``checkpoint list --json`` shows."""
    return [
        {
            "name": row.name,
            "id": row.id,
            "filesCount": row.file_count,
            "size": human_size(row.size),
            "sizeBytes": row.size,
            "status": row.status,
            "reason": row.reason,
            "createdAt": row.created_at,
            "updatedAt": row.updated_at,
            "protected": row.is_protected,
        }
        | ({"deletedAt": row.deleted_at, "title": row.title} if row.deleted_at else {})
        for row in rows
    ]


def captured_list_document(rows: Iterable[CapturedRow]) -> list[Document]:
    """What ``training checkpoints --json`` shows."""
    return [
        {
            "id": row.id,
            "name": row.name,
            "node": row.node,
            "step": row.step,
            "trainLoss": _finite(row.train_loss),
            "evalLoss": _finite(row.eval_loss),
            "model": row.model,
            "version": row.version,
            "inferenceReady": row.inference_ready,
            "timestamp": row.created_at,
            "resumable": row.resumable,
            "status": row.status,
            "filesCount": row.file_count,
            "size": human_size(row.size),
            "sizeBytes": row.size,
            "protected": row.is_protected,
        }
        for row in rows
    ]


def job_document(job: JobRow) -> Document:
    """What ``training inspect`` shows; the status is at ``.runtime.status``."""
    return {
        "kind": "TrainingJob",
        "metadata": {
            "name": job.name,
            "id": job.id,
            "creatorUserID": job.creator_user_id,
            "ownerOrgID": job.owner_org_id,
        },
        "spec": {
            "command": list(job.command),
            "environment": list(job.env_names),
            "inputCheckpoint": job.input_checkpoint_name,
            "inputCheckpointID": job.input_checkpoint_id or "",
            "codeCommit": job.code_commit,
        },
        "runtime": {
            "status": job.status,
            "reason": job.reason,
            "exitCode": job.exit_code,
            "attempt": job.attempt,
            "host": job.host,
            "outputDir": job.output_dir,
            "logPath": job.log_path,
            "checkpointsCount": job.checkpoint_count,
            "createdAt": job.created_at,
            "startedAt": job.started_at,
            "endedAt": job.ended_at,
            "updatedAt": job.updated_at,
        },
    }


def job_list_document(jobs: Iterable[JobRow]) -> list[Document]:
    """What ``training list --json`` shows."""
    return [
        {
            "name": job.name,
            "id": job.id,
            "status": job.status,
            "reason": job.reason,
            "exitCode": job.exit_code,
            "attempt": job.attempt,
            "checkpointsCount": job.checkpoint_count,
            "createdAt": job.created_at,
            "startedAt": job.started_at,
            "endedAt": job.ended_at,
        }
        for job in jobs
    ]


def _finite(number: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return number if number is None or math.isfinite(number) else None
