"""The operations as Python functions: what ``import flexai`` gives.

Each is the very operation of the command of its name. It raises the errors of :mod:`flexai.errors`, and what it returns
has ``to_dict()``: the document that the command prints with ``--json``.

No server is started and Prefect is not imported, but where a connection is named: those are saved in Prefect. The
settings are those of the command as well (``FLEXAI_HOME``, ``FLEXAI_STORE``, …), and are read at each call.

Any thread may call any function, and several may at once; from asyncio it is ``await asyncio.to_thread(flexai.push,
…)``. A push, fetch or export that was interrupted, by KeyboardInterrupt or by the end of the process, goes on where it
stopped when it is called again.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias

from flexai.checkpoints.arguments import checked
from flexai.checkpoints.errors import RequestError, UsageError
from flexai.checkpoints.names import printable
from flexai.checkpoints.progress import CalledProgress, Progress, StageProgress
from flexai.checkpoints.service.change_requests import DeleteRequest, ProtectRequest, UndeleteRequest
from flexai.checkpoints.service.fetch import FetchReport
from flexai.checkpoints.service.looking import look_at_catalog
from flexai.checkpoints.service.push_requests import AnyPushRequest, NameRequest
from flexai.checkpoints.service.requests import ExportRequest, FetchRequest
from flexai.checkpoints.service.results import (
    CheckpointDetails,
    CheckpointSummary,
    DeletedCheckpoint,
    ProtectedCheckpoint,
    RestoredCheckpoint,
)
from flexai.checkpoints.service.system import System
from flexai.checkpoints.settings import hide_secrets
from flexai.checkpoints.storage.retry import telling_of_retries

if TYPE_CHECKING:
    from flexai.checkpoints.service.diff import DiffReport
    from flexai.checkpoints.service.export import ExportReport
    from flexai.checkpoints.service.verify import VerifyReport
    from flexai.checkpoints.storage.connection import StorageConnection

__all__ = [
    "OnProgress",
    "checkpoints",
    "delete",
    "diff",
    "export",
    "fetch",
    "inspect",
    "list_checkpoints",
    "protect",
    "push",
    "undelete",
    "unprotect",
    "verify",
]

OnProgress: TypeAlias = Callable[[StageProgress], object]
"""Is called when a stage begins, at most ten times a second while it goes on, and when it ends; never twice at once.

The threads that do the work call it, so it should be brief. What it raises ends the operation."""

_SOURCES = "give one of: files; from_provider; from_checkpoint"
_WORDS = {"storage_provider": "from_provider", "source_path": "from_provider"}
"""What fields of a request are called here."""


@checked
def push(
    name: str,
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] = (),
    *,
    from_provider: str = "",
    from_checkpoint: str = "",
    follow_symlinks: bool = False,
    exclude: str | Iterable[str] = (),
    if_not_exists: bool = False,
    rehash: bool = False,
    refuse_executable: bool = False,
    default_excludes: bool = True,
    progress: OnProgress | None = None,
) -> CheckpointDetails:
    """Push a new checkpoint, and return it when it is available.

    From files of this machine, from a storage provider, or from a checkpoint that is here already; one of the three.
    A push of the same name that failed or was interrupted is continued.

    Args:
        name: The checkpoint's name.
        files: A file or folder, or several. A text may be ``SOURCE=DESTINATION``, the path in the checkpoint behind the
            sign; without one a file keeps its name, and a folder's content lands at the checkpoint's root.
        from_provider: ``CONNECTION:BUCKET/PREFIX-or-KEY``, a storage provider connection and what to push from it.
        from_checkpoint: NAME, UUID or JOB/PATH of a checkpoint that is here already; no byte moves.
        follow_symlinks: Push what links inside a source folder lead to, instead of refusing them.
        exclude: Patterns of paths in the checkpoint to leave out, as in a ``.gitignore``; a local folder's own are in
            its ``.flexaiignore``.
        if_not_exists: Succeed where the name is taken by the same content.
        rehash: Read local files again that look unchanged since they were last pushed.
        refuse_executable: Refuse files that run code when they are loaded, or that could not be followed.
        default_excludes: Leave out ``.git``, ``__pycache__`` and the lock files of the Hub's cache in local folders.
        progress: Is called with a StageProgress: bytes, files and seconds. In a notebook a bar is shown without it.

    Returns:
        The checkpoint with its files; sizes in bytes, times in UTC.

    Raises:
        UsageError: No source or several; InvalidNameError for the name; SourceError or UnsafePathError for what cannot
            be pushed.
        AlreadyExistsError: The name is taken; with ``if_not_exists``, by other content.
        ConflictError: Another process is pushing the name.
        NotFoundError: There is no such connection, object or checkpoint.
        SourceChangedError: A source changed while it was read.
        ExecutableContentError: A file runs code when it is loaded, with ``refuse_executable``.
        StorageError: A store failed.

    Example:
        >>> pushed = flexai.push("my-model", files=["out", "config.json=extra/config.json"])
        >>> [(file.path, file.size) for file in pushed.files]
        [('extra/config.json', 2), ('weights.bin', 1024)]
    """
    storage_provider, source_path = _split_provider(from_provider)
    try:
        request = AnyPushRequest(
            name,
            _sources(files),
            storage_provider=storage_provider,
            source_path=source_path,
            from_checkpoint=from_checkpoint,
            follow_symlinks=follow_symlinks,
            exclude=_texts(exclude),
            if_not_exists=if_not_exists,
            rehash=rehash,
            refuse_executable=refuse_executable,
            default_excludes=default_excludes,
        ).request()
    except RequestError as error:
        raise error.worded(lambda field: _WORDS.get(field, field), hint=_SOURCES) from None
    with _system(progress) as (system, shown):
        if isinstance(request, NameRequest):
            from flexai.checkpoints.service.naming import name_checkpoint

            return _details(name_checkpoint(system, request, progress=shown).id)
        from flexai.checkpoints.service.support.unchanged import find_unchanged

        if (unchanged := find_unchanged(system, request)) is not None:
            return _details(unchanged.id)
        from flexai.checkpoints.service.push import push as push_to_store

        return _details(push_to_store(system, request, progress=shown).id)


@checked
def fetch(
    reference: str,
    destination: str | os.PathLike[str] = ".",
    *,
    overwrite: bool = False,
    refuse_executable: bool = False,
    require_digests: bool = False,
    node: int | None = None,
    delete_extra: bool = False,
    force: bool = False,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    only: str | Iterable[str] = (),
    progress: OnProgress | None = None,
) -> FetchReport:
    """Fetch a checkpoint's files, or some of them, into a directory; a fetch that was interrupted is continued.

    A file that is there already with the right content is kept. Every file is checked against its digest before it
    gets its name.

    Args:
        reference: NAME, UUID or JOB/PATH of the checkpoint; with ``:PATH`` behind it only that file or folder of it.
        destination: The directory, made where it is missing; ``~`` is the home directory.
        overwrite: Replace files that are there with other content.
        refuse_executable: Fetch nothing where a file runs code when it is loaded, or could not be followed.
        require_digests: Fetch nothing where a file has neither a digest nor a checksum that it is compared with.
        node: Fetch only what this one has brought of the machines that wrote the checkpoint together.
        delete_extra: Delete what else lies in the directory, which must have been fetched to before.
        force: Do so: without it ExtraFilesError says what would be deleted.
        include: Patterns of the files and folders to fetch, as in a ``.gitignore``; all where there is none.
        exclude: Patterns of what is not fetched of them.
        only: Roles of the files to fetch: ``weights``, ``optimizer``, ``tokenizer``, ``config``, ``state``.
        progress: Is called with a StageProgress: bytes, files and seconds. In a notebook a bar is shown without it.

    Returns:
        What was done: numbers of files, and bytes.

    Raises:
        NotFoundError: There is no such checkpoint, or it has no file that is asked for.
        ConflictError: It is not available; DestinationExistsError for other content in the way; ExtraFilesError for
            what would be deleted, without ``force``.
        IntegrityError: Stored content is damaged; or there is nothing to compare it with, with ``require_digests``.
        ExecutableContentError: A file runs code when it is loaded, with ``refuse_executable``.
        StorageError: The store, or the directory, failed.

    Example:
        >>> flexai.fetch("my-model", "restored").fetched_files
        2
        >>> flexai.fetch("my-model", "restored").kept_files
        2
        >>> part = flexai.fetch("my-model", "part", only="weights")
        >>> part.fetched_files, part.left_out_files
        (1, 1)
    """
    from flexai.checkpoints.service.fetch import fetch as fetch_from_store

    request = FetchRequest(
        reference,
        os.fspath(destination),
        overwrite=overwrite,
        refuse_executable=refuse_executable,
        require_digests=require_digests,
        node=node,
        delete_extra=delete_extra,
        force=force,
        include=_texts(include),
        exclude=_texts(exclude),
        only=_texts(only),
    )
    with _system(progress) as (system, shown):
        return fetch_from_store(system, request, progress=shown)


@checked
def export(
    reference: str,
    storage_provider: str,
    destination_path: str,
    *,
    overwrite: bool = False,
    delete_extra: bool = False,
    force: bool = False,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    only: str | Iterable[str] = (),
    progress: OnProgress | None = None,
) -> "ExportReport":
    """Copy a checkpoint, or a part of it, to a storage provider; an export that was interrupted is continued.

    The provider copies by itself where it can. The object ``flexai-manifest.json`` is finished last, so that a reader
    can tell a whole export from a torn one.

    Args:
        reference: NAME, UUID or JOB/PATH of the checkpoint.
        storage_provider: The name of a storage provider connection.
        destination_path: ``BUCKET/PREFIX`` on that provider.
        overwrite: Replace objects that are there with other content.
        delete_extra: Delete what else lies there, where a checkpoint must have been exported to before.
        force: Do so: without it ExtraFilesError says what would be deleted.
        include: Patterns of the files and folders to export, as in a ``.gitignore``; all where there is none.
        exclude: Patterns of what is not exported of them.
        only: Roles of the files to export: ``weights``, ``optimizer``, ``tokenizer``, ``config``, ``state``.
        progress: Is called with a StageProgress: bytes, files and seconds. In a notebook a bar is shown without it.

    Returns:
        What was done: numbers of files, and bytes.

    Raises:
        NotFoundError: There is no such checkpoint or connection, or the checkpoint has no file that is asked for.
        ConflictError: The checkpoint is not available; DestinationExistsError for other content in the way;
            ExtraFilesError for what would be deleted, without ``force``.
        AccessDeniedError: The provider refused the credentials or a permission.
        StorageError: The provider, or the store, failed.

    Example:
        >>> flexai.export("my-model", "share", "bucket/models/my-model").exported_files
        2
    """
    from flexai.checkpoints.service.export import export as export_to_provider

    request = ExportRequest(
        reference,
        storage_provider,
        destination_path,
        overwrite=overwrite,
        delete_extra=delete_extra,
        force=force,
        include=_texts(include),
        exclude=_texts(exclude),
        only=_texts(only),
    )
    with _system(progress) as (system, shown):
        return export_to_provider(system, request, progress=shown)


@checked
def inspect(reference: str, *, executable: bool = False, tensors: bool = False) -> CheckpointDetails:
    """Look up everything that is known of a checkpoint, and of its files.

    Args:
        reference: NAME, UUID or JOB/PATH of the checkpoint.
        executable: Look into every file, without loading it: ``executable`` of a file is then what it runs when it is
            loaded, and ``not_followed`` what could not be looked into.
        tensors: Read the files' headers: ``tensors`` has then the name, type, shape and bytes of each tensor, by the
            path of its file, and ``tensors_not_read`` why those of a file cannot be told.

    Returns:
        The checkpoint with its files and its exports; sizes in bytes, times in UTC.

    Raises:
        NotFoundError: There is no such checkpoint.
        ConflictError: It is not available, with ``executable`` or ``tensors``.

    Example:
        >>> found = flexai.inspect("my-model")
        >>> found.status.value, found.size, found.source.from_local_files
        ('available', 1026, ('out', 'config.json'))
    """
    return _details(reference, executable=executable, tensors=tensors)


@checked
def diff(before: str, after: str, *, tensors: bool = False, values: bool = False) -> "DiffReport":
    """Compare two checkpoints: their files, and where it is asked for the tensors in them.

    Files are the same by their digests, so nothing is read but where one has none yet.

    Args:
        before: NAME, UUID or JOB/PATH of the first.
        after: NAME, UUID or JOB/PATH of the second.
        tensors: Compare the tensors that the headers of the files tell as well: their names, types and shapes.
        values: Compare the bytes of tensors too that have one name, type and shape; ``tensors`` goes without saying.

    Returns:
        What became of each file and tensor: ``added``, ``removed``, ``changed`` or ``same``.

    Raises:
        NotFoundError: There is no such checkpoint.
        ConflictError: One is not available.
        IntegrityError: Content that has to be read is missing.
        StorageError: The store failed.

    Example:
        >>> found = flexai.diff("my-model", "my-model")
        >>> [(file.path, file.change.value) for file in found.files]
        [('extra/config.json', 'same'), ('weights.bin', 'same')]
    """
    from flexai.checkpoints.service.diff import DiffRequest
    from flexai.checkpoints.service.diff import diff as compare

    request = DiffRequest(before, after, tensors=tensors, values=values)
    return compare(System.open(connect=_connect, read_only=True), request)


@checked
def list_checkpoints(
    patterns: str | Iterable[str] = (),
    *,
    job: str = "",
    owner: str = "",
    status: str = "",
    since: datetime | None = None,
    kind: str = "",
    sort: str = "",
    limit: int = 0,
    deleted: bool = False,
) -> list[CheckpointSummary]:
    """List checkpoints: the pushed ones, oldest first, or what is asked for.

    Args:
        patterns: Those whose names have this text in them, or one of these, or are like such a pattern: ``*`` stands
            for any letters, ``?`` for one. The name of a captured one is ``JOB/CHECKPOINT``.
        job: Those that this training job captured, by its NAME or UUID.
        owner: Those that this user made: ``user@host``, or ``user`` from whatever machine.
        status: Those with this status.
        since: Those that are made since this time.
        kind: ``pushed``, ``captured`` or ``all``; by default pushed ones, and captured ones where a job or a pattern
            with a ``/`` says so.
        sort: ``size`` (the largest first), ``created`` (the newest first), ``name``, or a metric as
            ``NAME[:min|max]`` (the best first).
        limit: So many at most: the first of the order, or without one the newest; 0 for all.
        deleted: List the deleted checkpoints that can still come back instead.

    Returns:
        The checkpoints; sizes in bytes, times in UTC.

    Raises:
        UsageError: A status, a kind or an order that is none.
        NotFoundError: There is no such training job.
        StorageUnavailableError: The catalog does not answer.

    Example:
        >>> [(one.name, one.size) for one in flexai.list_checkpoints()]
        [('my-model', 1026)]
    """
    from flexai.checkpoints.service import listing

    wanted = (patterns,) if isinstance(patterns, str) else tuple(patterns)
    request = listing.ListRequest(wanted, job, owner, status, since, kind, sort, limit, deleted)
    with look_at_catalog(_connect) as catalog:
        return [CheckpointSummary.of(row) for row in listing.list_checkpoints(catalog, request)]


@checked
def checkpoints(job: str) -> list[CheckpointSummary]:
    """List the checkpoints that a training job wrote, in the order of their capture; also while it runs.

    Those of several machines are among them while parts are missing: their status is then ``incomplete``.

    Args:
        job: NAME or UUID of the training job.

    Returns:
        The checkpoints with their steps and metrics; sizes in bytes, times in UTC.

    Raises:
        NotFoundError: There is no such training job.

    Example:
        >>> [(one.name, one.step, one.resumable) for one in flexai.checkpoints("my-run")]
        [('checkpoint-5', 5, True)]
    """
    from flexai.checkpoints.service.inspect import captured_rows

    with look_at_catalog(_connect) as catalog:
        rows, _ = captured_rows(catalog, job)
    return [CheckpointSummary.of(row) for row in rows]


@checked
def delete(reference: str, *, force: bool = False) -> DeletedCheckpoint:
    """Delete a checkpoint: its name is free at once, its bytes go with the first gc after the grace period.

    Args:
        reference: NAME, UUID or JOB/PATH of the checkpoint.
        force: Delete it also where another user made it.

    Returns:
        Which it was; :func:`undelete` brings it back by its id.

    Raises:
        NotFoundError: There is no such checkpoint.
        ConflictError: It is being pushed, or is protected; NotYoursError where another user made it.

    Example:
        >>> flexai.delete("my-model").name
        'my-model'
    """
    from flexai.checkpoints.service.delete import delete as delete_from_catalog

    request = DeleteRequest(reference, force=force)
    with _system() as (system, _):
        deleted = delete_from_catalog(system, request)
    return DeletedCheckpoint(name=deleted.name, id=deleted.id, job=deleted.job_name)


@checked
def undelete(reference: str, new_name: str = "") -> RestoredCheckpoint:
    """Bring back a deleted checkpoint, as long as gc has not taken its bytes.

    Args:
        reference: The name that it had, or its UUID; of several with the name, the one deleted last is meant.
        new_name: Another name for it; the old one where empty.

    Returns:
        Which it is, and its status.

    Raises:
        NotFoundError: There is none that could come back.
        AlreadyExistsError: The name is in use again.

    Example:
        >>> flexai.undelete("my-model").title
        'my-model'
    """
    from flexai.checkpoints.service.delete import undelete as undelete_in_catalog

    request = UndeleteRequest(reference, new_name)
    with _system() as (system, _):
        back = undelete_in_catalog(system, request)
    return RestoredCheckpoint(name=back.name, id=back.id, job=back.job_name, title=back.title, status=back.status)


@checked
def protect(references: str | Iterable[str], *, force: bool = False) -> list[ProtectedCheckpoint]:
    """Keep checkpoints from being deleted, by users and by retention rules; all that are named, or none.

    Args:
        references: NAME, UUID or JOB/PATH of a checkpoint, or of several.
        force: Protect them also where another user made them.

    Returns:
        Which they are, in that order; :func:`unprotect` lets them be deleted again.

    Raises:
        UsageError: No checkpoint is named.
        NotFoundError: One is not there.
        ConflictError: One is not available; NotYoursError where another user made it.

    Example:
        >>> [(one.title, one.protected) for one in flexai.protect("my-model")]
        [('my-model', True)]
    """
    return _protect(ProtectRequest(_texts(references), force=force))


@checked
def unprotect(references: str | Iterable[str], *, force: bool = False) -> list[ProtectedCheckpoint]:
    """Let protected checkpoints be deleted again; all that are named, or none. Deletes nothing by itself.

    Args:
        references: NAME, UUID or JOB/PATH of a checkpoint, or of several.
        force: Take the protection away also where another user made them.

    Returns:
        Which they are, in that order.

    Raises:
        UsageError: No checkpoint is named.
        NotFoundError: One is not there.
        ConflictError: One is not available; NotYoursError where another user made it.

    Example:
        >>> [(one.title, one.protected) for one in flexai.unprotect("my-model")]
        [('my-model', False)]
    """
    return _protect(ProtectRequest(_texts(references), protected=False, force=force))


@checked
def verify(
    references: str | Iterable[str] = (), *, repair: bool = False, progress: OnProgress | None = None
) -> "VerifyReport":
    """Read checkpoints and compare every part with its digest; all of them, where none is named.

    Args:
        references: NAME, UUID or JOB/PATH of each checkpoint.
        repair: Put content of an export in the place of all that is known to be damaged; only what cannot be repaired
            is an error then.
        progress: Is called with a StageProgress: bytes, files and seconds. In a notebook a bar is shown without it.

    Returns:
        What was read, in contents and bytes, and what was repaired.

    Raises:
        IntegrityError: Content is damaged; ``damaged`` of the error has each content with its problem, and the
            checkpoints and files that need it.
        NotFoundError: There is no such checkpoint.
        StorageError: The store failed.

    Example:
        >>> flexai.verify("my-model").checked_bytes
        1026
    """
    from flexai.checkpoints.service.store_requests import VerifyRequest
    from flexai.checkpoints.service.verify import verify as verify_store

    request = VerifyRequest([references] if isinstance(references, str) else tuple(references), repair=repair)
    with _system(progress) as (system, shown):
        report = verify_store(system, request, progress=shown)
    report.raise_if_damaged()
    return report


@contextmanager
def _system(progress: OnProgress | None = None) -> Iterator[tuple[System, Progress]]:
    """The system, and what an operation reports to."""
    shown: Progress = _Notes()
    if progress is None:
        from flexai.notebook import NotebookBar, is_notebook

        progress = NotebookBar() if is_notebook() else None
    if progress is not None:
        shown = CalledProgress(progress, shown)
    with System.open(connect=_connect) as system, telling_of_retries(shown.note):
        yield system, shown


class _Notes(Progress):
    """Logs what a person would want to know, as a warning of the logger ``flexai``."""

    def note(self, message: str) -> None:
        logging.getLogger("flexai").warning("%s", printable(message))


def _connect(name: str) -> "StorageConnection":
    # Prefect is imported here, and nowhere else.
    from flexai.blocks import load_connection

    return load_connection(name)


def _details(reference: str, *, executable: bool = False, tensors: bool = False) -> CheckpointDetails:
    from flexai.checkpoints.service.inspect import look_up, tensors_of, with_code

    with look_at_catalog(_connect) as catalog:
        checkpoint, files, exports = look_up(catalog, reference)
    if executable:
        files = with_code(checkpoint, files, connect=_connect)
    details = CheckpointDetails.of(checkpoint, files, exports)
    if not tensors:
        return details
    told, untold = tensors_of(checkpoint, connect=_connect)
    return replace(details, tensors=told, tensors_not_read=untold)


def _protect(request: ProtectRequest) -> list[ProtectedCheckpoint]:
    from flexai.checkpoints.service.delete import protect as protect_in_catalog

    with _system() as (system, _):
        changed = protect_in_catalog(system, request)
    return [
        ProtectedCheckpoint(name=one.name, id=one.id, job=one.job_name, title=one.title, protected=one.is_protected)
        for one in changed
    ]


def _sources(files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    several = [files] if isinstance(files, str | os.PathLike) else files
    return [os.fspath(one) for one in several]


def _texts(given: str | Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _split_provider(place: str) -> tuple[str, str]:
    connection, separator, path = place.partition(":")
    if place and (not (connection and separator and path) or path.startswith("/")):
        raise UsageError(
            f"from_provider {hide_secrets(place)!r} is no place at a provider", hint="write CONNECTION:BUCKET/PATH"
        )
    return connection, path
