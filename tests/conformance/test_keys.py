"""Which keys a store takes, and that they come back as they went in."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flexai.checkpoints.errors import UnsafePathError
from flexai.checkpoints.storage.protocol import BytesBody

from .stores import Store, pattern

UNUSUAL = [
    "with space",
    "with  two",
    "plus+and+plus",
    "percent%41",
    "encoded%2Fslash",
    "twice%252e%252e",
    "hash#tag",
    "question?mark=1&b=2",
    "amper&sand<angle>",
    "quote'and\"quote",
    "semi;colon:and,comma",
    "at@equals=dollar$",
    "brackets[0](1){2}",
    "star*pipe|caret^tilde~",
    "exclamation!grave`",
    ".hidden",
    "..hidden",
    "trailing.",
    "trailing..",
    "a...b",
    "-dash",
    "_under",
    "ünïcödé",
    "日本語/チェックポイント",
    "emoji-🎉",
    "combining-e\u0301",
    "right-\u05d0\u05d1",
    "no-break\u00a0space",
    "deep/er/and/deep/er/and/deep/er",
    "x" * 200,
    "/".join(["part" * 20] * 10),
]
UNSAFE = [
    "",
    ".",
    "..",
    "/",
    "/absolute",
    "folder/",
    "two//slashes",
    "../up",
    "down/../../up",
    "down/./here",
    "down/..",
    "nul\0byte",
    "new\nline",
    "carriage\rreturn",
    "bell\x07",
    "delete\x7f",
    "half-a-pair-\ud800",
    "non-character-\uffff",
    "x" * 1025,
    "ü" * 513,
    "file.flexai-partial",
    ".x.0123456789abcdef0123456789abcdef.flexai-partial",
    "x.flexai-partial/file",
]


@pytest.mark.reads
@pytest.mark.parametrize("name", UNUSUAL)
def test_what_has_an_unusual_key_is_listed_and_read(store: Store, name: str) -> None:
    store.give("other", b"stays")
    store.give("other-" + name, pattern(2000))
    info = store.give(name, b"content")
    assert info.key == store.key(name)
    assert store.storage.head(store.key(name)) == info
    assert store.read(name, start=1, length=3) == b"ont"
    assert store.read("other-" + name) == pattern(2000)
    assert sorted(store.names()) == sorted(["other", "other-" + name, name])
    assert store.names(name) == [name]


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_key_comes_back_as_it_went_in(store: Store, name: str) -> None:
    store.put("other", b"stays")
    info = store.put(name, b"content")
    assert info.key == store.key(name)
    assert store.storage.head(store.key(name)) == info
    assert store.read(name, start=1, length=3) == b"ont"
    assert sorted(store.names()) == sorted(["other", name])
    assert store.names(name) == [name]
    store.storage.copy(store.storage, store.key(name), store.key("copy"))
    assert store.read("copy") == b"content"
    store.delete(name)
    assert sorted(store.names()) == ["copy", "other"]


@pytest.mark.reads
def test_a_backslash_in_a_key_stays_a_backslash(store: Store) -> None:
    store.give("back\\slash", b"content")
    assert store.read("back\\slash") == b"content"
    assert store.names() == ["back\\slash" if store.traits.keeps_backslashes else "back/slash"]


def test_an_unusual_key_can_be_uploaded_in_parts(store: Store) -> None:
    name = "a b+c%2F/ü&'🎉.bin"
    upload = store.start(name, 7)
    assert [found.key for found in store.storage.list_uploads(store.key(""))] == [store.key(name)]
    upload.complete([upload.put(1, b"content")])
    assert store.read(name) == b"content"
    assert store.names() == [name]


@pytest.mark.reads
def test_keys_that_look_alike_are_different_objects(store: Store) -> None:
    names = ["caf\u00e9", "cafe\u0301", "a%20b", "a b", "a+b", "a%2Fb", "a/b"]
    for name in names:
        store.give(name, name.encode())
    assert sorted(store.names()) == sorted(names)
    assert [store.read(name) for name in names] == [name.encode() for name in names]


@pytest.mark.reads
@pytest.mark.parametrize("key", UNSAFE)
def test_an_unsafe_key_is_refused_at_every_door(store: Store, key: str) -> None:
    store.give("file", b"content")
    storage = store.storage
    doors: list[tuple[str, Callable[[], object]]] = [
        ("put", lambda: storage.put(key, BytesBody(b"x"))),
        ("get", lambda: next(storage.get(key))),
        ("head", lambda: storage.head(key)),
        ("copy", lambda: storage.copy(storage, key, store.key("copy"))),
        ("copy", lambda: storage.copy(storage, store.key("file"), key)),
        ("delete", lambda: storage.delete([key])),
        ("start_upload", lambda: storage.start_upload(key, size=1)),
        ("has_upload", lambda: storage.has_upload(key, "0" * 32)),
        ("put_part", lambda: storage.put_part(key, "0" * 32, number=1, offset=0, body=BytesBody(b"x"))),
        ("complete_upload", lambda: storage.complete_upload(key, "0" * 32, ())),
        ("abort_upload", lambda: storage.abort_upload(key, "0" * 32)),
    ]
    for door, enter in doors:
        with pytest.raises(store.traits.refuses.get(door, UnsafePathError)):
            pytest.fail(f"{door}: {enter()!r}")
    assert store.names() == ["file"]
