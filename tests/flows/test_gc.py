"""Collecting garbage, as a form of Prefect's UI or a schedule does it."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.errors import NotFoundError
from flexai.flows.gc import collect_garbage
from flexai.tasks import delete_checkpoint, push_checkpoint, undelete_checkpoint
from flexai.tasks.gc import describe_garbage
from tests.flows.conftest import RunDeployed
from tests.servers.prefect import PrefectServer


def test_what_was_deleted_long_enough_ago_is_freed_and_the_run_says_how_much(
    prefect_api: PrefectServer, home: Path, files: Path, run_deployed: RunDeployed
) -> None:
    name = f"gone-{uuid.uuid4().hex[:8]}"
    push_checkpoint.fn(name, files=[str(files)])
    (files / "other.txt").write_text(name)
    push_checkpoint.fn(f"{name}-stays", files=[str(files / "other.txt")])
    delete_checkpoint.fn(name)

    def run(**request: Any) -> tuple[str, str]:
        ended = run_deployed(collect_garbage, {"request": request} if request else {})
        assert ended["state"]["type"] == "COMPLETED", ended["state"]
        wanted = {"artifacts": {"key": {"any_": ["garbage"]}, "flow_run_id": {"any_": [ended["id"]]}}}
        (page,) = prefect_api.post("/artifacts/filter", wanted)
        return ended["name"], page["data"]

    run_name, page = run()
    assert run_name == "collect garbage (0 bytes freed)"
    assert page == "# Garbage collection: freed 0 bytes (blobs: 0, deleted checkpoints: 0, abandoned pushes: 0)\n"
    undelete_checkpoint.fn(name)
    delete_checkpoint.fn(name)
    run_name, page = run(grace_period="0s")
    assert run_name == "collect garbage (16 KiB freed)"
    assert "deleted checkpoints: 1" in page
    with pytest.raises(NotFoundError):
        undelete_checkpoint.fn(name)


def test_a_page_names_unreferenced_blobs_and_not_all_of_very_many() -> None:
    done = {"freed": "1 KiB", "blobs": 1, "deletedCheckpoints": 1, "abandonedPushes": 0, "unreferenced": ["a`b"]}
    done["collectedUnreferenced"] = []
    assert "- ``a`b``" in describe_garbage(done)
    page = describe_garbage(done | {"unreferenced": ["blob"] * 60})
    assert page.startswith("# Garbage collection: freed 1 KiB (")
    assert page.endswith("- … and 10 more\n")
    assert "does not know" not in describe_garbage(done | {"unreferenced": []})
    collected = describe_garbage(done | {"collectedUnreferenced": ["one", "two"]})
    assert "abandoned pushes: 0, unreferenced blobs: 2)" in collected
