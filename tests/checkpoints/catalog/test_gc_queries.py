"""What garbage collection asks of the catalog."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from flexai.checkpoints.catalog.blobs import Blobs
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.database import QueryResult
from flexai.checkpoints.catalog.postgresql import PostgresqlTransaction
from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.models import Checkpoint, CheckpointStatus, now, to_text
from tests.checkpoints.catalog.steps import (
    LATER,
    OTHER_STORE_ID,
    STORE_ID,
    at_once,
    begin,
    blob_statuses,
    collect,
    delete,
    fail,
    move_elsewhere,
    push,
    referenced,
    set_columns,
    store,
    undelete,
)


def test_only_what_was_deleted_long_enough_ago_is_purged(catalog: Catalog, blobs: Blobs) -> None:
    old, young, kept = (push(catalog, name) for name in ("old", "young", "kept"))
    for checkpoint in (old, young):
        delete(catalog, checkpoint.id)
    set_columns(catalog, str(old.id), deleted_at=to_text(now() - timedelta(days=8)))
    before = now() - timedelta(days=7)
    for _ in range(2):
        assert catalog.garbage(STORE_ID).purge_deleted(before=before) == [str(old.id)], "until it is forgotten"
        assert referenced(catalog, str(old.id)) == set()
        assert blobs.files_of(str(old.id)) == []
    assert catalog.garbage(OTHER_STORE_ID).purge_deleted(before=LATER) == []
    with pytest.raises(NotFoundError):
        undelete(catalog, old.id)
    assert undelete(catalog, young.id).id == young.id
    assert len(referenced(catalog, kept.id)) == 1
    catalog.garbage(STORE_ID).forget([old.id])
    with pytest.raises(NotFoundError):
        catalog.checkpoints.get_by_id(str(old.id))


def test_only_a_purged_checkpoint_is_forgotten(catalog: Catalog) -> None:
    pushed, deleted = push(catalog, "llama"), push(catalog, "other")
    delete(catalog, "other")
    failed = fail(catalog, "third")
    for checkpoint_id in (pushed.id, deleted.id, failed):
        catalog.garbage(STORE_ID).forget([checkpoint_id])
        catalog.checkpoints.get_by_id(checkpoint_id)


# SQLite has one writer at a time: nothing comes between.
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_checkpoint_deleted_while_gc_purges_others_is_purged_whole_or_not_at_all(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, late = push(catalog, "old"), push(catalog, "late")
    delete(catalog, "old")
    done: list[Checkpoint] = []
    execute = PostgresqlTransaction.execute

    def delete_another(transaction: PostgresqlTransaction, sql: str, values: Mapping[str, Any]) -> QueryResult:
        answer = execute(transaction, sql, values)
        if not done and sql.startswith("UPDATE checkpoints"):
            done.append(late)
            delete(catalog, "late")
        return answer

    monkeypatch.setattr(PostgresqlTransaction, "execute", delete_another)
    purged = catalog.garbage(STORE_ID).purge_deleted(before=LATER)
    assert done == [late]
    assert str(old.id) in purged
    can_come_back = [checkpoint.id for checkpoint in catalog.checkpoints.list_deleted()]
    assert (str(late.id) in purged) == (late.id not in can_come_back)
    assert (str(late.id) in purged) == (referenced(catalog, str(late.id)) == set())


def test_a_checkpoint_that_comes_back_while_gc_comes_is_whole_or_gone(catalog: Catalog, blobs: Blobs) -> None:
    for number in range(10):
        pushed = push(catalog, f"llama-{number}")
        delete(catalog, pushed.id)
        work: list[Callable[[], Any]] = [
            lambda pushed=pushed: undelete(catalog, pushed.id),  # type: ignore[misc]
            lambda: catalog.garbage(STORE_ID).purge_deleted(before=LATER),
        ]
        back, purged = at_once(lambda index, work=work: work[index](), times=2)  # type: ignore[misc]
        if isinstance(back, Checkpoint):
            assert pushed.id not in purged
            assert len(blobs.files_of(pushed.id)) == len(referenced(catalog, pushed.id)) == 1
        else:
            assert pushed.id in purged


def test_a_push_that_no_process_continues_is_given_up(catalog: Catalog, blobs: Blobs) -> None:
    failed = fail(catalog, "failed")
    store(blobs, failed, b"half", "a")
    lapsed, _ = begin(catalog, "lapsed")
    move_elsewhere(catalog, lapsed, lapsed=True)
    begin(catalog, "at-work")
    elsewhere, _ = begin(catalog, "elsewhere")
    move_elsewhere(catalog, elsewhere, lapsed=False)
    push(catalog, "done")
    assert catalog.garbage(STORE_ID).give_up_abandoned(before=now() - timedelta(days=1)) == [], "too young"
    assert catalog.garbage(OTHER_STORE_ID).give_up_abandoned(before=LATER) == []
    assert sorted(catalog.garbage(STORE_ID).give_up_abandoned(before=LATER)) == sorted([failed, lapsed])
    assert referenced(catalog, failed) == set()
    assert catalog.checkpoints.get_by_id(failed).reason == "the disk is full"
    given_up = catalog.checkpoints.get_by_id(lapsed)
    assert given_up.status is CheckpointStatus.FAILED
    assert "interrupted" in given_up.reason
    assert begin(catalog, "failed")[0] == failed, "its name is still its owner's"


def test_a_plan_says_what_gc_then_does(catalog: Catalog, blobs: Blobs) -> None:
    shared = {"own": b"own-1", "shared": b"shared"}
    push(catalog, "kept", {"shared": b"shared"})
    push(catalog, "gone", shared)
    delete(catalog, "gone")
    failed = fail(catalog, "failed")
    store(blobs, failed, b"half")
    begin(catalog, "at-work")
    assert catalog.garbage(STORE_ID).plan(before=now() - timedelta(days=1)).deleted == 0
    plan = catalog.garbage(STORE_ID).plan(before=LATER)
    assert (plan.deleted, len(plan.checkpoints), plan.blobs) == (1, 2, 2)
    assert sum(plan.garbage.values()) == len(b"own-1") + len(b"half")
    assert catalog.garbage(OTHER_STORE_ID).plan(before=LATER).blobs == 0
    before = blobs.totals()["stored"]
    assert len(collect(catalog)) == plan.blobs
    assert before - blobs.totals()["stored"] == sum(plan.garbage.values())


def test_after_gc_only_what_is_needed_is_left(catalog: Catalog, blobs: Blobs) -> None:
    kept = push(catalog, "kept", {"shared": b"shared", "own": b"kept"})
    gone = push(catalog, "gone", {"shared": b"shared", "own": b"gone"})
    delete(catalog, "gone")
    collect(catalog)
    assert set(blob_statuses(catalog)) == referenced(catalog, kept.id)
    assert [file.path for file in blobs.files_of(kept.id)] == ["own", "shared"]
    with pytest.raises(NotFoundError):
        catalog.checkpoints.get_by_id(gone.id)
