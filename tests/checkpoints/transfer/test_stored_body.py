from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import BLOCK_SIZE, BytesBody
from flexai.checkpoints.transfer.digest import digest_blocks, digest_parts, parts_of
from flexai.checkpoints.transfer.stored_body import StoredBody, VerifiedBody, damaged, has_content
from tests.support.trees import noise

BLOB = "ab" * 16


def _content(data: bytes, part_size: int, *, start: int = 0) -> StoredContent:
    digests = [
        digest_blocks([memoryview(data)[part.offset : part.offset + part.size]])
        for part in parts_of(len(data), part_size)
    ]
    return StoredContent(
        id=1,
        blob_id=BLOB,
        start=start,
        size=len(data),
        part_size=part_size,
        digest=digest_parts(digests),
        part_digests=b"".join(digests),
    )


@pytest.fixture
def store(tmp_path: Path) -> ManagedStore:
    return ManagedStore(LocalStorage(tmp_path))


def _put(store: ManagedStore, data: bytes) -> None:
    store.storage.put(store.blob_key(BLOB), BytesBody(data))


def test_a_range_of_a_blob_is_read_again_and_again(store: ManagedStore) -> None:
    data = noise(3 * BLOCK_SIZE)
    _put(store, data)
    body = StoredBody(store, BLOB, 5, 2 * BLOCK_SIZE)
    for _ in range(2):
        assert b"".join(bytes(block) for block in body.blocks()) == data[5 : 5 + 2 * BLOCK_SIZE]


def test_a_blob_that_is_gone_or_too_short_is_damage_and_not_a_missing_checkpoint(store: ManagedStore) -> None:
    with pytest.raises(IntegrityError, match=f"blob {BLOB} is missing from the store") as caught:
        list(StoredBody(store, BLOB, 0, 10).blocks())
    assert caught.value.exit_code == 6
    _put(store, b"short")
    with pytest.raises(IntegrityError):
        list(StoredBody(store, BLOB, 0, 10).blocks())


@given(st.binary(max_size=60), st.integers(1, 20), st.integers(0, 59))
def test_bytes_are_a_content_only_where_all_of_them_are(data: bytes, part_size: int, position: int) -> None:
    content = _content(data, part_size)
    assert has_content(memoryview(data), content)
    assert not has_content(memoryview(data + b"x"), content)
    if data:
        position %= len(data)
        changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        assert not has_content(memoryview(changed), content)
        assert not has_content(memoryview(data[:-1]), content)


def test_parts_of_a_file_are_verified_as_they_pass(store: ManagedStore) -> None:
    data = noise(5 * BLOCK_SIZE + 3)
    _put(store, b"before" + data)
    file = StoredFile("model.bin", _content(data, 2 * BLOCK_SIZE, start=6))
    parts = parts_of(len(data), 2 * BLOCK_SIZE)
    body = VerifiedBody(store, file, parts[1:])
    assert body.size == len(data) - 2 * BLOCK_SIZE
    for _ in range(2):
        assert b"".join(bytes(block) for block in body.blocks()) == data[2 * BLOCK_SIZE :]


@pytest.mark.parametrize("position", [0, 2 * BLOCK_SIZE - 1, 2 * BLOCK_SIZE, 4 * BLOCK_SIZE + 1])
def test_a_damaged_part_is_an_error_before_the_body_ends(store: ManagedStore, position: int) -> None:
    data = noise(5 * BLOCK_SIZE)
    file = StoredFile("model.bin", _content(data, 2 * BLOCK_SIZE))
    _put(store, data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
    passed = 0
    with pytest.raises(IntegrityError, match=r"the stored content of 'model\.bin' is damaged"):
        for block in VerifiedBody(store, file, parts_of(len(data), 2 * BLOCK_SIZE)).blocks():
            passed += len(block)
    assert passed <= min(len(data), (position // (2 * BLOCK_SIZE) + 1) * 2 * BLOCK_SIZE)


def test_the_error_for_damage_names_the_file_and_the_blob() -> None:
    error = damaged(StoredFile("a/b.bin", _content(b"x", 1)))
    assert "'a/b.bin'" in error.message
    assert BLOB in error.message
    assert "verify" in error.hint
