"""Entering checkpoints and jobs that only the store still describes, or knows more of than the catalog."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple, TypeAlias

from flexai.checkpoints.catalog.blobs import values_of
from flexai.checkpoints.catalog.changes import STORING, Kind, set_due, told_more
from flexai.checkpoints.catalog.checkpoint_rows import row_of
from flexai.checkpoints.catalog.database import MIGRATION_LOCK, Database, Record, Transaction, batches, begun_again
from flexai.checkpoints.catalog.identity import organisation
from flexai.checkpoints.catalog.leases import NO_LEASE, is_held
from flexai.checkpoints.catalog.soundness import release
from flexai.checkpoints.contents import RECOVERED, NewContent
from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.models import (
    Checkpoint,
    CheckpointStatus,
    ExportRecord,
    HistoryEntry,
    JobStatus,
    ManifestSummary,
    TrainingJob,
    to_text,
)
from flexai.checkpoints.names import name_key

_Place: TypeAlias = tuple[str, int, int, int, str | None]
"""Where a content lies (its blob, its first byte, its size), and by which parts and digest it is compared."""

RECOVERY_LOCK = MIGRATION_LOCK + 1
"""PostgreSQL advisory lock held while a checkpoint is entered."""


class FoundCheckpoint(NamedTuple):
    """A checkpoint as the store describes it."""

    checkpoint: Checkpoint
    """As its record says that it was at the last change, or else its manifest."""
    manifest: ManifestSummary
    ranges: Mapping[str, tuple[str, NewContent]]
    """Each file's blob and range."""
    exports: Sequence[ExportRecord] = ()
    history: Sequence[HistoryEntry] = ()
    executable: Set[str] = frozenset()
    """The paths of the files that may be executed."""


_OWN = frozenset({"id", "manifest_digest", "store_id", "reason"})
"""What the catalog itself knows of a checkpoint: that it is damaged, too."""


class Described(NamedTuple):
    """What the store should describe of what the catalog knows: ids."""

    manifests: Set[str]
    records: Mapping[Kind, Set[str]]


def described_of(database: Database, store_id: str) -> Described:
    """What a store should describe. A checkpoint that has not changed since its manifest was written has no record."""
    kept = "c.store_id = :store_id AND c.part_of IS NULL AND c.manifest_digest IS NOT NULL"
    changed = f"""
        SELECT c.id FROM checkpoints c JOIN history h ON h.subject_id = c.id WHERE {kept}
        GROUP BY c.id HAVING COUNT(*) > 1
    """
    jobs = "SELECT DISTINCT job_id FROM checkpoints WHERE store_id = :store_id AND job_id IS NOT NULL"
    with database.reading() as transaction:
        manifests = set(transaction.column(f"SELECT c.id FROM checkpoints c WHERE {kept}", store_id=store_id))
        records = set(transaction.column(changed, store_id=store_id))
        return Described(manifests, {"checkpoint": records, "job": set(transaction.column(jobs, store_id=store_id))})


@begun_again
def enter_recovered(database: Database, found: Sequence[FoundCheckpoint], blob_sizes: Mapping[str, int]) -> list[bool]:
    """Enter checkpoints with their files, contents and blobs, all of them or none; says which are news to the catalog.

    One that the catalog knows is brought up to what the store knows of it, where that is more; a push of it that was
    cut off when all was there is finished. ``blob_sizes`` are the bytes of each blob. A name that another checkpoint
    has by now is left to it. Raises IntegrityError where gc is taking one of the blobs, ConstraintError where the
    catalog contradicts it.
    """
    with database.writing() as transaction:
        # One at a time: what two recoveries enter may overlap in jobs, blobs and contents.
        transaction.lock(RECOVERY_LOCK)
        if not transaction.is_postgresql:
            # What 100,000 checkpoints bring goes all over the indexes: and SQLite keeps only 2 MiB.
            transaction.rows("PRAGMA cache_size=-65536")
        return [_enter(transaction, one, blob_sizes) for one in found]


def _enter(transaction: Transaction, found: FoundCheckpoint, blob_sizes: Mapping[str, int]) -> bool:
    checkpoint = found.checkpoint
    is_deleted = checkpoint.status is CheckpointStatus.DELETING
    row = row_of(checkpoint) | {
        "status": CheckpointStatus.DELETING if is_deleted else CheckpointStatus.AVAILABLE,
        "reason": "",
        "size": found.manifest.size,
        "file_count": found.manifest.file_count,
        "manifest_digest": found.manifest.digest,
        "folders": json.dumps(list(found.manifest.folders)),
    }
    if is_deleted:
        row["name_key"] = None
    lock = transaction.locking("FOR UPDATE")
    known = transaction.record(f"SELECT * FROM checkpoints WHERE id = :id {lock}", id=row["id"])
    is_ended = known is not None and (known["manifest_digest"] is not None or known["status"] == "deleting")
    if known is not None and (is_ended or is_held(known) or known["part_of"]):
        return _bring_up(transaction, known, row, found, blob_sizes)
    if checkpoint.job_id is not None:
        _enter_job_of(transaction, checkpoint)
    if known is not None:
        transaction.change("DELETE FROM checkpoints WHERE id = :id", id=row["id"])
    _insert_named(transaction, "checkpoints", row)
    organisation(transaction, checkpoint.owner_org_id)  # where the catalog has none yet
    _refer(transaction, row, found.ranges.values(), blob_sizes)
    content_ids = _enter_contents(transaction, found.ranges.values())
    files = (
        {
            "checkpoint_id": row["id"],
            "path": path,
            "content_id": content_ids[_place(blob_id, content)],
            "is_executable": path in found.executable,
        }
        for path, (blob_id, content) in found.ranges.items()
    )
    for batch in batches(files):
        transaction.insert("files", *batch)
    _enter_exports(transaction, row["id"], found.exports)
    _enter_history(transaction, row["id"], found.history or [_stored(checkpoint)])
    return True


def _refer(
    transaction: Transaction,
    row: Mapping[str, Any],
    ranges: Iterable[tuple[str, NewContent]],
    blob_sizes: Mapping[str, int],
) -> None:
    """Enter the blobs that a checkpoint needs, and that it needs them."""
    query = f"SELECT status, writer_id FROM blobs WHERE id = :id {transaction.locking('FOR UPDATE')}"
    held = set(transaction.column("SELECT blob_id FROM blob_references WHERE checkpoint_id = :id", id=row["id"]))
    for blob_id in sorted({blob_id for blob_id, _ in ranges} - held):
        stored = {"size": blob_sizes[blob_id], "status": "stored", "writer_id": None, "writer_path": None}
        there = transaction.row(query, id=blob_id)
        if there is None:
            new = {"id": blob_id, "store_id": row["store_id"], "created_at": row["created_at"]}
            transaction.insert("blobs", new | stored)
        elif there[0] == "writing" and there[1] == row["id"]:
            transaction.update("blobs", stored | {"upload_id": None}, "id = :id", id=blob_id)
        elif there[0] != "stored":
            raise IntegrityError(f"blob {blob_id} is being deleted or is not whole")
        transaction.insert("blob_references", {"checkpoint_id": row["id"], "blob_id": blob_id})


def _stored(checkpoint: Checkpoint) -> HistoryEntry:
    """The change that made a checkpoint available that has not changed since."""
    after = {"status": CheckpointStatus.AVAILABLE.value}
    return HistoryEntry(
        at=checkpoint.updated_at,
        actor=checkpoint.creator,
        host="",
        flow_run_id="",
        action=STORING[checkpoint.kind],
        kind="checkpoint",
        subject_id=checkpoint.id,
        title=checkpoint.title,
        before={},
        after=after,
    )


def _bring_up(
    transaction: Transaction,
    known: Record,
    row: dict[str, Any],
    found: FoundCheckpoint,
    blob_sizes: Mapping[str, int],
) -> bool:
    """Bring a checkpoint that the catalog knows up to what the store knows; whether that was more."""
    if known["manifest_digest"] is None:
        return False
    if known["manifest_digest"] != row["manifest_digest"]:
        raise IntegrityError("its manifest in the store is of other files than the catalog knows")
    is_moved = _move(transaction, row, found, blob_sizes)
    if not _is_news(transaction, "checkpoint", row["id"], found.history):
        return is_moved
    changed = {name: value for name, value in row.items() if name not in _OWN}
    holder = "SELECT id FROM checkpoints WHERE name_key = :key AND id <> :id"
    if transaction.value(holder, key=changed["name_key"], id=row["id"]) is not None:
        changed["name_key"] = None
    transaction.update("checkpoints", changed, "id = :id", id=row["id"])
    _enter_exports(transaction, row["id"], found.exports)
    return True


def _move(
    transaction: Transaction, row: Mapping[str, Any], found: FoundCheckpoint, blob_sizes: Mapping[str, int]
) -> bool:
    """Let files lie where their manifest says: a repair writes that first. Whether any lay elsewhere."""
    query = """
        SELECT f.path, t.blob_id, t.start FROM files f JOIN contents t ON t.id = f.content_id
        WHERE f.checkpoint_id = :id
    """
    lay = {path: (blob_id, start) for path, blob_id, start in transaction.rows(query, id=row["id"])}
    moved = {
        path: (blob_id, content)
        for path, (blob_id, content) in found.ranges.items()
        if lay.get(path) not in {None, (blob_id, content.start)}
    }
    if not moved:
        return False
    _refer(transaction, row, moved.values(), blob_sizes)
    content_ids = _enter_contents(transaction, moved.values())
    for path, (blob_id, content) in moved.items():
        new = {"content_id": content_ids[_place(blob_id, content)]}
        transaction.update("files", new, "checkpoint_id = :id AND path = :path", id=row["id"], path=path)
    for blob_id in {lay[path][0] for path in moved}:
        release(transaction, row["id"], blob_id)
    return True


@begun_again
def enter_recovered_job(
    database: Database, job: TrainingJob, history: Sequence[HistoryEntry], *, deleted: bool
) -> bool:
    """Enter a training job, or bring it up to what the store knows of it; whether the catalog knew less."""
    times = {name: getattr(job, name) for name in ("created_at", "started_at", "ended_at", "updated_at")}
    row = {name: getattr(job, name) for name in _SAME_OF_JOBS} | {
        "name_key": None if deleted else name_key(job.name),
        "command": json.dumps(list(job.command)),
        "env_names": json.dumps(list(job.env_names)),
        "nodes": job.node_count,
        "stop_requested": False,
        **{name: None if time is None else to_text(time) for name, time in times.items()},
    }
    with database.writing() as transaction:
        transaction.lock(RECOVERY_LOCK)
        known = transaction.record("SELECT * FROM jobs WHERE id = :id", id=job.id)
        if known is not None and (is_held(known) or not _is_news(transaction, "job", job.id, history)):
            return False
        if known is None:
            _insert_named(transaction, "jobs", row)
            organisation(transaction, job.owner_org_id)
        else:
            if transaction.value("SELECT id FROM jobs WHERE name_key = :key", key=row["name_key"]) not in {
                None,
                job.id,
            }:
                row["name_key"] = None
            transaction.update("jobs", row | NO_LEASE, "id = :id", id=job.id)
        transaction.change("DELETE FROM job_nodes WHERE job_id = :id AND attempt = :attempt", **_attempt(job))
        for node in job.nodes:
            there = {"node": node.node, "status": node.status, "reason": node.reason, "exit_code": node.exit_code}
            there |= {"input_checkpoint_id": job.input_checkpoint_id or "", "host": node.host}
            there |= {"output_dir": node.output_dir, "log_path": node.log_path}
            there |= {"started_at": to_text(node.started_at)}
            there |= {"ended_at": None if node.ended_at is None else to_text(node.ended_at)}
            transaction.insert("job_nodes", {"job_id": job.id, "attempt": job.attempt} | there)
        _enter_history(transaction, job.id, history)
        return True


_SAME_OF_JOBS = (
    *("id", "name", "creator", "creator_user_id", "owner_org_id", "status", "reason", "attempt", "exit_code", "lost"),
    *("input_checkpoint_id", "output_dir", "log_path", "host", "code_commit"),
)
"""Columns that hold a job's field as it is."""


def _attempt(job: TrainingJob) -> dict[str, Any]:
    return {"id": job.id, "attempt": job.attempt}


def _is_news(transaction: Transaction, kind: Kind, subject_id: str, history: Sequence[HistoryEntry]) -> bool:
    """Whether the store knows of changes that came after the last one that only the catalog knows of.

    The catalog learns what the store knows in any case, and its record is due where it knows more itself.
    """
    if not told_more(transaction, {subject_id: history})[0]:
        return False
    query = "SELECT at, action FROM history WHERE subject_id = :id"
    known = set(map(tuple, transaction.rows(query, id=subject_id)))
    told = {(to_text(one.at), one.action) for one in history}
    _enter_history(transaction, subject_id, history)
    if known - told:
        set_due(transaction, kind, [subject_id], since="")
    return max(told - known) > max(known - told, default=("", ""))


def _enter_history(transaction: Transaction, subject_id: str, history: Sequence[HistoryEntry]) -> None:
    """Enter the changes that the catalog does not know."""
    query = "SELECT at, action FROM history WHERE subject_id = :id"
    known = set(map(tuple, transaction.rows(query, id=subject_id)))
    rows = [
        one._asdict()
        | {"at": to_text(one.at), "subject_id": subject_id}
        | {name: json.dumps(dict(getattr(one, name)), sort_keys=True) for name in ("before", "after")}
        for one in history
        if (to_text(one.at), one.action) not in known
    ]
    for batch in batches(rows):
        transaction.insert("history", *batch)


def _enter_exports(transaction: Transaction, checkpoint_id: str, exports: Sequence[ExportRecord]) -> None:
    transaction.change("DELETE FROM exports WHERE checkpoint_id = :id", id=checkpoint_id)
    rows = [one._asdict() | {"exported_at": to_text(one.exported_at)} for one in exports]
    transaction.insert("exports", *rows)


def _insert_named(transaction: Transaction, table: str, row: dict[str, Any]) -> None:
    """Insert a row with its name, or without where another one has the name."""
    if not transaction.insert(table, row, otherwise="ON CONFLICT (name_key) DO NOTHING"):
        transaction.insert(table, row | {"name_key": None})


def _enter_job_of(transaction: Transaction, checkpoint: Checkpoint) -> None:
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
