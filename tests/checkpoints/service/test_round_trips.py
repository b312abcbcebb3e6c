"""How many requests go one after the other before the first byte of a transfer moves, and after the last has."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.requests import FetchRequest, PushRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.settings import Settings, load_settings
from tests.servers.fixtures import S3Server
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
        settings = load_settings(
            home=tmp_path / "home", store=f"s3://{seaweedfs.bucket}/{uuid.uuid4().hex}", part_size=PART
        )
        run_push(settings, "first", write_tree(tmp_path / "first", {"a.txt": b"a"}))
        proxy.requests.clear()
        yield proxy, settings


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


def test_two_requests_go_before_the_first_byte_of_a_large_file_and_three_after_its_last(
    far: tuple[FaultProxy, Settings], tmp_path: Path
) -> None:
    proxy, settings = far
    run_push(settings, "large", write_tree(tmp_path / "large", LARGE))
    before, after = around(proxy.requests)
    assert [(one.method, one.path.rpartition("/")[2]) for one in before[:1]] == [("GET", "store.json")]
    assert [(one.method, one.query) for one in before[1:]] == [("POST", "uploads")]
    # The object is made of its parts, asked for its size, which no answer says before, and described.
    assert [one.method for one in after] == ["POST", "HEAD", "PUT"]
    assert "/manifests/" in after[-1].path


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
def test_one_request_goes_before_the_first_byte_of_a_fetch_and_none_after_its_last(
    far: tuple[FaultProxy, Settings], tree: Tree, tmp_path: Path
) -> None:
    proxy, settings = far
    run_push(settings, "llama", write_tree(tmp_path / "run", tree))
    proxy.requests.clear()
    run_fetch(settings, "llama", tmp_path / "out")
    before, after = around(proxy.requests)
    assert [one.path.rpartition("/")[2] for one in before] == ["store.json"]
    assert after == []
    assert read_tree(tmp_path / "out") == tree
