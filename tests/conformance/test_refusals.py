"""What a store cannot do, it says, and nothing changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flexai.checkpoints.storage.protocol import BytesBody, ObjectStorage, PartReceipt

from .kinds import KINDS
from .stores import WRITING, Store

METHODS: dict[str, Callable[[ObjectStorage, str, str], object]] = {
    "put": lambda storage, key, _: storage.put(key, BytesBody(b"new")),
    "copy": lambda storage, key, source: storage.copy(storage, source, key),
    "delete": lambda storage, _, source: storage.delete([source]),
    "start_upload": lambda storage, key, _: storage.start_upload(key, size=3),
    "put_part": lambda storage, key, _: storage.put_part(key, "0" * 32, number=1, offset=0, body=BytesBody(b"new")),
    "complete_upload": lambda storage, key, _: storage.complete_upload(key, "0" * 32, [PartReceipt(1, "token")]),
    "abort_upload": lambda storage, key, _: storage.abort_upload(key, "0" * 32),
}

REFUSALS = [(name, method) for name, kind in KINDS.items() for method in kind.traits.refuses]


def test_every_method_that_writes_is_tried() -> None:
    assert set(METHODS) == set(WRITING)


@pytest.mark.parametrize(("store", "method"), REFUSALS, indirect=["store"])
def test_what_a_store_cannot_do_it_refuses_and_nothing_changes(store: Store, method: str) -> None:
    given = store.give("file", b"content")
    with pytest.raises(store.traits.refuses[method], match="read-only") as raised:
        METHODS[method](store.storage, store.key("new"), given.key)
    assert raised.value.hint
    assert store.names() == ["file"]
    assert store.read("file", etag=given.etag) == b"content"


@pytest.mark.reads
def test_a_store_that_takes_no_uploads_has_none(store: Store) -> None:
    store.give("file", b"content")
    assert list(store.storage.list_uploads(store.key(""))) == []
    assert not store.storage.has_upload(store.key("file"), "0" * 32)
