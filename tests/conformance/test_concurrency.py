"""Many threads, one store object."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.storage.protocol import BLOCK_SIZE

from .stores import Store, pattern

pytestmark = pytest.mark.slow

THREADS = 8


def test_many_threads_store_different_objects(store: Store) -> None:
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda number: store.put(f"{number % 4}/{number:02}", pattern(20_000, number)), range(32)))
        contents = list(threads.map(lambda number: store.read(f"{number % 4}/{number:02}"), range(32)))
    assert contents == [pattern(20_000, number) for number in range(32)]
    assert len(store.names()) == 32


def test_when_many_threads_store_one_object_one_of_them_wins_whole(store: Store) -> None:
    contents = [pattern(200_000, number) for number in range(THREADS)]
    start = threading.Barrier(THREADS)

    def put(content: bytes) -> None:
        start.wait()
        store.put("file", content)

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(put, contents))
    assert store.read("file") in contents
    names = store.names()
    assert set(names) == {"file"}
    assert len(names) == 1 or not store.traits.lists_once
    assert list(store.storage.list_uploads(store.key(""))) == []


def test_a_reader_beside_writers_sees_one_whole_version_or_says_that_it_changed(store: Store) -> None:
    contents = [bytes([number]) * (BLOCK_SIZE // 2) for number in range(10)]
    store.put("file", contents[0])
    done = threading.Event()

    def write() -> None:
        for content in contents:
            store.put("file", content)
        done.set()

    with ThreadPoolExecutor(1) as threads:
        writing = threads.submit(write)
        seen = 0
        while seen < 3 or not done.is_set():
            assert store.read("file") in contents
            seen += 1
        writing.result()


@pytest.mark.reads
def test_many_threads_read_ranges_of_one_object(store: Store) -> None:
    content = pattern(2 * BLOCK_SIZE)
    etag = store.give("file", content).etag
    step = BLOCK_SIZE // 16

    def read(start: int) -> bytes:
        return store.read("file", start=start, length=step, etag=etag)

    with ThreadPoolExecutor(THREADS) as threads:
        assert b"".join(threads.map(read, range(0, len(content), step))) == content


def test_storing_and_deleting_in_one_folder_do_not_hinder_each_other(store: Store) -> None:
    def churn(number: int) -> None:
        for turn in range(10):
            name = f"a/b/{number % 3}/{number}-{turn}"
            store.put(name, b"x")
            assert store.read(name) == b"x"
            store.delete(name)

    staying = [] if store.traits.keeps_what_comes_to_an_emptied_folder else [f"a/b/{number}/0" for number in range(3)]
    for name in staying:
        store.put(name, b"x")
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(churn, range(THREADS)))
    assert store.names() == staying


def test_starting_and_aborting_uploads_in_one_folder_do_not_hinder_each_other(store: Store) -> None:
    def churn(number: int) -> None:
        for _ in range(5):
            upload = store.start(f"a/{number % 2}/file", 1)
            upload.put(1, b"x")
            upload.abort()

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(churn, range(THREADS)))
    assert store.names() == []
    assert list(store.storage.list_uploads(store.key(""))) == []


def test_deleting_one_object_many_times_at_once_is_no_error(store: Store) -> None:
    store.put("folder/file", b"x")
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(lambda _: store.delete("folder/file"), range(THREADS)))
    try:
        store.storage.head(store.key("folder/file"))
    except NotFoundError:
        return
    raise AssertionError("it is still there")
