"""Capture: store what a training job wrote as a checkpoint of that job."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from flexai.checkpoints.catalog.leases import Lease
from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.errors import SourceChangedError, SourceError
from flexai.checkpoints.models import Checkpoint, Source, TrainingFacts, TrainingJob
from flexai.checkpoints.paths import only_empty, parse_path
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.store_owner import write_due_records
from flexai.checkpoints.service.support import commit
from flexai.checkpoints.service.support.parts import NodePart, commit_part
from flexai.checkpoints.service.system import System
from flexai.checkpoints.transfer.scan import check_sources
from flexai.checkpoints.transfer.sources import Identity, LocalSource


def capture(
    system: System,
    *,
    job: TrainingJob,
    name: str,
    node: str,
    files: Mapping[str, Path],
    folders: Sequence[str] = (),
    facts: TrainingFacts,
    identities: Mapping[str, Identity] | None = None,
    again: Checkpoint | None = None,
    on_begun: Callable[[Checkpoint], object] = lambda _checkpoint: None,
    part: NodePart | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Store files (path in the checkpoint → local file) as a captured checkpoint of a job and return it, available.

    ``folders`` are the paths of its empty folders.

    With ``part`` they are what one of several machines has of it; the checkpoint that is returned is the one that the
    part belongs to, which may be incomplete.

    ``identities`` says what each file was when the checkpoint was found to be whole; without it what it is now counts.
    ``again`` is an earlier try at the same: it is continued, with its place in the job's order, where it is there yet.
    ``on_begun`` is handed what is there of the checkpoint before its content is.
    Raises SourceError where there is none or one is no plain file, UnsafePathError for a path that a checkpoint cannot
    hold, SourceChangedError where a file is gone or changes while it is read.
    """
    if not files:
        raise SourceError(f"captured checkpoint {name!r} holds no file")
    sources = []
    for path, local_path in files.items():
        try:
            status = local_path.lstat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise SourceChangedError(f"source {local_path} vanished before it was read") from error
        if not stat.S_ISREG(status.st_mode):
            raise SourceError(f"source {local_path} is no plain file")
        source = LocalSource.of(parse_path(path), local_path, status)
        if identities is not None and source.identity != identities[path]:
            raise SourceChangedError(f"source {local_path} changed before it was read")
        sources.append(source)
    empty = only_empty(map(parse_path, folders), files)
    check_sources(sources, empty)
    begun = None if again is None else system.catalog.checkpoints.continue_capture(again.id)
    checkpoint, lease = begun or _begin(system, job=job, name=name, node=node)
    on_begun(checkpoint)
    enter = None if part is None else partial(_enter, system, checkpoint, lease, part, facts, empty)
    progress = progress or Progress()
    try:
        captured, _ = commit.store(
            system, checkpoint, lease, sources, folders=empty, facts=facts, enter=enter, progress=progress
        )
        write_due_records(system)
        return captured
    except SourceChangedError:
        # It was no checkpoint yet: the one that the change leads to is captured under a number of its own.
        system.catalog.checkpoints.discard_failed(checkpoint.id)
        raise


def announce(system: System, *, job: TrainingJob, name: str, node: str, reason: str) -> Checkpoint:
    """Give a captured checkpoint its place in the job's order, for ``capture`` to store it later, and return it.

    ``reason`` says why it is not stored yet.
    """
    checkpoint, lease = _begin(system, job=job, name=name, node=node)
    system.catalog.checkpoints.fail(checkpoint.id, lease, reason)
    return checkpoint


def _begin(system: System, *, job: TrainingJob, name: str, node: str) -> tuple[Checkpoint, Lease]:
    return system.catalog.checkpoints.begin_capture(
        job_id=job.id,
        name=name,
        node=node,
        owner=system.owner,
        source=Source(from_local_files=(str(Path(job.output_dir, name)),)),
        store_id=system.claim_store(),
        parent_id=None if job.input_checkpoint_id is None else job.input_checkpoint_id,
    )


def _enter(
    system: System,
    checkpoint: Checkpoint,
    lease: Lease,
    part: NodePart,
    facts: TrainingFacts,
    folders: Sequence[str],
    files: Sequence[StoredFile],
) -> Checkpoint:
    return commit_part(system, checkpoint, lease, files, part, folders=folders, facts=facts)
