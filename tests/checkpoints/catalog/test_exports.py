from __future__ import annotations

import uuid

import pytest

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.changes import history_of
from flexai.checkpoints.models import ExportRecord, now
from flexai.checkpoints.names import new_id, parse_id
from tests.checkpoints.catalog.steps import at_once, collect, delete, push


def _export(checkpoint_id: object, place: str, provider: str = "backup") -> ExportRecord:
    return ExportRecord(
        id=new_id(),
        checkpoint_id=parse_id(checkpoint_id),
        storage_provider=provider,
        destination_path=place,
        manifest_digest=uuid.uuid4().hex * 2,
        exported_at=now(),
    )


def test_exports_are_remembered_oldest_first_and_one_to_the_same_place_replaces_the_last(catalog: Catalog) -> None:
    one, two = push(catalog, "one"), push(catalog, "two")
    records = [_export(one.id, "bucket/a"), _export(one.id, "bucket/b"), _export(one.id, "bucket/a", "other")]
    for record in [*records, _export(two.id, "bucket/c")]:
        catalog.exports.record(record)
    assert catalog.checkpoints.list_exports(one.id) == records
    again = _export(one.id, "bucket/a")
    catalog.exports.record(again)
    assert catalog.checkpoints.list_exports(one.id) == [records[1], records[2], again]
    assert len(catalog.checkpoints.list_exports(str(two.id))) == 1
    assert catalog.checkpoints.list_exports(new_id()) == []


@pytest.mark.parametrize("again", ["bucket/a", "bucket/a/", " bucket/a//"])
def test_what_is_exported_over_another_checkpoint_takes_its_place(catalog: Catalog, again: str) -> None:
    one, two, three = push(catalog, "one"), push(catalog, "two"), push(catalog, "three")
    catalog.exports.record(_export(one.id, "bucket/a"))
    beside = [_export(three.id, "bucket/ab"), _export(three.id, "bucket/a/b"), _export(three.id, "bucket/a", "other")]
    for record in beside:
        catalog.exports.record(record)
    new = _export(two.id, again)
    catalog.exports.record(new)
    assert catalog.checkpoints.list_exports(one.id) == []
    assert catalog.checkpoints.list_exports(two.id) == [new]
    assert catalog.checkpoints.list_exports(three.id) == beside
    size = catalog.exports.size_at("backup", "bucket/a")
    assert size == (two.size, two.file_count) == catalog.exports.size_at("backup", "bucket/a/")


def test_both_checkpoints_tell_in_their_histories_that_one_was_exported_over_the_other(catalog: Catalog) -> None:
    one, two = push(catalog, "one"), push(catalog, "two")
    first, second = _export(one.id, "bucket/a"), _export(two.id, "bucket/a")
    catalog.exports.record(first)
    catalog.exports.record(second)
    with catalog.database.reading() as transaction:
        told = {of: found[-1] for of, found in history_of(transaction, (one.id, two.id)).items()}
    assert {entry.action for entry in told.values()} == {"export"}
    assert [len(told[one.id].before["exports"]), told[one.id].after["exports"]] == [1, []]
    assert [one["id"] for one in told[two.id].after["exports"]] == [second.id]


def test_an_export_that_lost_a_file_to_one_above_or_below_it_is_forgotten(catalog: Catalog) -> None:
    above, below, beside = push(catalog, "above"), push(catalog, "below"), push(catalog, "beside")
    (path, *_) = [file.path for file in catalog.checkpoints.list_files(str(above.id))]
    catalog.exports.record(_export(above.id, "bucket"))
    catalog.exports.record(_export(below.id, "bucket/x/y"))
    catalog.exports.record(_export(beside.id, "bucket/x/yz"))
    catalog.exports.record(_export(push(catalog, "other").id, "bucket/x"), gone=["b", f"yz{path}"])
    assert all(catalog.checkpoints.list_exports(one.id) for one in (above, below, beside))
    catalog.exports.record(_export(push(catalog, "new").id, "bucket/x"), gone=[f"y/{path}"])
    assert [len(catalog.checkpoints.list_exports(one.id)) for one in (above, below, beside)] == [1, 0, 1]


def test_exports_of_two_checkpoints_to_one_place_at_once_leave_one_record(catalog: Catalog) -> None:
    pushed = [push(catalog, f"one-{number}") for number in range(4)]
    at_once(lambda number: catalog.exports.record(_export(pushed[number % 4].id, "bucket/a")))
    assert len([record for one in pushed for record in catalog.checkpoints.list_exports(one.id)]) == 1


def test_exports_to_one_place_at_once_leave_one_record(catalog: Catalog) -> None:
    pushed = push(catalog)
    records = [_export(pushed.id, "bucket/a") for _ in range(8)]
    at_once(lambda number: catalog.exports.record(records[number]))
    (left,) = catalog.checkpoints.list_exports(pushed.id)
    assert left in records


def test_the_exports_of_a_checkpoint_are_forgotten_with_it(catalog: Catalog) -> None:
    pushed = push(catalog)
    catalog.exports.record(_export(pushed.id, "bucket/a"))
    delete(catalog, pushed.id)
    collect(catalog)
    assert catalog.checkpoints.list_exports(pushed.id) == []


# Claims as the rows show them
