"""How many requests go one after the other before the first byte of a transfer moves, and after the last has."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.errors import AccessDeniedError, CheckpointError, NotFoundError
from flexai.checkpoints.service import store_owner
from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.settings import Settings, load_settings
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.s3.bucket import S3Storage
from flexai.checkpoints.transfer.crew import give_way
from flexai.checkpoints.transfer.scan import scan_local
from flexai.checkpoints.transfer.upload import Upload
from tests.servers.fixtures import GCSServer, S3Server
from tests.servers.proxy import FaultProxy, Request
from tests.support.trees import Tree, noise, read_tree, write_tree

PART = 5 * 1024**2
"""The least that services take."""
LARGE: Tree = {"model.safetensors": noise(2 * PART + 17, "model")}
SMALL: Tree = {f"{number}.bin": noise(1000, str(number)) for number in range(20)}


@pytest.fixture
def far(seaweedfs: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FaultProxy, Settings]]:
    """A store that is in use, behind a proxy that sees each request."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweedfs.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweedfs.secret_access_key)
    with FaultProxy(seaweedfs.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        settings = in_use(tmp_path, store=f"s3://{seaweedfs.bucket}/{uuid.uuid4().hex}", part_size=PART)
        proxy.requests.clear()
        yield proxy, settings


@pytest.fixture
def far_gcs(
    fake_gcs: GCSServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[FaultProxy, Settings]]:
    """The same of Google Cloud Storage."""
    with FaultProxy(fake_gcs.url) as proxy:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)
        settings = in_use(tmp_path, store=f"gs://{fake_gcs.bucket}/{uuid.uuid4().hex}", part_size=PART)
        proxy.requests.clear()
        yield proxy, settings


@pytest.fixture
def near(tmp_path: Path) -> Settings:
    """A store on this machine that is in use."""
    return in_use(tmp_path)


def in_use(folder: Path, **settings: Any) -> Settings:
    """Settings of a machine that has pushed before."""
    found = load_settings(home=folder / "home", **settings)
    run_push(found, "first", write_tree(folder / "first", {"a.txt": b"a"}))
    return found


def run_push(settings: Settings, name: str, folder: Path) -> None:
    """Push as a process of its own does."""
    with System.open(settings) as system:
        push(system, PushRequest(name, [str(folder)]))


def run_fetch(settings: Settings, name: str, folder: Path) -> None:
    """Fetch as a process of its own does."""
    with System.open(settings) as system:
        fetch(system, FetchRequest(name, str(folder)))


def moves_content(request: Request) -> bool:
    """Whether a request is for bytes of a checkpoint's files."""
    return request.method in {"PUT", "GET"} and "/blobs/" in request.path


def around(requests: list[Request]) -> tuple[list[Request], list[Request]]:
    """What was asked before content began to move, and after the last of it was asked for."""
    moving = [number for number, request in enumerate(requests) if moves_content(request)]
    return requests[: moving[0]], requests[moving[-1] + 1 :]


def test_two_requests_go_before_the_first_byte_of_a_large_file_and_two_after_its_last(
    far: tuple[FaultProxy, Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, settings = far
    described = threading.Event()
    monkeypatch.setattr(S3Storage, "head", wait_for(described, S3Storage.head))
    monkeypatch.setattr(ManagedStore, "write_manifest", telling(described, ManagedStore.write_manifest))
    run_push(settings, "large", write_tree(tmp_path / "large", LARGE))
    before, after = around(proxy.requests)
    assert [(one.method, one.path.rpartition("/")[2]) for one in before[:1]] == [("GET", "store.json")]
    assert [(one.method, one.query) for one in before[1:]] == [("POST", "uploads")]
    # The object is made of its parts; then it is described, and asked for its size beside that.
    assert after[0].method == "POST"
    assert sorted((one.method, "/manifests/" in one.path) for one in after[1:]) == [("HEAD", False), ("PUT", True)]


def test_one_request_goes_before_the_first_byte_of_small_files_and_one_after_their_last(
    far: tuple[FaultProxy, Settings], tmp_path: Path
) -> None:
    proxy, settings = far
    run_push(settings, "small", write_tree(tmp_path / "small", SMALL))
    before, after = around(proxy.requests)
    assert [one.path.rpartition("/")[2] for one in before] == ["store.json"]
    assert [one.method for one in after] == ["PUT"]
    assert "/manifests/" in after[-1].path


@pytest.mark.parametrize("tree", [LARGE, SMALL], ids=["large", "small"])
def test_no_request_goes_before_the_first_byte_of_a_fetch_and_none_after_its_last(
    far: tuple[FaultProxy, Settings], tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, settings = far
    run_push(settings, "llama", write_tree(tmp_path / "run", tree))
    proxy.requests.clear()
    moves = threading.Event()
    monkeypatch.setattr(ManagedStore, "read", wait_for(moves, ManagedStore.read))
    monkeypatch.setattr(ManagedStore, "read_blob", telling(moves, ManagedStore.read_blob))
    run_fetch(settings, "llama", tmp_path / "out")
    assert [one.path.rpartition("/")[2] for one in proxy.requests if not moves_content(one)] == ["store.json"]
    assert read_tree(tmp_path / "out") == tree


@pytest.mark.parametrize("tree", [LARGE, SMALL], ids=["large", "small"])
def test_a_fetch_from_another_far_store_says_so_brings_no_content_and_takes_none_for_damaged(
    far: tuple[FaultProxy, Settings], tree: Tree, tmp_path: Path
) -> None:
    _, settings = far
    run_push(settings, "llama", write_tree(tmp_path / "run", tree))
    other = settings._replace(store=f"{settings.store}-other")
    run_push(other, "second", write_tree(tmp_path / "second", {"b.txt": b"b"}))
    with pytest.raises(NotFoundError, match="lies in another store"):
        run_fetch(other, "llama", tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    run_fetch(settings, "llama", tmp_path / "out")
    assert read_tree(tmp_path / "out") == tree
    with System.open(settings) as system:
        assert system.soundness.damaged() == []


def test_two_requests_go_before_the_first_byte_of_a_large_file_to_google_cloud_storage(
    far_gcs: tuple[FaultProxy, Settings], tmp_path: Path
) -> None:
    proxy, settings = far_gcs
    run_push(settings, "large", write_tree(tmp_path / "large", LARGE))
    # The upload begins with an object of its own, which tells the size, and each of three parts is another one.
    assert [one.method for one in proxy.requests[:5]] == ["GET", "POST", "POST", "POST", "POST"]
    assert "store.json" in proxy.requests[0].path
    assert proxy.requests[1].body == b"%d" % (2 * PART + 17)
    assert sorted(len(one.body) for one in proxy.requests[2:5]) == [17, PART, PART]


@pytest.mark.parametrize("tree", [LARGE, SMALL], ids=["large", "small"])
def test_a_fetch_that_is_interrupted_before_a_far_store_answers_waits_for_nothing_and_leaves_nothing(
    far: tuple[FaultProxy, Settings], tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, settings = far
    run_push(settings, "llama", write_tree(tmp_path / "run", tree))
    answers = threading.Event()
    monkeypatch.setattr(ManagedStore, "read", wait_for(answers, ManagedStore.read))
    monkeypatch.setattr(ManagedStore, "read_blob", wait_for(answers, ManagedStore.read_blob))

    def interrupt() -> None:
        raise KeyboardInterrupt

    token = give_way.set(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_fetch(settings, "llama", tmp_path / "out")
        left = [thread for thread in threading.enumerate() if thread.name.startswith("transfer-")]
        assert left
    finally:
        give_way.reset(token)
        answers.set()
    for thread in left:
        thread.join()
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize("tree", [LARGE, SMALL], ids=["large", "small"])
def test_a_fetch_from_google_cloud_storage_asks_for_nothing_but_its_bytes_and_what_names_the_store(
    far_gcs: tuple[FaultProxy, Settings], tree: Tree, tmp_path: Path
) -> None:
    proxy, settings = far_gcs
    run_push(settings, "llama", write_tree(tmp_path / "run", tree))
    proxy.requests.clear()
    run_fetch(settings, "llama", tmp_path / "out")
    assert len([one for one in proxy.requests if "blobs" not in one.path]) == 1


def wait_for(event: threading.Event, answer: Callable[..., Any]) -> Callable[..., Any]:
    """A method that answers only after something else has begun."""

    def waiting(*arguments: Any, **options: Any) -> Any:
        assert event.wait(30), "nothing went on beside it"
        return answer(*arguments, **options)

    return waiting


def telling(event: threading.Event, work: Callable[..., Any]) -> Callable[..., Any]:
    """A function that tells that it has begun."""

    def begun(*arguments: Any, **options: Any) -> Any:
        event.set()
        return work(*arguments, **options)

    return begun


def test_the_store_is_told_that_it_is_used_beside_the_first_bytes(
    near: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = threading.Event()
    monkeypatch.setattr(store_owner, "RENEWAL", timedelta(0))
    monkeypatch.setattr(ManagedStore, "renew", wait_for(moves, ManagedStore.renew))
    monkeypatch.setattr(Upload, "run", telling(moves, Upload.run))
    with System.open(near) as system:
        before = system.store.read()[1]
        push(system, PushRequest("llama", [str(write_tree(tmp_path / "run", SMALL))]))
        after = system.store.read()[1]
    assert before is not None and after is not None
    assert after.renewed_at > before.renewed_at


def test_a_store_that_may_not_be_told_that_it_is_used_takes_no_checkpoint(
    near: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AccessDeniedError("store.json may not be written")

    monkeypatch.setattr(store_owner, "RENEWAL", timedelta(0))
    monkeypatch.setattr(ManagedStore, "renew", refuse)
    with System.open(near) as system:
        with pytest.raises(AccessDeniedError, match=r"store\.json may not be written"):
            push(system, PushRequest("llama", [str(write_tree(tmp_path / "run", SMALL))]))
        with pytest.raises(CheckpointError):
            system.available("llama")


def test_a_push_reads_what_names_the_store_beside_the_look_at_its_files(
    near: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = threading.Event()
    monkeypatch.setattr(ManagedStore, "read", wait_for(looks, ManagedStore.read))
    monkeypatch.setattr("flexai.checkpoints.service.push.scan_local", telling(looks, scan_local))
    run_push(near, "llama", write_tree(tmp_path / "run", SMALL))


def test_a_fetch_reads_what_names_the_store_beside_the_look_into_the_catalog(
    near: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = threading.Event()
    monkeypatch.setattr(ManagedStore, "read", wait_for(looks, ManagedStore.read))
    monkeypatch.setattr(System, "look", telling(looks, System.look))
    run_fetch(near, "first", tmp_path / "out")


def test_a_store_that_cannot_be_read_is_asked_again_when_it_is_needed_again(
    near: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ManagedStore.read
    errors = [AccessDeniedError("not now")]

    def once(store: ManagedStore) -> object:
        if errors:
            raise errors.pop()
        return read(store)

    monkeypatch.setattr(ManagedStore, "read", once)
    with System.open(near) as system:
        system.read_ahead()
        with pytest.raises(AccessDeniedError, match="not now"):
            _ = system.store_id
        assert system.store_id
