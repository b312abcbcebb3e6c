"""Naming: give a checkpoint that is here already, captured or pushed, another name; no byte moves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.errors import IntegrityError, NameTakenError, NotFoundError
from flexai.checkpoints.models import Checkpoint, CheckpointStatus
from flexai.checkpoints.names import parse_name
from flexai.checkpoints.paths import first_of
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.push import taken
from flexai.checkpoints.service.push_requests import NameRequest
from flexai.checkpoints.service.support import commit
from flexai.checkpoints.service.system import System
from flexai.checkpoints.transfer.upload import find_there


def name_checkpoint(system: System, request: NameRequest, *, progress: Progress | None = None) -> Checkpoint:
    """Make a pushed checkpoint of the same content under another name, and return it, available.

    Raises NotFoundError for a checkpoint that is not there, ConflictError for one that is not available or a name that
    another process or owner is pushing, AlreadyExistsError for a name that is available (but with ``if_not_exists`` for
    one with the same content), ExecutableContentError for files that run code when they are loaded (with
    ``refuse_executable``; else a checkpoint from a provider has a note), and what the store raises.
    """
    original = system.available(request.from_checkpoint)
    if request.refuse_executable or original.source.storage_provider:
        from flexai.checkpoints.service.support.code import look_for_code, stored_files

        ranges = stored_files(system.store, system.files_of(original))
        look_for_code(ranges, request.name, progress or Progress(), refuse=request.refuse_executable)
    try:
        checkpoint, lease = system.catalog.checkpoints.begin_push(
            parse_name(request.name, what="checkpoint name"),
            owner=system.owner,
            source=original.source,
            status=CheckpointStatus.UPLOADING,
            store_id=system.own_store_id,
            parent_id=original.id,
        )
    except NameTakenError as error:
        same = original.manifest_digest == error.existing.manifest_digest
        if same and request.if_not_exists:
            return error.existing
        raise taken(error.existing, same=same) from error
    try:
        files = system.files_of(original)
        _hold_all(system, checkpoint.id, files)
        _check_there(system, checkpoint, files)
        named = commit.commit(system, checkpoint, lease, files, folders=original.folders, facts=original.facts)
    except BaseException as error:
        commit.give_up(system, checkpoint, lease, error)
        raise
    if original.pointers:
        system.catalog.checkpoints.set_pointers(named.id, original.pointers)
        named = replace(named, pointers=original.pointers)
    return named


def _check_there(system: System, checkpoint: Checkpoint, files: Sequence[StoredFile]) -> None:
    """Raise IntegrityError where the store does not have all of the files' content, by its size."""
    contents = [file.content for file in files]
    there = find_there(contents, checkpoint.id, store=system.store, journal=system.blobs, limits=system.settings.limits)
    lost = [file.path for file in files if file.content.id not in there]
    if lost:
        raise IntegrityError(
            f"the content of {first_of(lost)} is not in the store", hint="push the same files again, which heals it"
        )


def _hold_all(system: System, checkpoint_id: str, files: Sequence[StoredFile]) -> None:
    for content in {file.content.blob_id: file.content for file in files}.values():
        if not system.blobs.hold(checkpoint_id, content):
            raise NotFoundError("the checkpoint was deleted meanwhile")
