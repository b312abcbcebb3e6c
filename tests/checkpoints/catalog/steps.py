"""The steps of a push as the catalog sees them, without a store: what tests and their other processes are made of."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

from blake3 import blake3
from sqlalchemy import insert, select, update

from flexai.checkpoints.catalog.blobs import Blobs
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.leases import Lease
from flexai.checkpoints.catalog.tables import blob_references, blobs, checkpoints, files, jobs
from flexai.checkpoints.contents import NewContent, StoredContent, StoredFile
from flexai.checkpoints.errors import ConflictError, NotFoundError
from flexai.checkpoints.manifest import FileEntry, Manifest
from flexai.checkpoints.models import Checkpoint, CheckpointStatus, JobStatus, Source, TrainingFacts, now, to_text
from flexai.checkpoints.names import new_id, parse_name, parse_reference
from flexai.checkpoints.owner import Owner
from tests.checkpoints.samples import OWNER
from tests.support.tables import tables_of

STORE_ID = "11111111-2222-3333-4444-555555555555"
OTHER_STORE_ID = "99999999-2222-3333-4444-555555555555"
LATER = datetime(9000, 1, 1, tzinfo=UTC)
PART_SIZE = 1024


def begin(
    catalog: Catalog,
    name: str = "llama",
    *,
    owner: Owner = OWNER,
    status: CheckpointStatus = CheckpointStatus.UPLOADING,
    store_id: str = STORE_ID,
    parent_id: str | None = None,
) -> tuple[str, Lease]:
    """Begin a push; returns the checkpoint's id and the lease."""
    checkpoint, lease = catalog.checkpoints.begin_push(
        parse_name(name),
        owner=owner,
        source=Source(from_local_files=(f"{name}.bin",)),
        status=status,
        store_id=store_id,
        parent_id=parent_id,
    )
    return checkpoint.id, lease


def content_of(text: bytes, *, start: int = 0) -> NewContent:
    """A small content as a transfer hands it over."""
    digest = blake3(text).digest()
    return NewContent(start=start, size=len(text), part_size=PART_SIZE, digest=digest, part_digests=digest)


def store(blobs: Blobs, checkpoint_id: str, text: bytes, path: str = "model.bin") -> StoredContent:
    """Announce a blob, and say that all of it arrived."""
    blob_id = blobs.begin(writer_id=checkpoint_id, path=path, size=len(text), part_size=PART_SIZE)
    (stored,) = blobs.finish(blob_id, [content_of(text)])
    return stored


def manifest_of(contents: Mapping[str, StoredContent]) -> Manifest:
    """The manifest of stored contents by path."""
    return Manifest(
        files=tuple(
            FileEntry(
                path=path,
                size=content.size,
                digest=None if content.digest is None else content.digest.hex(),
                part_size=content.part_size,
            )
            for path, content in sorted(contents.items())
        )
    )


def commit(
    catalog: Catalog,
    checkpoint_id: str,
    lease: Lease,
    contents: Mapping[str, StoredContent],
    facts: TrainingFacts | None = None,
) -> Checkpoint:
    """Say that a checkpoint is available with these contents."""
    return catalog.checkpoints.commit(
        checkpoint_id,
        lease,
        manifest=manifest_of(contents).summary,
        files=[StoredFile(path, content) for path, content in contents.items()],
        facts=facts,
    )


def push(catalog: Catalog, name: str = "llama", files: Mapping[str, bytes] | None = None) -> Checkpoint:
    """A whole push: every file a blob of its own, contents that are there already used again."""
    files = files or {"model.bin": name.encode()}
    blobs = catalog.blobs(STORE_ID)
    checkpoint_id, lease = begin(catalog, name)
    held = blobs.hold_by_digest(checkpoint_id, [blake3(text).hexdigest() for text in files.values()])
    contents = {}
    for path, text in files.items():
        digest = blake3(text).hexdigest()
        if digest not in held:
            held[digest] = store(blobs, checkpoint_id, text, path)
        contents[path] = held[digest]
    return commit(catalog, checkpoint_id, lease, contents)


def add_job(catalog: Catalog, name: str = "train") -> str:
    """A training job's row; returns its id."""
    job_id = new_id()
    time = "2025-02-03T13:14:37.730471Z"
    with tables_of(catalog.database) as connection:
        connection.execute(
            insert(jobs).values(
                id=job_id,
                name=name,
                name_key=name,
                creator_user_id=str(OWNER.user_id),
                owner_org_id=str(OWNER.org_id),
                status=JobStatus.IN_PROGRESS,
                reason="",
                command="[]",
                env_names="[]",
                attempt=1,
                output_dir="/out",
                log_path="/log",
                stop_requested=False,
                created_at=time,
                started_at=time,
                updated_at=time,
            )
        )
    return job_id


def capture(catalog: Catalog, job_id: str, name: str = "checkpoint-5", *, node: str = "0") -> tuple[str, Lease]:
    """Announce a checkpoint of a training job; returns its id and the lease."""
    checkpoint, lease = catalog.checkpoints.begin_capture(
        job_id=job_id, name=name, node=node, owner=OWNER, source=Source(), store_id=STORE_ID, parent_id=None
    )
    return checkpoint.id, lease


def collect(catalog: Catalog, *, store_id: str = STORE_ID) -> list[str]:
    """What gc does once every grace period is over; returns the ids of the blobs it removed."""
    found = catalog.blobs(store_id)
    catalog.garbage(store_id).give_up_abandoned(before=LATER)
    purged = catalog.garbage(store_id).purge_deleted(before=LATER)
    removed = [blob_id for blob_id, _, _ in found.unneeded() if found.mark_deleting(blob_id)]
    for blob_id in removed:
        found.forget(blob_id)
    for checkpoint_id in purged:
        catalog.garbage(store_id).forget([checkpoint_id])
    return removed


def referenced(catalog: Catalog, checkpoint_id: str) -> set[str]:
    """The ids of the blobs that a checkpoint refers to."""
    query = select(blob_references.c.blob_id).where(blob_references.c.checkpoint_id == checkpoint_id)
    with tables_of(catalog.database) as connection:
        return set(connection.execute(query).scalars())


def blob_statuses(catalog: Catalog) -> dict[str, str]:
    """Every blob's status."""
    with tables_of(catalog.database) as connection:
        return {row.id: row.status for row in connection.execute(select(blobs.c.id, blobs.c.status))}


def set_columns(catalog: Catalog, checkpoint_id: str, **values: object) -> None:
    """Change a checkpoint's row as time or another machine would have."""
    with tables_of(catalog.database) as connection:
        connection.execute(update(checkpoints).where(checkpoints.c.id == checkpoint_id).values(values))


def columns(catalog: Catalog, checkpoint_id: str, *names: str) -> Sequence[object]:
    """Some columns of a checkpoint's row."""
    query = select(*(checkpoints.c[name] for name in names)).where(checkpoints.c.id == checkpoint_id)
    with tables_of(catalog.database) as connection:
        return tuple(connection.execute(query).one())


def all_references(catalog: Catalog) -> dict[str, set[str]]:
    """The ids of the blobs that each checkpoint refers to."""
    found: dict[str, set[str]] = {}
    with tables_of(catalog.database) as connection:
        for row in connection.execute(select(blob_references)):
            found.setdefault(row.checkpoint_id, set()).add(row.blob_id)
    return found


def all_files(catalog: Catalog) -> dict[str, dict[str, int]]:
    """The id of the content of each path of each checkpoint."""
    found: dict[str, dict[str, int]] = {}
    with tables_of(catalog.database) as connection:
        for row in connection.execute(select(files)):
            found.setdefault(row.checkpoint_id, {})[row.path] = row.content_id
    return found


def delete(catalog: Catalog, reference: object) -> Checkpoint:
    """Delete a checkpoint."""
    return catalog.checkpoints.delete(parse_reference(str(reference)))


def undelete(catalog: Catalog, reference: object, new_name: str = "") -> Checkpoint:
    """Bring a deleted checkpoint back, under another name if one is given."""
    return catalog.checkpoints.undelete(
        parse_reference(str(reference)), new_name=parse_name(new_name) if new_name else None
    )


def fail(catalog: Catalog, name: str = "llama", reason: str = "the disk is full") -> str:
    """A push that failed; returns its checkpoint's id."""
    checkpoint_id, lease = begin(catalog, name)
    catalog.checkpoints.fail(checkpoint_id, lease, reason)
    return checkpoint_id


def move_elsewhere(catalog: Catalog, checkpoint_id: str, *, lapsed: bool) -> None:
    """Let another machine hold the lease, in time or not."""
    until = now() + timedelta(seconds=-1 if lapsed else 60)
    set_columns(catalog, checkpoint_id, claim_host="elsewhere/boot/pid:[1]", claim_until=to_text(until))


def at_once(work: Callable[[int], Any], times: int = 8) -> list[Any]:
    """Do something in many threads at the same moment; returns results and errors."""
    barrier = threading.Barrier(times)

    def run(number: int) -> Any:
        barrier.wait()
        try:
            return work(number)
        except (ConflictError, NotFoundError) as error:
            return error

    with ThreadPoolExecutor(times) as pool:
        return list(pool.map(run, range(times)))
