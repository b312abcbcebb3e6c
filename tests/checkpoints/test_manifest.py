from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flexai.checkpoints.errors import UnsafePathError
from flexai.checkpoints.manifest import FileEntry, Manifest
from flexai.checkpoints.models import canonical_json
from tests.checkpoints.samples import file_entry, manifest
from tests.hostile.paths import CLASHING_SETS, GOOD_PATHS, HOSTILE_PATHS
from tests.support.documents import reversed_document

digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
checksums = st.dictionaries(st.sampled_from(["md5", "crc32c", "crc64nvme", "sha256"]), digests)
entries = st.builds(
    FileEntry,
    path=st.sampled_from([path for path in GOOD_PATHS if len(path) < 100]),
    size=st.integers(0, 2**60),
    digest=st.none() | digests,
    part_size=st.integers(1, 2**40),
    parts=st.lists(digests, max_size=3).map(tuple),
    checksums=checksums,
    executable=st.booleans(),
)


@given(entries)
def test_a_manifest_s_digest_does_not_depend_on_how_it_was_built(entry: FileEntry) -> None:
    built = Manifest(files=(entry,))
    read = Manifest.model_validate_json(json.dumps(reversed_document(json.loads(built.canonical())), indent=1))
    assert read == built
    assert read.canonical() == built.canonical()
    assert read.digest() == built.digest() == blake3(built.canonical()).hexdigest()
    assert Manifest.model_validate_json(built.canonical()) == built
    assert built.canonical() == canonical_json(json.loads(built.canonical()))


@given(entries, entries)
def test_a_manifest_s_digest_tells_files_that_differ_apart(one: FileEntry, other: FileEntry) -> None:
    assert (Manifest(files=(one,)).digest() == Manifest(files=(other,)).digest()) == (one == other)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", "other"),
        ("size", 4),
        ("digest", "ce" * 32),
        ("digest", None),
        ("part_size", 2048),
        ("parts", ("aa" * 32, "bb" * 32)),
        ("checksums", {"md5": "ff"}),
        ("executable", True),
    ],
)
def test_a_manifest_s_digest_changes_with_every_field(field: str, value: Any) -> None:
    named = {"path", "size", "digest", "part_size", "parts", "checksums", "executable"}
    assert {one.name for one in fields(FileEntry)} == named
    assert Manifest(files=(file_entry(**{field: value}),)).digest() != Manifest(files=(file_entry(),)).digest()


def test_a_manifest_s_digest_changes_with_its_files() -> None:
    digests_found = {manifest(*paths).digest() for paths in (("a",), ("b",), ("a", "b"), ("a", "b", "c"))}
    digests_found.add(Manifest(files=()).digest())
    assert len(digests_found) == 5


def test_a_manifest_s_byte_form_never_changes() -> None:
    # Digests in catalogs and exported checkpoints depend on it.
    assert manifest("é").canonical() == (
        b'{"files":[{"checksums":{},"digest":"' + b"cd" * 32 + b'","part_size":1024,"parts":[],"path":"\xc3\xa9",'
        b'"size":3}]}'
    )


def test_a_manifest_with_empty_folders_names_them_after_its_files() -> None:
    one = Manifest(files=(file_entry("a", executable=True),), folders=("b", "c/d"))
    assert one.canonical() == (
        b'{"files":[{"checksums":{},"digest":"' + b"cd" * 32 + b'","executable":true,"part_size":1024,"parts":[],'
        b'"path":"a","size":3}],"folders":["b","c/d"]}'
    )
    assert Manifest.read(json.loads(one.canonical())) == one
    assert one.digest() != Manifest(files=one.files).digest()
    assert Manifest(files=(), folders=("b",)).canonical() == b'{"files":[],"folders":["b"]}'


@pytest.mark.parametrize("folders", [("b", "b"), ("c", "b"), ("a",), ("a/b",), ("B", "b"), ("x", "x/y"), ("../b",)])
def test_a_manifest_with_folders_that_cannot_be_is_refused(folders: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"path|paths|folder"):
        Manifest.read({"files": json.loads(manifest("a").canonical())["files"], "folders": list(folders)})


def test_a_manifest_s_size_is_that_of_all_its_files() -> None:
    assert Manifest(files=()).size == 0
    assert Manifest(files=(file_entry("a", size=2**40), file_entry("b", size=0), file_entry("c", size=5))).size == (
        2**40 + 5
    )


@pytest.mark.parametrize("order", [("b", "a"), ("a/b", "a-b"), ("Z", "y", "a"), ("é", "z")])
def test_a_manifest_whose_files_are_out_of_order_is_refused(order: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError, match="in order of their paths"):
        Manifest(files=tuple(map(file_entry, order)))
    assert [entry.path for entry in manifest(*order).files] == sorted(order)


@pytest.mark.parametrize("paths", [*CLASHING_SETS, ("Model.bin", "model.bin")], ids=ascii)
def test_a_manifest_with_twins_is_refused(paths: tuple[str, ...]) -> None:
    with pytest.raises(UnsafePathError):
        manifest(*paths)


@pytest.mark.parametrize(("text", "reason"), HOSTILE_PATHS, ids=ascii)
def test_a_manifest_with_a_hostile_path_is_refused(text: str, reason: str) -> None:
    document = json.dumps({"files": [{"path": text, "size": 1, "part_size": 1}]})
    # A lone half of a surrogate pair is no JSON text at all.
    refusal = (
        UnsafePathError if text.isascii() or not any("\ud800" <= mark <= "\udfff" for mark in text) else ValueError
    )
    with pytest.raises(refusal):
        Manifest.model_validate_json(document)
    with pytest.raises(UnsafePathError):
        file_entry(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"size": -1},
        {"part_size": 0},
        {"digest": "AB" * 32},
        {"digest": "ab" * 31},
        {"digest": "ab" * 32 + "\n"},
        {"digest": "zz" * 32},
        {"digest": ""},
        {"parts": ("ab",)},
        {"unknown": 1},
        {"size": "many"},
        {"size": 1.5},
    ],
)
def test_a_file_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        file_entry(**fields)
