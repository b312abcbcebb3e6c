from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from blake3 import blake3
from sqlalchemy import TextClause, select, text

from flexai.checkpoints.catalog.blobs import Blobs
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.postgresql import PostgresqlDatabase
from flexai.checkpoints.catalog.tables import blobs as blob_table
from flexai.checkpoints.contents import ArrivedPart, NewContent
from flexai.checkpoints.errors import ConflictError
from flexai.checkpoints.names import new_id, parse_reference
from tests.checkpoints.catalog.others import OtherProcesses
from tests.checkpoints.catalog.steps import (
    LATER,
    OTHER_STORE_ID,
    PART_SIZE,
    STORE_ID,
    begin,
    blob_statuses,
    collect,
    commit,
    content_of,
    push,
    referenced,
    store,
)
from tests.support.tables import tables_of


def _digest(text: bytes) -> str:
    return blake3(text).hexdigest()


def _part(number: int, text: bytes = b"part") -> ArrivedPart:
    return ArrivedPart(number=number, digest=blake3(text).digest(), receipt=f"etag-{number}")


def _begin_upload(blobs: Blobs, checkpoint_id: str, path: str = "model.bin", upload_id: str = "upload-1") -> str:
    blob_id = blobs.begin(writer_id=checkpoint_id, path=path, size=3000, part_size=PART_SIZE)
    blobs.set_upload(blob_id, upload_id)
    return blob_id


def _delete(catalog: Catalog, reference: object) -> None:
    catalog.checkpoints.delete(parse_reference(str(reference)))


def _together(*works: Callable[[], Any]) -> list[Any]:
    """Do all of it at the same moment, each in a thread of its own."""
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], Any]) -> Any:
        barrier.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [done.result() for done in [pool.submit(run, work) for work in works]]


def _count(catalog: Catalog, query: TextClause, **values: object) -> int:
    """A number that is asked for in a transaction of its own: within one, PostgreSQL says the same again."""
    with tables_of(catalog.database) as connection:
        return int(connection.execute(query, values).scalar_one())


# A blob on its way


def test_a_blob_is_announced_and_referred_to_before_its_first_byte(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id, _ = begin(catalog)
    blob_id = blobs.begin(writer_id=checkpoint_id, path="model.bin", size=5, part_size=PART_SIZE)
    assert uuid.UUID(hex=blob_id).hex == blob_id
    assert blob_statuses(catalog) == {blob_id: "writing"}
    assert referenced(catalog, checkpoint_id) == {blob_id}
    assert blobs.unneeded() == []
    assert blobs.totals() == {"writing": 5}
    assert blobs.find_by_size(5) == []
    assert blobs.unfinished(checkpoint_id) == {}, "nothing to go on with before there is an upload"


def test_a_later_try_finds_what_an_earlier_one_brought_in(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id, lease = begin(catalog)
    blob_id = _begin_upload(blobs, checkpoint_id, "a/model.bin")
    other = _begin_upload(blobs, checkpoint_id, "b.bin", "upload-2")
    for part in (_part(3), _part(1), _part(2, b"first"), _part(2, b"again")):
        blobs.record_part(blob_id, part)
    catalog.checkpoints.fail(checkpoint_id, lease, "the network went away")
    again, _ = begin(catalog)
    found = blobs.unfinished(again)
    assert set(found) == {"a/model.bin", "b.bin"}
    blob = found["a/model.bin"]
    assert (blob.id, blob.path, blob.size, blob.part_size, blob.upload_id) == (
        blob_id,
        "a/model.bin",
        3000,
        PART_SIZE,
        "upload-1",
    )
    assert blob.parts == {1: _part(1), 2: _part(2, b"again"), 3: _part(3)}
    assert found["b.bin"].id == other
    assert found["b.bin"].parts == {}


def test_a_new_upload_of_a_blob_forgets_the_parts_of_the_last_one(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id, _ = begin(catalog)
    blob_id = _begin_upload(blobs, checkpoint_id)
    blobs.record_part(blob_id, _part(1))
    blobs.set_upload(blob_id, "upload-2")
    blob = blobs.unfinished(checkpoint_id)["model.bin"]
    assert (blob.upload_id, blob.parts) == ("upload-2", {})


def test_a_push_goes_on_only_with_its_own_blobs_in_its_own_store(catalog: Catalog, blobs: Blobs) -> None:
    mine, _ = begin(catalog, "mine")
    theirs, _ = begin(catalog, "theirs")
    _begin_upload(blobs, theirs)
    elsewhere = catalog.blobs(OTHER_STORE_ID)
    _begin_upload(elsewhere, mine)
    assert blobs.unfinished(mine) == {}
    assert set(elsewhere.unfinished(mine)) == {"model.bin"}


def test_a_blob_that_is_all_there_is_stored(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id, _ = begin(catalog)
    blob_id = _begin_upload(blobs, checkpoint_id)
    blobs.record_part(blob_id, _part(1))
    digests = blake3(b"one").digest() + blake3(b"two").digest()
    new = NewContent(
        start=0, size=3000, part_size=2000, digest=blake3(digests).digest(), part_digests=digests, checksums={"a": "b"}
    )
    (content,) = blobs.finish(blob_id, [new])
    assert (content.blob_id, content.start, content.size, content.part_size) == (blob_id, 0, 3000, 2000)
    assert (content.digest, content.part_digests, content.checksums) == (new.digest, digests, {"a": "b"})
    assert (content.part_digest(1), content.part_digest(2)) == (blake3(b"one").digest(), blake3(b"two").digest())
    assert blob_statuses(catalog) == {blob_id: "stored"}
    assert blobs.unfinished(checkpoint_id) == {}
    assert blobs.find_by_size(3000) == [content]


def test_the_ranges_of_a_pack_are_given_back_in_their_order(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id, _ = begin(catalog)
    texts = [b"%d" % number for number in range(3000)] + [b""]
    random.Random(1).shuffle(texts)
    new = [content_of(text, start=index * 10) for index, text in enumerate(texts)]
    blob_id = blobs.begin(writer_id=checkpoint_id, path="", size=30_000, part_size=PART_SIZE)
    stored = blobs.finish(blob_id, new)
    assert [content.digest for content in stored] == [content.digest for content in new]
    assert [content.start for content in stored] == [content.start for content in new]
    assert len({content.id for content in stored}) == len(new)
    assert {content.blob_id for content in stored} == {blob_id}


def test_content_that_was_never_read_has_only_the_provider_s_checksums(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id, _ = begin(catalog)
    blob_id = blobs.begin(writer_id=checkpoint_id, path="a", size=5, part_size=PART_SIZE)
    unread = NewContent(start=0, size=5, part_size=5, digest=None, part_digests=b"", checksums={"crc64nvme": "ff"})
    (content,) = blobs.finish(blob_id, [unread])
    assert (content.digest, content.checksums) == (None, {"crc64nvme": "ff"})
    assert blobs.find_by_size(5) == [], "no file can be compared with it"
    assert list(blobs.all_contents()) == [content]


def test_a_blob_that_gc_took_meanwhile_is_not_stored(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id, lease = begin(catalog)
    blob_id = _begin_upload(blobs, checkpoint_id)
    catalog.checkpoints.fail(checkpoint_id, lease, "stopped")
    catalog.garbage(STORE_ID).give_up_abandoned(before=LATER)
    assert blobs.mark_deleting(blob_id)
    with pytest.raises(ConflictError):
        blobs.finish(blob_id, [content_of(b"weights")])
    assert blob_statuses(catalog) == {blob_id: "deleting"}
    assert list(blobs.all_contents()) == []
    blobs.forget(blob_id)
    with pytest.raises(ConflictError):
        blobs.finish(blob_id, [content_of(b"weights")])
    with pytest.raises(ConflictError):
        blobs.record_part(blob_id, _part(1))


def test_a_push_of_a_checkpoint_that_is_gone_ends_with_an_error_in_words(catalog: Catalog, blobs: Blobs) -> None:
    kept = push(catalog, "kept")
    (file,) = blobs.files_of(kept.id)
    gone = new_id()
    for work in (
        lambda: blobs.begin(writer_id=gone, path="a", size=1, part_size=1),
        lambda: blobs.hold(gone, file.content),
        lambda: blobs.hold_by_digest(gone, [_digest(b"kept")]),
    ):
        with pytest.raises(ConflictError, match="meanwhile"):
            work()
    assert set(blob_statuses(catalog)) == {file.content.blob_id}


# Content that is there already


def test_content_is_found_by_its_digest_and_referred_to(catalog: Catalog, blobs: Blobs) -> None:
    first = push(catalog, "first", {"a": b"one", "b": b"two"})
    checkpoint_id, _ = begin(catalog, "second")
    held = blobs.hold_by_digest(checkpoint_id, [_digest(b"two"), _digest(b"two"), _digest(b"three")])
    assert set(held) == {_digest(b"two")}
    assert referenced(catalog, checkpoint_id) == {held[_digest(b"two")].blob_id}
    assert held[_digest(b"two")] == {file.path: file.content for file in blobs.files_of(first.id)}["b"]
    assert blobs.hold_by_digest(checkpoint_id, [_digest(b"two")]) == held, "once more changes nothing"
    assert blobs.hold_by_digest(checkpoint_id, []) == {}


def test_thousands_of_digests_are_found_at_once(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id, _ = begin(catalog, "first")
    texts = [b"%d" % number for number in range(1201)]
    blob_id = blobs.begin(writer_id=checkpoint_id, path="", size=30_000, part_size=PART_SIZE)
    blobs.finish(blob_id, [content_of(text, start=index * 10) for index, text in enumerate(texts)])
    second, _ = begin(catalog, "second")
    held = blobs.hold_by_digest(second, (_digest(text) for text in [*texts, b"unknown"]))
    assert set(held) == set(map(_digest, texts))
    assert referenced(catalog, second) == {blob_id}
    assert len(list(blobs.all_contents())) == 1201
    assert len({content.id for content in blobs.all_contents()}) == 1201


@pytest.mark.parametrize("state", ["deleting", "gone", "another store"])
def test_content_that_cannot_be_relied_on_is_not_held(catalog: Catalog, blobs: Blobs, state: str) -> None:
    first, lease = begin(catalog, "first")
    content = store(catalog.blobs(OTHER_STORE_ID) if state == "another store" else blobs, first, b"weights")
    commit(catalog, first, lease, {"a": content})
    if state != "another store":
        _delete(catalog, "first")
        catalog.garbage(STORE_ID).purge_deleted(before=LATER)
        assert blobs.mark_deleting(content.blob_id)
    if state == "gone":
        blobs.forget(content.blob_id)
    second, _ = begin(catalog, "second")
    assert not blobs.hold(second, content)
    assert blobs.hold_by_digest(second, [_digest(b"weights")]) == {}
    assert blobs.find_by_size(7) == []
    assert list(blobs.all_contents()) == []
    assert referenced(catalog, second) == set()


def test_who_only_looks_finds_contents_and_refers_to_nothing(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id = str(push(catalog, "llama", {"a": b"model", "b": b"model too"}).id)
    found = {file.path: file.content for file in blobs.files_of(checkpoint_id)}
    digests = {_digest(b"model"): found["a"], _digest(b"model too"): found["b"]}
    looker, _ = begin(catalog, "looker")
    assert blobs.find_by_digest([*digests, "00" * 32]) == digests
    assert blobs.find_by_origin(["nowhere@1"]) == {}
    assert blobs.find_sizes([5, 6, 9]) == {5, 9}
    assert referenced(catalog, looker) == set()
    assert {others for _, others in blobs.uses_of(checkpoint_id).values()} == {0}
    for one in found.values():
        assert blobs.hold(looker, one)
    assert {others for _, others in blobs.uses_of(checkpoint_id).values()} == {1}


def test_contents_are_found_by_their_size(catalog: Catalog, blobs: Blobs) -> None:
    push(catalog, "one", {"a": b"12345", "b": b"1234"})
    push(catalog, "two", {"a": b"54321"})
    assert {content.digest for content in blobs.find_by_size(5)} == {
        blake3(b"12345").digest(),
        blake3(b"54321").digest(),
    }
    assert blobs.find_by_size(6) == []
    assert catalog.blobs(OTHER_STORE_ID).find_by_size(5) == []


def test_content_that_is_held_is_needed(catalog: Catalog, blobs: Blobs) -> None:
    first = push(catalog, "first", {"a": b"weights"})
    (content,) = blobs.find_by_size(7)
    second, lease = begin(catalog, "second")
    assert blobs.hold(second, content)
    assert blobs.hold(second, content), "once more changes nothing"
    _delete(catalog, first.id)
    assert collect(catalog) == []
    commit(catalog, second, lease, {"a": content})
    assert collect(catalog) == []
    _delete(catalog, "second")
    assert collect(catalog) == [content.blob_id]


# What checkpoints hold


def test_the_files_of_a_checkpoint_are_in_the_order_of_their_paths_characters(catalog: Catalog, blobs: Blobs) -> None:
    paths = ["B", "Z/a", "_", "a", "d-b", "d.b", "d/b", "aB", "é", "名", "\U0001f642", "10", "9"]
    files = {path: path.encode() for path in paths}
    pushed = push(catalog, "llama", files)
    assert [file.path for file in blobs.files_of(pushed.id)] == sorted(paths)
    assert blobs.files_of(new_id()) == []


def test_the_users_of_contents_are_known(catalog: Catalog, blobs: Blobs) -> None:
    one = push(catalog, "one", {"a": b"shared", "b": b"shared", "c": b"own"})
    two = push(catalog, "two", {"d": b"shared"})
    _delete(catalog, "two")
    (shared,) = blobs.find_by_size(6)
    (own,) = blobs.find_by_size(3)
    users = blobs.users_of([shared.id, own.id, 10_000])
    assert sorted(users[shared.id]) == sorted([(one.id, "a"), (one.id, "b"), (str(two.id), "d")])
    assert users[own.id] == [(one.id, "c")]
    assert set(users) == {shared.id, own.id}
    assert blobs.users_of([]) == {}
    assert set(blobs.users_of(range(5000))) == {shared.id, own.id}


def test_the_catalog_knows_its_blobs(catalog: Catalog, blobs: Blobs) -> None:
    pushed = push(catalog, "llama", {"a": b"a", "b": b"b"})
    ids = {file.content.blob_id for file in blobs.files_of(pushed.id)}
    unreferenced = [uuid.uuid4().hex for _ in range(1200)]
    assert blobs.known([*unreferenced, *ids]) == ids
    assert blobs.known([]) == set()


def test_bytes_are_counted_by_status(catalog: Catalog, blobs: Blobs) -> None:
    assert blobs.totals() == {}
    checkpoint_id, _ = begin(catalog)
    store(blobs, checkpoint_id, b"12345")
    store(blobs, checkpoint_id, b"123")
    blobs.begin(writer_id=checkpoint_id, path="c", size=2**40, part_size=1)
    store(catalog.blobs(OTHER_STORE_ID), checkpoint_id, b"elsewhere")
    assert blobs.totals() == {"stored": 8, "writing": 2**40}


# Taking blobs out of use


def test_a_blob_that_a_checkpoint_needs_is_not_taken(catalog: Catalog, blobs: Blobs) -> None:
    push(catalog, "available", {"a": b"a"})
    uploading, _ = begin(catalog, "uploading")
    half = blobs.begin(writer_id=uploading, path="b", size=1, part_size=1)
    failed, lease = begin(catalog, "failed")
    store(blobs, failed, b"c")
    catalog.checkpoints.fail(failed, lease, "stopped")
    push(catalog, "deleted", {"d": b"d"})
    _delete(catalog, "deleted")
    assert blobs.unneeded() == []
    for blob_id in blob_statuses(catalog):
        assert not blobs.mark_deleting(blob_id)
    assert sorted(blob_statuses(catalog).values()) == ["stored", "stored", "stored", "writing"]
    assert half in blob_statuses(catalog)


def test_a_blob_that_no_checkpoint_needs_is_taken_and_forgotten(catalog: Catalog, blobs: Blobs) -> None:
    pushed = push(catalog, "llama", {"a": b"weights"})
    (file,) = blobs.files_of(pushed.id)
    _delete(catalog, "llama")
    catalog.garbage(STORE_ID).purge_deleted(before=LATER)
    assert blobs.unneeded() == [(file.content.blob_id, 7, "")]
    assert catalog.blobs(OTHER_STORE_ID).unneeded() == []
    blobs.forget(file.content.blob_id)
    assert blob_statuses(catalog) == {file.content.blob_id: "stored"}, "not before it is taken out of use"
    for _ in range(2):
        assert blobs.mark_deleting(file.content.blob_id), "again, where gc was cut off"
        assert blobs.unneeded() == [(file.content.blob_id, 7, "")]
    blobs.forget(file.content.blob_id)
    assert blob_statuses(catalog) == {}
    assert list(blobs.all_contents()) == []
    assert not blobs.mark_deleting(file.content.blob_id)


def test_an_unfinished_blob_that_no_checkpoint_needs_is_told_with_its_upload(catalog: Catalog, blobs: Blobs) -> None:
    checkpoint_id, lease = begin(catalog)
    blob_id = _begin_upload(blobs, checkpoint_id)
    blobs.record_part(blob_id, _part(1))
    catalog.checkpoints.fail(checkpoint_id, lease, "stopped")
    catalog.garbage(STORE_ID).give_up_abandoned(before=LATER)
    assert blobs.unneeded() == [(blob_id, PART_SIZE, "upload-1")]
    assert collect(catalog) == [blob_id]
    assert blobs.unfinished(checkpoint_id) == {}


@pytest.mark.parametrize("by", ["content", "digest"])
def test_a_blob_is_held_or_taken_but_never_both(catalog: Catalog, blobs: Blobs, by: str) -> None:
    holders = [begin(catalog, f"holder-{number}")[0] for number in range(4)]
    outcomes = set()
    for turn in range(15):
        text = f"{by} {turn}".encode()
        writer, lease = begin(catalog, f"writer-{turn}")
        content = store(blobs, writer, text)
        catalog.checkpoints.fail(writer, lease, "stopped")
        _delete(catalog, writer)
        catalog.garbage(STORE_ID).purge_deleted(before=LATER)

        def hold(holder: str, content: Any = content, text: bytes = text) -> bool:
            if by == "content":
                return blobs.hold(holder, content)
            return bool(blobs.hold_by_digest(holder, [_digest(text)]))

        works = [
            *(lambda holder=holder, hold=hold: hold(holder) for holder in holders),
            *(lambda content=content: bool(blobs.mark_deleting(content.blob_id)) for _ in range(2)),
        ]
        random.Random(turn).shuffle(works)
        marks = _together(*works)
        is_taken = blob_statuses(catalog)[content.blob_id] == "deleting"
        referrers = [holder for holder in holders if content.blob_id in referenced(catalog, holder)]
        assert is_taken == (referrers == [])
        assert marks.count(True) == (2 if is_taken else len(referrers))
        outcomes.add(is_taken)
        assert is_taken or len(referrers) == len(holders)


def test_pushes_that_share_all_their_content_do_not_wait_for_each_other_forever(catalog: Catalog) -> None:
    texts = {f"{number:02}": b"shared %d" % number for number in range(40)}
    push(catalog, "first", texts)

    def work(number: int) -> None:
        blobs = catalog.blobs(STORE_ID)
        chooser = random.Random(number)
        for turn in range(4):
            checkpoint_id, lease = begin(catalog, f"push-{number}-{turn}")
            order = list(texts.values())
            chooser.shuffle(order)
            held = blobs.hold_by_digest(checkpoint_id, map(_digest, order))
            assert len(held) == len(texts)
            kept = {path: held[_digest(text)] for path, text in texts.items() if chooser.random() < 0.5}
            # A commit drops what it does not need.
            commit(catalog, checkpoint_id, lease, kept)

    _together(*(lambda number=number: work(number) for number in range(6)))
    assert len(catalog.checkpoints.of_store(STORE_ID)) == 25


# SQLite locks no rows.
@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_blobs_are_locked_in_the_order_of_their_ids(catalog: Catalog, blobs: Blobs) -> None:
    writer, _ = begin(catalog, "writer")
    by_id = {store(blobs, writer, text).blob_id: text for text in (b"%d" % number for number in range(20))}
    ids = sorted(by_id)
    holder, _ = begin(catalog, "holder")
    locked = select(blob_table.c.id).with_for_update()
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = :name")
    assert isinstance(catalog.database, PostgresqlDatabase)
    name = catalog.database._engine.url.database
    with ThreadPoolExecutor(1) as pool:
        with tables_of(catalog.database) as connection:
            connection.execute(locked.where(blob_table.c.id == ids[10]))
            holding = pool.submit(blobs.hold_by_digest, holder, map(_digest, by_id.values()))
            while not _count(catalog, waiting, name=name):
                time.sleep(0.005)
            with tables_of(catalog.database) as observer:
                free = set(observer.execute(locked.with_for_update(skip_locked=True)).scalars())
        assert len(holding.result()) == 20
    assert free == set(ids[11:])


# Many processes on one catalog


@pytest.mark.slow
def test_many_processes_push_delete_and_collect_at_once_and_nothing_that_is_needed_goes(
    catalog: Catalog, blobs: Blobs, database_url: str, others: OtherProcesses
) -> None:
    pushers, times = 20, 4
    common = os.urandom(4).hex()
    running = [
        # Every two processes want the same names.
        others.start(
            "push many", database_url, names=[f"name-{number // 2}-{index}" for index in range(times)], common=common
        )
        for number in range(pushers)
    ]
    collectors = [others.start("collect many", database_url, times=5) for _ in range(2)]
    won = [set(other.answer()) for other in running]
    removed = {blob_id for other in collectors for blob_id in other.answer()}
    assert len(set.union(*won)) == sum(map(len, won)), "each checkpoint is one process's"
    available = {checkpoint.id: checkpoint for checkpoint in catalog.checkpoints.of_store(STORE_ID)}
    assert set(available) == set.union(*won)
    names = [checkpoint.name for checkpoint in available.values() if checkpoint.deleted_at is None]
    assert len(names) == len(set(names))
    assert {name for name in names if int(name[-1]) % 2 == 0} == {
        f"name-{number}-{index}" for number in range(pushers // 2) for index in range(0, times, 2)
    }
    statuses = blob_statuses(catalog)
    for checkpoint_id in available:
        contents = {file.path: file.content for file in blobs.files_of(checkpoint_id)}
        assert set(contents) == {"own.bin", "common.bin"}
        needed = {content.blob_id for content in contents.values()}
        assert needed == referenced(catalog, checkpoint_id)
        assert {statuses[blob_id] for blob_id in needed} == {"stored"}
        assert not needed & removed
