from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.errors import IntegrityError, UnsafePathError
from flexai.checkpoints.models import CheckpointKind, TrainingFacts, canonical_json, to_text
from flexai.checkpoints.names import is_uuid, parse_name
from flexai.checkpoints.paths import parse_path
from flexai.checkpoints.service.support.manifest_reader import manifest_of, read_manifest_document
from flexai.checkpoints.service.support.manifest_writer import write_manifest
from flexai.checkpoints.settings import LEAST_PART_SIZE, MOST_PART_SIZE
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.transfer.digest import digest_parts
from tests.checkpoints.samples import checkpoint


def _file(path: str, size: int, part_size: int, *, blob: int = 1, start: int = 0) -> StoredFile:
    count = max(1, -(-size // part_size))
    parts = [blake3(f"{path} {number}".encode()).digest() for number in range(count)]
    return StoredFile(
        path=path,
        content=StoredContent(
            id=1,
            blob_id=f"{blob:032x}",
            start=start,
            size=size,
            part_size=part_size,
            digest=digest_parts(parts),
            part_digests=b"".join(parts),
            checksums={"crc32c": "00"},
        ),
    )


_PATHS = st.sampled_from(["a.bin", "b/c.bin", "b/d.bin", "名前.txt", "Größe.txt", "a b.txt", "epoch=3.ckpt", "z'z"])
_SIZES = st.integers(0, 10).map(lambda count: count * LEAST_PART_SIZE)
_FILES = st.lists(
    st.builds(_file, _PATHS, _SIZES, _SIZES.filter(bool), blob=st.integers(0, 3), start=st.integers(0, 99)),
    unique_by=lambda file: file.path,
    min_size=1,
)


@pytest.mark.parametrize("name", ["", "checkpoint-5", "exp/run-3/checkpoint-5", "lightning_logs/version_0/a=1.ckpt"])
def test_a_captured_checkpoint_is_read_with_its_path_its_metrics_and_its_pointers(tmp_path: Path, name: str) -> None:
    facts = TrainingFacts(step=5, metrics={"eval/f1": 0.5}, best_by="eval/f1:max")
    described = checkpoint(name=name, kind=CheckpointKind.CAPTURED, facts=facts, pointers=("../latest", "last.ckpt"))
    store = ManagedStore(LocalStorage(tmp_path))
    write_manifest(store, described, [_file("a.bin", 0, LEAST_PART_SIZE)])
    assert read_manifest_document(store.read_manifest(described.id))[0] == described


@given(_FILES, st.sampled_from(["llama", "", 'a "quoted" name', "名前"]))
def test_what_is_written_about_a_checkpoint_reads_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, files: list[StoredFile], name: str
) -> None:
    store = ManagedStore(LocalStorage(tmp_path_factory.mktemp("store")))
    described = checkpoint(name=name, kind=CheckpointKind.CAPTURED)
    summary = write_manifest(store, described, files)
    found, manifest, ranges = read_manifest_document(store.read_manifest(str(described.id)))
    assert found == described
    assert manifest == manifest_of(files)
    assert (summary.digest, summary.size, summary.file_count) == (manifest.digest(), manifest.size, len(files))
    for file in files:
        blob_id, content = ranges[file.path]
        assert (blob_id, content.start, content.size) == (file.content.blob_id, file.content.start, file.content.size)
        assert (content.digest, content.part_digests) == (file.content.digest, file.content.part_digests)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("checkpoint", {"unknown": 1}),
        ("checkpoint", {"status": "lost"}),
        ("checkpoint", {"size": -1}),
        ("checkpoint", {"manifest_digest": "AB" * 32}),
        ("checkpoint", {"created_at": "yesterday"}),
        ("source", {"unknown": 1}),
        ("source", {"storage_provider_id": "nobody"}),
        ("facts", {"unknown": 1}),
        ("facts", {"step": 2**63}),
        ("facts", {"eval_loss": "much"}),
    ],
)
def test_a_checkpoint_that_cannot_be_is_not_read(tmp_path: Path, part: str, changes: dict[str, Any]) -> None:
    store = ManagedStore(LocalStorage(tmp_path))
    described = checkpoint()
    write_manifest(store, described, [_file("a", 1, 1)])
    document = store.read_manifest(str(described.id))
    (document["checkpoint"] if part == "checkpoint" else document["checkpoint"][part]).update(changes)
    with pytest.raises(IntegrityError, match="damaged"):
        read_manifest_document(document)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every place below a value in which something else can be put."""
    inside = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(value, key) for key, _ in inside] + [place for _, one in inside for place in _places(one)]


@given(_FILES, st.data())
def test_a_manifest_that_is_changed_anywhere_is_damaged_or_keeps_every_rule(
    tmp_path_factory: pytest.TempPathFactory, files: list[StoredFile], data: st.DataObject
) -> None:
    store = ManagedStore(LocalStorage(tmp_path_factory.mktemp("store")))
    described = checkpoint()
    write_manifest(store, described, files)
    document = store.read_manifest(described.id)
    container, key = data.draw(st.sampled_from(_places(document)))
    container[key] = data.draw(_JSON)
    # As a writer would who wants to be believed.
    with contextlib.suppress(ValueError):
        document["manifestDigest"] = blake3(canonical_json(document["manifest"])).hexdigest()
    try:
        found, manifest, ranges = read_manifest_document(document)
    except IntegrityError as error:
        assert len(error.message) < 1500
        return
    assert is_uuid(found.id)
    assert parse_name(found.name)
    assert all(1970 <= time.year < 9999 and to_text(time) for time in (found.created_at, found.updated_at))
    assert manifest.size < 2**63
    assert [parse_path(entry.path) for entry in manifest.files] == list(ranges)
    for blob_id, content in ranges.values():
        assert re.fullmatch("[0-9a-f]{32}", blob_id)
        assert 0 <= content.start <= content.start + content.size < 2**63
        assert content.size <= content.part_size or LEAST_PART_SIZE <= content.part_size <= MOST_PART_SIZE


@given(_FILES)
def test_a_manifest_does_not_depend_on_the_order_of_its_files(files: list[StoredFile]) -> None:
    assert manifest_of(reversed(files)) == manifest_of(files)


def test_a_file_of_one_part_has_one_manifest_whatever_its_part_size_was() -> None:
    assert manifest_of([_file("a", 10, 10)]).digest() == manifest_of([_file("a", 10, 64, blob=2, start=7)]).digest()
    assert manifest_of([_file("a", 10, 10)]).digest() != manifest_of([_file("a", 10, 5)]).digest()


def test_nothing_is_written_about_files_that_cannot_lie_together(tmp_path: Path) -> None:
    store = ManagedStore(LocalStorage(tmp_path))
    for paths in (("a", "a/b"), ("A", "a"), ("../a",)):
        with pytest.raises(UnsafePathError):
            write_manifest(store, checkpoint(), [_file(path, 1, 1) for path in paths])
    assert list(tmp_path.iterdir()) == []
