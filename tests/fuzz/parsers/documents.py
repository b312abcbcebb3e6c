"""Documents that a store or a bucket holds: written by us once, and by whatever program may write there."""

from __future__ import annotations

import atexit
import functools
import io
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.manifest import Manifest
from flexai.checkpoints.models import Checkpoint, CheckpointKind, HistoryEntry, canonical_json, plain
from flexai.checkpoints.names import new_id
from flexai.checkpoints.storage.protocol import ObjectInfo
from tests.checkpoints.samples import checkpoint, file_entry, manifest
from tests.fuzz.parsers.table import Table
from tests.support.machine import fast_folder

PARSERS = Table()

_KEYS = tuple(
    f'"{key}":'.encode()
    for key in ("checksums", "digest", "part_size", "parts", "path", "size", "files", "format", "complete", "etags")
)


def _with_digest(document: dict[str, Any]) -> dict[str, Any]:
    try:
        return document | {"manifestDigest": Manifest.model_validate(document["manifest"]).digest()}
    except (ValueError, KeyError, TypeError, CheckpointError):
        return document


def _mended(data: bytes) -> bytes:
    try:
        document = json.loads(data)
        return json.dumps(_with_digest(document)).encode() if isinstance(document, dict) else data
    except (ValueError, RecursionError):
        return data


def _described() -> Manifest:
    large = file_entry("b/large.bin", size=10, part_size=4, parts=("ab" * 32,) * 3, digest=_joined(3))
    copied = file_entry("copied.bin", digest=None, checksums={"etag": "5d41402abc4b2a76b9719d911017c592"})
    return Manifest(files=(large, copied, file_entry()))


def _joined(parts: int) -> str:
    from flexai.checkpoints.transfer.digest import digest_parts

    return digest_parts([bytes.fromhex("ab" * 32)] * parts).hex()


def _stored_manifest(described: Manifest, of: Checkpoint) -> bytes:
    document = plain(of)
    del document["is_protected"]
    return canonical_json(
        {
            "format": 1,
            "checkpoint": document,
            "manifest": described.model_dump(mode="json"),
            "manifestDigest": described.digest(),
            "contents": [["ab" * 16, 7 * number] for number, _ in enumerate(described.files)],
        }
    )


def _stored_manifests() -> list[bytes]:
    return [_stored_manifest(one, checkpoint()) for one in (manifest(), _described())]


def _export_manifests() -> list[bytes]:
    return [
        canonical_json(
            {
                "kind": "CheckpointExport",
                "format": 1,
                "complete": complete,
                "etags": {"model.safetensors": "5d41402abc4b2a76b9719d911017c592"},
                "checkpoint": {"id": checkpoint().id, "name": "llama"},
                "manifest": one.model_dump(mode="json"),
                "manifestDigest": one.digest(),
            }
        )
        for one, complete in ((manifest(), True), (_described(), False))
    ]


class _Bucket:
    """A bucket each of whose objects holds the input; it answers what is asked of one object alone."""

    location = "memory"
    service_identity = ""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def get(self, key: str, *, start: int = 0, length: int | None = None, etag: str = "") -> Iterator[memoryview]:
        yield memoryview(self.data)[start : None if length is None else start + length]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        yield ObjectInfo(prefix, len(self.data), "")


@PARSERS.add("store-manifest", _stored_manifests, *_KEYS, mend=_mended)
def _(data: bytes) -> object:
    from flexai.checkpoints.service.support.manifest_reader import read_manifest_document
    from flexai.checkpoints.storage.managed import ManagedStore

    storage: Any = _Bucket(data)
    return read_manifest_document(ManagedStore(storage).read_manifest("x"))


def _records() -> list[bytes]:
    described = checkpoint()
    change = HistoryEntry(
        at=described.created_at,
        actor="ada@lab",
        host="lab",
        flow_run_id="",
        action="protect",
        kind="checkpoint",
        subject_id=described.id,
        title="llama",
        before={"is_protected": False},
        after={"is_protected": True},
    )
    state = plain(described) | {"exports": []}
    return [canonical_json({"format": 1, "checkpoint": state, "history": [plain(change)]})]


@PARSERS.add("store-record", _records, *_KEYS)
def _(data: bytes) -> object:
    from flexai.checkpoints.service.support.record_reader import read_checkpoint_record
    from flexai.checkpoints.storage.managed import ManagedStore

    storage: Any = _Bucket(data)
    return read_checkpoint_record(ManagedStore(storage).read_record("checkpoint", "x") or {})


def _archives() -> list[bytes]:
    made = []
    for names in ([], ["a.log"], ["runs/" + "ä" * 90, "b.csv"]):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for name in names:
                info = tarfile.TarInfo(name)
                info.size = 5
                archive.addfile(info, io.BytesIO(b"lines"))
        made.append(file.getvalue())
    return made


@PARSERS.add("job-files", _archives, b"././@LongLink", b"ustar  ", b"../", b"0000644")
def _(data: bytes) -> object:
    from flexai.checkpoints.service.support.job_rest import read_archive
    from flexai.checkpoints.storage.managed import ManagedStore

    storage: Any = _Bucket(data)
    return list(read_archive(ManagedStore(storage), new_id(), "attempt-1", len(data)))


@PARSERS.add("export-manifest", _export_manifests, *_KEYS, mend=_mended)
def _(data: bytes) -> object:
    from flexai.checkpoints.service.support.export_manifest import read_export_manifest
    from flexai.checkpoints.storage.connection import RemotePath

    storage: Any = _Bucket(data)
    return read_export_manifest(RemotePath(storage, "export"))


@PARSERS.add(
    "json",
    lambda: [*_stored_manifests(), b"[1,-2.5e3,null,true]"],
    b"\\ud800",
    b"1e999",
    b"NaN",
    b"[",
    allowed=(ValueError,),
)
def _(data: bytes) -> object:
    from flexai.checkpoints.foreign_json import parse_json

    def read(lenient: bool) -> object:
        try:
            return parse_json(data, lenient=lenient)
        except ValueError as error:
            return error

    strict = parse_json(data, unique_keys=True)
    # What passes can be written again, and put into a database.
    json.dumps(strict, allow_nan=False, ensure_ascii=False).encode()
    return [strict, read(lenient=True)]


class _Stores:
    """A home whose catalog was lost, and made anew now and then, so that it stays small."""

    def __init__(self) -> None:
        atexit.register(self.clear)
        self._uses = 0
        self._folder: Path | None = None
        self._system: Any = None

    def system(self) -> Any:
        from flexai.checkpoints.service.system import System
        from flexai.checkpoints.settings import load_settings

        if self._uses % 20 == 0:
            self.clear()
            self._folder = Path(tempfile.mkdtemp(prefix="flexai-fuzz-", dir=fast_folder()))
            with mock.patch.dict("os.environ", {"FLEXAI_HOME": str(self._folder)}):
                self._system = System.open(load_settings())
            assert self._system.store_id
            blob = self._folder / "store" / self._system.store.blob_key("ab" * 16)
            blob.parent.mkdir(parents=True)
            blob.write_bytes(bytes(1000))
        self._uses += 1
        return self._system

    def clear(self) -> None:
        if self._folder is not None:
            self._system.close()
            shutil.rmtree(self._folder)
            self._folder = None

    def write_manifest(self, checkpoint_id: str, data: bytes) -> Path:
        assert self._folder is not None
        path = self._folder / "store" / "manifests" / f"{checkpoint_id}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return path


_stores = functools.cache(_Stores)


def _manifests_with_times() -> list[bytes]:
    captured = checkpoint(kind=CheckpointKind.CAPTURED, job_name="my-run", job_id=new_id(), sequence=1, node="n")
    return [_stored_manifest(manifest(), one) for one in (checkpoint(), captured)]


@PARSERS.add(
    "recovery",
    _manifests_with_times,
    b'"created_at":"',
    b'"name":"',
    b'"facts":',
    b'"0001-01-01T00:00:00+00:00"',
    mend=_mended,
)
def _(data: bytes) -> object:
    """Recovers what it can, and shows what the catalog then has, as the commands do."""
    from flexai.checkpoints.documents import age, checkpoint_document, checkpoint_list_document
    from flexai.checkpoints.models import from_text, now
    from flexai.checkpoints.service.overview import overview
    from flexai.checkpoints.service.recover import recover

    system = _stores().system()
    fresh = new_id()
    data = re.sub(rb'"job_id": ?"[0-9a-f-]{36}"', b'"job_id":"%s"' % new_id().encode(), data)
    found = re.search(rb'"id": ?"([0-9a-f-]{36})"', data)
    path = _stores().write_manifest(fresh, data.replace(found[1], fresh.encode()) if found else data)
    report = recover(system)
    path.unlink()
    # One bad manifest must never hide the others.
    assert len(report.recovered) + report.known + len(report.problems) == 1
    checkpoints = system.catalog.checkpoints
    rows = checkpoints.list_pushed()
    shown: list[object] = [checkpoint_list_document(rows), [age(from_text(row.created_at), now()) for row in rows]]
    for one in overview(system).checkpoints:
        shown.append(checkpoint_document(one, checkpoints.list_files(one.id), checkpoints.list_exports(one.id)))
    json.dumps(shown, allow_nan=False, ensure_ascii=False).encode()
    return list(report.recovered.values()), report.problems


def _store_documents() -> list[bytes]:
    plain_one = {"format": 1, "id": f"{9:032x}"}
    catalog = {"id": f"{7:032x}", "place": "lab:/home/ada/catalog.db", "number": 3, "changes": 20}
    return [
        canonical_json(plain_one),
        canonical_json(plain_one | {"catalog": catalog | {"renewed_at": "2025-01-01T00:00:00.000000Z"}}),
    ]


@PARSERS.add("store-id", _store_documents, b'"number":', b'"changes":1e308', b'"renewed_at":', b'"place":')
def _(data: bytes) -> object:
    """Reads which store it is, and whose, and says that as errors do."""
    from flexai.checkpoints.service.store_owner import described
    from flexai.checkpoints.storage.managed import ManagedStore

    storage: Any = _Bucket(data)
    store_id, catalog = ManagedStore(storage).read()
    return store_id, catalog and described(catalog)
