"""Changing checkpoints and jobs: with each change go its line in the history and the store's record of the thing.

A record lies beside the manifests and says of a checkpoint what its manifest cannot, and of a job all: a recovered
catalog is made of both. That of a checkpoint is written before the catalog's word. So that a process which dies between
the two leaves no record that says too much, the catalog notes first that the record is due; what is due long after its
process is gone is written anew (``write_due``). What a training changes is only noted as due, since no training waits
for a store.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

from flexai.checkpoints.catalog.checkpoint_rows import CHECKPOINT, checkpoint_of, export_of
from flexai.checkpoints.catalog.database import Database, Record, Transaction, batches, begun_again
from flexai.checkpoints.errors import ConflictError, StorageFullError
from flexai.checkpoints.models import (
    Actor,
    HistoryEntry,
    canonical_json,
    from_text,
    now,
    plain,
    to_text,
)
from flexai.checkpoints.names import title_of

Kind: TypeAlias = Literal["checkpoint", "job"]

RECORD_FORMAT = 1
_STALE = timedelta(hours=1)
"""After so long a process that noted a record as due has written it, or is gone."""
_NOT_TOLD = frozenset({"updated_at", "checkpoint_count", "input_checkpoint_name"})
"""Fields whose change is no change of its own."""

STORING = {"pushed": "push", "captured": "capture"}
"""What made a checkpoint available, by its kind."""

State: TypeAlias = dict[str, Any]


class Records(Protocol):
    """The records that a store has of things. Each method raises what the store raises."""

    def check(self) -> None:
        """Raise ConflictError where the store is not this catalog's."""

    def histories(self, kind: Kind, ids: Collection[str]) -> Mapping[str, Sequence[HistoryEntry]]:
        """What records tell that happened to things, by their ids; of one that tells nothing readable nothing."""

    def sound(self, kind: Kind, ids: Iterable[str]) -> list[str]:
        """Those of the ids whose records are whole, and of their things."""

    def write(self, documents: Mapping[tuple[Kind, str], bytes | None]) -> None:
        """Store records, by their kinds and ids, or delete them (None)."""


@contextlib.contextmanager
def changing(
    database: Database,
    action: str,
    ids: Sequence[str],
    *,
    kind: Kind = "checkpoint",
    record: Literal["first", "later", "none"] = "first",
) -> Iterator[Transaction]:
    """A transaction that changes, or makes, the things of these ids; without ``action`` what ``STORING`` says.

    Their records are written before it ends (``first``; raises what the store raises, and ConflictError where the store
    knows more of one than the catalog; nothing is changed then), are due afterwards (``later``), or are not needed,
    because a manifest says all (``none``).
    """
    records = database.records if record == "first" else None
    while True:
        if records is not None:
            _begin(database, records, kind, ids)
        with database.writing() as transaction:
            before = _states(transaction, kind, ids)
            if records is not None and not _have_begun(transaction, ids):
                continue  # another process has changed one since, and taken away the note that it shared with this one
            yield transaction
            after = _enter(transaction, database.actor, action, kind, before)
            if records is not None:
                try:
                    records.write(_documents(transaction, kind, after))
                except StorageFullError:
                    set_due(transaction, kind, ids, since="")  # to delete is what makes room
                else:
                    _no_longer_due(transaction, list(ids))
            elif record == "later":
                set_due(transaction, kind, ids)
        return


def _begin(database: Database, records: Records, kind: Kind, ids: Sequence[str]) -> None:
    """Note that a change of these things begins; raises ConflictError where the store knows more of one."""
    records.check()
    told = records.histories(kind, ids)
    with database.writing() as transaction:
        more, cut_off = told_more(transaction, told)
        if newer := records.sound(kind, more):
            raise ConflictError(
                f"the store knows a later change of {told[newer[0]][-1].title!r} than this catalog,"
                " which is an older copy of another one",
                hint="flexai checkpoint recover brings it up to what the store knows",
            )
        if cut_off:
            # Only when that change began says that it has not happened, and this one's beginning replaces that.
            records.write(_documents(transaction, kind, _states(transaction, kind, cut_off)))
        set_due(transaction, kind, ids, since=to_text(now()))


def _have_begun(transaction: Transaction, ids: Sequence[str]) -> bool:
    """Whether it is noted of all of these things that a change of them has begun."""
    query = "SELECT id FROM records_due WHERE id IN :ids AND since <> ''"
    return {one for batch in batches(ids) for one in transaction.column(query, ids=batch)} == set(ids)


def _enter(
    transaction: Transaction, actor: Actor, action: str, kind: Kind, before: Mapping[str, State | None]
) -> Mapping[str, State | None]:
    """Enter in the history what has changed since the states of things were read; returns those of now."""
    after = _states(transaction, kind, list(before))
    rows = []
    for subject_id, new in after.items():
        old = before[subject_id] or {}
        changed = [name for name, value in (new or {}).items() if name not in _NOT_TOLD and old.get(name) != value]
        if new is not None and changed:
            told = {name: old[name] for name in changed if name in old}, {name: new[name] for name in changed}
            rows.append(_row(actor, action or STORING[new["kind"]], kind, subject_id, _title(new), *told))
    for batch in batches(rows):
        transaction.insert("history", *batch)
    return after


def note(
    transaction: Transaction,
    actor: Actor,
    action: str,
    kind: str,
    titles: Mapping[str, str],
    after: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Enter in the history what changes no row, or one that is gone; titles by their ids."""
    rows = (_row(actor, action, kind, subject_id, title, {}, dict(after)) for subject_id, title in titles.items())
    for batch in batches(rows):
        transaction.insert("history", *batch)


def _row(
    actor: Actor, action: str, kind: str, subject_id: str, title: str, before: State, after: State
) -> dict[str, Any]:
    return {
        "at": to_text(now()),
        "actor": actor.name,
        "host": actor.host,
        "flow_run_id": actor.flow_run_id,
        "action": action,
        "kind": kind,
        "subject_id": subject_id,
        "title": title,
        "before": json.dumps(before, sort_keys=True),
        "after": json.dumps(after, sort_keys=True),
    }


@begun_again
def write_due(database: Database) -> int:
    """Write the records that are due, but for those that another process is about to write; returns how many.

    One of which the store knows more than the catalog stays due. Raises what the store raises.
    """
    if (records := database.records) is None:
        return 0
    due = f"""
        SELECT kind, id FROM records_due WHERE since <= :before AND id > :last ORDER BY id LIMIT 200
        {"FOR UPDATE SKIP LOCKED" if database.is_postgresql else ""}
    """
    with database.reading() as transaction:
        if not transaction.rows("SELECT id FROM records_due ORDER BY id LIMIT 1"):
            return 0
    records.check()
    count, last = 0, ""
    while True:
        with database.writing() as transaction:
            found = transaction.rows(due, before=to_text(now() - _STALE), last=last)
            if not found:
                return count
            last = found[-1][1]
            for kind in ("checkpoint", "job"):
                ids = [subject_id for of, subject_id in found if of == kind]
                more, _ = told_more(transaction, records.histories(kind, ids))
                newer = records.sound(kind, more)
                ids = [subject_id for subject_id in ids if subject_id not in newer]
                records.write(_documents(transaction, kind, _states(transaction, kind, ids)))
                _no_longer_due(transaction, ids)
                count += len(ids)


def told_more(
    transaction: Transaction, told: Mapping[str, Sequence[HistoryEntry]]
) -> tuple[Sequence[str], Sequence[str]]:
    """The ids of those things of which the store tells more changes than the catalog knows; and of those others of
    which it tells one more that a process began and was cut off from before the catalog's word. That has not happened,
    or has not yet: who locks the thing's row waits for a process that is amid it.
    """
    known: dict[str, set[tuple[str, str]]] = {}
    began: dict[str, str] = {}
    for batch in batches(told):
        # Before the history: a change that another process completes between the two is then seen as begun.
        began |= dict(map(tuple, transaction.rows("SELECT id, since FROM records_due WHERE id IN :ids", ids=batch)))
        query = "SELECT subject_id, at, action FROM history WHERE subject_id IN :ids"
        for subject_id, at, action in transaction.rows(query, ids=batch):
            known.setdefault(subject_id, set()).add((at, action))
    newer, cut_off = [], []
    for subject_id, history in told.items():
        more = [one.at for one in history if (to_text(one.at), one.action) not in known.get(subject_id, ())]
        # That of one process may have come before the other's note, which has replaced its own.
        if (since := began.get(subject_id)) and len(more) == 1 and more[0] <= from_text(since) + _STALE:
            cut_off.append(subject_id)
            continue
        if more:
            newer.append(subject_id)
    return newer, cut_off


def history_of(transaction: Transaction, ids: Iterable[str]) -> dict[str, list[HistoryEntry]]:
    """What happened to things, in order, by their ids."""
    found: dict[str, list[HistoryEntry]] = {}
    query = "SELECT * FROM history WHERE subject_id IN :ids ORDER BY id"
    for batch in batches(ids):
        for row in transaction.records(query, ids=batch):
            found.setdefault(row["subject_id"], []).append(entry_of(row))
    return found


def entry_of(row: Record) -> HistoryEntry:
    """The change that a row of the history tells of."""
    same = {name: row[name] for name in ("actor", "host", "flow_run_id", "action", "kind", "subject_id", "title")}
    before, after = json.loads(row["before"]), json.loads(row["after"])
    return HistoryEntry(at=from_text(row["at"]), before=before, after=after, **same)


def set_due(transaction: Transaction, kind: Kind, ids: Sequence[str], *, since: str | None = None) -> None:
    """Note that records are to be written, or deleted where the things are gone.

    ``since`` is when a process began to do that; empty where none does. Without it stays what is noted of one that may
    have been cut off (``told_more``).
    """
    rows = [{"id": subject_id, "kind": kind, "since": since or ""} for subject_id in ids]
    known = "NOTHING" if since is None else "UPDATE SET since = excluded.since"
    for batch in batches(rows):
        transaction.execute_many(
            f"INSERT INTO records_due (id, kind, since) VALUES (:id, :kind, :since) ON CONFLICT (id) DO {known}",
            batch,
        )


@begun_again
def note_due(database: Database, due: Mapping[Kind, Collection[str]]) -> None:
    """Note that the records of things are to be written anew, whatever is noted of them."""
    with database.writing() as transaction:
        for kind, ids in due.items():
            set_due(transaction, kind, sorted(ids), since="")


def _no_longer_due(transaction: Transaction, ids: Sequence[str]) -> None:
    for batch in batches(ids):
        transaction.change("DELETE FROM records_due WHERE id IN :ids", ids=batch)


def _states(transaction: Transaction, kind: Kind, ids: Sequence[str]) -> dict[str, State | None]:
    """What records say of things, by their ids; None of one that is not there. Their rows are locked."""
    found: dict[str, State | None] = dict.fromkeys(ids)
    for batch in batches(sorted(set(ids))):
        if kind == "checkpoint":
            lock = transaction.locking("FOR UPDATE OF c")
            rows = transaction.records(f"{CHECKPOINT} WHERE c.id IN :ids ORDER BY c.id {lock}", ids=batch)
            exports = _exports(transaction, batch)
            for row in rows:
                found[row["id"]] = plain(checkpoint_of(row)) | {"exports": exports.get(row["id"], [])}
        else:
            # Not at the head: pushes do not wait for it.
            from flexai.checkpoints.catalog.job_queries import read_jobs

            for row, job in read_jobs(transaction, batch):
                found[job.id] = plain(job) | {"is_deleted": row["name_key"] is None}
    return found


def _exports(transaction: Transaction, ids: Sequence[str]) -> dict[str, list[State]]:
    found: dict[str, list[State]] = {}
    query = "SELECT * FROM exports WHERE checkpoint_id IN :ids ORDER BY exported_at, id"
    for row in transaction.records(query, ids=list(ids)):
        record = export_of(row)
        state = plain(record)
        if not record.is_part:
            del state["is_part"]  # the version before reads no record with it
        found.setdefault(record.checkpoint_id, []).append(state)
    return found


def _documents(
    transaction: Transaction, kind: Kind, states: Mapping[str, State | None]
) -> dict[tuple[Kind, str], bytes | None]:
    """The records that the store should have; None for what it should have none of."""
    documents: dict[tuple[Kind, str], bytes | None] = {}
    histories = history_of(transaction, states)
    for subject_id, state in states.items():
        if state is None or (kind == "checkpoint" and state["manifest_digest"] is None):
            documents[kind, subject_id] = None
        else:
            history = [plain(entry) for entry in histories.get(subject_id, ())]
            documents[kind, subject_id] = canonical_json({"format": RECORD_FORMAT, kind: state, "history": history})
    return documents


def _title(state: State) -> str:
    return title_of(state["kind"], state["name"], state["job_name"]) if "kind" in state else str(state["name"])
