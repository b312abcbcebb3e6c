"""Documents and headers that would take gigabytes and minutes of a reader without bounds, by the doors they come."""

from __future__ import annotations

import itertools
import struct
import tarfile
import tempfile
import zlib
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


def _sparse(head: bytes, size: int) -> Iterator[bytes]:
    """A beginning, and zeros up to a size."""
    yield head
    for _ in range(size // _MIB):
        yield bytes(_MIB)


FILES |= {
    "a.msgpack, lists in lists": lambda: _filled(b"", b"\x91", b"\xc0"),
    "a.msgpack, small values": lambda: _filled(b"\xdd\x03\xf0\x00\x00", b"\x01", b""),
    "a.msgpack, a list of four billion": lambda: [b"\xdd\xff\xff\xff\xff"],
    "a.ubj, lists in lists": lambda: _filled(b"{U\1a", b"[", b""),
    "a.ubj, small values": lambda: _filled(b"{U\1a[", b"T", b"]}"),
    "a.h5, an end beyond all": lambda: [b"\x89HDF\r\n\x1a\n\0\0\0\0\0\x08\x08" + b"\xfe" * 80],
    "a.h5, a signature far behind": lambda: _sparse(b"x", 64 * _MIB),
    "a.nemo, empty members": lambda: itertools.repeat(_tar_header(0), 130_000),
    "a.nemo, a member of exabytes": lambda: [_tar_header(2**62), bytes(_MIB)],
    "a.keras, directory": lambda: itertools.chain(
        [b"PK\3\4" + bytes(26)],
        [_ENTRY] * _ENTRIES,
        [struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(_ENTRY) * _ENTRIES, 30, 0)],
    ),
    "a.joblib, zeros packed": lambda: [zlib.compress(bytes(_FULL * 8))],
    "a.pkl, small values": lambda: _filled(b"\x80\2", b"K\0", b"."),
    "a.npy, a shape of many sides": lambda: [
        b"\x93NUMPY\2\0" + struct.pack("<L", 60_000),
        b"{'descr': '<f8', 'fortran_order': False, 'shape': (" + b"9," * 29_900 + b"), }",
    ],
    "a.index, one block again and again": lambda: _table_that_repeats(),  # noqa: PLW0108 - it stands below
}


def _tar_header(size: int) -> bytes:
    member = tarfile.TarInfo("a")
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def _table_that_repeats() -> Iterator[bytes]:
    """A table of LevelDB whose index names one large block many times."""
    entries = b"".join(bytes((0, 1, 9)) + b"a" + bytes(9) for _ in range(300_000))
    block = entries + struct.pack("<2L", 0, 1) + bytes(5)
    handle = _varint(0) + _varint(len(block) - 5)
    many = b"".join(bytes((0, 1, len(handle))) + b"~" + handle for _ in range(100_000))
    index = many + struct.pack("<2L", 0, 1) + bytes(5)
    yield block
    yield index
    footer = (_varint(len(block)) + _varint(len(index) - 5)) * 2
    yield footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)


def _varint(number: int) -> bytes:
    found = b""
    while number > 0x7F:
        found += bytes((number & 0x7F | 0x80,))
        number >>= 7
    return found + bytes((number,))


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
