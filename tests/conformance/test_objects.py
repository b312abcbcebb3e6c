"""Storing and reading whole objects and ranges."""

from __future__ import annotations

import binascii
import hashlib

import google_crc32c
import pytest

from flexai.checkpoints.errors import (
    IntegrityError,
    NotFoundError,
    SourceChangedError,
    SourceError,
    StorageError,
    StorageUnavailableError,
)
from flexai.checkpoints.storage.protocol import BLOCK_SIZE, BytesBody

from .stores import HollowBody, OddBody, ReusedBufferBody, Store, content_of, pattern

CONTENT = pattern(2 * BLOCK_SIZE + 12_345)
END = len(CONTENT)


@pytest.mark.reads
@pytest.mark.parametrize("size", [0, 1, 65_536, BLOCK_SIZE - 1, BLOCK_SIZE, BLOCK_SIZE + 1, 3 * BLOCK_SIZE + 7])
def test_what_is_stored_is_what_is_read(store: Store, size: int) -> None:
    store.give("file", pattern(size))
    assert store.read("file") == pattern(size)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_memory_can_be_stored(store: Store, kind: type) -> None:
    store.storage.put(store.key("file"), BytesBody(kind(CONTENT)))
    assert store.read("file") == CONTENT


def test_a_body_may_use_its_buffer_again_for_every_block(store: Store) -> None:
    store.storage.put(store.key("file"), ReusedBufferBody(CONTENT))
    assert store.read("file") == CONTENT


def test_a_body_can_be_stored_twice(store: Store) -> None:
    body = BytesBody(CONTENT)
    store.storage.put(store.key("one"), body)
    store.storage.put(store.key("two"), body)
    assert store.read("one") == store.read("two") == CONTENT


def test_a_hole_is_read_as_zeros(store: Store) -> None:
    body = HollowBody(edge=pattern(1000), hole=2 * BLOCK_SIZE + 50)
    info = store.storage.put(store.key("file"), body)
    assert info.size == body.size
    assert store.read("file") == body.content


def test_storing_describes_the_object_as_looking_does(store: Store) -> None:
    stored = store.put("file", CONTENT)
    seen = store.storage.head(store.key("file"))
    assert (stored.key, stored.size, stored.etag) == (seen.key, seen.size, seen.etag)
    assert (seen.key, seen.size) == (store.key("file"), END)
    assert seen.etag


@pytest.mark.reads
def test_an_empty_object_has_no_bytes_and_is_there(store: Store) -> None:
    assert store.give("empty", b"").size == 0
    assert store.storage.head(store.key("empty")).size == 0
    assert store.names() == ["empty"]


@pytest.mark.reads
@pytest.mark.parametrize("name", ["missing", "folder", "folder/file/below", "folder/missing"])
def test_an_object_that_is_not_there_is_not_found(store: Store, name: str) -> None:
    store.give("folder/file", b"there")
    with pytest.raises(NotFoundError):
        store.storage.head(store.key(name))
    with pytest.raises(NotFoundError):
        store.read(name)
    with pytest.raises(NotFoundError):
        store.read(name, start=0, length=0)


@pytest.mark.reads
@pytest.mark.parametrize(
    ("start", "length"),
    [
        (0, 1),
        (0, END),
        (5, 10),
        (BLOCK_SIZE - 1, 2),
        (BLOCK_SIZE, BLOCK_SIZE),
        (END - 1, 1),
        (END - 5, 5),
        (1000, None),
        (END - 1, None),
        (3, 0),
    ],
)
def test_a_range_is_read_to_the_byte(store: Store, start: int, length: int | None) -> None:
    store.give("file", CONTENT)
    stop = END if length is None else start + length
    assert store.read("file", start=start, length=length) == CONTENT[start:stop]


@pytest.mark.reads
def test_what_follows_the_last_byte_is_nothing(store: Store) -> None:
    store.give("file", CONTENT)
    store.give("empty", b"")
    assert store.read("file", start=END) == b""
    assert store.read("file", start=END, length=0) == b""
    assert store.read("empty", start=0, length=0) == b""
    assert store.read("empty", start=0) == b""


@pytest.mark.reads
@pytest.mark.parametrize(("start", "length"), [(0, END + 1), (END - 1, 2), (END, 1), (END + 1, 1), (END + 10, 0)])
def test_a_range_that_the_object_has_not_got_is_refused(store: Store, start: int, length: int) -> None:
    store.give("file", CONTENT)
    with pytest.raises(IntegrityError):
        store.read("file", start=start, length=length)


@pytest.mark.reads
def test_an_empty_object_has_no_range(store: Store) -> None:
    store.give("empty", b"")
    with pytest.raises(IntegrityError):
        store.read("empty", start=0, length=1)


@pytest.mark.reads
def test_no_block_is_larger_than_a_reader_expects(store: Store) -> None:
    store.give("file", CONTENT)
    assert all(0 < len(block) <= BLOCK_SIZE for block in store.storage.get(store.key("file")))


@pytest.mark.reads
def test_two_readers_of_one_object_do_not_disturb_each_other(store: Store) -> None:
    store.give("file", CONTENT)
    ahead, behind = store.storage.get(store.key("file")), store.storage.get(store.key("file"), start=1000)
    first = bytes(next(ahead))
    second = bytes(next(behind))
    assert first + content_of(ahead) == CONTENT
    assert second + content_of(behind) == CONTENT[1000:]


@pytest.mark.reads
def test_a_reader_that_is_given_up_leaves_the_store_usable(store: Store) -> None:
    store.give("file", CONTENT)
    for _ in range(12):
        reader = store.storage.get(store.key("file"))
        next(reader)
        reader.close()  # type: ignore[attr-defined]
    assert store.read("file") == CONTENT


def test_storing_again_replaces_everything(store: Store) -> None:
    store.put("file", CONTENT)
    store.put("file", b"short")
    assert store.read("file") == b"short"
    assert store.storage.head(store.key("file")).size == 5


@pytest.mark.reads
def test_the_etag_changes_with_the_content(store: Store) -> None:
    etags = [store.give("file", pattern(1000, seed)).etag for seed in range(5)]
    assert len(set(etags)) == 5


@pytest.mark.reads
def test_the_etag_stays_while_nothing_changes(store: Store) -> None:
    etag = store.give("file", CONTENT).etag
    store.give("other", CONTENT)
    store.read("file")
    assert store.storage.head(store.key("file")).etag == etag
    assert store.open().head(store.key("file")).etag == etag
    assert [info.etag for info in store.storage.list(store.key("file"))] == [etag]


@pytest.mark.reads
def test_a_reader_with_the_right_etag_reads(store: Store) -> None:
    etag = store.give("file", CONTENT).etag
    assert store.read("file", etag=etag) == CONTENT
    assert store.read("file", start=7, length=9, etag=etag) == CONTENT[7:16]


@pytest.mark.reads
@pytest.mark.parametrize(("start", "length"), [(0, None), (7, 9), (0, 0)])
def test_a_reader_with_an_old_etag_is_told_of_the_change(store: Store, start: int, length: int | None) -> None:
    etag = store.give("file", pattern(1000, 1)).etag
    store.give("file", pattern(1000, 2))
    with pytest.raises(SourceChangedError):
        store.read("file", start=start, length=length, etag=etag)


@pytest.mark.parametrize("size", [END - 1, END + 1, 0, END + 5 * BLOCK_SIZE])
def test_a_body_of_another_size_than_it_said_is_refused(store: Store, size: int) -> None:
    with pytest.raises(SourceChangedError):
        store.storage.put(store.key("file"), OddBody(size=size, content=CONTENT))
    assert store.names() == []


@pytest.mark.parametrize("error", [SourceError("unreadable"), OSError("disk"), RuntimeError("stopped")])
def test_an_error_of_the_body_passes_as_it_is_and_the_old_object_stays(store: Store, error: Exception) -> None:
    store.put("file", b"old")
    with pytest.raises(type(error)) as raised:
        store.storage.put(store.key("file"), OddBody(size=END, content=CONTENT[: END // 2], error=error))
    assert raised.value is error
    assert store.read("file") == b"old"
    assert store.names() == ["file"]


def test_a_body_whose_own_source_fails_for_a_while_is_read_again_or_fails_as_it_said(store: Store) -> None:
    error = StorageUnavailableError("the source is away")
    body = OddBody(size=END, content=CONTENT[:100], error=error)
    with pytest.raises(StorageUnavailableError, match="the source is away"):
        store.storage.put(store.key("file"), body)
    assert body.readings >= 1
    assert store.names() == []


@pytest.mark.reads
def test_checksums_are_those_of_the_content(store: Store) -> None:
    store.give("file", CONTENT)
    checksums = store.storage.head(store.key("file")).checksums or {}
    known = {
        "crc32c": f"{google_crc32c.value(CONTENT):08x}",
        "crc32": f"{binascii.crc32(CONTENT):08x}",
        "md5": hashlib.md5(CONTENT).hexdigest(),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    for algorithm, value in checksums.items():
        assert value == known.get(algorithm, value), algorithm


@pytest.mark.reads
def test_the_location_says_where_without_saying_how_to_get_in(store: Store) -> None:
    assert store.storage.location
    assert "secret" not in store.storage.location
    assert "secret" not in repr(store.storage)


def test_a_file_where_a_folder_should_be(store: Store) -> None:
    store.put("a", b"file")
    if store.traits.holds_file_and_folder:
        store.put("a/b", b"below")
        assert store.names() == ["a", "a/b"]
        assert store.read("a") == b"file"
    else:
        with pytest.raises(StorageError):
            store.put("a/b", b"below")
        with pytest.raises(StorageError):
            store.put("a/b/c", b"below")
        assert store.names() == ["a"]


def test_a_folder_where_a_file_should_be(store: Store) -> None:
    store.put("a/b", b"below")
    if store.traits.holds_file_and_folder:
        store.put("a", b"file")
        assert store.names() == ["a", "a/b"]
    else:
        with pytest.raises(StorageError):
            store.put("a", b"file")
        assert store.names() == ["a" if store.traits.takes_folders_for_objects else "a/b"]
