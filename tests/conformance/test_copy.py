"""Copies that the store makes by itself."""

from __future__ import annotations

from typing import cast

import pytest

from flexai.checkpoints.errors import NotFoundError, SourceChangedError, StorageError
from flexai.checkpoints.storage.protocol import BLOCK_SIZE, ObjectStorage

from .stores import Store, content_of, pattern

CONTENT = pattern(2 * BLOCK_SIZE + 99)


@pytest.mark.parametrize("size", [0, 1, 2 * BLOCK_SIZE + 99])
def test_a_copy_has_the_same_bytes_and_the_source_stays(store: Store, size: int) -> None:
    store.put("source", CONTENT[:size])
    info = store.storage.copy(store.storage, store.key("source"), store.key("folder/copy"))
    assert (info.key, info.size) == (store.key("folder/copy"), size)
    assert store.read("folder/copy") == store.read("source") == CONTENT[:size]
    assert store.storage.head(info.key).etag == info.etag


def test_a_copy_replaces_what_was_there(store: Store) -> None:
    store.put("source", CONTENT)
    old = store.put("copy", b"old")
    info = store.storage.copy(store.storage, store.key("source"), store.key("copy"))
    assert info.etag != old.etag
    assert store.read("copy") == CONTENT


def test_a_copy_does_not_follow_its_source(store: Store) -> None:
    store.put("source", CONTENT)
    store.storage.copy(store.storage, store.key("source"), store.key("copy"))
    store.put("source", b"new")
    assert store.read("copy") == CONTENT
    store.delete("source")
    assert store.read("copy") == CONTENT


def test_an_object_that_was_uploaded_in_parts_can_be_copied(store: Store) -> None:
    content = pattern(2 * store.part_size + 5)
    source = store.upload("source", content)
    info = store.storage.copy(store.storage, source.key, store.key("copy"), etag=source.etag)
    assert info.size == len(content)
    assert store.read("copy") == content


def test_what_is_not_there_cannot_be_copied(store: Store) -> None:
    with pytest.raises(NotFoundError):
        store.storage.copy(store.storage, store.key("missing"), store.key("copy"))
    assert store.names() == []


def test_a_copy_of_the_right_version_succeeds_and_of_an_old_one_is_refused(store: Store) -> None:
    old = store.put("source", pattern(1000, 1))
    assert store.storage.copy(store.storage, old.key, store.key("copy"), etag=old.etag).size == 1000
    store.put("source", pattern(1000, 2))
    with pytest.raises(SourceChangedError):
        store.storage.copy(store.storage, old.key, store.key("late"), etag=old.etag)
    assert store.names() == ["copy", "source"]


def test_a_copy_goes_from_bucket_to_bucket(store: Store) -> None:
    other = store.open_other()
    assert other.service_identity == store.storage.service_identity
    assert other.location != store.storage.location
    store.put("source", CONTENT)
    info = other.copy(store.storage, store.key("source"), store.key("copy"))
    assert content_of(other.get(info.key)) == CONTENT
    assert store.names() == ["source"]


@pytest.mark.reads
def test_the_same_store_opened_twice_has_the_same_identity(store: Store) -> None:
    assert store.open().service_identity == store.storage.service_identity
    assert store.open().location == store.storage.location


def test_a_copy_from_another_kind_of_store_is_refused(store: Store) -> None:
    class Elsewhere:
        service_identity = "elsewhere"
        location = "elsewhere"

    with pytest.raises(StorageError, match="elsewhere"):
        store.storage.copy(cast("ObjectStorage", Elsewhere()), "file", store.key("copy"))
    assert store.names() == []
