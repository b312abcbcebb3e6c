"""The managed store on an object storage."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flexai.checkpoints.errors import IntegrityError, NotFoundError, StorageError
from flexai.checkpoints.storage.capabilities import Capabilities
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import Body, BytesBody, ObjectInfo
from flexai.checkpoints.storage.s3.bucket import S3Storage
from flexai.checkpoints.storage.s3.client import S3Credentials, S3Service
from tests.hostile.services import document, open_storage, page, serve
from tests.servers.fixtures import S3Server

MACHINES = 8
BLOB = "0123456789abcdef0123456789abcdef"


@pytest.fixture(params=["", "team/store/"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ManagedStore:
    return ManagedStore(LocalStorage(tmp_path / "root"), prefix=request.param)


def _path(store: ManagedStore, tmp_path: Path, name: str) -> Path:
    prefix = store.blob_key(BLOB).partition("blobs/")[0]
    return tmp_path / "root" / prefix / name


def _service(server: S3Server) -> contextlib.closing[S3Service]:
    credentials = S3Credentials(server.access_key_id, server.secret_access_key)
    return contextlib.closing(S3Service(endpoint_url=server.url, credentials=credentials))


def _put_blob(store: ManagedStore, content: bytes, blob_id: str = BLOB) -> None:
    store.storage.put(store.blob_key(blob_id), BytesBody(content))


def test_a_store_has_no_id_before_its_first_use_and_one_for_ever_after(store: ManagedStore) -> None:
    assert store.read_id() is None
    store_id = store.create()
    assert store.read_id() == store_id == str(uuid.UUID(store_id))
    assert ManagedStore(store.storage, prefix=store.blob_key(BLOB).partition("blobs/")[0]).read_id() == store_id


def test_of_machines_that_begin_with_one_store_at_once_the_first_one_wins(tmp_path: Path) -> None:
    _begin_at_once(lambda: ManagedStore(LocalStorage(tmp_path / "root"), prefix="team/"))


def test_of_machines_that_begin_with_one_empty_bucket_at_once_the_first_one_wins(seaweedfs: S3Server) -> None:
    prefix = f"{uuid.uuid4().hex[:8]}/"
    with _service(seaweedfs) as service:
        # As storage check finds it.
        storage = S3Storage(service, seaweedfs.bucket, capabilities=Capabilities(conditional_put=True))
        _begin_at_once(lambda: ManagedStore(storage, prefix=prefix))


def _begin_at_once(open_store: Callable[[], ManagedStore]) -> None:
    start = threading.Barrier(MACHINES)

    def begin(_: int) -> str:
        store = open_store()
        start.wait()
        return store.create()

    with ThreadPoolExecutor(MACHINES) as machines:
        ids = set(machines.map(begin, range(MACHINES)))
    assert ids == {open_store().read_id()}


def test_of_machines_whose_storage_knows_no_condition_the_last_one_wins(tmp_path: Path) -> None:
    other = json.dumps({"format": 1, "id": str(uuid.uuid4())}).encode()

    class Unconditional(LocalStorage):
        """Takes no notice of conditions; another machine stores the same object right afterwards."""

        def put(self, key: str, body: Body, *, only_new: bool = False) -> ObjectInfo:
            super().put(key, body)
            return super().put(key, BytesBody(other))

    store = ManagedStore(Unconditional(tmp_path / "root"))
    assert store.create() == json.loads(other)["id"] == store.read_id()


def test_what_a_dead_process_left_when_it_made_the_store_can_be_given_up(store: ManagedStore) -> None:
    key = store.blob_key(BLOB).partition("blobs/")[0] + "store.json"
    upload_id = store.storage.start_upload(key, size=10)
    store.create()
    assert [(owner, upload.upload_id) for owner, upload in store.list_unfinished_documents()] == [("", upload_id)]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff", b"{}", b'{"format": 1}', b'{"format": 1, "id": "x"}', b'{"format": 1, "id": 5}'],
)
def test_a_damaged_description_of_the_store_is_refused(store: ManagedStore, tmp_path: Path, content: bytes) -> None:
    store.create()
    _path(store, tmp_path, "store.json").write_bytes(content)
    with pytest.raises(StorageError, match=r"store\.json is damaged"):
        store.read_id()


def test_a_store_of_a_later_format_asks_for_an_upgrade(store: ManagedStore, tmp_path: Path) -> None:
    store.create()
    _path(store, tmp_path, "store.json").write_text('{"format": 2, "id": "whatever it is then"}')
    with pytest.raises(StorageError, match="format 2") as raised:
        store.read_id()
    assert "upgrade" in raised.value.hint


def test_blobs_are_spread_over_folders_and_read_by_range(store: ManagedStore) -> None:
    _put_blob(store, b"0123456789")
    assert store.blob_key(BLOB).endswith(f"blobs/01/{BLOB}")
    assert b"".join(bytes(block) for block in store.read_blob(BLOB, start=2, length=5)) == b"23456"


def test_a_blob_that_is_too_short_is_damaged(store: ManagedStore) -> None:
    _put_blob(store, b"01234")
    with pytest.raises(IntegrityError):
        list(store.read_blob(BLOB, start=2, length=5))


def test_every_blob_is_listed_and_nothing_else(store: ManagedStore, tmp_path: Path) -> None:
    blob_ids = [f"{number:02x}{uuid.uuid4().hex[2:]}" for number in range(5)]
    for blob_id in blob_ids:
        _put_blob(store, blob_id.encode(), blob_id)
    store.create()
    store.write_manifest("m", b"{}")
    for foreign in ("blobs/notes.txt", "blobs/01/23", f"blobs/xx/{BLOB}"):
        path = _path(store, tmp_path, foreign)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"foreign")
    assert [(blob_id, info.size) for blob_id, info in store.list_blobs()] == [(blob_id, 32) for blob_id in blob_ids]


def test_deleting_blobs_leaves_others_alone_and_minds_no_missing_one(store: ManagedStore) -> None:
    _put_blob(store, b"one")
    _put_blob(store, b"two", "ff" + BLOB[2:])
    store.delete_blobs(iter([BLOB, "aa" + BLOB[2:]]))
    assert [blob_id for blob_id, _ in store.list_blobs()] == ["ff" + BLOB[2:]]


def test_unfinished_blobs_are_listed_by_their_ids(store: ManagedStore) -> None:
    upload_id = store.storage.start_upload(store.blob_key(BLOB), size=10)
    assert [(blob_id, upload.upload_id) for blob_id, upload in store.list_unfinished()] == [(BLOB, upload_id)]
    store.storage.abort_upload(store.blob_key(BLOB), upload_id)
    assert list(store.list_unfinished()) == []


def test_a_manifest_comes_back_as_it_went_in_and_can_be_deleted(store: ManagedStore) -> None:
    document = {"name": "ünïcödé", "files": [{"path": "a", "size": 2**60}], "none": None}
    store.write_manifest("one", json.dumps(document).encode())
    store.write_manifest("two", b"{}")
    assert store.read_manifest("one") == document
    assert list(store.list_manifests()) == ["one", "two"]
    store.delete_manifest("one")
    store.delete_manifest("one")
    assert list(store.list_manifests()) == ["two"]
    with pytest.raises(NotFoundError):
        store.read_manifest("one")


def test_records_are_stored_and_deleted_together(store: ManagedStore, seaweedfs: S3Server) -> None:
    with _service(seaweedfs) as service:
        for one in (store, ManagedStore(S3Storage(service, seaweedfs.bucket), prefix=f"{uuid.uuid4().hex[:8]}/")):
            one.write_records([(("job", "a"), b'{"of": "a"}'), (("checkpoint", "b"), b'{"of": "b"}')])
            one.write_records([(("job", "a"), None), (("job", "gone"), None), (("job", "c"), b"{}")])
            assert list(one.list_records("job")) == ["c"]
            assert one.read_record("checkpoint", "b") == {"of": "b"}


def test_foreign_files_among_the_manifests_are_not_taken_for_manifests(store: ManagedStore, tmp_path: Path) -> None:
    store.write_manifest("one", b"{}")
    for foreign in ("notes.txt", "one.json.bak", "sub/two.json"):
        path = _path(store, tmp_path, f"manifests/{foreign}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"foreign")
    assert list(store.list_manifests()) == ["one"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"5", b"\xff\xfe", b'{"a": 1}}'])
def test_a_damaged_manifest_says_which(store: ManagedStore, tmp_path: Path, content: bytes) -> None:
    store.write_manifest("one", b"{}")
    _path(store, tmp_path, "manifests/one.json").write_bytes(content)
    with pytest.raises(IntegrityError, match=r"manifests/one\.json is damaged"):
        store.read_manifest("one")


def test_its_location_is_where_it_lies(store: ManagedStore, tmp_path: Path) -> None:
    prefix = store.blob_key(BLOB).partition("blobs/")[0]
    assert store.location == f"{tmp_path / 'root'}/{prefix}".rstrip("/")


LOGIN_PAGES = {
    "HTML": b"<!DOCTYPE html>\n<html><head><title>Log in</title></head><body>Welcome</body></html>",
    "XHTML": b"<html><body><p>Log in</p></body></html>",
    "JSON": b'{"message": "log in first"}',
    "text": b"log in first",
}


@pytest.mark.parametrize("content", LOGIN_PAGES.values(), ids=LOGIN_PAGES)
@pytest.mark.parametrize("kind", ["s3", "gcs"])
def test_a_page_of_what_is_no_object_storage_is_not_told_as_a_damaged_store(kind: str, content: bytes) -> None:
    with serve(lambda _method, _path: document(content, "Content-Type: text/html")) as server:
        store = ManagedStore(open_storage(kind, server.url), prefix="p/")
        with pytest.raises(StorageError, match=f"what answers at {server.url}/bucket/p is no managed store") as raised:
            store.read_id()
    assert raised.value.hint.startswith("check the endpoint")


@contextlib.contextmanager
def _s3_that_gives(content: bytes, listing: Callable[[], Iterator[bytes]]) -> Iterator[ManagedStore]:
    """A store in a service of S3 that gives the same for each object, and a listing."""
    with serve(lambda _method, path: listing() if "list-type" in path else document(content)) as server:
        yield ManagedStore(open_storage("s3", server.url), prefix="p/")


@pytest.mark.parametrize(
    ("content", "message"), [(LOGIN_PAGES["HTML"], "is no managed store"), (b"{", r"store\.json is damaged")]
)
def test_a_page_where_listing_is_not_allowed_is_known_by_its_markup(content: bytes, message: str) -> None:
    denied = b"<Error><Code>AccessDenied</Code></Error>"
    with (
        _s3_that_gives(content, lambda: document(denied, status="403 Forbidden")) as store,
        pytest.raises(StorageError, match=message),
    ):
        store.read_id()


def test_a_damaged_description_that_the_bucket_lists_is_told_as_one() -> None:
    with (
        _s3_that_gives(b"{", lambda: page("s3", ["p/store.json"])) as store,
        pytest.raises(StorageError, match=r"store\.json is damaged"),
    ):
        store.read_id()
