"""S3 services without some of the requests for uploads in parts: used as far as they go, or refused at the start."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from flexai.checkpoints.errors import NotFoundError, StorageError
from flexai.checkpoints.names import Id, new_id
from flexai.checkpoints.service.change_requests import DeleteRequest
from flexai.checkpoints.service.delete import delete
from flexai.checkpoints.service.export import export
from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.gc import collect_garbage
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.requests import ExportRequest, FetchRequest
from flexai.checkpoints.service.store_requests import GarbageRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.connection import RemotePath, split_bucket
from flexai.checkpoints.storage.retry import RetryPolicy
from flexai.checkpoints.storage.s3.bucket import MIN_PART_SIZE, S3Storage
from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service
from flexai.connections.probes import Probe, ProbeOutcome, try_out
from tests.servers.fixtures import S3Server
from tests.servers.proxy import FaultProxy, Request
from tests.support.machine import NO_GRACE, small_settings
from tests.support.trees import noise, read_tree, write_tree

pytestmark = pytest.mark.slow

_ALWAYS = 10**9
_ABSENT = b"<Error><Code>NotImplemented</Code><Message>That is not done here.</Message></Error>"
SOURCE = {"model.bin": noise(2 * MIN_PART_SIZE + 1, "model"), "config.json": b"{}"}


def operation_of(request: Request) -> str:
    """What a request is for, of those that some services lack."""
    query = parse_qs(request.query, keep_blank_values=True)
    match request.method:
        case "POST" if "uploads" in query:
            return "CreateMultipartUpload"
        case "GET" if "uploads" in query:
            return "ListMultipartUploads"
        case "GET" if "uploadId" in query:
            return "ListParts"
        case "DELETE" if "uploadId" in query:
            return "AbortMultipartUpload"
    return ""


@dataclass
class Lacking:
    """A bucket of a service that lacks some operations, and the connection to it."""

    proxy: FaultProxy
    server: S3Server
    home: Path
    prefix: str = field(default_factory=lambda: uuid.uuid4().hex)
    connection_name: str = "lab"
    connection_id: Id = field(default_factory=new_id)

    def open(self, path: str) -> RemotePath:
        bucket, key = split_bucket(path)
        keys = S3Credentials(self.server.access_key_id, self.server.secret_access_key)
        service = S3Service(endpoint_url=self.proxy.url, credentials=keys)
        return RemotePath(S3Storage(service, bucket, policy=RetryPolicy(attempts=2, sleep=lambda _: None)), key)

    def lacks(self, *operations: str) -> None:
        """Answer that they are not there."""
        self.proxy.add(
            "answer",
            strikes=lambda request: operation_of(request) in operations,
            times=_ALWAYS,
            status=501,
            body=_ABSENT,
        )

    def system(self, *, in_bucket: bool = True) -> System:
        """One with its store in the bucket, or on this machine."""
        store = {"store": f"lab:{self.server.bucket}/{self.prefix}"} if in_bucket else {}
        settings = small_settings(self.home, part_size=MIN_PART_SIZE, **store)
        return System.open(settings, connect=lambda _: self)

    def uploads(self) -> list[str]:
        """The keys of the uploads that the service itself has."""
        found = self.server.client().list_multipart_uploads(Bucket=self.server.bucket, Prefix=self.prefix)
        return [one["Key"] for one in found.get("Uploads", ())]

    def check(self) -> dict[str, Probe]:
        """What ``storage check`` finds."""
        return {one.name: one for one in try_out(self.open(f"{self.server.bucket}/{self.prefix}-check"))}


@pytest.fixture
def lacking(seaweedfs: S3Server, tmp_path: Path) -> Iterator[Lacking]:
    with FaultProxy(seaweedfs.url) as proxy:
        yield Lacking(proxy, seaweedfs, tmp_path / "home")


def _folder(tmp_path: Path) -> str:
    return str(write_tree(tmp_path / "run", SOURCE))


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "AbortMultipartUpload"])
def test_a_store_is_refused_when_it_is_made_and_not_in_the_middle(
    lacking: Lacking, tmp_path: Path, operation: str
) -> None:
    lacking.lacks(operation)
    with lacking.system() as system, pytest.raises(StorageError, match="cannot hold a managed store") as raised:
        push(system, PushRequest("llama", [_folder(tmp_path)]))
    assert "exports may go there" in raised.value.hint
    with pytest.raises(NotFoundError):
        lacking.open(lacking.server.bucket).storage.head(f"{lacking.prefix}/store.json")
    assert lacking.check()["abort"].outcome is ProbeOutcome.ABSENT
    assert "no managed store can be there" in "".join(one.detail for one in lacking.check().values())


def test_exports_go_to_a_service_that_takes_no_parts(lacking: Lacking, tmp_path: Path) -> None:
    lacking.lacks("CreateMultipartUpload", "ListMultipartUploads", "AbortMultipartUpload", "ListParts")
    with lacking.system(in_bucket=False) as system:
        push(system, PushRequest("llama", [_folder(tmp_path)]))
        place = f"{lacking.server.bucket}/{lacking.prefix}/place"
        assert export(system, ExportRequest("llama", "lab", place)).exported_files == 2
        assert export(system, ExportRequest("llama", "lab", place)).exported_files == 0
        push(system, PushRequest("again", storage_provider="lab", source_path=place))
        fetch(system, FetchRequest("again", str(tmp_path / "out")))
    assert read_tree(tmp_path / "out") == SOURCE
    multipart = lacking.check()["multipart"]
    assert (multipart.outcome, multipart.detail[:35]) == (ProbeOutcome.ABSENT, "there are no uploads in parts: expo")


def test_a_push_begins_anew_where_an_upload_cannot_be_looked_up(
    lacking: Lacking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking.lacks("ListParts")
    source = _folder(tmp_path)
    with lacking.system() as system:
        assert system.own_store_id
        monkeypatch.setattr(S3Storage, "complete_upload", _broken)
        with pytest.raises(StorageError, match="broken"):
            push(system, PushRequest("llama", [source]))
        monkeypatch.undo()
    with lacking.system() as system:
        push(system, PushRequest("llama", [source]))
        fetch(system, FetchRequest("llama", str(tmp_path / "out")))
        collect_garbage(system, GarbageRequest(NO_GRACE))
    assert read_tree(tmp_path / "out") == SOURCE
    assert lacking.uploads() == []
    assert "from its start" in lacking.check()["abort"].detail


def _broken(*_: object, **__: object) -> None:
    raise StorageError("broken")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (501, _ABSENT),
        (403, b"<Error><Code>AccessDenied</Code></Error>"),
        (404, b"<Error><Code>NoSuchKey</Code></Error>"),
        (405, b""),
    ],
)
def test_gc_goes_on_past_uploads_that_it_cannot_list_and_says_so(
    lacking: Lacking, tmp_path: Path, status: int, body: bytes
) -> None:
    lacking.proxy.add(
        "answer",
        strikes=lambda request: operation_of(request) == "ListMultipartUploads",
        times=_ALWAYS,
        status=status,
        body=body,
    )
    with lacking.system() as system:
        push(system, PushRequest("llama", [_folder(tmp_path)]))
        delete(system, DeleteRequest("llama"))
        report = collect_garbage(system, GarbageRequest(NO_GRACE))
        assert (report.checkpoints, report.blobs) == (1, 2)
        assert len(report.skipped) == 1
        assert not list(system.store.list_blobs())


def test_a_blob_whose_upload_may_not_be_given_up_is_for_the_next_gc(
    lacking: Lacking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lacking.system() as system:
        assert system.own_store_id
        monkeypatch.setattr(S3Storage, "complete_upload", _broken)
        with pytest.raises(StorageError, match="broken"):
            push(system, PushRequest("llama", [_folder(tmp_path)]))
        monkeypatch.undo()
    (key,) = lacking.uploads()
    lacking.proxy.add(
        "answer",
        strikes=lambda request: operation_of(request) == "AbortMultipartUpload",
        times=1,
        status=403,
        body=b"<Error><Code>AccessDenied</Code></Error>",
    )
    with lacking.system() as system:
        report = collect_garbage(system, GarbageRequest(NO_GRACE))
        assert (lacking.uploads(), len(report.skipped)) == ([key], 1)
        assert "s3:AbortMultipartUpload is denied" in report.skipped[0]
        again = collect_garbage(system, GarbageRequest(NO_GRACE))
        assert (lacking.uploads(), again.skipped) == ([], ())
