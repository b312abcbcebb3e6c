"""Deleting removes what is named, and nothing else."""

from __future__ import annotations

import pytest

from flexai.checkpoints.errors import NotFoundError, StorageError

from .stores import PAGE_SIZE, Store


def test_a_deleted_object_is_gone(store: Store) -> None:
    store.put("file", b"content")
    store.delete("file")
    assert store.names() == []
    with pytest.raises(NotFoundError):
        store.storage.head(store.key("file"))


def test_deleting_what_is_not_there_is_no_error(store: Store) -> None:
    store.put("folder/file", b"stays")
    store.delete("missing", "folder/missing", "missing/missing")
    assert store.names() == ["folder/file"]


def test_a_folders_name_and_what_would_lie_below_an_object_are_not_there(store: Store) -> None:
    store.put("folder/file", b"stays")
    if store.traits.takes_folders_for_objects:
        with pytest.raises(StorageError):
            store.delete("folder")
        store.delete("folder/file/below")
        assert store.names() == []
    else:
        store.delete("folder", "folder/file/below")
        assert store.names() == ["folder/file"]


def test_deleting_nothing_is_no_error(store: Store) -> None:
    store.put("file", b"stays")
    store.delete()
    assert store.names() == ["file"]


def test_many_objects_are_deleted_at_once_from_a_generator(store: Store) -> None:
    names = [f"folder/{number:03}" for number in range(3 * PAGE_SIZE + 2)]
    for name in [*names, "other/stays"]:
        store.put(name, b"")
    store.storage.delete(store.key(name) for name in ["missing", *names, *names[:3]])
    assert store.names() == ["other/stays"]


def test_only_the_named_objects_go_not_those_that_begin_alike(store: Store) -> None:
    for name in ["run", "run-1", "run-10", "run-1x/file", "r"]:
        store.put(name, b"")
    store.delete("run-1")
    assert store.names() == ["r", "run", "run-10", "run-1x/file"]


def test_a_deleted_object_can_be_stored_again(store: Store) -> None:
    store.put("folder/file", b"one")
    store.delete("folder/file")
    store.put("folder/file", b"two")
    assert store.read("folder/file") == b"two"


def test_deleting_leaves_unfinished_uploads_alone(store: Store) -> None:
    store.put("folder/file", b"old")
    upload = store.start("folder/file", 3)
    receipt = upload.put(1, b"new")
    store.delete("folder/file")
    assert store.names() == []
    upload.complete([receipt])
    assert store.read("folder/file") == b"new"
