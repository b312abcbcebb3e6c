"""Retention, as a form of Prefect's UI runs it."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from flexai.checkpoints.service.prune import PruneRequest, PruneScope
from flexai.checkpoints.service.support.retention import RetentionPolicy
from flexai.flows.prune import RetentionForm, retention
from flexai.tasks import list_checkpoints, push_checkpoint
from tests.flows.conftest import RunDeployed
from tests.servers.prefect import PrefectServer
from tests.support.waiting import until


def schema() -> dict[str, Any]:
    """What a form is made from."""
    return dict(parameter_schema(retention).model_dump_for_openapi())


def deletions(server: PrefectServer, checkpoint_id: str) -> int:
    """How often the server was told that a checkpoint was deleted, once it was."""
    wanted = {
        "filter": {
            "resource": {"id": [f"flexai.checkpoint.{checkpoint_id}"]},
            "event": {"name": ["flexai.checkpoint.deleted"]},
        }
    }
    return len(until(lambda: server.post("/events/filter", wanted)["events"], "the event"))


def test_a_run_shows_its_plan_and_deletes_only_when_it_is_told_to(
    prefect_api: PrefectServer, home: Path, files: Path, run_deployed: RunDeployed
) -> None:
    prefix = f"nightly-{uuid.uuid4().hex[:8]}"
    ids = []
    for number in range(3):
        (files / "own.bin").write_bytes(bytes([number]) * 1024)
        ids.append(push_checkpoint.fn(f"{prefix}-{number}", files=[str(files)])["metadata"]["id"])

    def run(**request: Any) -> tuple[str, str]:
        ended = run_deployed(retention, {"request": {"pushed": [f"{prefix}-*"], "keep_last": 1} | request})
        assert ended["state"]["type"] == "COMPLETED", ended["state"]
        wanted = {"artifacts": {"key": {"any_": ["retention"]}, "flow_run_id": {"any_": [ended["id"]]}}}
        (page,) = prefect_api.post("/artifacts/filter", wanted)
        return ended["name"], page["data"]

    name, page = run()
    assert name.startswith("retention: 2 of 3 would be deleted, which would free ")
    assert f"| delete | `{prefix}-0` |" in page
    assert f"| keep | `{prefix}-2` |" in page
    assert len(list_checkpoints.fn()) == 3
    name, page = run(apply=True)
    assert name.startswith("retention: 2 of 3 deleted; gc frees ")
    assert [row["name"] for row in list_checkpoints.fn()] == [f"{prefix}-2"]
    assert [deletions(prefect_api, checkpoint_id) for checkpoint_id in ids[:2]] == [1, 1]
    assert run(apply=True)[0] == "retention: 0 of 1 deleted; gc frees 0 bytes"


def test_left_as_it_is_the_form_deletes_nothing_and_keeps_the_last_and_the_best() -> None:
    assert RetentionForm().request() == PruneRequest(RetentionPolicy(keep_last=3, keep_best=1))


def test_the_form_has_bounds_enumerations_and_examples() -> None:
    (definition,) = (found for name, found in schema()["definitions"].items() if name == "RetentionForm")
    fields = definition["properties"]
    assert (fields["keep_last"]["minimum"], fields["keep_last"]["default"]) == (0, 3)
    assert fields["keep_within"]["pattern"]
    assert fields["jobs"]["examples"] and fields["pushed"]["examples"]
    assert "NAME:max" in fields["metric"]["description"]


def test_no_rule_at_all_is_refused() -> None:
    with pytest.raises(ValidationError, match="no rule says what to keep: give one of those"):
        RetentionForm(keep_last=0, keep_best=0, apply=True)


def test_what_is_filled_in_is_what_is_meant() -> None:
    form = RetentionForm.model_validate(
        {
            "jobs": ["train"],
            "pushed": ["nightly-*"],
            "keep_last": 0,
            "keep_best": 2,
            "metric": "train-loss",
            "keep_every_steps": 1000,
            "keep_every": "1w",
            "keep_within": "36h",
            "keep_since": "2026-01-31T00:00:00",
            "keep_exported": False,
            "include_failed": True,
            "drop_last": True,
            "drop_best": True,
        }
    )
    scope = PruneScope(jobs=("train",), pushed=("nightly-*",))
    policy = RetentionPolicy(
        keep_best=2,
        metric="train-loss",
        keep_every_steps=1000,
        keep_every=timedelta(days=7),
        keep_within=timedelta(hours=36),
        keep_since=datetime(2026, 1, 31, tzinfo=UTC),
        keep_exported=False,
        include_failed=True,
        drop_last=True,
        drop_best=True,
    )
    assert form.request() == PruneRequest(policy, scope)
