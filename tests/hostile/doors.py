"""Documents and headers that would take gigabytes and minutes of a reader without bounds, by the doors they come."""

from __future__ import annotations

import itertools
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from flexai.checkpoints.foreign_json import parse_json, read_bounded
from flexai.checkpoints.storage.connection import RemotePath
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.training.completeness.by_format import completeness
from flexai.checkpoints.training.formats.executable import find_code
from flexai.checkpoints.training.formats.facts import read_facts
from flexai.checkpoints.training.formats.safetensors import read_tensor_names
from tests.hostile.documents import FLAWS, FLOODS, whole_manifest
from tests.support.folders import local_folder

_MIB = 1024**2
_FULL = 63 * _MIB
"""Bytes: nearly what a JSON document may have."""


def _filled(start: bytes, piece: bytes, end: bytes, size: int = _FULL) -> Iterator[bytes]:
    """A document that repeats a piece until it has the size."""
    yield start
    block = piece * (_MIB // len(piece))
    for _ in range(size // len(block)):
        yield block
    yield end


def _numbered(start: bytes, piece: str, end: bytes, size: int = _FULL) -> Iterator[bytes]:
    """A document that repeats a piece, each time with another number in it."""
    yield start
    length = 0
    for number in itertools.count():
        yield (text := piece.replace("#", str(number)).encode())
        length += len(text)
        if length > size:
            break
    yield end


_BEGINNING = b'{"format":1,"complete":true,"etags":{},"manifestDigest":"","manifest":{"files":['
DOCUMENTS: dict[str, Callable[[], Iterable[bytes]]] = {
    "endless": lambda: itertools.repeat(b" " * _MIB),
    "endless text": lambda: itertools.chain([b'{"manifest":"'], itertools.repeat(b"x" * _MIB)),
    "lists in lists": lambda: _filled(b"", b"[", b""),
    "objects in objects": lambda: _filled(b"", b'{"a":', b""),
    "empty objects": lambda: _filled(b'{"files":[{}', b",{}", b"]}"),
    "files that are none": lambda: _filled(_BEGINNING + b"{}", b",{}", b"]}}", 3 * _MIB),
    "files with flaws": lambda: _filled(_BEGINNING + b"{}", b',{"path":"..","size":-1,"a":1}', b"]}}", 8 * _MIB),
    "small numbers": lambda: _filled(b'{"files":[1', b",1", b"]}"),
    "short keys": lambda: _numbered(b'{"":0', ',"#":0', b"}"),
    "one long number": lambda: _filled(b'{"format":', b"9", b"}"),
    "one wide text": lambda: _filled('{"a":"😀'.encode(), b"x", b'"}'),
    "no text": lambda: _filled(b"", b"\xff", b""),
}


class _Bucket:
    """A bucket each of whose objects is the document."""

    location = "memory"
    service_identity = ""

    def __init__(self, document: Callable[[], Iterable[bytes]]) -> None:
        self._document = document

    def get(self, key: str, *, start: int = 0, length: int | None = None, etag: str = "") -> Iterator[memoryview]:
        return map(memoryview, self._document())


def _export(bucket: Any) -> object:
    from flexai.checkpoints.service.support.export_manifest import read_export_manifest

    return read_export_manifest(RemotePath(bucket, "export"))


def _store(bucket: Any) -> object:
    from flexai.checkpoints.service.support.manifest_reader import read_manifest_document

    return read_manifest_document(ManagedStore(bucket).read_manifest("x"))


def _judged(folder: Path) -> object:
    listed = local_folder(folder)
    return completeness(listed), read_facts(listed), find_code(listed)


_TENSOR = ',"#":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
_ENTRIES = 1_300_000
_ENTRY = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 16)
FILES: dict[str, Callable[[], Iterable[bytes]]] = {
    "a.safetensors, tensors": lambda: _sized(_numbered(b'{"":{}', _TENSOR, b"}", 24 * _MIB)),
    "a.safetensors, many tensors": lambda: _sized(_numbered(b'{"":{}', _TENSOR, b"}", 95 * _MIB)),
    "a.safetensors, spaces": lambda: _sized(_filled(b"{", b" ", b"}", 95 * _MIB)),
    "a.safetensors, lists in lists": lambda: _sized(_filled(b'{"":', b"[", b"", 95 * _MIB)),
    "a.safetensors, empty objects": lambda: _sized(_filled(b'{"a":[{}', b",{}", b"]}", 95 * _MIB)),
    "a.safetensors, metadata": lambda: _sized(_numbered(b'{"__metadata__":{"":""', ',"#":"x"', b"}}", 95 * _MIB)),
    "model.safetensors.index.json, shards": lambda: _numbered(b'{"weight_map":{"":"x"', ',"#":"#"', b"}}"),
    "trainer_state.json, rows": lambda: _filled(b'{"log_history":[{}', b',{"loss":1}', b"]}"),
    "config.json, names": lambda: _filled(b'{"architectures":["a"', b',"a"', b"]}"),
    "optimizer.pt, directory": lambda: itertools.chain(
        [b"PK\3\4" + bytes(26)],
        [_ENTRY] * _ENTRIES,
        [struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(_ENTRY) * _ENTRIES, 30, 0)],
    ),
}


def _sized(document: Iterable[bytes]) -> Iterator[bytes]:
    content = b"".join(document)
    yield struct.pack("<Q", len(content))
    yield content


def _write(name: str, pieces: Iterable[bytes]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="flexai-hostile-"))
    with (folder / name).open("wb") as file:
        file.writelines(pieces)
    return folder


def _read_file(name: str, pieces: Callable[[], Iterable[bytes]]) -> Callable[[], object]:
    """Writes the file, and returns what reads it."""
    file = name.partition(",")[0]
    folder = _write(file, pieces())
    if file.endswith(".safetensors"):
        return lambda: read_tensor_names(local_folder(folder), file)
    return lambda: _judged(folder)


def _flood(make: Callable[[], bytes]) -> Callable[[], object]:
    """Writes the document, and returns what reads it by the door for JSON."""
    blocks = _blocks_of(make)
    return lambda: parse_json(read_bounded(blocks()))


def _written(make: Callable[[], bytes]) -> Callable[[], object]:
    """Writes a store's manifest, and returns what reads it."""
    blocks = _blocks_of(make)
    return lambda: _store(_Bucket(blocks))


def _blocks_of(make: Callable[[], bytes]) -> Callable[[], Iterator[bytes]]:
    path = _write("document.json", [make()]) / "document.json"

    def blocks() -> Iterator[bytes]:
        with path.open("rb") as file:
            while block := file.read(_MIB):
                yield block

    return blocks


def attacks() -> Iterator[tuple[str, Callable[[], Callable[[], object]]]]:
    """Each attack's name, and what prepares it."""
    for door, read in (("export's manifest", _export), ("store's manifest", _store)):
        for name, document in DOCUMENTS.items():
            yield f"{door}: {name}", lambda read=read, document=document: lambda: read(_Bucket(document))  # type: ignore[misc]
    yield "store's manifest: whole, of 100,000 files", lambda: _written(lambda: whole_manifest(100_000))
    for name, change in FLAWS.items():
        yield (
            f"store's manifest: flawed {name}",
            lambda change=change: _written(lambda: whole_manifest(1, change)),  # type: ignore[misc]
        )
    for name, make in FLOODS.items():
        yield f"JSON: {name}", lambda make=make: _flood(make)  # type: ignore[misc]
    for name, pieces in FILES.items():
        yield name, lambda name=name, pieces=pieces: _read_file(name, pieces)  # type: ignore[misc]
