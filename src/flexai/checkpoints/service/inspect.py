"""Inspect: everything that the catalog says of a checkpoint or a training job, as the document that programs read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.documents import Document, checkpoint_document, job_document
from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.models import (
    Checkpoint,
    CheckpointStatus,
    ExportRecord,
    HistoryEntry,
    ListedCheckpoint,
    ListedFile,
)
from flexai.checkpoints.names import parse_job_reference, parse_reference

if TYPE_CHECKING:
    from flexai.checkpoints.catalog.history import HistoryFilter
    from flexai.checkpoints.service.support.found_tensors import FoundTensors
    from flexai.checkpoints.service.system import Connect


def look_up(catalog: Catalog, reference: str) -> tuple[Checkpoint, list[ListedFile], list[ExportRecord]]:
    """A checkpoint by NAME, UUID or JOB/PATH, its files and its exports.

    Raises InvalidNameError for a text that can be none of them, NotFoundError where there is none.
    """
    queries = catalog.checkpoint_queries
    checkpoint = queries.get(parse_reference(reference))
    return checkpoint, queries.list_files(checkpoint.id), queries.list_exports(checkpoint.id)


def inspect_checkpoint(catalog: Catalog, reference: str) -> Document:
    """What ``checkpoint inspect`` shows; raises what ``look_up`` raises."""
    return checkpoint_document(*look_up(catalog, reference))


def look_up_history(catalog: Catalog, wanted: HistoryFilter, reference: str = "") -> list[HistoryEntry]:
    """What was changed, oldest first: of all, or of what a NAME, UUID or JOB/PATH means or has ever meant.

    A UUID is that of one checkpoint or job, there or not. Raises InvalidNameError for a text that can be none of them,
    NotFoundError for what is not there and never was.
    """
    from flexai.checkpoints.catalog.history import HistoryFilter, read_history
    from flexai.checkpoints.catalog.meaning import id_in_history

    with catalog.database.reading() as transaction:
        if not reference:
            return read_history(transaction, wanted)
        meant = parse_reference(reference)
        of = HistoryFilter(ids=(meant.id,)) if meant.id else HistoryFilter(title=meant.text)
        try:
            there = catalog.checkpoint_queries.get(meant)
            # Of a captured one that is meant by its job's UUID the title has the job's name.
            is_by_id = meant.id or there.id.startswith(reference.lower())
            of = HistoryFilter(ids=(there.id,), title="" if is_by_id else there.title)
        except NotFoundError:
            if past := id_in_history(transaction, meant):
                of = HistoryFilter(ids=(past,))
            elif not read_history(transaction, of._replace(limit=1)):
                raise
        return read_history(transaction, wanted._replace(ids=of.ids, title=of.title))


def captured_rows(catalog: Catalog, reference: str) -> tuple[list[ListedCheckpoint], list[ListedCheckpoint]]:
    """The checkpoints of a training job, by its NAME or UUID, in the order of their capture; and those that failed.

    The first are those that are available, and those of which parts are there. Raises what ``look_up`` raises.
    """
    found = catalog.checkpoint_queries.list_captured(catalog.job_queries.get(parse_job_reference(reference)).id)
    kept = (CheckpointStatus.AVAILABLE, CheckpointStatus.INCOMPLETE)
    return [row for row in found if row.status in kept], [row for row in found if row.status == CheckpointStatus.FAILED]


def with_code(checkpoint: Checkpoint, files: Iterable[ListedFile], *, connect: Connect) -> list[ListedFile]:
    """The files, each with what it runs when it is loaded; they are read by range, and never loaded.

    Raises ConflictError for a checkpoint that is not available, and what the store raises.
    """
    from flexai.checkpoints.service.support.code import code_of
    from flexai.checkpoints.service.system import System

    with System.open(connect=connect, read_only=True) as system:
        found = code_of(system, checkpoint.id)
    return [
        file._replace(executable=tuple(code.executable), not_followed=tuple(code.unfollowed))
        if (code := found.get(file.path))
        else file._replace(executable=())
        for file in files
    ]


def tensors_of(checkpoint: Checkpoint, *, connect: Connect) -> FoundTensors:
    """The tensors in each of a checkpoint's files, and why a file's could not be told; headers alone are read.

    Raises ConflictError for a checkpoint that is not available, and what the store raises.
    """
    from flexai.checkpoints.service.support.code import stored_files
    from flexai.checkpoints.service.support.found_tensors import find_tensors
    from flexai.checkpoints.service.system import System

    with System.open(connect=connect, read_only=True) as system:
        _, stored = system.available_files(checkpoint.id)
        return find_tensors(stored_files(system.store, stored))


def inspect_training(catalog: Catalog, reference: str) -> Document:
    """What ``training inspect`` shows of a NAME or UUID; raises what ``inspect_checkpoint`` raises."""
    from flexai.checkpoints.training.job_files import as_it_ended

    return job_document(as_it_ended(catalog.job_queries.get(parse_job_reference(reference))))
