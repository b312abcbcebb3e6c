from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.errors import IntegrityError
from flexai.checkpoints.manifest import FileEntry
from flexai.checkpoints.paths import parse_path
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.protocol import BytesBody, ObjectInfo
from flexai.checkpoints.transfer.digest import digest_blocks, digest_parts, parts_of
from flexai.checkpoints.transfer.manifest_claim import ClaimedBody, joined_part_size
from flexai.checkpoints.transfer.sources import ObjectSource


def _source(content: bytes, part_size: int, *, has_manifest: bool = True) -> ObjectSource:
    """An object that a manifest beside it describes; no test reads it."""
    parts = [
        digest_blocks([memoryview(content)[part.offset : part.offset + part.size]])
        for part in parts_of(len(content), part_size)
    ]
    entry = FileEntry(
        path="model.bin",
        size=len(content),
        digest=digest_parts(parts).hex(),
        part_size=part_size if len(parts) > 1 else max(1, len(content)),
        parts=tuple(part.hex() for part in parts) if len(parts) > 1 else (),
    )
    return ObjectSource(
        path=parse_path("model.bin"),
        storage=LocalStorage(Path("/nowhere")),
        info=ObjectInfo(key="model.bin", size=len(content), etag="1"),
        claim=entry if has_manifest else None,
    )


def _read(source: ObjectSource, content: bytes, start: int = 0, end: int | None = None) -> bytes:
    body = ClaimedBody(source, BytesBody(content[start:end]), start)
    assert body.size == len(content[start:end])
    return b"".join(bytes(block) for block in body.blocks())


@given(st.binary(max_size=60), st.integers(1, 20), st.integers(0, 59), st.integers(1, 4))
def test_every_range_of_whole_parts_is_compared(content: bytes, part_size: int, position: int, joined: int) -> None:
    source = _source(content, part_size)
    step = joined * part_size
    for start in range(0, max(1, len(content)), step):
        assert _read(source, content, start, start + step) == content[start : start + step]
    if content:
        position %= len(content)
        changed = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        start = position // step * step
        with pytest.raises(IntegrityError, match=r"'model\.bin' does not match the digest in the manifest") as caught:
            _read(source, changed, start, start + step)
        assert "--overwrite" in caught.value.hint


def test_without_a_manifest_nothing_is_compared() -> None:
    source = _source(b"content", 3, has_manifest=False)
    assert _read(source, b"another") == b"another"


@pytest.mark.parametrize(
    ("part_size", "min_part_size", "joined"), [(100, 1, 100), (100, 100, 100), (100, 101, 200), (100, 250, 300)]
)
def test_parts_that_are_too_small_for_a_store_are_joined(part_size: int, min_part_size: int, joined: int) -> None:
    assert joined_part_size(_source(bytes(1000), part_size), 64, min_part_size=min_part_size) == joined


def test_a_file_of_one_part_stays_one() -> None:
    assert joined_part_size(_source(bytes(1000), 5000), 64, min_part_size=1) == 1000
    assert joined_part_size(_source(bytes(1000), 5000), 64, min_part_size=3000) == 3000


def test_without_a_manifest_the_setting_counts() -> None:
    source = _source(bytes(1000), 100, has_manifest=False)
    assert joined_part_size(source, 64, min_part_size=1) == 64
    assert joined_part_size(source, 64, min_part_size=80) == 80
