"""Uploads in parts: in any order, on any machine, cut off anywhere."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

import pytest

from flexai.checkpoints.errors import NotFoundError, SourceChangedError, SourceError, StorageError, UnsupportedError
from flexai.checkpoints.storage.protocol import PartReceipt

from .stores import HollowBody, OddBody, Store, Upload, cut, pattern


@pytest.fixture
def content(store: Store) -> bytes:
    """Three parts, the last one short."""
    return pattern(2 * store.part_size + 1234)


def _reversed_parts(upload: Upload, content: bytes) -> list[PartReceipt]:
    parts = list(enumerate(cut(content, upload.store.part_size), start=1))
    return [upload.put(number, part) for number, part in reversed(parts)]


def test_parts_in_order_make_the_object(store: Store, content: bytes) -> None:
    info = store.upload("folder/file", content)
    assert (info.key, info.size) == (store.key("folder/file"), len(content))
    assert store.storage.head(info.key) == info
    assert store.read("folder/file") == content


def test_parts_in_reverse_order_make_the_object(store: Store, content: bytes) -> None:
    upload = store.start("file", len(content))
    upload.complete(_reversed_parts(upload, content))
    assert store.read("file") == content


def test_parts_sent_at_the_same_time_make_the_object(store: Store) -> None:
    content = pattern(3 * store.part_size + 1)
    upload = store.start("file", len(content))
    with ThreadPoolExecutor(4) as threads:
        receipts = list(threads.map(lambda part: upload.put(*part), enumerate(cut(content, store.part_size), start=1)))
    upload.complete(receipts)
    assert store.read("file") == content


def test_one_part_makes_an_object(store: Store) -> None:
    assert store.upload("file", b"x").size == 1
    assert store.read("file") == b"x"


def test_one_empty_part_makes_an_empty_object(store: Store) -> None:
    assert store.upload("file", b"").size == 0
    assert store.read("file") == b""


def test_ranges_across_parts_are_read_to_the_byte(store: Store, content: bytes) -> None:
    etag = store.upload("file", content).etag
    for start in (store.part_size - 3, 2 * store.part_size - 1, len(content) - 5):
        assert store.read("file", start=start, length=5, etag=etag) == content[start : start + 5]


def test_holes_in_a_part_are_read_as_zeros(store: Store) -> None:
    body = HollowBody(edge=pattern(70_000), hole=store.part_size)
    upload = store.start("file", body.size)
    upload.complete([upload.put_body(1, body)])
    assert store.read("file") == body.content


def test_a_part_may_have_more_blocks_than_one(store: Store) -> None:
    part = pattern(3 * 1024 * 1024 + 17)
    upload = store.start("file", len(part))
    upload.complete([upload.put(1, part)])
    assert store.read("file") == part


def test_a_part_that_is_sent_again_replaces_the_first_try(store: Store, content: bytes) -> None:
    upload = store.start("file", len(content))
    parts = cut(content, store.part_size)
    first_try = upload.put(1, pattern(store.part_size, seed=9))
    if not store.traits.replaces_parts:
        with pytest.raises(UnsupportedError):
            upload.put(1, parts[0])
        return
    receipts = {number: upload.put(number, part) for number, part in enumerate(parts, start=1)}
    assert first_try.number == receipts[1].number
    upload.complete(receipts.values())
    assert store.read("file") == content


def test_an_upload_goes_on_in_another_process(store: Store, content: bytes) -> None:
    parts = cut(content, store.part_size)
    begun = store.start("file", len(content))
    written = json.dumps([asdict(begun.put(number, parts[number - 1])) for number in (3, 1)])

    elsewhere = replace(store)
    upload = Upload(elsewhere, "file", begun.upload_id)
    assert upload.is_open
    receipts = [PartReceipt(**receipt) for receipt in json.loads(written)]
    upload.complete([*receipts, upload.put(2, parts[1])])
    assert store.read("file") == content


def test_nothing_is_visible_before_an_upload_is_complete(store: Store, content: bytes) -> None:
    upload = store.start("folder/file", len(content))
    upload.put_all(content)
    assert store.names() == []
    assert store.names("folder/file") == []
    with pytest.raises(NotFoundError):
        store.storage.head(store.key("folder/file"))


def test_the_old_object_stays_until_the_new_one_is_complete(store: Store, content: bytes) -> None:
    old = store.put("file", b"old")
    upload = store.start("file", len(content))
    receipts = upload.put_all(content)
    assert store.read("file", etag=old.etag) == b"old"
    assert (upload.complete(receipts).etag != old.etag) is store.traits.upload_changes_etag
    assert store.read("file") == content


def test_an_upload_is_open_until_it_is_complete(store: Store) -> None:
    upload = store.start("file", 3)
    assert upload.is_open
    receipt = upload.put(1, b"abc")
    assert upload.is_open
    upload.complete([receipt])
    assert upload.is_open is store.traits.keeps_uploads_open


@pytest.mark.parametrize("upload_id", ["", "0" * 32, "../../file", "no such upload", "ü"])
def test_an_upload_that_never_was_is_not_open_and_takes_nothing(store: Store, upload_id: str) -> None:
    upload = Upload(store, "file", upload_id)
    assert not upload.is_open
    with pytest.raises(store.gone):
        upload.put(1, b"x")
    with pytest.raises(store.gone):
        upload.complete([PartReceipt(number=1, token="")])
    upload.abort()
    assert store.names() == []


def test_an_aborted_upload_is_gone(store: Store, content: bytes) -> None:
    upload = store.start("folder/file", len(content))
    receipts = upload.put_all(content)
    upload.abort()
    assert not upload.is_open
    assert store.names() == []
    assert list(store.storage.list_uploads(store.key(""))) == []
    with pytest.raises(store.gone):
        upload.put(1, b"x")
    with pytest.raises(store.gone):
        upload.complete(receipts)
    assert store.names() == []


def test_aborting_twice_or_after_completion_is_no_error(store: Store) -> None:
    upload = store.start("one", 1)
    upload.abort()
    upload.abort()
    done = store.start("two", 1)
    done.complete([done.put(1, b"x")])
    done.abort()
    assert store.names() == ["two"]
    assert store.read("two") == b"x"


def test_aborting_leaves_the_old_object_and_other_uploads_alone(store: Store) -> None:
    store.put("file", b"old")
    one, two = store.start("file", 3), store.start("file", 3)
    receipt = two.put(1, b"new")
    one.put(1, b"bad")
    one.abort()
    assert store.read("file") == b"old"
    assert two.is_open
    two.complete([receipt])
    assert store.read("file") == b"new"


def test_two_uploads_of_one_key_do_not_mix(store: Store, content: bytes) -> None:
    others = pattern(len(content), seed=5)
    one, two = store.start("file", len(content)), store.start("file", len(content))
    assert one.upload_id != two.upload_id
    receipts_one, receipts_two = one.put_all(content), two.put_all(others)
    one.complete(receipts_one)
    assert store.read("file") == content
    two.complete(receipts_two)
    assert store.read("file") == others


def test_an_upload_belongs_to_its_key(store: Store) -> None:
    upload = store.start("file", 3)
    stranger = Upload(store, "other", upload.upload_id)
    if not store.traits.ties_uploads_to_keys:
        assert stranger.is_open
        return
    assert not stranger.is_open
    with pytest.raises(store.gone):
        stranger.put(1, b"x")
    receipt = upload.put(1, b"abc")
    with pytest.raises(store.gone):
        stranger.complete([receipt])
    stranger.abort()
    assert upload.is_open
    upload.complete([receipt])
    assert store.names() == ["file"]


def test_completing_twice_changes_nothing(store: Store, content: bytes) -> None:
    upload = store.start("file", len(content))
    receipts = upload.put_all(content)
    info = upload.complete(receipts)
    if store.traits.completes_twice:
        assert upload.complete(receipts) == info
    else:
        with pytest.raises(store.gone):
            upload.complete(receipts)
    assert store.storage.head(info.key) == info
    assert store.read("file") == content


def test_completing_a_second_time_does_not_bring_back_what_was_replaced_since(store: Store) -> None:
    upload = store.start("file", 3)
    receipts = [upload.put(1, b"one")]
    upload.complete(receipts)
    store.put("file", b"two")
    with pytest.raises(store.gone):
        upload.complete(receipts)
    assert store.read("file") == b"two"


def test_an_upload_without_a_part_in_between_is_refused(store: Store, content: bytes) -> None:
    upload = store.start("file", len(content))
    first, _, last = upload.put_all(content)
    for receipts in ([first, last], [last], [first, first, last]):
        with pytest.raises(StorageError):
            upload.complete(receipts)
    assert store.names() == []


def test_an_upload_without_its_last_part_is_not_taken_for_whole(store: Store, content: bytes) -> None:
    upload = store.start("file", len(content))
    receipts = upload.put_all(content[: 2 * store.part_size])
    try:
        size = upload.complete(receipts).size
    except StorageError:
        size = 0
    assert (size == len(content)) is not store.traits.notices_a_missing_last_part


@pytest.mark.parametrize("surplus", [-1, 1])
def test_a_part_of_another_size_than_it_said_is_refused(store: Store, surplus: int) -> None:
    upload = store.start("file", 100_000)
    with pytest.raises(SourceChangedError):
        upload.put_body(1, OddBody(size=100_000, content=pattern(100_000 + surplus)))
    _expect_to_go_on(upload)


def test_an_error_of_a_parts_body_passes_as_it_is_and_the_part_can_be_sent_again(store: Store) -> None:
    upload = store.start("file", 100_000)
    error = SourceError("unreadable")
    with pytest.raises(SourceError) as raised:
        upload.put_body(1, OddBody(size=100_000, content=b"x" * 50_000, error=error))
    assert raised.value is error
    _expect_to_go_on(upload)


def _expect_to_go_on(upload: Upload) -> None:
    """After a part that broke off, the whole part can be sent, or the store says that it never can."""
    try:
        receipt = upload.put(1, pattern(100_000))
    except UnsupportedError:
        assert not upload.store.traits.replaces_parts
        return
    upload.complete([receipt])
    assert upload.store.read("file") == pattern(100_000)


def test_unfinished_uploads_are_listed_until_they_end(store: Store) -> None:
    one, two, three = store.start("folder/one", 1), store.start("folder/two", 1), store.start("other", 1)
    receipt = one.put(1, b"x")

    def listed(prefix: str) -> set[tuple[str, str]]:
        return {(found.key, found.upload_id) for found in store.storage.list_uploads(store.key(prefix))}

    assert listed("") == {(upload.key, upload.upload_id) for upload in (one, two, three)}
    assert listed("folder/") == {(one.key, one.upload_id), (two.key, two.upload_id)}
    assert listed("folder/tw") == {(two.key, two.upload_id)}
    assert listed("folder/three") == listed("nothing/") == set()
    one.complete([receipt])
    two.abort()
    assert listed("") == {(three.key, three.upload_id)}


def test_many_unfinished_uploads_are_listed_over_pages_and_can_be_given_up(store: Store) -> None:
    started = {(upload.key, upload.upload_id) for upload in (store.start(f"{n % 3}", 1) for n in range(20))}
    listed = list(store.storage.list_uploads(store.key("")))
    assert {(found.key, found.upload_id) for found in listed} == started
    assert len(listed) == len(started)
    for found in listed:
        store.storage.abort_upload(found.key, found.upload_id)
    assert list(store.storage.list_uploads(store.key(""))) == []


def test_an_unfinished_upload_says_when_it_began(store: Store) -> None:
    store.start("file", 1)
    (found,) = store.storage.list_uploads(store.key(""))
    if not store.traits.tells_upload_times:
        assert found.started_at > 0
        return
    age = datetime.now(UTC) - datetime.fromtimestamp(found.started_at, UTC)
    assert abs(age) < timedelta(days=1)
