"""What a run does for each of many files, and for each of many shards, beside storing them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow, futures, task

from flexai.blocks import LocalStorageProvider, save_connection
from flexai.checkpoints.service import push as service
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.flows.forms import PushForm
from flexai.flows.push import push
from flexai.tasks import push as tasks_push
from flexai.tasks import push_checkpoint
from tests.servers.prefect import PrefectServer
from tests.support.trees import noise, write_tree


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many files each look for files has found."""
    looks: list[int] = []
    scan_local: Callable[..., list[Any]] = vars(service)["scan_local"]

    def counted(*args: Any, **options: Any) -> list[Any]:
        found = scan_local(*args, **options)
        looks.append(len(found))
        return found

    monkeypatch.setattr(service, "scan_local", counted)
    return looks


@pytest.fixture
def visited(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Prefect looks at in the results of flows, in search of futures."""
    visited: list[Any] = []
    collect = futures._collect_futures

    def noted(found: set[Any], value: Any, context: Any) -> Any:
        visited.append(value)
        return collect(found, value, context)

    monkeypatch.setattr(futures, "_collect_futures", noted)
    return visited


def test_a_flow_run_looks_for_its_files_once_and_prefect_not_through_its_result(
    prefect_api: PrefectServer, home: Path, files: Path, looks: list[int], visited: list[Any]
) -> None:
    request = {"name": f"many-{uuid.uuid4().hex[:8]}", "source": {"files": [str(files)]}}
    document = push(PushForm.model_validate(request))
    assert [file["path"] for file in document["status"]["files"]] == ["config.json", "nested/weights.bin"]
    assert looks == [2]
    assert visited == []


def test_a_task_run_looks_for_its_files_once(
    prefect_api: PrefectServer, home: Path, files: Path, looks: list[int]
) -> None:
    push_checkpoint(f"many-{uuid.uuid4().hex[:8]}", files=[str(files)])
    assert looks == [2]


def test_the_futures_that_a_flow_of_the_users_own_returns_are_found(
    prefect_api: PrefectServer, visited: list[Any]
) -> None:
    @task
    def one() -> int:
        return 1

    @flow
    def own() -> Any:
        return {"future": one.submit()}

    returned: Any = own()
    assert returned["future"].result() == 1
    assert visited


def test_a_push_that_waited_looks_again_and_so_does_a_second_one(
    home: Path, files: Path, looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = PushRequest("waited", (str(files),))
    assert tasks_push.size_to_push(request) == tasks_push.size_to_push(request) == " (16 KiB)"
    assert looks == [2]
    monkeypatch.setattr(tasks_push, "_FRESH_NS", 0)
    (files / "late.bin").write_bytes(b"late")
    assert push_checkpoint("waited", files=[str(files)])["status"]["filesCount"] == 3
    (files / "later.bin").write_bytes(b"later")
    assert push_checkpoint("second", files=[str(files)])["status"]["filesCount"] == 4
    assert looks == [2, 3, 4]


@pytest.fixture
def asked_for_places(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What this process asks of the limits of connections."""
    asked: list[str] = []

    def note(request: httpx.Request) -> None:
        kind = request.url.path.rpartition("/")[2]
        if "concurrency_limits" in request.url.path and kind != "renew" and b"tag:" not in request.content:
            asked.append(kind)

    send, send_async = httpx.Client.send, httpx.AsyncClient.send

    def noted(client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        note(request)
        return send(client, request, **options)

    async def noted_async(client: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        note(request)
        return await send_async(client, request, **options)

    monkeypatch.setattr(httpx.Client, "send", noted)
    monkeypatch.setattr(httpx.AsyncClient, "send", noted_async)
    return asked


@pytest.mark.parametrize(("limit", "requests"), [(16, 3), (1, 3)])
def test_the_places_of_all_shards_are_taken_and_given_back_at_once(
    prefect_api: PrefectServer,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked_for_places: list[str],
    limit: int,
    requests: int,
) -> None:
    name = f"store-{uuid.uuid4().hex[:8]}"
    (tmp_path / "share").mkdir()
    save_connection(LocalStorageProvider(root=str(tmp_path / "share")), name, max_transfers=limit)
    monkeypatch.setenv("FLEXAI_STORE", f"{name}:bucket/store")
    monkeypatch.setenv("FLEXAI_PACK_THRESHOLD", str(64 * 1024))
    write_tree(tmp_path / "run", {f"{number}.bin": noise(64 * 1024, str(number)) for number in range(5)})
    request = {"name": name, "source": {"files": [str(tmp_path / "run")]}, "shard_size": "64KiB"}
    asked_for_places.clear()
    assert push(PushForm.model_validate(request))["status"]["filesCount"] == 5
    assert len(asked_for_places) == requests, asked_for_places
