from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import update

from flexai.checkpoints.catalog.blobs import Blobs
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.recovery import FoundCheckpoint, enter_recovered
from flexai.checkpoints.catalog.tables import blobs as blob_table
from flexai.checkpoints.contents import NewContent
from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.manifest import FileEntry, Manifest
from flexai.checkpoints.models import Checkpoint, CheckpointKind, CheckpointStatus, TrainingFacts
from flexai.checkpoints.names import new_id, parse_reference
from tests.checkpoints.catalog.steps import (
    PART_SIZE,
    STORE_ID,
    add_job,
    blob_statuses,
    collect,
    content_of,
    push,
    referenced,
)
from tests.checkpoints.samples import checkpoint
from tests.support.tables import tables_of

PACK = "a" * 32
OTHER = "b" * 32

_RANGES = {
    "a.bin": (PACK, content_of(b"aaaa")),
    "b.bin": (PACK, content_of(b"bbb", start=4)),
    "c/large.bin": (OTHER, content_of(b"large")),
    "same-as-b.bin": (PACK, content_of(b"bbb", start=4)),
}
_SIZES = {PACK: 7, OTHER: 5, "c" * 32: 99}


def _described(**fields: object) -> Checkpoint:
    return checkpoint(**{"store_id": STORE_ID, "status": CheckpointStatus.UPLOADING, "manifest_digest": None} | fields)


def _enter(catalog: Catalog, described: Checkpoint, ranges: dict[str, tuple[str, NewContent]] | None = None) -> bool:
    chosen = _RANGES if ranges is None else ranges
    entries = [
        FileEntry(path=path, size=new.size, digest=new.digest.hex() if new.digest else None, part_size=PART_SIZE)
        for path, (_, new) in sorted(chosen.items())
    ]
    found = FoundCheckpoint(described, Manifest(files=tuple(entries)).summary, chosen)
    (is_news,) = enter_recovered(catalog.database, [found], _SIZES)
    return is_news


def test_a_recovered_checkpoint_is_available_with_all_its_files(catalog: Catalog, blobs: Blobs) -> None:
    described = _described(name="llama", facts=TrainingFacts(step=5, model="Llama"))
    assert _enter(catalog, described)
    found = catalog.checkpoints.get(parse_reference("LLAMA"))
    assert (found.id, found.status, found.facts) == (described.id, CheckpointStatus.AVAILABLE, described.facts)
    assert (found.size, found.file_count) == (4 + 3 + 5 + 3, 4)
    assert found.manifest_digest is not None
    files = {file.path: file.content for file in blobs.files_of(found.id)}
    assert {path: (content.blob_id, content.start, content.digest) for path, content in files.items()} == {
        path: (blob_id, new.start, new.digest) for path, (blob_id, new) in _RANGES.items()
    }
    assert files["b.bin"].id == files["same-as-b.bin"].id
    assert blob_statuses(catalog) == {PACK: "stored", OTHER: "stored"}
    assert referenced(catalog, found.id) == {PACK, OTHER}
    assert collect(catalog) == []


def test_checkpoints_that_share_blobs_share_them_again(catalog: Catalog, blobs: Blobs) -> None:
    first, second = _described(name="first"), _described(name="second")
    assert _enter(catalog, first)
    assert _enter(catalog, second, {"only.bin": _RANGES["a.bin"]})
    # What only a manifest says identifies nothing.
    assert blobs.find_by_size(4) == []
    assert blobs.find_sizes([4]) == set()
    (content,) = (file.content for file in blobs.files_of(second.id))
    assert content.digest is not None
    assert blobs.find_by_digest([content.digest.hex()]) == {}
    assert blobs.hold_by_digest(first.id, [content.digest.hex()]) == {}
    assert sorted(blobs.users_of([content.id])[content.id]) == sorted([(first.id, "a.bin"), (second.id, "only.bin")])
    catalog.checkpoints.delete(parse_reference("first"))
    assert collect(catalog) == [OTHER]


def test_a_checkpoint_that_the_catalog_knows_is_left_as_it_is(catalog: Catalog) -> None:
    described = _described(name="llama")
    assert _enter(catalog, described)
    known = catalog.checkpoints.get_by_id(described.id)
    assert not _enter(catalog, replace(described, name="other"))
    assert catalog.checkpoints.get_by_id(described.id) == known
    catalog.checkpoints.delete(parse_reference("llama"))
    assert not _enter(catalog, described), "deleted ones are known as well"


def test_a_manifest_of_other_files_than_the_catalog_knows_is_refused(catalog: Catalog) -> None:
    pushed = push(catalog, "llama")
    with pytest.raises(IntegrityError, match="of other files"):
        _enter(catalog, _described(id=pushed.id))
    assert catalog.checkpoints.get_by_id(pushed.id) == pushed
    assert PACK not in blob_statuses(catalog)


def test_a_name_that_another_checkpoint_has_by_now_is_left_to_it(catalog: Catalog) -> None:
    pushed = push(catalog, "Llama")
    recovered = _described(name="llama")
    assert _enter(catalog, recovered)
    assert catalog.checkpoints.get(parse_reference("llama")) == pushed
    assert catalog.checkpoints.get(parse_reference(str(recovered.id))).name == "llama"


def test_a_captured_checkpoint_comes_with_its_job_as_far_as_it_tells_of_it(catalog: Catalog) -> None:
    job_id = new_id()
    captured = {"kind": CheckpointKind.CAPTURED, "name": "checkpoint-5", "job_id": job_id, "job_name": "train"}
    for sequence in (1, 2):
        assert _enter(catalog, _described(**captured, sequence=sequence))
    found = catalog.checkpoints.of_job(str(job_id))
    assert [(each.name, each.job_name, each.sequence) for each in found] == [
        ("checkpoint-5", "train", 1),
        ("checkpoint-5", "train", 2),
    ]


def test_a_job_whose_name_is_in_use_is_found_by_its_checkpoints(catalog: Catalog) -> None:
    add_job(catalog, "train")
    job_id = new_id()
    captured = _described(kind=CheckpointKind.CAPTURED, name="", job_id=job_id, job_name="Train", sequence=1)
    assert _enter(catalog, captured)
    assert [each.id for each in catalog.checkpoints.of_job(str(job_id))] == [captured.id]


def test_a_checkpoint_recovered_by_many_at_once_is_entered_once(catalog: Catalog, blobs: Blobs) -> None:
    described = [_described(name=f"llama-{number}") for number in range(3)]
    barrier = threading.Barrier(6)

    def enter_all(_: int) -> list[bool]:
        barrier.wait()
        return [_enter(catalog, each) for each in described]

    with ThreadPoolExecutor(6) as pool:
        entered = list(pool.map(enter_all, range(6)))
    assert [sum(column) for column in zip(*entered, strict=True)] == [1, 1, 1]
    for each in described:
        assert len(blobs.files_of(str(each.id))) == 4
    assert len(list(blobs.all_contents())) == 3


@pytest.mark.parametrize("status", ["writing", "deleting"])
def test_a_checkpoint_whose_blob_is_not_to_be_relied_on_is_not_recovered(catalog: Catalog, status: str) -> None:
    assert _enter(catalog, _described(name="first"))
    catalog.checkpoints.delete(parse_reference("first"))
    with tables_of(catalog.database) as connection:
        connection.execute(update(blob_table).where(blob_table.c.id == PACK).values(status=status))
    second = _described(name="second")
    with pytest.raises(IntegrityError):
        _enter(catalog, second)
    assert [each.name for each in catalog.checkpoints.of_store(STORE_ID)] == ["first"]


def test_nothing_is_entered_of_a_checkpoint_that_cannot_be(catalog: Catalog) -> None:
    with pytest.raises(KeyError):
        _enter(catalog, _described(), {"a": ("unknown", content_of(b"a"))})
    assert catalog.checkpoints.of_store(STORE_ID) == []
    assert blob_statuses(catalog) == {}
