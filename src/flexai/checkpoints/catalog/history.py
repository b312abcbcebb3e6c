"""Reading what was changed, by whom and from where; see ``changes``, which enters it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

from flexai.checkpoints.catalog.changes import entry_of
from flexai.checkpoints.catalog.database import Transaction
from flexai.checkpoints.models import HistoryEntry, to_text


class HistoryFilter(NamedTuple):
    """Which changes are wanted: all, unless something is said."""

    limit: int = 0
    """The last so many; 0 for all."""
    since: datetime | None = None
    by: str = ""
    """Who made them: ``user@host``, or ``user`` from whatever machine."""
    ids: tuple[str, ...] = ()
    """Of what: of things with these ids, and of the checkpoints of the title."""
    title: str = ""
    """What checkpoints were ever called, without regard to case."""


def read_history(transaction: Transaction, wanted: HistoryFilter) -> list[HistoryEntry]:
    """What was changed, oldest first."""
    conditions: list[str] = []
    values: dict[str, Any] = {}
    if wanted.ids or wanted.title:
        called = "SELECT subject_id FROM history WHERE kind = 'checkpoint' AND LOWER(title) = :title"
        conditions.append(f"(subject_id IN :ids OR subject_id IN ({called}))")
        values |= {"ids": list(wanted.ids), "title": wanted.title.lower()}
    if wanted.since is not None:
        conditions.append("at >= :since")
        values["since"] = to_text(wanted.since)
    if wanted.by:
        # Not LIKE, to which some characters of a name would stand for others.
        conditions.append("(actor = :by OR SUBSTR(actor, 1, :length) = :user)")
        values |= {"by": wanted.by, "user": f"{wanted.by}@", "length": len(wanted.by) + 1}
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    last = "LIMIT :limit" if wanted.limit else ""
    values |= {"limit": wanted.limit} if wanted.limit else {}
    rows = transaction.records(f"SELECT * FROM history {where} ORDER BY at DESC, id DESC {last}", **values)
    return list(map(entry_of, reversed(rows)))
