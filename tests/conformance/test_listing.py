"""What a listing yields, in which order, over pages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from .stores import PAGE_SIZE, Store


@pytest.mark.reads
def test_nothing_is_listed_where_nothing_is(store: Store) -> None:
    assert store.names() == []
    assert store.names("folder/") == []
    assert store.names("folder/file") == []


@pytest.mark.reads
def test_every_object_is_listed_once_over_many_pages(store: Store) -> None:
    names = [f"file-{number:03}" for number in range(3 * PAGE_SIZE + 1)]
    for name in names:
        store.give(name, name.encode())
    assert store.names() == names


@pytest.mark.reads
def test_a_listing_that_ends_with_a_full_page_ends_there(store: Store) -> None:
    names = [f"{number:03}" for number in range(2 * PAGE_SIZE)]
    for name in names:
        store.give(name, b"")
    assert store.names() == names


@pytest.mark.reads
def test_keys_come_in_order_of_their_bytes(store: Store) -> None:
    names = ["A", "a-b", "a.b", "a/b", "a/c", "a0", "a=", "ab", "b/a/a", "b/a/b", "b/a0", "z", "é", "日", "🎉"]
    for name in reversed(names):
        store.give(name, b"")
    listed = store.names()
    assert sorted(listed) == sorted(names)
    assert (listed == sorted(names, key=str.encode)) is store.traits.lists_in_order


@pytest.mark.reads
def test_folders_are_descended_into_over_pages(store: Store) -> None:
    names = [f"{a}/{b}/{c}" for a in "xyz" for b in "123" for c in "pq"]
    for name in names:
        store.give(name, b"")
    assert store.names() == names
    assert store.names("y/") == [name for name in names if name.startswith("y/")]
    assert store.names("y/2/") == ["y/2/p", "y/2/q"]


@pytest.mark.reads
def test_a_prefix_may_end_anywhere(store: Store) -> None:
    for name in ["data/run-1/x", "data/run-10/x", "data/run-2", "data-evil/x", "dat"]:
        store.give(name, b"")
    assert store.names("data/run-1") == ["data/run-1/x", "data/run-10/x"]
    assert store.names("data/run-1/") == ["data/run-1/x"]
    assert store.names("data/") == ["data/run-1/x", "data/run-10/x", "data/run-2"]
    assert sorted(store.names("data")) == ["data-evil/x", "data/run-1/x", "data/run-10/x", "data/run-2"]
    assert store.names("data/run-2") == ["data/run-2"]
    assert store.names("data/run-2/") == []
    assert store.names("data/run-1/x/") == []


@pytest.mark.reads
def test_a_listing_describes_objects_as_looking_does(store: Store) -> None:
    for number in range(PAGE_SIZE + 2):
        store.give(f"{number}", bytes(number))
    for info in store.storage.list(store.key("")):
        seen = store.storage.head(info.key)
        assert (info.size, info.etag) == (seen.size, seen.etag)
        assert info.size == int(info.key.removeprefix(store.prefix))


@pytest.mark.reads
def test_an_object_says_when_it_was_stored_as_the_store_has_it(store: Store) -> None:
    store.give("file", b"one")
    (listed,) = store.storage.list(store.key("file"))
    seen = store.storage.head(store.key("file"))
    if not store.traits.tells_times:
        assert listed.modified_at is None
        assert seen.modified_at is None
        return
    assert listed.modified_at is not None
    assert seen.modified_at is not None
    assert abs(listed.modified_at - seen.modified_at) < 2
    assert abs(datetime.now(UTC) - datetime.fromtimestamp(listed.modified_at, UTC)) < timedelta(days=1)


def test_what_is_stored_tells_the_time_at_the_store(store: Store) -> None:
    stored = store.put("file", b"one").modified_at
    found = store.storage.head(store.key("file"))
    seen = found.modified_at
    assert stored is not None
    assert seen is not None
    assert found.told_at is not None
    assert stored - 1 <= found.told_at < stored + 3600
    assert abs(stored - seen) < 60


def test_an_object_that_is_stored_again_is_no_older(store: Store) -> None:
    store.put("file", b"one")
    before = store.storage.head(store.key("file")).modified_at
    store.upload("file", b"another")
    after = store.storage.head(store.key("file")).modified_at
    assert before is not None
    assert after is not None
    assert after >= before


def test_a_listing_is_fetched_as_it_is_read(store: Store) -> None:
    for number in range(4 * PAGE_SIZE):
        store.put(f"{number:03}", b"")
    listing = store.storage.list(store.key(""))
    assert isinstance(listing, Iterator)
    assert next(listing).key == store.key("000")
    store.delete(*(f"{number:03}" for number in range(3 * PAGE_SIZE, 4 * PAGE_SIZE)))
    rest = [info.key.removeprefix(store.prefix) for info in listing]
    assert rest[: 3 * PAGE_SIZE - 1] == [f"{number:03}" for number in range(1, 3 * PAGE_SIZE)]


def test_what_is_deleted_while_it_is_listed_breaks_nothing(store: Store) -> None:
    names = [f"{number % 5}/{number:03}" for number in range(3 * PAGE_SIZE)]
    for name in names:
        store.put(name, b"")
    seen = []
    for info in store.storage.list(store.key("")):
        seen.append(info.key.removeprefix(store.prefix))
        store.storage.delete([info.key])
    assert seen == sorted(names)
    assert store.names() == []


@pytest.mark.reads
def test_one_tests_objects_are_not_anothers(store: Store) -> None:
    store.give("here", b"")
    assert [info.key for info in store.storage.list(store.prefix[:-1])] == [store.key("here")]
    assert not any(info.key.startswith(store.prefix) for info in store.open_other().list(""))
