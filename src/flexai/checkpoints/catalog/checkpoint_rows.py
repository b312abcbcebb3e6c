"""A checkpoint as columns of the catalog, and what a row means: in one place, for records and for lists."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from flexai.checkpoints.catalog.database import Record
from flexai.checkpoints.catalog.leases import LEASE_COLUMNS, is_held
from flexai.checkpoints.models import (
    Checkpoint,
    CheckpointKind,
    CheckpointStatus,
    ExportRecord,
    ListedCheckpoint,
    Source,
    TrainingFacts,
    from_text,
    plain,
    to_text,
)
from flexai.checkpoints.names import name_key

CHECKPOINT = "SELECT c.*, j.name AS job_name FROM checkpoints c LEFT JOIN jobs j ON j.id = c.job_id"
"""Checkpoints ``c`` with all that ``checkpoint_of`` reads; a WHERE can follow."""

INTERRUPTED = "interrupted before it was finished: push it again to continue"
CUT_OFF = "interrupted before it was finished, with its training job"

UNFINISHED = frozenset({CheckpointStatus.UPLOADING, CheckpointStatus.SYNCING})
"""While a process pushes or captures."""

_LEASE = ", ".join(f"c.{column}" for column in LEASE_COLUMNS)

PUSHED = f"""
    SELECT c.id, c.name, c.status, c.reason, c.size, c.file_count, c.created_at, c.updated_at, c.is_protected,
        c.creator, {_LEASE}
    FROM checkpoints c WHERE c.kind = 'pushed' AND c.deleted_at IS NULL
"""
"""What ``pushed_of`` reads. What all of them have is left out: a driver takes as long for that as for anything else."""
CREATED_AT = 6
"""The place of that column there."""

LISTED = f"""
    SELECT c.id, c.kind, c.name, COALESCE(j.name, ''), c.status, c.reason, c.size, c.file_count, c.created_at,
        c.updated_at, c.deleted_at, c.is_protected,
        CASE WHEN c.nodes = '' THEN c.node ELSE c.nodes END,
        c.step, c.train_loss, c.eval_loss, c.model, c.version, c.inference_ready, c.resumable, c.metrics, c.best_by,
        c.pointers, c.creator, c.resumable_unknown, c.parts, c.part_of,
        {_LEASE}
    FROM checkpoints c LEFT JOIN jobs j ON j.id = c.job_id
"""
"""Checkpoints ``c`` with the fields of ``ListedCheckpoint`` and their leases; a WHERE can follow."""
_METRICS_AT, _POINTERS_AT = map(ListedCheckpoint._fields.index, ("metrics", "pointers"))
"""The places of those columns there."""


def row_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """The columns that hold a checkpoint, its lease left out."""
    document: dict[str, Any] = plain(checkpoint)
    for name in ("facts", "job_name"):
        del document[name]
    return document | {
        "name_key": name_key(checkpoint.name) if checkpoint.kind is CheckpointKind.PUSHED else None,
        "source": json.dumps(document["source"]),
        "pointers": json.dumps(document["pointers"]),
        "folders": json.dumps(document["folders"]),
        "created_at": to_text(checkpoint.created_at),
        "updated_at": to_text(checkpoint.updated_at),
        "deleted_at": None if checkpoint.deleted_at is None else to_text(checkpoint.deleted_at),
        **facts_columns(checkpoint.facts),
    }


def facts_columns(facts: TrainingFacts) -> dict[str, Any]:
    """The columns that hold what a checkpoint's files say."""
    document: dict[str, Any] = plain(facts)
    for name in _IN_JSON:
        document[name] = json.dumps(document[name])
    return document | {"resumable": bool(facts.resumable), "resumable_unknown": facts.resumable is None}


_FACTS = [one.name for one in fields(TrainingFacts)]
_IN_JSON = ("inference_missing", "resumable_missing", "metrics", "reported")
_SAME = (
    *("name", "size", "file_count", "manifest_digest", "store_id", "node", "sequence"),
    *("nodes", "parts", "attempt", "part_of", "creator"),
)
"""Columns that hold a field as it is."""


def checkpoint_of(row: Record) -> Checkpoint:
    """The checkpoint that a row describes, read as ``CHECKPOINT`` reads it.

    A push or a capture whose process is gone has failed. What decides about a change compares the row itself.
    """
    status, reason = standing(row["kind"], row["status"], row["reason"], row)
    facts = {name: row[name] for name in _FACTS}
    for name in _IN_JSON:
        facts[name] = _parsed(facts[name])
    facts |= {
        "inference_ready": bool(row["inference_ready"]),  # SQLite has no booleans.
        "inference_missing": tuple(facts["inference_missing"]),
        "resumable": _is_resumable(row["resumable"], row["resumable_unknown"]),
        "resumable_missing": tuple(facts["resumable_missing"]),
        "reported": tuple(facts["reported"]),
    }
    return Checkpoint(
        id=row["id"],
        kind=CheckpointKind(row["kind"]),
        status=CheckpointStatus(status),
        reason=reason,
        creator_user_id=row["creator_user_id"],
        owner_org_id=row["owner_org_id"],
        source=_source(json.loads(row["source"])),
        parent_id=row["parent_id"],
        job_id=row["job_id"],
        job_name=row["job_name"] or "",
        facts=TrainingFacts(**facts),
        pointers=tuple(_parsed(row["pointers"])),
        folders=tuple(_parsed(row["folders"])),
        is_protected=bool(row["is_protected"]),
        created_at=from_text(row["created_at"]),
        updated_at=from_text(row["updated_at"]),
        deleted_at=None if row["deleted_at"] is None else from_text(row["deleted_at"]),
        **{name: row[name] for name in _SAME},
    )


def export_of(row: Record) -> ExportRecord:
    """The export that a row of its table describes."""
    values = {"exported_at": from_text(row["exported_at"]), "is_part": bool(row["is_part"])}
    return ExportRecord(**row | values)


def _parsed(text: str) -> Any:
    """What a text in JSON says. Most say nothing, and of thousands of rows that is told without a parser."""
    if text == "[]":
        return ()
    return {} if text == "{}" else json.loads(text)


def pushed_of(rows: Iterable[Sequence[Any]]) -> Iterator[ListedCheckpoint]:
    """What the list shows of rows of ``PUSHED``, in one loop and by their places: there may be ten thousands."""
    for checkpoint_id, name, status, reason, size, count, created_at, updated_at, is_protected, creator, *lease in rows:
        if status in UNFINISHED:
            status, reason = standing("pushed", status, reason, dict(zip(LEASE_COLUMNS, lease, strict=True)))
        # SQLite has no booleans.
        is_kept = bool(is_protected)
        told = (checkpoint_id, "pushed", name, "", status, reason, size, count, created_at, updated_at, None, is_kept)
        yield ListedCheckpoint(*told, creator=creator)


def listed_of(row: Sequence[Any]) -> ListedCheckpoint:
    """What lists show of a row of ``LISTED``."""
    *columns, is_unknown, parts, part_of = row[: -len(LEASE_COLUMNS)]
    found = ListedCheckpoint(*columns)
    held = dict(zip(LEASE_COLUMNS, row[-len(LEASE_COLUMNS) :], strict=True)) | {"parts": parts, "part_of": part_of}
    status, reason = standing(found.kind, found.status, found.reason, held)
    return found._replace(
        status=status,
        reason=reason,
        is_protected=bool(found.is_protected),
        inference_ready=bool(found.inference_ready),
        resumable=_is_resumable(found.resumable, is_unknown),
        metrics=json.loads(row[_METRICS_AT]),
        pointers=tuple(json.loads(row[_POINTERS_AT])),
    )


def _is_resumable(told: object, is_unknown: object) -> bool | None:
    return None if is_unknown else bool(told)


def standing(kind: str, status: str, reason: str, row: Mapping[str, Any]) -> tuple[str, str]:
    """Status and reason as they are: what a process was pushing or capturing that is gone has failed.

    No process is left to record that, and a caller who waits for the end should not wait for ever. What has parts, or
    is one, has not failed but is incomplete.
    """
    if status == CheckpointStatus.FAILED and (row.get("parts") or row.get("part_of")):
        return CheckpointStatus.INCOMPLETE, reason
    if status in UNFINISHED and not is_held(row):
        return CheckpointStatus.FAILED, INTERRUPTED if kind == CheckpointKind.PUSHED else CUT_OFF
    return status, reason


def _source(document: dict[str, Any]) -> Source:
    return Source(**document | {"from_local_files": tuple(document.get("from_local_files", ()))})
