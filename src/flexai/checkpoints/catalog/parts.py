"""Checkpoints that several machines write together, and the parts of them that each has brought.

A part is a checkpoint of its own, captured by its machine, that belongs to another one (``part_of``). That one is there
from its first part on: ``incomplete`` at first, it is made available of its parts' content when they suffice. No list
has the parts, and they go and come back with what they belong to.

All that decides which parts belong together is decided while the job's row is locked, one machine after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flexai.checkpoints.catalog.changes import changing
from flexai.checkpoints.catalog.checkpoint_rows import CHECKPOINT, checkpoint_of, facts_columns, row_of
from flexai.checkpoints.catalog.checkpoints import described, enter_files, lost
from flexai.checkpoints.catalog.database import Database, Record, Transaction, each_begun_again
from flexai.checkpoints.catalog.job_nodes import ranges
from flexai.checkpoints.catalog.leases import NO_LEASE, Lease, update_held
from flexai.checkpoints.models import Checkpoint, CheckpointStatus, ManifestSummary, TrainingFacts, now, to_text
from flexai.checkpoints.names import new_id, parse_id

if TYPE_CHECKING:
    from flexai.checkpoints.contents import StoredFile
    from flexai.checkpoints.models import Node
    from flexai.checkpoints.names import Id

_GROUPS = f"""
    {CHECKPOINT} WHERE c.job_id = :job_id AND c.attempt = :attempt AND c.parts > 0 AND c.deleted_at IS NULL
"""
_PARTS_OF = "SELECT id FROM checkpoints WHERE part_of = :id AND parts = 0 AND deleted_at IS NULL"


@each_begun_again
class Parts:
    """The parts of a catalog's checkpoints."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def commit(
        self,
        part: Checkpoint,
        lease: Lease,
        *,
        node: Node,
        attempt: int,
        manifest: ManifestSummary,
        files: Sequence[StoredFile],
        facts: TrainingFacts,
        is_whole: bool,
        tells_save: bool,
    ) -> Id:
        """Enter what a machine has brought, and return the id of the checkpoint that it belongs to.

        ``is_whole`` says that it can be used without the others' parts, ``tells_save`` that the name is written once,
        so that it tells which save this is of. Raises ConflictError where the lease, or the reference to a blob, is
        lost.
        """
        new = described(manifest, facts) | NO_LEASE | {"attempt": attempt}
        if not is_whole:
            new["status"] = CheckpointStatus.FAILED
        with self._database.writing() as transaction:
            transaction.update("jobs", {"updated_at": to_text(now())}, "id = :id", id=part.job_id)
            if not update_held(transaction, "checkpoints", part.id, lease, new):
                raise lost(part.id)
            enter_files(transaction, part.id, files)
            group, replaced = _group_of(transaction, part, node, attempt, manifest, facts, tells_save=tells_save)
            for earlier in replaced:
                transaction.change("DELETE FROM checkpoints WHERE id = :id", id=earlier)
            belongs: dict[str, Any] = {"job_id": None}
            transaction.update("checkpoints", belongs, "id = :id", id=part.id)
            if group is None:
                group = _begin_group(transaction, part, node, attempt, facts)
            transaction.update("checkpoints", {"part_of": group}, "id = :id", id=part.id)
            _describe(transaction, group)
        return group

    def of(self, checkpoint_id: str) -> list[Checkpoint]:
        """The parts of a checkpoint, by their machines, but for what it was made of before."""
        query = f"{CHECKPOINT} WHERE c.part_of = :id AND c.parts = 0 AND c.deleted_at IS NULL"
        with self._database.reading() as transaction:
            rows = transaction.records(query, id=checkpoint_id)
        return sorted(map(checkpoint_of, rows), key=lambda one: int(one.node))

    def of_job(self, job_id: str, node: int) -> list[Checkpoint]:
        """The parts that a machine has brought of a job's checkpoints, in the order of their capture."""
        query = f"""
            {CHECKPOINT} WHERE c.node = :node AND c.parts = 0 AND c.deleted_at IS NULL AND c.part_of IN (
                SELECT id FROM checkpoints WHERE job_id = :job_id AND deleted_at IS NULL
            )
        """
        with self._database.reading() as transaction:
            rows = transaction.records(query, job_id=job_id, node=str(node))
        return sorted(map(checkpoint_of, rows), key=lambda one: one.sequence)

    def incomplete(self, job_id: str) -> list[Id]:
        """The checkpoints of a job that have parts and are not available."""
        query = "SELECT id FROM checkpoints WHERE job_id = :job_id AND parts > 0 AND status = 'failed'"
        with self._database.reading() as transaction:
            return [parse_id(found) for found in transaction.column(query, job_id=job_id)]

    def complete(
        self,
        before: Checkpoint,
        after: Checkpoint,
        parts: Sequence[Checkpoint],
        *,
        manifest: ManifestSummary,
        files: Sequence[StoredFile],
        facts: TrainingFacts,
        time: datetime,
    ) -> bool:
        """Make a checkpoint available of its parts' content; False where it, or one of them, has changed meanwhile.

        ``after`` is the same checkpoint or, where that was available already and its machines have brought more since,
        one in its place: the one before becomes a part of that, and keeps its UUID. ``time`` is what its manifest says.
        """
        new = described(manifest, facts, time)
        there = "id = :id AND parts > 0 AND part_of IS NULL AND deleted_at IS NULL AND status = :status"
        is_same = after.id == before.id
        status = CheckpointStatus.FAILED if is_same else CheckpointStatus.AVAILABLE
        goes: dict[str, Any] = {"job_id": None, "part_of": after.id, "is_protected": False}
        ids = [one.id for one in parts]
        with changing(self._database, "", [before.id, after.id], record="none") as transaction:
            transaction.update("jobs", {"updated_at": to_text(now())}, "id = :id", id=before.job_id)
            if set(transaction.column(_PARTS_OF, id=before.id)) != set(ids):
                return False
            if not transaction.update("checkpoints", new if is_same else goes, there, id=before.id, status=status):
                return False
            if not is_same:
                transaction.insert("checkpoints", row_of(after) | new)
                transaction.update("checkpoints", {"part_of": after.id}, "part_of = :id", id=before.id)
            held = transaction.column(
                "SELECT DISTINCT blob_id FROM blob_references WHERE checkpoint_id IN :ids", ids=ids
            )
            blob_ids = {file.content.blob_id for file in files}
            needed = [{"checkpoint_id": after.id, "blob_id": blob_id} for blob_id in set(held) & blob_ids]
            transaction.insert("blob_references", *needed)
            enter_files(transaction, after.id, files)
        return True

    def join_last(self, job_id: str, attempt: int) -> list[Id]:
        """Put together what the machines of an attempt have brought last under one name; returns those checkpoints.

        Once all their commands have succeeded that is of one save, whatever the name tells.
        """
        joined = []
        query = f"{_GROUPS} AND c.status = 'failed' ORDER BY c.sequence"
        with self._database.writing() as transaction:
            transaction.update("jobs", {"updated_at": to_text(now())}, "id = :id", id=job_id)
            groups = transaction.records(query, job_id=job_id, attempt=attempt)
            by_group = _parts_of(transaction, groups)
            for name in dict.fromkeys(one["name"] for one in groups):
                last = {part["node"]: part for one in groups if one["name"] == name for part in by_group[one["id"]]}
                total = next(one["parts"] for one in groups if one["name"] == name)
                homes = {part["part_of"] for part in last.values()}
                steps = {part["step"] for part in last.values()} - {None}
                if len(last) < total or len(homes) == 1 or len(steps) > 1:
                    continue
                home = last[min(last, key=int)]["part_of"]
                ids = [part["id"] for part in last.values()]
                transaction.update("checkpoints", {"part_of": home}, "id IN :ids", ids=ids)
                for emptied in homes - {home}:
                    if not _parts_of(transaction, [{"id": emptied}])[emptied]:
                        transaction.change("DELETE FROM checkpoints WHERE id = :id", id=emptied)
                _describe(transaction, home)
                joined.append(parse_id(home))
        return joined

    def explain(self, checkpoint_id: str, reason: str) -> None:
        """Record why a checkpoint whose parts are there is not available."""
        with self._database.writing() as transaction:
            is_open = "id = :id AND status = 'failed' AND parts > 0"
            transaction.update("checkpoints", {"reason": reason}, is_open, id=checkpoint_id)


def _group_of(
    transaction: Transaction,
    part: Checkpoint,
    node: Node,
    attempt: int,
    manifest: ManifestSummary,
    facts: TrainingFacts,
    *,
    tells_save: bool,
) -> tuple[Id | None, list[str]]:
    """The checkpoint that a part belongs to, if that is there, and the parts of its machine that it replaces.

    A machine's part belongs to the save of the others that has none of it yet, where the name, or the step, says that
    it is the same save; to another one where another machine has brought the very same; and it replaces what the
    machine brought last where it holds all of that, so that a folder that was still for a while may grow.
    """
    query = f"{_GROUPS} AND c.name = :name AND c.parts = :parts ORDER BY c.sequence"
    groups = transaction.records(query, job_id=part.job_id, attempt=attempt, name=part.name, parts=node.total)
    by_group = _parts_of(transaction, groups)
    last = max((n for n, one in enumerate(groups) if _of(by_group[one["id"]], node)), default=-1)
    if last >= 0:
        own = _of(by_group[groups[last]["id"]], node)
        if all(_holds(transaction, part.id, one["id"]) for one in own):
            return groups[last]["id"], [one["id"] for one in own]
    for one in groups[last + 1 :]:
        others = by_group[one["id"]]
        steps = {other["step"] for other in others if other["step"] is not None}
        is_same_step = facts.step is not None and steps == {facts.step}
        may_be = tells_save and (facts.step is None or not steps or is_same_step)
        if may_be or is_same_step or manifest.digest in {other["manifest_digest"] for other in others}:
            return one["id"], []
    return None, []


def _parts_of(transaction: Transaction, groups: Sequence[Record]) -> dict[str, list[Record]]:
    """The parts of checkpoints by the ids of those, in the order of their capture."""
    found = transaction.records(
        "SELECT id, part_of, node, step, manifest_digest FROM checkpoints"
        " WHERE part_of IN :ids AND parts = 0 ORDER BY sequence",
        ids=[one["id"] for one in groups],
    )
    return {one["id"]: [part for part in found if part["part_of"] == one["id"]] for one in groups}


def _of(parts: Sequence[Record], node: Node) -> list[Record]:
    return [one for one in parts if one["node"] == str(node.rank)]


def _holds(transaction: Transaction, part_id: str, earlier_id: str) -> bool:
    """Whether a part has all files of an earlier one, unchanged."""
    query = """
        SELECT f.path, t.size, t.digest FROM files f JOIN contents t ON t.id = f.content_id WHERE f.checkpoint_id = :id
    """
    new, old = (set(map(tuple, transaction.rows(query, id=one))) for one in (part_id, earlier_id))
    return old <= new


def _begin_group(transaction: Transaction, part: Checkpoint, node: Node, attempt: int, facts: TrainingFacts) -> Id:
    group_id = new_id()
    row = row_of(part) | facts_columns(facts)
    row |= {
        "id": group_id,
        "status": CheckpointStatus.FAILED,
        "manifest_digest": None,
        "node": "0",
        "parts": node.total,
        "attempt": attempt,
        "name_key": None,
    }
    transaction.insert("checkpoints", row)
    return group_id


def _describe(transaction: Transaction, group_id: str) -> None:
    """Say in a checkpoint's row who has brought parts of it and, while it is incomplete, what is missing."""
    row = transaction.record("SELECT parts, status FROM checkpoints WHERE id = :id", id=group_id)
    assert row is not None, "it has just been read"
    rows = transaction.records(
        "SELECT node, size, file_count, step FROM checkpoints WHERE part_of = :id AND parts = 0", id=group_id
    )
    there = {int(one["node"]) for one in rows}
    new: dict[str, Any] = {"nodes": ranges(there)}
    if row["status"] == CheckpointStatus.FAILED:
        missing = ranges(set(range(row["parts"])) - there)
        many = "s" if len(there) < row["parts"] - 1 else ""
        steps = [one["step"] for one in rows if one["step"] is not None]
        new |= {
            "size": sum(one["size"] for one in rows),
            "file_count": sum(one["file_count"] for one in rows),
            "step": steps[0] if steps else None,
            "reason": f"node{many} {missing} {'have' if many else 'has'} not brought a part of it" if missing else "",
            "updated_at": to_text(now()),
        }
    transaction.update("checkpoints", new, "id = :id", id=group_id)
