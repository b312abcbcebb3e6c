"""Entering a checkpoint that only the store's manifest still describes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Set
from typing import Any, TypeAlias

from flexai.checkpoints.catalog.blobs import values_of
from flexai.checkpoints.catalog.checkpoint_rows import row_of
from flexai.checkpoints.catalog.database import MIGRATION_LOCK, Database, Transaction, batches
from flexai.checkpoints.contents import RECOVERED, NewContent
from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.manifest import Manifest
from flexai.checkpoints.models import Checkpoint, CheckpointStatus, JobStatus, to_text
from flexai.checkpoints.names import name_key

_Place: TypeAlias = tuple[str, int, int, int, str | None]
"""Where a content lies (its blob, its first byte, its size), and by which parts and digest it is compared."""

RECOVERY_LOCK = MIGRATION_LOCK + 1
"""PostgreSQL advisory lock held while a checkpoint is entered."""


def enter_recovered(
    database: Database,
    checkpoint: Checkpoint,
    manifest: Manifest,
    ranges: Mapping[str, tuple[str, NewContent]],
    blob_sizes: Mapping[str, int],
) -> bool:
    """Enter a checkpoint with its files, contents and blobs as available; False where the catalog knows it.

    ``ranges`` gives each file's blob and range, ``blob_sizes`` the bytes of each blob. A name that another
    checkpoint has by now is left to it. Raises IntegrityError where gc is taking one of the blobs.
    """
    row = row_of(checkpoint) | {
        "status": CheckpointStatus.AVAILABLE,
        "size": manifest.size,
        "file_count": len(manifest.files),
        "manifest_digest": manifest.digest(),
    }
    with database.writing() as transaction:
        # One at a time: what two recoveries enter may overlap in jobs, blobs and contents.
        transaction.lock(RECOVERY_LOCK)
        if transaction.row("SELECT id FROM checkpoints WHERE id = :id", id=row["id"]):
            return False
        if checkpoint.job_id is not None:
            _enter_job(transaction, checkpoint)
        _insert_named(transaction, "checkpoints", row)
        status_of = f"SELECT status FROM blobs WHERE id = :id {transaction.locking('FOR UPDATE')}"
        for blob_id in sorted({blob_id for blob_id, _ in ranges.values()}):
            status = transaction.value(status_of, id=blob_id)
            if status not in {None, "stored"}:
                raise IntegrityError(f"blob {blob_id} is being deleted or is not whole")
            if status is None:
                transaction.insert(
                    "blobs",
                    {
                        "id": blob_id,
                        "store_id": checkpoint.store_id,
                        "size": blob_sizes[blob_id],
                        "status": "stored",
                        "created_at": row["created_at"],
                    },
                )
            transaction.insert("blob_references", {"checkpoint_id": row["id"], "blob_id": blob_id})
        content_ids = _enter_contents(transaction, ranges.values())
        files = (
            {"checkpoint_id": row["id"], "path": path, "content_id": content_ids[_place(blob_id, content)]}
            for path, (blob_id, content) in ranges.items()
        )
        for batch in batches(files):
            transaction.insert("files", *batch)
        return True


def _insert_named(transaction: Transaction, table: str, row: dict[str, Any]) -> None:
    """Insert a row with its name, or without where another one has the name."""
    if not transaction.insert(table, row, otherwise="ON CONFLICT (name_key) DO NOTHING"):
        transaction.insert(table, row | {"name_key": None})


def _enter_job(transaction: Transaction, checkpoint: Checkpoint) -> None:
    """Enter the job of a captured checkpoint as far as the checkpoint tells of it."""
    job_id = checkpoint.job_id
    if transaction.row("SELECT id FROM jobs WHERE id = :id", id=job_id):
        return
    time = to_text(checkpoint.created_at)
    row = {
        "id": job_id,
        "name": checkpoint.job_name,
        "name_key": name_key(checkpoint.job_name),
        "creator_user_id": checkpoint.creator_user_id,
        "owner_org_id": checkpoint.owner_org_id,
        "status": JobStatus.INTERRUPTED,
        "reason": "recovered from the managed store, which does not tell how the job ended",
        "command": "[]",
        "env_names": "[]",
        "attempt": 1,
        "output_dir": "",
        "log_path": "",
        "host": "",
        "code_commit": "",
        "stop_requested": False,
        "created_at": time,
        "started_at": time,
        "ended_at": time,
        "updated_at": time,
    }
    _insert_named(transaction, "jobs", row)


def _enter_contents(transaction: Transaction, found: Collection[tuple[str, NewContent]]) -> dict[_Place, int]:
    """Enter the contents that are not known yet; returns the id of each by its place.

    What a manifest says of them is a claim: it identifies nothing until their bytes were compared with it. One that
    is known with another digest stays as it is, so that no manifest changes what another checkpoint is compared with.
    """
    blob_ids = {blob_id for blob_id, _ in found}
    seen: set[_Place] = set(_known_contents(transaction, blob_ids))

    def rows() -> Iterator[dict[str, Any]]:
        for blob_id, content in found:
            if (place := _place(blob_id, content)) not in seen:
                seen.add(place)
                yield values_of(blob_id, content._replace(origin="" if content.digest is None else RECOVERED))

    for batch in batches(rows()):
        transaction.insert("contents", *batch)
    seen.clear()
    return _known_contents(transaction, blob_ids)


def _known_contents(transaction: Transaction, blob_ids: Set[str]) -> dict[_Place, int]:
    query = "SELECT blob_id, start, size, part_size, digest, id FROM contents WHERE blob_id IN :blob_ids"
    found = {}
    for batch in batches(sorted(blob_ids)):
        for blob_id, start, size, part_size, digest, content_id in transaction.rows(query, blob_ids=batch):
            found[blob_id, start, size, min(part_size, size), digest] = content_id
    return found


def _place(blob_id: str, content: NewContent) -> _Place:
    digest = None if content.digest is None else content.digest.hex()
    return blob_id, content.start, content.size, min(content.part_size, content.size), digest
