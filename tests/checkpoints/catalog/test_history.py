"""Reading the history, on both databases."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import pytest

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.changes import note
from flexai.checkpoints.catalog.history import HistoryFilter, read_history
from flexai.checkpoints.models import Actor, now
from flexai.checkpoints.names import parse_reference
from tests.checkpoints.catalog.steps import push

ALL = HistoryFilter()


def actions(catalog: Catalog, wanted: HistoryFilter = ALL) -> list[tuple[str, str]]:
    with catalog.database.reading() as transaction:
        return [(entry.action, entry.title) for entry in read_history(transaction, wanted)]


def act(catalog: Catalog, names: Sequence[str]) -> None:
    with catalog.database.writing() as transaction:
        for name in names:
            note(transaction, Actor(name, "node-1"), "look", "store", {"id": "store"})


def test_the_history_is_told_from_the_oldest_change_on_and_its_end_by_a_limit(catalog: Catalog) -> None:
    push(catalog, "llama")
    llama = parse_reference("llama")
    catalog.checkpoints.protect([llama])
    catalog.checkpoints.protect([llama], protected=False)
    catalog.checkpoints.delete(llama)
    whole = [("push", "llama"), ("protect", "llama"), ("unprotect", "llama"), ("delete", "llama")]
    assert actions(catalog) == whole
    assert actions(catalog, HistoryFilter(limit=2)) == whole[-2:]
    assert actions(catalog, HistoryFilter(since=now() - timedelta(hours=1))) == whole
    assert actions(catalog, HistoryFilter(since=now() + timedelta(hours=1))) == []


@pytest.mark.parametrize(
    ("by", "found"),
    [("alice", 2), ("alice@lab", 1), ("alic", 0), ("a_ice", 0), ("%", 0), ("bob", 0), ("bob@", 0), ("al", 0)],
)
def test_a_user_is_found_with_a_machine_or_on_all(catalog: Catalog, by: str, found: int) -> None:
    act(catalog, ["alice@lab", "alice@laptop", "bobby@lab", "al%@lab"])
    assert len(actions(catalog, HistoryFilter(by=by))) == found


def test_a_title_finds_all_that_were_ever_called_so(catalog: Catalog) -> None:
    push(catalog, "llama")
    catalog.checkpoints.delete(parse_reference("llama"))
    push(catalog, "Llama")
    push(catalog, "mistral")
    assert actions(catalog, HistoryFilter(title="LLAMA")) == [
        ("push", "llama"),
        ("delete", "llama"),
        ("push", "Llama"),
    ]
