"""Reading the store's records (see ``catalog.changes``): how checkpoints and training jobs were when they last changed.

Like manifests they may have been damaged since, and believed is only what could have been written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from flexai.checkpoints.catalog.changes import RECORD_FORMAT
from flexai.checkpoints.errors import IntegrityError, InvalidNameError
from flexai.checkpoints.manifest import first_flaw
from flexai.checkpoints.models import (
    YEARS,
    Checkpoint,
    ExportRecord,
    HistoryEntry,
    TrainingJob,
    canonical_json,
)
from flexai.checkpoints.names import is_uuid, parse_name
from flexai.checkpoints.service.support.manifest_reader import checkpoint_in

_JOB = TypeAdapter(TrainingJob)
_EXPORTS = TypeAdapter(tuple[ExportRecord, ...])
_HISTORY = TypeAdapter(tuple[HistoryEntry, ...])
_MOST = 100_000
"""Of exports, machines or changes of one thing."""
_LONGEST_ACTION = 32
_KINDS = frozenset({"checkpoint", "job"})


class CheckpointRecord(NamedTuple):
    """A checkpoint as it was when it last changed."""

    checkpoint: Checkpoint
    exports: tuple[ExportRecord, ...]
    history: tuple[HistoryEntry, ...]


class JobRecord(NamedTuple):
    """A training job as it was when it last changed."""

    job: TrainingJob
    is_deleted: bool
    history: tuple[HistoryEntry, ...]


def read_checkpoint_record(document: dict[str, Any]) -> CheckpointRecord:
    """What a record says of a checkpoint; IntegrityError for one that is damaged."""
    with _told_damaged():
        _check(document)
        state = dict(document["checkpoint"])
        exports = _EXPORTS.validate_python(_bounded(state.pop("exports")))
        checkpoint = checkpoint_in(state)
        for one in exports:
            if one.checkpoint_id != checkpoint.id or not is_uuid(one.id):
                raise ValueError("an export in it is none of its checkpoint's")
            _check_values(one)
        return CheckpointRecord(checkpoint, exports, _history(document, checkpoint.id))


def read_job_record(document: dict[str, Any]) -> JobRecord:
    """What a record says of a training job; IntegrityError for one that is damaged."""
    with _told_damaged():
        _check(document)
        state = dict(document["job"])
        is_deleted = bool(state.pop("is_deleted"))
        _bounded(state["nodes"])
        job = _JOB.validate_python(state)
        parse_name(job.name, what="training job")
        ids = (job.id, job.creator_user_id, job.owner_org_id, job.input_checkpoint_id)
        if not all(map(is_uuid, filter(None, ids))):
            raise ValueError("an id in it is none")
        for one in (job, *job.nodes):
            _check_values(one)
        return JobRecord(job, is_deleted, _history(document, job.id))


@contextlib.contextmanager
def _told_damaged() -> Iterator[None]:
    try:
        yield
    except ValidationError as error:
        raise IntegrityError(f"a record in the store is damaged: {first_flaw(error)}") from error
    except InvalidNameError as error:
        raise IntegrityError(f"a record in the store is damaged: {error.message}") from error
    except KeyError as error:
        raise IntegrityError(f"a record in the store is damaged: it has no {error}") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise IntegrityError(f"a record in the store is damaged: {error}") from error


def _check(document: dict[str, Any]) -> None:
    if document["format"] != RECORD_FORMAT:
        raise IntegrityError(
            f"a record in the store is of another format than {RECORD_FORMAT}, which this program knows"
        )
    if b"\\u0000" in canonical_json(document):
        raise ValueError("a text of it has a NUL, which PostgreSQL does not take")


def _history(document: dict[str, Any], subject_id: str) -> tuple[HistoryEntry, ...]:
    history = _HISTORY.validate_python(_bounded(document["history"]))
    for entry in history:
        if entry.subject_id != subject_id or len(entry.action) > _LONGEST_ACTION or entry.kind not in _KINDS:
            raise ValueError("a change in it is none of its own")
        _check_values(entry)
    return history


def _check_values(record: tuple[object, ...]) -> None:
    """Raise ValueError for a number or a time that a catalog does not hold."""
    for value in record:
        if isinstance(value, int) and not -(2**31) <= value < 2**31:
            raise ValueError(f"the number {value} in it is out of range")
        if isinstance(value, datetime) and (value.year not in YEARS or value.tzinfo is None):
            raise ValueError("a time in it is out of range")


def _bounded(found: object) -> object:
    # pydantic describes every flaw, of which there could be a million.
    if not isinstance(found, list) or len(found) > _MOST:
        raise ValueError("it lists what cannot be listed")
    return found
