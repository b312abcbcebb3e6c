"""What a real Prefect server is told of the changes of checkpoints: events, pages, lineage."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, tags
from prefect.assets import Asset

from flexai.blocks import LocalStorageProvider, save_connection
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.errors import CheckpointError, StorageUnavailableError
from flexai.checkpoints.names import parse_job_reference, parse_reference
from flexai.checkpoints.owner import login
from flexai.checkpoints.service.push import push
from flexai.tasks import (
    artifacts,
    change_reports,
    delete_checkpoint,
    export_checkpoint,
    list_training_checkpoints,
    protect_checkpoints,
    push_checkpoint,
    run_training,
    undelete_checkpoint,
)
from flexai.tasks import push as push_module
from tests.servers.prefect import PrefectServer
from tests.support.waiting import until

SAVE = """
    import json, os, pathlib
    output = pathlib.Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"])
    history = []
    for step in (250, 500, 750):
        history += [{"step": step, "loss": 500 / step}, {"step": step, "eval_loss": 600 / step}]
        (output / f"checkpoint-{step}").mkdir()
        (output / f"checkpoint-{step}" / "config.json").write_text('{"model_type": "tiny"}')
        state = json.dumps({"global_step": step, "log_history": history})
        (output / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
"""


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name that no other test uses: all share one server."""
    monkeypatch.setenv("FLEXAI_QUIET_PERIOD", "0")
    return f"mistral-{uuid.uuid4().hex[:12]}"


def events_of(server: PrefectServer, resource_id: str, count: int) -> list[dict[str, Any]]:
    """What the server was told of a thing, oldest first, once it is that much."""

    def ask() -> list[dict[str, Any]]:
        wanted = {"filter": {"resource": {"id": [resource_id]}, "order": "ASC"}, "limit": 50}
        found: list[dict[str, Any]] = server.post("/events/filter", wanted)["events"]
        return found if len(found) >= count else []

    found: list[dict[str, Any]] = until(ask)
    return found


def related(event: dict[str, Any], role: str) -> list[str]:
    return [one["prefect.resource.id"] for one in event["related"] if one["prefect.resource.role"] == role]


def pages(server: PrefectServer, key: str) -> list[dict[str, Any]]:
    """The history of a key, oldest first."""
    wanted = {"artifacts": {"key": {"any_": [key]}, "type": {"any_": ["markdown"]}}, "sort": "CREATED_DESC"}
    found: list[dict[str, Any]] = server.post("/artifacts/filter", wanted)
    return found[::-1]


@pytest.mark.slow
def test_the_life_of_a_checkpoint_is_told_from_its_training_to_its_end(
    prefect_api: PrefectServer, home: Path, tmp_path: Path, name: str
) -> None:
    save_connection(LocalStorageProvider(root=str(tmp_path)), f"share-{name}", overwrite=True)

    @flow
    def life() -> list[str]:
        run_training(name, [sys.executable, "-c", textwrap.dedent(SAVE)])
        best = list_training_checkpoints(name)[-1]["id"]
        pushed = push_checkpoint(f"{name}_best", from_checkpoint=best)["metadata"]["id"]
        for _ in range(2):
            push_checkpoint(f"{name}_best", from_checkpoint=best, if_not_exists=True)
            export_checkpoint(pushed, f"share-{name}", "bucket/models")
        protect_checkpoints([f"{name}_best"])
        protect_checkpoints([pushed], protected=False)
        delete_checkpoint(f"{name}_best")
        undelete_checkpoint(f"{name}_best")
        return [best, pushed]

    with tags("nightly"):
        best, pushed = life()
    with Catalog.look() as catalog:
        job = catalog.jobs.get(parse_job_reference(name))

    (captured,) = events_of(prefect_api, f"flexai.checkpoint.{best}", 1)
    assert (captured["event"], captured["resource"]["operation"]) == ("flexai.checkpoint.available", "capture")
    assert (captured["payload"]["step"], captured["payload"]["evalLoss"]) == (750, 0.8)
    assert related(captured, "training-job") == [f"flexai.job.{job.id}"]

    told = events_of(prefect_api, f"flexai.checkpoint.{pushed}", 4)
    assert [(event["event"].rpartition(".")[2], event["resource"]["operation"]) for event in told] == [
        ("available", "push"),
        ("exported", "export"),
        ("deleted", "delete"),
        ("available", "undelete"),
    ], "what changes nothing is not told"
    available, exported, deleted, _ = told
    labels = {key: available["resource"][key] for key in ("name", "kind", "status", "job")}
    assert labels == {"name": f"{name}_best", "kind": "pushed", "status": "available", "job": name}
    assert deleted["resource"]["status"] == "deleting"
    assert {event["payload"]["by"] for event in told} == {event["resource"]["creator"] for event in told} == {login()}
    assert available["payload"]["manifestDigest"] == captured["payload"]["manifestDigest"]
    assert related(available, "parent") == [f"flexai.checkpoint.{best}"]
    assert related(available, "training-job") == [f"flexai.job.{job.id}"]
    assert {"prefect.tag.nightly", "prefect.tag.push"} <= set(related(available, "tag"))
    assert related(available, "flow-run") and related(available, "task-run")
    place = {"storageProvider": f"share-{name}", "destinationPath": "bucket/models"}
    assert (exported["payload"]["destination"], exported["payload"]["exportedFiles"]) == (place, 2)
    assert related(exported, "export") == [f"flexai.export.share-{name}:bucket/models"]

    history = pages(prefect_api, artifacts.artifact_key("checkpoint", f"{name}_best"))
    assert [page["description"].partition(" ")[0].strip(";") for page in history] == [
        "Pushed",
        "Was",
        "Exported",
        "Was",
        "Exported",
        "Protected",
        "Not",
        "Deleted",
        "Brought",
    ]
    assert f"| Training job | `{name}`, attempt 1 |" in history[-1]["data"]
    assert f"| `share-{name}:bucket/models` |" in history[-1]["data"]
    (losses,) = pages(prefect_api, artifacts.artifact_key("training", name))
    assert "![losses by step](data:image/svg+xml;base64," in losses["data"]

    store = related(available, "store")[0].removeprefix("flexai.store.")
    keys = {
        "job": f"flexai://{store}/jobs/{name}",
        "captured": f"flexai://{store}/checkpoints/{name}/{best}",
        "pushed": f"flexai://{store}/checkpoints/{name}_best",
        "export": f"flexai://connections/share-{name}/bucket/models",
    }
    upstream = {"captured": "job", "pushed": "captured", "export": "pushed"}
    for what, origin in upstream.items():
        materialized = [
            event
            for event in events_of(prefect_api, keys[what], 1)
            if event["event"] == "prefect.asset.materialization.succeeded"
        ]
        assert related(materialized[0], "asset") == [keys[origin]], what
        assert related(materialized[0], "asset-materialized-by") == ["flexai"]
        assert Asset(key=keys[what])


def test_a_push_that_fails_for_good_is_told_once(
    prefect_api: PrefectServer, home: Path, files: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_module, "push_to_store", failing_push(push))
    with pytest.raises(StorageUnavailableError):
        push_checkpoint.with_options(retry_delay_seconds=0)(name, files=[str(files)])
    with Catalog.look() as catalog:
        row = catalog.checkpoints.get(parse_reference(name))
    assert row.status == "failed"
    (told,) = events_of(prefect_api, f"flexai.checkpoint.{row.id}", 1)
    assert (told["event"], told["resource"]["status"]) == ("flexai.checkpoint.failed", "failed")
    assert "the store is away" in told["payload"]["reason"]
    (page,) = pages(prefect_api, artifacts.artifact_key("checkpoint", name))
    assert page["description"].startswith("Push failed")


def failing_push(to_store: Callable[..., Any]) -> Callable[..., Any]:
    """A push whose store goes away when the bytes have been stored."""

    def fail(system: Any, *arguments: Any, **options: Any) -> Any:
        def refuse(*_arguments: Any, **_options: Any) -> Any:
            raise StorageUnavailableError("the store is away")

        system.store.write_manifest = refuse
        return to_store(system, *arguments, **options)

    return fail


def test_an_export_that_fails_is_told_with_its_destination(
    prefect_api: PrefectServer, home: Path, files: Path, tmp_path: Path, name: str
) -> None:
    save_connection(LocalStorageProvider(root=str(tmp_path)), f"share-{name}", overwrite=True)
    checkpoint_id = push_checkpoint.fn(name, files=[str(files)])["metadata"]["id"]
    with pytest.raises(CheckpointError):
        export_checkpoint(name, f"share-{name}", "bucket")
    (told,) = events_of(prefect_api, f"flexai.checkpoint.{checkpoint_id}", 1)
    assert (told["event"], told["resource"]["status"]) == ("flexai.checkpoint.failed", "available")
    assert (told["payload"]["operation"], told["payload"]["destination"]["destinationPath"]) == ("export", "bucket")


def test_a_report_that_fails_leaves_the_push_as_it_is(
    prefect_api: PrefectServer,
    home: Path,
    files: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(*_arguments: Any, **_options: Any) -> None:
        raise StorageUnavailableError("the catalog is away")

    monkeypatch.setattr(change_reports.Reporter, "_story", refuse)
    assert push_checkpoint(name, files=[str(files)])["status"]["status"] == "available"
    assert "Prefect could not be told all about it: the catalog is away" in caplog.messages


def test_without_an_api_nothing_is_told_and_nothing_waits(home: Path, files: Path, tmp_path: Path) -> None:
    code = f"from flexai.tasks import push_checkpoint; push_checkpoint.fn('mistral-500', files=[{str(files)!r}])"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    environment |= {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert "WARNING" not in done.stderr and "ERROR" not in done.stderr
    assert not list((tmp_path / "prefect").glob("*.db")), "no server was started for an event"
