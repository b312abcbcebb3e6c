"""The tasks as task runs of a real Prefect server."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from pydantic import SecretStr

from flexai.blocks import LocalStorageProvider, save_connection
from flexai.checkpoints.errors import NotFoundError, SourceError, StorageUnavailableError
from flexai.checkpoints.service.fetch import fetch
from flexai.tasks import fetch as fetch_module
from flexai.tasks import fetch_checkpoint, inspect_checkpoint, push_checkpoint, run_training
from tests.servers.prefect import PrefectServer
from tests.support.waiting import until


@pytest.fixture
def name() -> str:
    """A name that no other test uses: all share one server."""
    return f"mistral-{uuid.uuid4().hex[:12]}"


def task_run(server: PrefectServer, name: str) -> dict[str, Any]:
    """The task run of a name, once the server has recorded its end, which it does a moment later."""

    def ended() -> list[dict[str, Any]]:
        runs = server.post("/task_runs/filter", {"task_runs": {"name": {"any_": [name]}}})
        return [run for run in runs[:1] if run["state_type"] in {"COMPLETED", "FAILED", "CRASHED"}]

    return until(ended, f"the end of the task run {name!r}")[0]


def test_a_push_is_a_task_run_with_a_readable_name_and_a_page_about_the_checkpoint(
    prefect_api: PrefectServer, home: Path, files: Path, name: str
) -> None:
    document = push_checkpoint(name, files=[str(files)])
    run = task_run(prefect_api, f"push {name} (16 KiB)")
    assert (run["state_type"], run["run_count"]) == ("COMPLETED", 1)
    assert set(run["tags"]) == {"flexai", "push"}
    (artifact,) = prefect_api.post("/artifacts/filter", {"artifacts": {"key": {"any_": [f"checkpoint-{name}"]}}})
    assert artifact["task_run_id"] == run["id"]
    assert document["metadata"]["id"] in artifact["data"]


def test_a_push_says_how_large_it_is_where_that_is_known_before_it_begins(
    prefect_api: PrefectServer, home: Path, files: Path, name: str, tmp_path: Path
) -> None:
    save_connection(LocalStorageProvider(root=str(tmp_path)), name)
    push_checkpoint(f"{name}-a", files=[str(files / "config.json"), f"{files / 'nested'}=weights"])
    push_checkpoint(f"{name}-b", from_checkpoint=f"{name}-a")
    push_checkpoint(f"{name}-c", storage_provider=name, source_path="output/nested")
    with pytest.raises(SourceError):
        push_checkpoint(f"{name}-d", files=[str(tmp_path / "missing")])
    for run, state in {"a (16 KiB)": "COMPLETED", "b (16 KiB)": "COMPLETED", "c": "COMPLETED", "d": "FAILED"}.items():
        assert task_run(prefect_api, f"push {name}-{run}")["state_type"] == state


def test_a_store_that_is_unavailable_for_a_while_is_tried_again(
    prefect_api: PrefectServer, home: Path, files: Path, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    push_checkpoint.fn(name, files=[str(files)])
    failures = [StorageUnavailableError("the store is away"), StorageUnavailableError("the store is still away")]

    def sometimes(*arguments: Any, **options: Any) -> Any:
        if failures:
            raise failures.pop(0)
        return fetch(*arguments, **options)

    monkeypatch.setattr(fetch_module, "fetch_from_store", sometimes)
    impatient = fetch_checkpoint.with_options(retry_delay_seconds=0)
    assert impatient(name, str(tmp_path / "restored"))["fetchedFiles"] == 2
    run = task_run(prefect_api, f"fetch {name} (16 KiB)")
    assert (run["state_type"], run["run_count"]) == ("COMPLETED", 3)


def test_a_checkpoint_that_is_not_there_is_not_looked_for_again(
    prefect_api: PrefectServer, home: Path, name: str
) -> None:
    with pytest.raises(NotFoundError):
        inspect_checkpoint(name)
    run = task_run(prefect_api, f"inspect {name}")
    assert (run["state_type"], run["run_count"]) == ("FAILED", 1)


def test_tasks_work_in_flows_in_their_threads_and_in_asynchronous_flows(
    prefect_api: PrefectServer, home: Path, files: Path, name: str
) -> None:
    @flow
    def plain() -> int:
        pushed = push_checkpoint(f"{name}-a", files=[str(files)])
        future = inspect_checkpoint.submit(pushed["metadata"]["id"])
        return int(future.result()["status"]["filesCount"])

    @flow
    async def asynchronous() -> int:
        pushed = push_checkpoint(f"{name}-b", files=[str(files)])
        return int(inspect_checkpoint(pushed["metadata"]["id"])["status"]["filesCount"])

    assert plain() == 2
    assert asyncio.run(asynchronous()) == 2


def test_what_a_training_prints_is_in_the_log_of_its_task_run(
    prefect_api: PrefectServer, home: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its output comes from threads of the runner, which Prefect knows nothing of."""
    monkeypatch.setenv("FLEXAI_QUIET_PERIOD", "0")
    run_training(name, [sys.executable, "-c", "print('one step')"])
    run = task_run(prefect_api, f"train {name}")
    wanted = {"logs": {"task_run_id": {"any_": [run["id"]]}}}
    until(lambda: "one step" in [log["message"] for log in prefect_api.post("/logs/filter", wanted)], "the line")


def test_prefect_records_no_value_of_a_commands_environment(
    prefect_api: PrefectServer, home: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEXAI_QUIET_PERIOD", "0")
    plain, secret, visible = (f"canary-{uuid.uuid4().hex}" for _ in range(3))
    environment: dict[str, str | SecretStr] = {"PLAIN": plain, "SECRET": SecretStr(secret)}
    check = "import os; assert os.environ['PLAIN'].startswith('canary') and os.environ['SECRET'].startswith('canary')"

    @flow
    def training(note: str) -> None:
        run_training(f"{name}-b", [sys.executable, "-c", check], env=environment)

    run_training(f"{name}-a", [sys.executable, "-c", check], env=environment)
    training(visible)
    for one in (f"train {name}-a", f"train {name}-b"):
        assert task_run(prefect_api, one)["state_type"] == "COMPLETED"
    assert prefect_api.database_holds(visible), "the parameter of a flow is recorded: the look into the database works"
    assert prefect_api.database_holds(plain) == []
    assert prefect_api.database_holds(secret) == []
