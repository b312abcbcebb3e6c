"""Storing an object only where there is none."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from flexai.checkpoints.errors import DestinationExistsError

from .stores import Store, pattern

THREADS = 8


def test_what_is_new_is_stored(store: Store) -> None:
    stored = store.put_new("folder/file", pattern(100_000))
    seen = store.storage.head(store.key("folder/file"))
    assert (stored.key, stored.size, stored.etag) == (seen.key, seen.size, seen.etag)
    assert store.read("folder/file") == pattern(100_000)
    upload = store.start("folder/large", 1000)
    assert upload.complete([upload.put(1, pattern(1000))], only_new=True).size == 1000
    assert store.read("folder/large") == pattern(1000)
    assert store.names() == ["folder/file", "folder/large"]
    assert list(store.storage.list_uploads(store.key(""))) == []


def test_what_is_there_is_not_replaced_by_what_should_be_new(store: Store) -> None:
    store.put("file", b"old")
    if store.traits.heeds_only_new:
        with pytest.raises(DestinationExistsError, match="is there already"):
            store.put_new("file", b"new")
        assert store.read("file") == b"old"
    else:
        store.put_new("file", b"new")
        assert store.read("file") == b"new"
    assert store.names() == ["file"]
    assert list(store.storage.list_uploads(store.key(""))) == []


def test_what_is_there_is_not_replaced_by_an_upload_of_what_should_be_new(store: Store) -> None:
    upload = store.start("file", 3)
    receipt = upload.put(1, b"new")
    store.put("file", b"old")
    if store.traits.heeds_only_new:
        with pytest.raises(DestinationExistsError, match="is there already"):
            upload.complete([receipt], only_new=True)
        assert store.read("file") == b"old"
    else:
        upload.complete([receipt], only_new=True)
        assert store.read("file") == b"new"
    upload.abort()
    assert store.names() == ["file"]
    assert list(store.storage.list_uploads(store.key(""))) == []


def test_a_name_is_free_again_once_its_object_is_deleted(store: Store) -> None:
    for content in (b"one", b"two"):
        store.put_new("file", content)
        assert store.read("file") == content
        store.delete("file")


def test_of_many_threads_that_store_something_new_one_wins(store: Store) -> None:
    contents = [pattern(50_000, number) for number in range(THREADS)]
    start = threading.Barrier(THREADS)

    def put(content: bytes) -> bytes | None:
        start.wait()
        try:
            store.put_new("file", content)
        except DestinationExistsError:
            return None
        return content

    with ThreadPoolExecutor(THREADS) as threads:
        stored = [content for content in threads.map(put, contents) if content is not None]
    if store.traits.heeds_only_new and store.traits.lets_one_be_new:
        assert stored == [store.read("file")]
    else:
        assert store.read("file") in stored
    # rclone lists a file twice that two requests have just made.
    assert set(store.names()) == {"file"}
