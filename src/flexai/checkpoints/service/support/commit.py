"""What push and capture share: store the sources, write the manifest, say that the checkpoint is available."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from flexai.checkpoints.catalog.leases import Lease, LeaseKeeper
from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.errors import AccessDeniedError, CheckpointError, StorageFullError, UsageError
from flexai.checkpoints.models import Checkpoint, CheckpointKind, TrainingFacts, now
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.support.manifest_writer import write_manifest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.transfer.crew import give_way
from flexai.checkpoints.transfer.first_reading import learn
from flexai.checkpoints.transfer.sources import FileSource
from flexai.checkpoints.transfer.stored_body import hold_exactly
from flexai.checkpoints.transfer.upload import AlreadyStored, upload

_REFUSALS = (UsageError, AccessDeniedError, StorageFullError)


def store(
    system: System,
    checkpoint: Checkpoint,
    lease: Lease,
    sources: Sequence[FileSource],
    *,
    folders: Sequence[str] = (),
    facts: TrainingFacts | None = None,
    run_shards: Callable[[], AlreadyStored] = AlreadyStored,
    enter: Callable[[Sequence[StoredFile]], Checkpoint] | None = None,
    progress: Progress,
) -> tuple[Checkpoint, Mapping[str, StoredContent]]:
    """Bring the sources into the store for a checkpoint that this process holds, and make it available.

    Returns the checkpoint, and the content of each of its files by path. The order is the design: blobs, then the
    manifest, then the catalog's word. An error, or a signal, leaves the checkpoint ``failed`` with the reason; what has
    arrived stays, and the next try goes on with it. ``run_shards`` has other processes store some of it before this one
    stores the rest. ``folders`` are its empty ones. ``enter`` is called with the files instead of ``commit``.
    """
    checkpoint_id = checkpoint.id
    outer = give_way.get()

    def look_up() -> None:
        outer()
        system.check_claim()

    make_available: Callable[[], Checkpoint]

    def describe(contents: Mapping[str, StoredContent]) -> None:
        nonlocal make_available
        _ = system.own_store_id  # all of it is this catalog's before it is available
        files = [StoredFile(one.path, contents[one.path], one.is_executable) for one in sources]
        if enter is None:
            make_available = _describe(system, checkpoint, lease, files, folders=folders, facts=facts)
        else:
            make_available = partial(enter, files)

    token = give_way.set(look_up)
    try:
        # A caller's progress may raise, and this process must be able to try again.
        progress.begin(
            f"push {checkpoint.title}",
            total_bytes=sum(source.size for source in sources),
            total_files=len(sources),
        )
        with LeaseKeeper(lambda: system.catalog.checkpoints.renew(checkpoint_id, lease)):
            contents = upload(
                sources,
                checkpoint_id=checkpoint_id,
                store=system.store,
                journal=system.blobs,
                limits=system.settings.limits,
                progress=progress,
                already=run_shards(),
                then=describe,
            )
            return make_available(), contents
    except BaseException as error:
        give_up(system, checkpoint, lease, error)
        raise
    finally:
        give_way.reset(token)
        progress.end()


def same_content(system: System, checkpoint_id: str, sources: Sequence[FileSource], *, is_part: bool = False) -> bool:
    """Whether the sources are exactly a checkpoint's files, or with ``is_part`` those of them that have their paths.

    Raises SourceChangedError or SourceError for a source.
    """

    def learned(content: StoredContent) -> StoredContent:
        return learn(content, store=system.store, record=system.blobs.learn, check=lambda: None)

    files = system.blobs.files_of(checkpoint_id)
    if is_part:
        paths = {source.path for source in sources}
        files = [file for file in files if file.path in paths]
    return hold_exactly(files, sources, learn=learned, concurrency=system.settings.concurrency)


def commit(
    system: System,
    checkpoint: Checkpoint,
    lease: Lease,
    files: Sequence[StoredFile],
    *,
    folders: Sequence[str] = (),
    facts: TrainingFacts | None = None,
) -> Checkpoint:
    """Write the manifest and make the checkpoint available."""
    return _describe(system, checkpoint, lease, files, folders=folders, facts=facts)()


def _describe(
    system: System,
    checkpoint: Checkpoint,
    lease: Lease,
    files: Sequence[StoredFile],
    *,
    folders: Sequence[str],
    facts: TrainingFacts | None,
) -> Callable[[], Checkpoint]:
    """Write the manifest; returns what makes the checkpoint available."""
    described = replace(checkpoint, facts=facts or checkpoint.facts, folders=tuple(folders), updated_at=now())
    manifest = write_manifest(system.store, described, files)
    return partial(
        system.catalog.checkpoints.commit,
        checkpoint.id,
        lease,
        manifest=manifest,
        files=files,
        facts=facts,
        time=described.updated_at,
    )


def give_up(system: System, checkpoint: Checkpoint, lease: Lease, error: BaseException) -> None:
    """Record why a checkpoint could not be stored; a push that was refused before anything arrived leaves no trace."""
    reason = error.message if isinstance(error, CheckpointError) else _reason(error)
    try:
        system.catalog.checkpoints.fail(checkpoint.id, lease, reason)
        if checkpoint.kind is CheckpointKind.PUSHED and isinstance(error, _REFUSALS):
            system.catalog.checkpoints.discard_failed(checkpoint.id, unless_arrived=True)
    except CheckpointError as second:
        # The catalog is gone as well, or another process has taken over: the first error is the one to tell. A process
        # that lives on, as a worker does, must be able to try again.
        lease.drop()
        error.add_note(f"the failure could not be recorded: {second.message}")


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted by {signal.Signals.SIGINT.name}"
    return f"{type(error).__name__}: {error}"
