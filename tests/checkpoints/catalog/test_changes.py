"""Changes of several processes at once, and of such as are cut off, by what a store's records tell of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.changes import Kind, set_due, told_more
from flexai.checkpoints.catalog.database import Database, Transaction
from flexai.checkpoints.errors import ConflictError
from flexai.checkpoints.models import HistoryEntry, now, to_text
from flexai.checkpoints.names import parse_reference
from flexai.checkpoints.service.support.record_reader import read_checkpoint_record
from tests.checkpoints.catalog.steps import push

LLAMA = parse_reference("llama")


class CutOff(Exception):
    """The process is killed here."""


@dataclass
class Stored:
    """The records of a store, in memory."""

    documents: dict[tuple[Kind, str], bytes] = field(default_factory=dict)
    after_writing: Callable[[], None] = lambda: None

    def check(self) -> None:
        """It is this catalog's."""

    def histories(self, kind: Kind, ids: Collection[str]) -> Mapping[str, Sequence[HistoryEntry]]:
        """Those that were written."""
        known = {one: self.documents[kind, one] for one in ids if (kind, one) in self.documents}
        return {one: read_checkpoint_record(json.loads(known[one])).history for one in known}

    def sound(self, _: Kind, ids: Iterable[str]) -> list[str]:
        """All are."""
        return list(ids)

    def write(self, documents: Mapping[tuple[Kind, str], bytes | None]) -> None:
        """Keep them."""
        for key, document in documents.items():
            self.documents.pop(key, None)
            if document is not None:
                self.documents[key] = document
        self.after_writing()


@pytest.fixture
def stored() -> Stored:
    return Stored()


@pytest.fixture
def checkpoint_id(catalog: Catalog, stored: Stored) -> str:
    catalog.database.records = stored
    push(catalog, "llama")
    return str(catalog.checkpoints.get(LLAMA).id)


@pytest.fixture
def other(database_url: str, stored: Stored) -> Iterator[Catalog]:
    """The catalog as another process has it."""
    with Catalog.open(database_url) as opened:
        opened.database.records = stored
        yield opened


def protect_cut_off(catalog: Catalog, stored: Stored) -> None:
    """Protect as a process does that is killed when the store has the record, and the catalog not yet its word."""

    def end() -> None:
        raise CutOff

    stored.after_writing = end
    with pytest.raises(CutOff):
        catalog.checkpoints.protect([LLAMA])
    stored.after_writing = lambda: None


def between_note_and_change(database: Database, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Act between the two transactions of a change."""
    writing, begun = database.writing, list[None]()

    @contextmanager
    def counted() -> Iterator[Transaction]:
        begun.append(None)
        if len(begun) == 2:
            act()
        with writing() as transaction:
            yield transaction

    monkeypatch.setattr(database, "writing", counted)


def test_a_change_that_was_cut_off_has_not_happened(catalog: Catalog, stored: Stored, checkpoint_id: str) -> None:
    protect_cut_off(catalog, stored)
    assert [one.action for one in stored.histories("checkpoint", [checkpoint_id])[checkpoint_id]] == ["push", "protect"]
    catalog.checkpoints.delete(LLAMA)
    assert [one.action for one in stored.histories("checkpoint", [checkpoint_id])[checkpoint_id]] == ["push", "delete"]


def test_a_catalog_that_is_an_older_copy_changes_nothing_of_what_the_store_knows_more(
    catalog: Catalog, stored: Stored, checkpoint_id: str
) -> None:
    protect_cut_off(catalog, stored)
    with catalog.database.writing() as transaction:
        transaction.change("DELETE FROM records_due WHERE id = :id", id=checkpoint_id)
    with pytest.raises(ConflictError, match="an older copy"):
        catalog.checkpoints.delete(LLAMA)


def test_a_change_that_was_cut_off_has_not_happened_where_another_began_meanwhile(
    catalog: Catalog, stored: Stored, checkpoint_id: str
) -> None:
    protect_cut_off(catalog, stored)
    # By a process that had read the record before.
    with catalog.database.writing() as transaction:
        set_due(transaction, "checkpoint", [checkpoint_id], since=to_text(now()))
    catalog.checkpoints.delete(LLAMA)
    assert [one.action for one in stored.histories("checkpoint", [checkpoint_id])[checkpoint_id]] == ["push", "delete"]


def test_a_change_that_was_cut_off_has_not_happened_where_another_was_made_since_it_began(
    catalog: Catalog, other: Catalog, stored: Stored, checkpoint_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change() -> None:
        cut_off, stored.after_writing = stored.after_writing, lambda: None
        other.checkpoints.protect([LLAMA])
        other.checkpoints.protect([LLAMA], protected=False)
        stored.after_writing = cut_off

    with monkeypatch.context() as patched:
        between_note_and_change(catalog.database, patched, change)
        protect_cut_off(catalog, stored)
    history = stored.histories("checkpoint", [checkpoint_id])[checkpoint_id]
    assert [one.action for one in history] == ["push", "protect", "unprotect", "protect"]
    catalog.checkpoints.delete(LLAMA)
    assert catalog.checkpoints.get_by_id(checkpoint_id).deleted_at is not None


def test_a_change_that_is_made_while_another_one_looks_is_none_that_the_store_alone_knows(
    catalog: Catalog, other: Catalog, stored: Stored, checkpoint_id: str
) -> None:
    # The store has its record, and the catalog not yet.
    protect_cut_off(other, stored)
    told = stored.histories("checkpoint", [checkpoint_id])
    (_, change) = told[checkpoint_id]

    class Looking:
        """A transaction between whose first two queries the other process completes its own."""

        def __init__(self, inner: Transaction) -> None:
            self.inner = inner
            self.has_asked = False

        def rows(self, query: str, **values: Any) -> Any:
            answer = self.inner.rows(query, **values)
            if not self.has_asked:
                self.has_asked = True
                with other.database.writing() as transaction:
                    row = {name: getattr(change, name) for name in ("actor", "host", "action", "kind", "title")}
                    row |= {"subject_id": checkpoint_id, "at": to_text(change.at), "before": "{}", "after": "{}"}
                    transaction.insert("history", row | {"flow_run_id": ""})
                    transaction.change("DELETE FROM records_due WHERE id = :id", id=checkpoint_id)
            return answer

    with catalog.database.reading() as transaction:
        newer, _ = told_more(Looking(transaction), told)  # type: ignore[arg-type]
    assert newer == []
