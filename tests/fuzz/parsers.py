"""Every parser of data that comes from outside, as a function of bytes.

What a parser may raise are our own errors, or what its own docstring says; anything else is a finding. Both drivers
take this table: `tests/fuzz/test_parsers.py` for the gate, and `make fuzz` for millions of inputs.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import itertools
import json
import re
import shutil
import socket
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.manifest import Manifest
from flexai.checkpoints.models import Checkpoint, CheckpointKind, HistoryEntry, canonical_json, plain
from flexai.checkpoints.names import new_id
from flexai.checkpoints.storage.retry import RetryPolicy
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError
from tests.checkpoints.samples import checkpoint, file_entry, manifest
from tests.checkpoints.training.layouts import (
    CONFIG,
    DATA,
    FILES,
    STATE,
    index,
    npy,
    npz,
    safetensors,
    tensorflow_index,
    torch_save,
)
from tests.fuzz.answers import AnsweringServer, answer
from tests.hostile.paths import GOOD_PATHS, HOSTILE_PATHS
from tests.hostile.pickles import HOSTILE
from tests.hostile.texts import HOSTILE_TEXTS, assert_harmless

Kinds = tuple[type[Exception], ...]
_FLAWS: Kinds = (NotWholeError, CannotTellError)
_ONCE = RetryPolicy(attempts=1)


@dataclass(frozen=True)
class Parser:
    """One parser."""

    read: Callable[[bytes], object]
    """Reads an input, to the end."""
    seeds: Callable[[], Sequence[bytes]]
    """Real inputs."""
    tokens: tuple[bytes, ...] = ()
    """Words of the format, for inputs that are nearly right."""
    allowed: Kinds = (CheckpointError,)
    """What it may raise."""
    mend: Callable[[bytes], bytes] = bytes
    """Makes an input fit its own digest again, so that what lies behind the comparison is reached as well."""


PARSERS: dict[str, Parser] = {}
"""By name."""


def _parser(
    name: str, seeds: Callable[[], Sequence[bytes]], *tokens: bytes, allowed: Kinds = (CheckpointError,), **more: Any
) -> Callable[[Callable[[bytes], object]], Callable[[bytes], object]]:
    def add(read: Callable[[bytes], object]) -> Callable[[bytes], object]:
        PARSERS[name] = Parser(read, seeds, tokens, allowed, **more)
        return read

    return add


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# Documents of ours

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
    """A bucket each of whose objects holds the input; it answers reads alone."""

    location = "memory"
    service_identity = ""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def get(self, key: str, *, start: int = 0, length: int | None = None, etag: str = "") -> Iterator[memoryview]:
        yield memoryview(self.data)[start : None if length is None else start + length]


@_parser("store-manifest", _stored_manifests, *_KEYS, mend=_mended)
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


@_parser("store-record", _records, *_KEYS)
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


@_parser("job-files", _archives, b"././@LongLink", b"ustar  ", b"../", b"0000644")
def _(data: bytes) -> object:
    from flexai.checkpoints.service.support.job_rest import read_archive
    from flexai.checkpoints.storage.managed import ManagedStore

    storage: Any = _Bucket(data)
    return list(read_archive(ManagedStore(storage), new_id(), "attempt-1", len(data)))


@_parser("export-manifest", _export_manifests, *_KEYS, mend=_mended)
def _(data: bytes) -> object:
    from flexai.checkpoints.service.support.export_manifest import read_export_manifest
    from flexai.checkpoints.storage.connection import RemotePath

    storage: Any = _Bucket(data)
    return read_export_manifest(RemotePath(storage, "export"))


@_parser(
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
        self._uses = 0
        self._folder: Path | None = None
        self._system: Any = None

    def system(self) -> Any:
        from flexai.checkpoints.service.system import System
        from flexai.checkpoints.settings import load_settings

        if self._uses % 100 == 0:
            if self._folder is not None:
                self._system.close()
                shutil.rmtree(self._folder)
            self._folder = Path(tempfile.mkdtemp(prefix="flexai-fuzz-"))
            with mock.patch.dict("os.environ", {"FLEXAI_HOME": str(self._folder)}):
                self._system = System.open(load_settings())
            assert self._system.store_id
            blob = self._folder / "store" / self._system.store.blob_key("ab" * 16)
            blob.parent.mkdir(parents=True)
            blob.write_bytes(bytes(1000))
        self._uses += 1
        return self._system

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


@_parser(
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
        shown.append(checkpoint_document(one, checkpoints.list_files(one.id), system.catalog.exports.of(one.id)))
    json.dumps(shown, allow_nan=False, ensure_ascii=False).encode()
    return report.recovered, report.problems


@_parser("store-id", lambda: [b'{"format":1,"id":"00000000-0000-0000-0000-000000000009"}'])
def _(data: bytes) -> object:
    from flexai.checkpoints.storage.managed import ManagedStore

    storage: Any = _Bucket(data)
    return ManagedStore(storage).read_id()


# Files of checkpoints


class _Files(CheckpointFolder):
    """A folder in memory."""

    def __init__(self, **contents: bytes) -> None:
        self.name = "checkpoint-5"
        self._contents = {path.replace("__", "."): content for path, content in contents.items()}
        self.files = {path: len(content) for path, content in self._contents.items()}

    def read(self, path: str, start: int, length: int) -> bytes:
        return self._contents[path][start : start + length]


def _headers() -> list[bytes]:
    long = {f"layers.{number}.weight": 2 for number in range(20)}
    return [safetensors(), safetensors(w=4), safetensors(**long)]


@_parser("safetensors", _headers, b'"data_offsets":', b'"__metadata__":', b'"dtype":"F4"', b"[0,0]", allowed=_FLAWS)
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.safetensors import read_tensor_names

    return read_tensor_names(_Files(a__safetensors=data), "a.safetensors")


def _of_tensors() -> list[bytes]:
    return [safetensors(w=4), torch_save(), npz(1.0, 2.0), npy(1.0)]


@_parser("tensors", _of_tensors, b"'descr': '<f8'", b"(3, 4)", b'"shape":[2]', b"PK\x01\x02", allowed=_FLAWS)
def _(data: bytes) -> object:
    from flexai.checkpoints.service.support.found_tensors import find_tensors

    names = ("a__safetensors", "a__pt", "a__npz", "a__npy", "__metadata")
    told, _ = find_tensors(_Files(**dict.fromkeys(names, data)), located=True)
    for path, tensors in told.items():
        for one in tensors:
            assert one.start is None or one.start >= 0, path
            assert one.start is None or one.size is None or one.start + one.size <= len(data), path
    return list(told.values())


@_parser("weight-map", lambda: [index(a="1.safetensors", b="2.safetensors"), index(a="../1")], allowed=_FLAWS)
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.safetensors import read_weight_map

    return read_weight_map(_Files(**{"1__safetensors": b"", "2__safetensors": b"", "i__json": data}), "i.json")


def _in_layout(file: str, data: bytes) -> object:
    from flexai.checkpoints.training.completeness.by_format import completeness
    from flexai.checkpoints.training.formats.facts import read_facts

    contents = {
        "config__json": json.dumps(CONFIG).encode(),
        "model__safetensors": safetensors(w=4),
        "trainer_state__json": json.dumps(STATE).encode(),
    }
    folder = _Files(**contents | {file: data})
    return completeness(folder), read_facts(folder)


_LOGS = [
    b"epoch,step,loss,val_loss\n0,10,0.5,\n0,20,,0.25\n",
    b'[{"step": 10, "loss": 0.5}, {"step": 20, "metrics": {"f1": 1}}]',
    b'{"step": 10, "loss": 0.5}\n{"step": 20, "loss": NaN}\n',
]


@_parser("log", lambda: _LOGS, b"step,", b'"step":', b"\n", b'"', b"1e999", allowed=())
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.logged import metrics_by_step

    return metrics_by_step(_Files(metrics__csv=data)), metrics_by_step(_Files(metrics__json=data, log__jsonl=data))


def _packed_states() -> list[bytes]:
    data = Path(__file__).parents[1] / "checkpoints" / "training" / "data"
    return [(data / "flax.msgpack").read_bytes(), b"\x82\xa4step\x07\xa9opt_state\x81\xa1w\x01"]


@_parser("packed-state", _packed_states, b"\xdf\xff\xff\xff\xff", b"\xa4step", b"\xcf", allowed=())
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.pickled_state import read_state

    return read_state(_Files(a__msgpack=data), "a.msgpack")


@_parser("trainer-state", lambda: [json.dumps(STATE).encode()], b'"global_step":', b'"loss":', allowed=())
def _(data: bytes) -> object:
    return _in_layout("trainer_state__json", data)


@_parser("config", lambda: [json.dumps(CONFIG).encode()], b'"architectures":', allowed=())
def _(data: bytes) -> object:
    return _in_layout("config__json", data)


@_parser("zip-directory", lambda: [torch_save()], b"PK\5\6", b"PK\6\7", b"PK\1\2", b"PK\3\4", allowed=())
def _(data: bytes) -> object:
    return _in_layout("optimizer__pt", data)


# Each format that is walked to its end: a file's name, seeds among `layouts.FILES`, and words of the format.
_WALKED: dict[str, tuple[str, tuple[str, ...], tuple[bytes, ...]]] = {
    "hdf5": ("a.h5", ("model.weights.h5", "model.hdf5"), (b"\x89HDF\r\n\x1a\n", b"\x08\x08", b"\xff" * 8)),
    "msgpack": ("a.msgpack", ("flax_model.msgpack",), (b"\xdf\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xc9", b"\xc1")),
    "ubjson": ("a.ubj", ("model.ubj",), (b"[$d#L", b"{#", b"[#U\xff", b"SL", b"}", b"]")),
    "tar": ("a.nemo", ("model.nemo",), (b"ustar", b"\x80", b"77777777777\0", bytes(512))),
    "legacy-torch": ("a.pt", ("old.pth", "model.joblib"), (b"Q", b"X\1\0\0\0a", b"(", b"tQ", b"e.")),
    "packed-pickle": ("a.joblib", ("packed.joblib",), (b"\x78\x9c", b"\xfd7zXZ\x00", b"BZh9")),
    "numpy": ("a.npy", ("weights.npy",), (b"'shape': (", b"9" * 50, b"'<f8'")),
    "lightgbm": ("a.txt", ("model.txt",), (b"\npandas_categorical:", b"end of parameters", b"tree\n")),
    "catboost": ("a.cbm", ("model.cbm",), (b"CBM1", b"\xff\xff\xff\xff")),
}


def _walked(name: str, file: str, seeds: tuple[str, ...], tokens: tuple[bytes, ...]) -> None:
    @_parser(name, lambda: [FILES[seed][0]() for seed in seeds], *tokens, allowed=_FLAWS)
    def _(data: bytes) -> object:
        from flexai.checkpoints.training.formats.whole_file import check_file

        return check_file(_Files(**{file.replace(".", "__"): data}), file)


for _name, (_file, _seeds, _tokens) in _WALKED.items():
    _walked(_name, _file, _seeds, _tokens)


def _indexes() -> list[bytes]:
    return [(DATA / "tensorflow.index").read_bytes(), tensorflow_index("a", "b/c")]


@_parser("tensorflow-index", _indexes, b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", b"\xff" * 9, bytes(5), allowed=_FLAWS)
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.tensorflow import check_index

    check_index(_Files(**{"a__index": data, "a__data-00000-of-00001": bytes(100)}), "a.index")
    return "whole"


@_parser("saved-model", lambda: [b"\x08\x01\x12\x04\x0a\x02ab"], b"\x12", b"\xff" * 9, b"\x1b", allowed=_FLAWS)
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.tensorflow import check_saved_model

    check_saved_model(_Files(**{"saved_model__pb": data}), "saved_model.pb")
    return "whole"


@_parser("dcp-metadata", lambda: [(DATA / "dcp-small.metadata").read_bytes()], b"__0_0.distcp", b"../a", allowed=_FLAWS)
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.pickle_ends import check_dcp_metadata

    folder = _Files(**{"__metadata": data})
    folder.files = {**folder.files, "__0_0.distcp": 4096}
    check_dcp_metadata(folder, ".metadata")
    return "whole"


_OPCODES = (
    b"\x93",
    b"R",
    b"\x94",
    b"h\0",
    b"cposix\nsystem\n",
    b"}",
    b"(",
    b"]",
    b"\x8c\5posix",
    b"C\2N.",
    b"0",
    b"b",
    b".",
)


@_parser("pickle", lambda: [make() for make in HOSTILE.values()], *_OPCODES, b"PK\3\4", b"\x1f\x8b", allowed=())
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.executable import find_code
    from flexai.checkpoints.training.formats.pickled_file import PickledFile
    from flexai.checkpoints.training.formats.pickled_state import read_dcp, read_state
    from flexai.checkpoints.training.formats.verdict import NotWholeError

    files = _Files(model__pkl=data)
    with contextlib.suppress(NotWholeError):
        list(PickledFile(files, "model.pkl").tensors())
    return find_code(files), read_state(files, "model.pkl"), read_dcp(files, "model.pkl")


def _code_documents() -> list[bytes]:
    layer = {"class_name": "Lambda", "module": "keras.layers", "config": {"function": {"class_name": "__lambda__"}}}
    return [
        json.dumps({"auto_map": {"AutoModel": "modeling.Model", "AutoConfig": "org/repo--configuration.C"}}).encode(),
        json.dumps({"class_name": "Functional", "module": "keras", "config": {"layers": [layer]}}).encode(),
    ]


@_parser("model-code", _code_documents, b'"auto_map":', b'"class_name":', b'"module":', b"--", allowed=())
def _(data: bytes) -> object:
    from flexai.checkpoints.training.formats.executable import find_code
    from tests.hostile.pickles import archive

    found = find_code(
        _Files(config__json=data, modeling__py=b"", saved_model__pb=data, model__h5=b"\x89HDF\r\n\x1a\n" + data)
    )
    return found, find_code(_Files(model__keras=archive({"config.json": data})))


# Answers of providers


@functools.cache
def _server() -> AnsweringServer:
    """Names are not looked up while inputs are tried: only an address of this machine leads anywhere."""
    looked_up = socket.getaddrinfo

    def of_number(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        return looked_up(host, port, flags=socket.AI_NUMERICHOST)

    mock.patch.object(socket, "getaddrinfo", of_number).start()
    return AnsweringServer()


_HTTP = (
    *(b"HTTP/1.1 206 Partial Content", b"HTTP/1.1 302 Found", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 416 x"),
    *(
        b"Content-Length: ",
        b"Content-Range: bytes 0-1/2\r\n",
        b"Content-Encoding: gzip\r\n",
        b"Transfer-Encoding: chunked\r\n",
    ),
    *(
        b"Location: ",
        b"Retry-After: ",
        b"\r\n\r\n",
        b"\r\n",
        b"\n",
        b": ",
        b"ETag: ",
        b"-1",
        b"NaN",
        b"Set-Cookie: a=b\r\n",
    ),
)


@functools.cache
def _s3() -> Any:
    from flexai.checkpoints.storage.s3.bucket import S3Storage
    from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service

    credentials = S3Credentials("key", "secret")
    service = S3Service(endpoint_url=_server().url, credentials=credentials, connect_timeout=5, read_timeout=5)
    return S3Storage(service, "bucket", policy=_ONCE)


@functools.cache
def _gcs() -> Any:
    from flexai.checkpoints.storage.gcs.bucket import GCSStorage
    from flexai.checkpoints.storage.gcs.session import GCSService

    service = GCSService(endpoint_url=_server().url, anonymous=True, connect_timeout=5, read_timeout=5)
    return GCSStorage(service, "bucket", policy=_ONCE)


def _hub() -> Any:
    from flexai.checkpoints.storage.hub.repository import HubStorage

    return HubStorage("org/repo", endpoint=_server().url, connect_timeout=5, read_timeout=5, policy=_ONCE)


def _outcome(read: Callable[[], object]) -> object:
    """What comes of one of several readings of the same input, our own errors among it."""
    try:
        return read()
    except CheckpointError as error:
        return error


def _listed(storage: Any, data: bytes) -> object:
    _server().prepare([data])
    listed = _outcome(lambda: list(itertools.islice(storage.list("a/"), 5000)))
    _server().prepare([data])
    return listed, _outcome(lambda: list(itertools.islice(storage.list_uploads("a/"), 5000)))


def _answered(storage: Any, data: bytes) -> object:
    found = []
    for more in ({}, {"start": 1, "length": 4, "etag": "abc"}):
        _server().prepare([data])
        found.append(_outcome(lambda: b"".join(map(bytes, storage.get("a/b", **more)))))  # noqa: B023
    _server().prepare([data])
    return found, _outcome(lambda: storage.head("a/b"))


_S3_LIST = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name><Prefix>a/</Prefix>
<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken><Contents><Key>a/b</Key>
<LastModified>2025-01-01T00:00:00.000Z</LastModified><ETag>"5d41402abc4b2a76b9719d911017c592"</ETag><Size>5</Size>
</Contents><Contents><Key>a/c</Key><Size>0</Size></Contents></ListBucketResult>"""
_S3_UPLOADS = b"""<?xml version="1.0" encoding="UTF-8"?>
<ListMultipartUploadsResult><Bucket>bucket</Bucket><NextKeyMarker>a/b</NextKeyMarker><IsTruncated>true</IsTruncated>
<Upload><Key>a/b</Key><UploadId>u</UploadId><Initiated>2025-01-01T00:00:00.000Z</Initiated></Upload>
</ListMultipartUploadsResult>"""
_S3_ERROR = b"<Error><Code>NoSuchKey</Code><Message>There is none</Message><Key>a/b</Key></Error>"
_ETAG = 'ETag: "5d41402abc4b2a76b9719d911017c592"'


def _s3_listings() -> list[bytes]:
    return [
        answer(_S3_LIST.replace(b"true", b"false")),
        answer(_S3_LIST),
        answer(_S3_UPLOADS),
        answer(_S3_ERROR, status="404 Not Found"),
    ]


def _s3_answers() -> list[bytes]:
    return [
        answer(b"hello", _ETAG, "x-amz-checksum-crc32c: mnG7TA==", "x-amz-checksum-type: FULL_OBJECT"),
        answer(b"ello", 'ETag: "abc"', "Content-Range: bytes 1-4/5", status="206 Partial Content"),
        answer(_S3_ERROR, "Retry-After: 3", status="503 Slow Down"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ]


_XML = (b"<Contents>", b"<Size>", b"</Size>", b"<Key>", b"<IsTruncated>true", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;")


@_parser("s3-listing", _s3_listings, *_XML, *_HTTP)
def _(data: bytes) -> object:
    return _listed(_s3(), data)


@_parser("s3-answer", _s3_answers, b"x-amz-checksum-sha1: ", b"Last-Modified: ", b"Expires: ", *_HTTP)
def _(data: bytes) -> object:
    return _answered(_s3(), data)


_GCS_ITEM = {
    "name": "a/b",
    "size": "5",
    "generation": "17",
    "crc32c": "mnG7TA==",
    "md5Hash": "XUFAKrxLKna5cZ2REBfFkg==",
    "timeCreated": "2025-01-01T00:00:00.000Z",
}
_GCS_PART = _GCS_ITEM | {"name": f"a/.b.{'0' * 32}.flexai-partial/00001"}


def _gcs_listings() -> list[bytes]:
    from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX

    part = _GCS_PART | {"name": f"a/.b.{'0' * 32}{PARTIAL_SUFFIX}/00001"}
    error = {"error": {"message": "no", "errors": [{"reason": "notFound"}]}}
    return [
        answer(json.dumps({"items": [_GCS_ITEM, part]}).encode()),
        answer(json.dumps({"items": [_GCS_ITEM, part], "nextPageToken": "t"}).encode()),
        answer(json.dumps(error).encode(), status="404 Not Found"),
    ]


def _gcs_answers() -> list[bytes]:
    return [
        answer(b"hello", "X-Goog-Generation: 17"),
        answer(b"ello", "X-Goog-Generation: abc", "Content-Range: bytes 1-4/5", status="206 Partial Content"),
        answer(json.dumps(_GCS_ITEM).encode()),
        answer(b"{}", "Retry-After: Wed, 21 Oct 2065 07:28:00 GMT", status="429 Too Many Requests"),
    ]


@_parser(
    "gcs-listing", _gcs_listings, b'"size":', b'"items":', b'"generation":', b'"error":', b'"timeCreated":', *_HTTP
)
def _(data: bytes) -> object:
    return _listed(_gcs(), data)


@_parser("gcs-answer", _gcs_answers, b"X-Goog-Generation: ", b'"md5Hash":"', *_HTTP)
def _(data: bytes) -> object:
    return _answered(_gcs(), data)


_COMMIT = "ab" * 20
_HUB_REVISION = answer(json.dumps({"id": "org/repo", "sha": _COMMIT}).encode())
_SHA256 = hashlib.sha256(b"hello").hexdigest()
_LFS = {"type": "file", "path": "a/b", "oid": "cd" * 20, "size": 5, "lfs": {"oid": _SHA256, "size": 5}}
_SMALL = {"type": "file", "path": "a/c", "oid": hashlib.sha1(b"blob 5\0hello").hexdigest(), "size": 5}
_HUB_TREE = answer(json.dumps([_LFS, _SMALL]).encode())


def _hub_listings() -> list[bytes]:
    linked = answer(_HUB_TREE.partition(b"\r\n\r\n")[2], 'Link: <https://hub/api?cursor=x>; rel="next"')
    return [_HUB_REVISION, _HUB_TREE, linked, answer(b"{}", "X-Error-Code: GatedRepo", status="403 Forbidden")]


@_parser(
    "hub-listing", _hub_listings, b'"lfs":', b'"oid":"', b'"type":"directory"', b"Link: <", b"X-Error-Code: ", *_HTTP
)
def _(data: bytes) -> object:
    found = []
    for answers in ([data, _HUB_TREE], [_HUB_REVISION, data, data]):
        _server().prepare(answers)
        found.append(_outcome(lambda: list(_hub().list(""))))
    return found


def _hub_answers() -> list[bytes]:
    linked = (f'X-Linked-Etag: "{_SHA256}"', "X-Linked-Size: 5", f"X-Repo-Commit: {_COMMIT}")
    return [
        answer(b"", "Location: http://127.0.0.1:9/signed?Signature=x", *linked, status="302 Found"),
        answer(b"", "Location: /elsewhere", *linked, status="307 Temporary Redirect"),
        answer(b"hello", "Content-Range: bytes 0-4/5", status="206 Partial Content"),
        answer(b"no", "X-Error-Message: Invalid credentials in Authorization header", status="401 Unauthorized"),
    ]


_PLACES = (
    b"http://[::1]/",
    b"http://169.254.169.254/",
    b"http://%31%36%39.254.1.1/",
    b"//a\\@b/",
    b"Link: <x>; rel=next\r\n",
)


@_parser("hub-answer", _hub_answers, *_PLACES, *_HTTP)
def _(data: bytes) -> object:
    found = []
    for key, answers in (("a/b", [data, data, data]), ("a/c", [data])):
        _server().prepare([_HUB_REVISION, _HUB_TREE, *answers])
        storage = _hub()
        found.append(_outcome(lambda: b"".join(map(bytes, storage.get(key)))))  # noqa: B023
    return found


@_parser(
    "http-header",
    lambda: [b"bytes 0-4/5", b"bytes */5", b"120", b"Wed, 21 Oct 2015 07:28:00 GMT"],
    b"-0000",
    b"+9999",
    b"GMT",
)
def _(data: bytes) -> object:
    from flexai.checkpoints.storage.http import parse_content_range, parse_retry_after

    text = data.decode("latin-1")
    return parse_content_range(text), parse_retry_after(text)


# Texts


def _texts(*texts: str) -> Callable[[], list[bytes]]:
    return lambda: [text.encode("utf-8", "surrogatepass") for text in texts]


_ENDPOINTS = (
    *("https://s3.example.com", "http://127.0.0.1:9000/", "http://[::1]:80/path", "https://xn--bcher-kva.example."),
    *(
        "http://0x7f.1",
        "http://2852039166",
        "http://169.254.169.254",
        "https://user:pass@host",
        "http://a\\b",
        "http://%31.2",
    ),
)


@_parser("endpoint", _texts(*_ENDPOINTS), b"%2e", b"\\", b"@", b"[", b"]", b"::ffff:", b"0x", b"#", b"?", b"xn--")
def _(data: bytes) -> object:
    from flexai.checkpoints.storage.addresses import why_refused
    from flexai.checkpoints.storage.endpoints import check_endpoint

    _server()
    text = _text(data)
    why_refused(text, inside=False, encrypted=False)
    checked = check_endpoint(text, allow_path=True)
    assert check_endpoint(checked, allow_path=True) == checked
    return checked


_PLACES_OF_USERS = (
    "org/repo",
    "gpt2@main/onnx",
    "org/repo@refs/pr/1/a/b",
    "bucket/a/b",
    "s3://bucket/prefix",
    "share:bucket/p",
)


@_parser("place", _texts(*_PLACES_OF_USERS, "gs://b/", "/home/x", "./a"), b"@", b"refs/", b"%2F", b"..", b"://", b":")
def _(data: bytes) -> object:
    from flexai.checkpoints.service.system import store_connection, store_opener
    from flexai.checkpoints.storage.connection import check_bucket, split_bucket
    from flexai.checkpoints.storage.hub.repo_paths import parse_hub_path

    text = _text(data)
    readings: Sequence[Callable[[], object]] = (
        lambda: parse_hub_path(text),
        lambda: check_bucket(split_bucket(text)[0]),
        lambda: store_opener(text),
        lambda: store_connection(text),
    )
    return [_outcome(read) for read in readings]


@_parser(
    "path",
    _texts(*GOOD_PATHS, *(text for text, _ in HOSTILE_PATHS)),
    b"../",
    b"\\",
    b"%2e",
    b"con",
    b"\0",
    b"\xef\xbc\x8e",
)
def _(data: bytes) -> object:
    from flexai.checkpoints.paths import check_path_set, parse_path

    texts = _text(data).split("\n")[:20]
    paths = [parse_path(text) for text in texts]
    for path in paths:
        assert not path.startswith("/") and ".." not in path.split("/") and "\0" not in path and "\\" not in path
    check_path_set(paths)
    return paths


@_parser(
    "name",
    _texts("llama-3", "latest", "best", "0f0e0d0c-0b0a-0908-0706-050403020100", "a_b"),
    b"-",
    b"\n",
    "İ".encode(),
)
def _(data: bytes) -> object:
    from flexai.checkpoints.names import parse_name, parse_reference

    text = _text(data)
    return (
        _outcome(lambda: parse_name(text)),
        _outcome(lambda: parse_reference(text)),
        _outcome(lambda: parse_name(text)),
    )


@_parser(
    "setting",
    _texts("64MiB", "1.5gb", "7d", "90s", "400_000", "2w", "sqlite:///a"),
    b".",
    b"_",
    b"e9",
    b"\n",
    allowed=(ValueError,),
)
def _(data: bytes) -> object:
    from flexai.checkpoints.settings import RULES

    found = []
    for rule in RULES.values():
        try:
            value = rule.read(_text(data))
            assert rule.write(value) == rule.write(rule.read(rule.write(value)))
            found.append(value)
        except ValueError as error:
            found.append(error)
    return found


@functools.cache
def _home() -> Path:
    return Path(tempfile.mkdtemp(prefix="flexai-fuzz-"))


@_parser(
    "config-file",
    _texts('part_size = "64MiB"\nconcurrency = 8\n', "[a]\nb = [1, 2.0]\n"),
    b'"""',
    b"[[",
    b"= 1979-05-27",
    b"inf",
)
def _(data: bytes) -> object:
    from flexai.checkpoints.settings import CONFIG_FILE, load_settings

    (_home() / CONFIG_FILE).write_bytes(data)
    with mock.patch.dict("os.environ", {"FLEXAI_HOME": str(_home())}):
        return load_settings()


@_parser(
    "template",
    _texts("{job}-{step}", "{step:06d}", "a{{b}}{step:>10}"),
    b"{",
    b"}",
    b":",
    b"!r",
    b"{step.real}",
    b"{0}",
)
def _(data: bytes) -> object:
    from flexai.flows.templates import check_template, render

    text = _text(data)
    fields = frozenset({"job", "step"})
    try:
        check_template(text, fields)
    except ValueError as error:
        return error
    rendered = render(text, {"job": "digits", "step": 500})
    assert len(rendered) <= 100 * len(text)
    return rendered


@_parser(
    "shown-text", _texts(*HOSTILE_TEXTS.values()), b"\x1b[", b"\xc2\x9b", b"\r", b"\xe2\x80\xae", b"\x07", allowed=()
)
def _(data: bytes) -> object:
    from flexai.checkpoints.names import printable
    from flexai.cli.training.logs import readable

    text = _text(data)
    shown = [printable(text), *(printable(line) for line in readable([text[:9], text[9:]]))]
    for one in shown:
        assert_harmless(one.replace("\t", ""))
    return shown


_URLS = (
    "postgresql://u:canary@host/db?sslpassword=canary&a=b",
    "sqlite:///a?token=canary",
    "http://u:canary@[::1]:1/?x",
)


@_parser("hidden-secret", _texts(*_URLS), b"@", b"://", b"%3D", b"&password=", b"?", b":", allowed=())
def _(data: bytes) -> object:
    from flexai.checkpoints.settings import hide_secrets

    return hide_secrets(_text(data))
