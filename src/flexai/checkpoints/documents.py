"""What the commands show, made from the catalog's records: documents, sizes and ages for people.

Nothing here reads anything or imports more than the standard library, so that commands which only show something
start at once. Fields and their order are FlexAI's (https://docs.flex.ai/commands/checkpoint); ours follow after them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from flexai.checkpoints.contents import CLAIMED, is_unverified
from flexai.checkpoints.models import (
    DAMAGED,
    UNKNOWN_TIME,
    Checkpoint,
    CheckpointKind,
    ExportRecord,
    HistoryEntry,
    JobNode,
    JobStatus,
    ListedCheckpoint,
    ListedFile,
    TrainingJob,
    to_text,
)

Document = dict[str, Any]
"""A document as YAML and JSON know it: texts, numbers, booleans, None, lists and dicts."""


_UNITS = ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def human_size(size: int, *, digits: int = 2) -> str:
    """Bytes for people: ``725 bytes``, ``343.79 MiB``, ``17 GiB``."""
    if size < 1024:
        return f"{size} byte" if size == 1 else f"{size} bytes"
    power = min((size.bit_length() - 1) // 10, len(_UNITS))
    # What would be rounded up to 1024 is one of the next unit.
    if round(size / 1024**power, digits) >= 1024 and power < len(_UNITS):
        power += 1
    text = f"{size / 1024**power:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if digits else text} {_UNITS[power - 1]}"


def flexai_size(size: int) -> str:
    """Bytes as the fields ``size`` of documents have them: FlexAI counts by 1,024, and writes ``343.79 MB``."""
    return human_size(size).replace("iB", "B")


def short_size(size: int) -> str:
    """Bytes for a column: as :func:`human_size`, with one digit after the point where it says something."""
    return human_size(
        size, digits=1 if size < 10 * 1024 ** min(max(size.bit_length() - 1, 0) // 10, len(_UNITS)) else 0
    )


def age(time: datetime, now: datetime) -> str:
    """How long ago a time was: ``45s``, ``12m``, ``2h``, ``16d``."""
    if time == UNKNOWN_TIME:
        return "unknown"
    return duration((now - time).total_seconds())


def duration(seconds: float) -> str:
    """Seconds in the largest whole unit: ``45s``, ``12m``, ``2h``, ``16d``."""
    whole = max(0, int(seconds))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if whole >= length:
            return f"{whole // length}{unit}"
    return f"{whole}s"


def running_seconds(job: TrainingJob, now: datetime) -> float:
    """How long a job has been running, or ran: until its end, or was last heard of; 0 where that is unknown."""
    if job.started_at == UNKNOWN_TIME:
        return 0.0
    last = job.ended_at or (job.updated_at if job.status is JobStatus.INTERRUPTED else now)
    return max(0.0, (last - job.started_at).total_seconds())


def identity(checkpoint: Checkpoint) -> Document:
    """Which checkpoint a result is about."""
    return {"name": checkpoint.name, "id": checkpoint.id, "job": checkpoint.job_name}


def undelete_document(checkpoint: Checkpoint) -> Document:
    """What came back, and what it is now."""
    return identity(checkpoint) | {"title": checkpoint.title, "status": str(checkpoint.status)}


def protected_document(checkpoint: Checkpoint) -> Document:
    """Which checkpoint was protected, or is so no more."""
    return identity(checkpoint) | {"title": checkpoint.title, "protected": checkpoint.is_protected}


def checkpoint_document(
    checkpoint: Checkpoint, files: Iterable[ListedFile], exports: Iterable[ExportRecord]
) -> Document:
    """What ``checkpoint inspect`` shows."""
    from flexai.checkpoints.roles import sizes_by_role

    source, listed = checkpoint.source, list(files)
    spec: Document = {
        "fromLocalFiles": list(source.from_local_files),
        "storageProvider": source.storage_provider,
        "sourcePath": source.source_path,
        "revision": source.revision,
        "fromCheckpoint": checkpoint.parent_id or "",
    }
    status: Document = {
        "status": checkpoint.status.value,
        "files": [_file_document(file) for file in listed],
        "storageProviderID": source.storage_provider_id,
        "size": flexai_size(checkpoint.size),
        "createdAt": to_text(checkpoint.created_at),
        "updatedAt": to_text(checkpoint.updated_at),
        "sizeBytes": checkpoint.size,
        "filesCount": checkpoint.file_count,
        "reason": checkpoint.reason,
        "damagedFiles": [file.path for file in listed if file.is_damaged],
        "manifestDigest": checkpoint.manifest_digest or "",
        "protected": checkpoint.is_protected,
        "folders": list(checkpoint.folders),
    }
    if checkpoint.kind is CheckpointKind.CAPTURED:
        status["metadata"] = _captured_metadata(checkpoint)
    status["exports"] = [
        {
            "storageProvider": export.storage_provider,
            "destinationPath": export.destination_path,
            "manifestDigest": export.manifest_digest,
            "exportedAt": to_text(export.exported_at),
            "isPart": export.is_part,
        }
        for export in exports
    ]
    status["sizeBytesByRole"] = sizes_by_role((file.path, file.size) for file in listed)
    return {
        "kind": "Checkpoint",
        "metadata": {
            "name": checkpoint.name,
            "id": checkpoint.id,
            "creatorUserID": checkpoint.creator_user_id,
            "ownerOrgID": checkpoint.owner_org_id,
            "creator": checkpoint.creator,
        },
        "spec": spec,
        "status": status,
    }


def _file_document(file: ListedFile) -> Document:
    document: Document = {
        "path": file.path,
        "size": flexai_size(file.size),
        "sizeBytes": file.size,
        "digest": file.digest or file.checksums.get(CLAIMED, ""),
        "digestOrigin": _digest_origin(file),
        "isExecutable": file.is_executable,
    }
    if file.digest is None:
        document["checksums"] = {name: value for name, value in file.checksums.items() if name != CLAIMED}
    if file.executable is not None:
        document["executable"] = list(file.executable)
        document["notFollowed"] = list(file.not_followed)
    return document


def _digest_origin(file: ListedFile) -> str:
    """Whose word a digest is; ``unverified`` where nothing is known that the bytes could be compared with."""
    if file.digest:
        return "computed"
    if CLAIMED in file.checksums:
        return "claimed"
    return "unverified" if is_unverified(file.digest, file.checksums) else "provider"


def _captured_metadata(checkpoint: Checkpoint) -> Document:
    facts = checkpoint.facts
    return {
        "name": checkpoint.name,
        "node": checkpoint.nodes or checkpoint.node,
        "step": facts.step,
        "trainLoss": facts.train_loss,
        "evalLoss": facts.eval_loss,
        "model": facts.model,
        "version": facts.version,
        "inferenceReady": facts.inference_ready,
        "inferenceMissing": list(facts.inference_missing),
        "resumable": facts.resumable,
        "resumableMissing": list(facts.resumable_missing),
        "job": checkpoint.job_name,
        "jobID": checkpoint.job_id or "",
        "sequence": checkpoint.sequence,
        "metrics": dict(facts.metrics),
        "bestBy": facts.best_by,
        "reported": list(facts.reported),
        "pointers": list(checkpoint.pointers),
    }


def checkpoint_list_document(rows: Iterable[ListedCheckpoint]) -> list[Document]:
    """What ``checkpoint list --json`` shows."""
    return [
        {
            "name": row.name,
            "id": row.id,
            "filesCount": row.file_count,
            "size": flexai_size(row.size),
            "sizeBytes": row.size,
            "status": row.status,
            "reason": row.reason,
            "damaged": row.reason == DAMAGED,
            "createdAt": row.created_at,
            "updatedAt": row.updated_at,
            "protected": row.is_protected,
            "creator": row.creator,
        }
        | ({"deletedAt": row.deleted_at, "title": row.title} if row.deleted_at else {})
        | (_captured_row(row) if row.kind == CheckpointKind.CAPTURED and not row.deleted_at else {})
        for row in rows
    ]


def _captured_row(row: ListedCheckpoint) -> Document:
    return {
        "title": row.title,
        "job": row.job_name,
        "step": row.step,
        "trainLoss": finite(row.train_loss),
        "evalLoss": finite(row.eval_loss),
        "metrics": dict(row.metrics),
        "resumable": row.resumable,
    }


def captured_list_document(rows: Iterable[ListedCheckpoint]) -> list[Document]:
    """What ``training checkpoints --json`` shows."""
    return [
        {
            "id": row.id,
            "name": row.name,
            "node": row.node,
            "step": row.step,
            "trainLoss": finite(row.train_loss),
            "evalLoss": finite(row.eval_loss),
            "model": row.model,
            "version": row.version,
            "inferenceReady": row.inference_ready,
            "timestamp": row.created_at,
            "resumable": row.resumable,
            "status": row.status,
            "filesCount": row.file_count,
            "size": flexai_size(row.size),
            "sizeBytes": row.size,
            "protected": row.is_protected,
            "metrics": dict(row.metrics),
            "bestBy": row.best_by,
            "pointers": list(row.pointers),
            "creator": row.creator,
        }
        for row in rows
    ]


def job_document(job: TrainingJob) -> Document:
    """What ``training inspect`` shows; the status is at ``.runtime.status``."""
    return {
        "kind": "TrainingJob",
        "metadata": {
            "name": job.name,
            "id": job.id,
            "creatorUserID": job.creator_user_id,
            "ownerOrgID": job.owner_org_id,
            "creator": job.creator,
        },
        "spec": {
            "command": list(job.command),
            "environment": list(job.env_names),
            "inputCheckpoint": job.input_checkpoint_name,
            "inputCheckpointID": job.input_checkpoint_id or "",
            "codeCommit": job.code_commit,
        },
        "runtime": {
            "status": job.status.value,
            "reason": job.reason,
            "exitCode": job.exit_code,
            "attempt": job.attempt,
            "host": job.host,
            "outputDir": job.output_dir,
            "logPath": job.log_path,
            "checkpointsCount": job.checkpoint_count,
            "createdAt": to_text(job.created_at),
            "startedAt": to_text(job.started_at),
            "endedAt": None if job.ended_at is None else to_text(job.ended_at),
            "updatedAt": to_text(job.updated_at),
            "nodesCount": job.node_count,
            "nodes": [_node_document(node) for node in job.nodes],
        },
        "status": {"lost": job.lost},
    }


def _node_document(node: JobNode) -> Document:
    return {
        "node": node.node,
        "status": node.status.value,
        "reason": node.reason,
        "exitCode": node.exit_code,
        "host": node.host,
        "outputDir": node.output_dir,
        "logPath": node.log_path,
        "startedAt": to_text(node.started_at),
        "endedAt": None if node.ended_at is None else to_text(node.ended_at),
    }


def deleted_job_document(job: TrainingJob, checkpoints: int) -> Document:
    """Which training job was deleted, and how many checkpoints went with it."""
    return {"name": job.name, "id": job.id, "deletedCheckpoints": checkpoints}


def lost_versions(count: int) -> str:
    """Say how many versions of checkpoints are lost: whole once, and not kept."""
    return "1 version of a checkpoint is lost" if count == 1 else f"{count} versions of checkpoints are lost"


def job_list_document(jobs: Iterable[TrainingJob]) -> list[Document]:
    """What ``training list --json`` shows."""
    return [
        {
            "name": job.name,
            "id": job.id,
            "status": job.status.value,
            "reason": job.reason,
            "exitCode": job.exit_code,
            "attempt": job.attempt,
            "checkpointsCount": job.checkpoint_count,
            "createdAt": to_text(job.created_at),
            "startedAt": to_text(job.started_at),
            "endedAt": None if job.ended_at is None else to_text(job.ended_at),
            "creator": job.creator,
        }
        for job in jobs
    ]


def history_document(entries: Iterable[HistoryEntry]) -> list[Document]:
    """What ``flexai history --json`` shows."""
    return [
        {
            "at": to_text(entry.at),
            "by": entry.actor,
            "host": entry.host,
            "flowRunID": entry.flow_run_id,
            "action": entry.action,
            "kind": entry.kind,
            "id": entry.subject_id,
            "title": entry.title,
            "before": dict(entry.before),
            "after": dict(entry.after),
        }
        for entry in entries
    ]


def finite(number: float | None) -> float | None:
    """A number as JSON has it, which has no NaN and no infinity; None for those."""
    return number if number is None or math.isfinite(number) else None
