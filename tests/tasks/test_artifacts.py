"""Artifacts: their keys, their texts, and what a slow API costs."""

from __future__ import annotations

import json
import logging
import re
import threading
import uuid
from datetime import UTC, datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import task
from prefect.types.names import raise_on_name_alphanumeric_dashes_only

from flexai.checkpoints.models import Checkpoint, CheckpointKind, CheckpointStatus, ListedCheckpoint, Source
from flexai.checkpoints.names import Id, new_id, parse_id
from flexai.tasks import artifacts
from flexai.tasks.artifacts import (
    artifact_key,
    catalog_table,
    checkpoint_key,
    code,
    create_markdown,
    create_table,
    plain,
)
from tests.hostile.texts import ALL, assert_harmless
from tests.servers.prefect import PrefectServer

LOGGER = logging.getLogger("test-artifacts")
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{1,61}[A-Za-z0-9]", fullmatch=True)


def checkpoint(name: str, *, job: str = "", checkpoint_id: Id | None = None) -> Checkpoint:
    moment = datetime(2026, 1, 31, tzinfo=UTC)
    return Checkpoint(
        id=checkpoint_id or new_id(),
        kind=CheckpointKind.CAPTURED if job else CheckpointKind.PUSHED,
        name=name,
        job_name=job,
        creator_user_id=parse_id(uuid.UUID(int=1)),
        owner_org_id=parse_id(uuid.UUID(int=2)),
        source=Source(),
        status=CheckpointStatus.AVAILABLE,
        created_at=moment,
        updated_at=moment,
    )


@given(NAMES)
def test_every_name_makes_a_key_that_prefect_takes(name: str) -> None:
    key = artifact_key("push", name)
    assert raise_on_name_alphanumeric_dashes_only(key) == key
    assert key.startswith("push-")


@given(NAMES, NAMES)
def test_names_share_a_key_only_where_they_are_the_same_name(one: str, other: str) -> None:
    same = artifact_key("checkpoint", one) == artifact_key("checkpoint", other)
    assert same == (one.casefold() == other.casefold())


@pytest.mark.parametrize(("one", "other"), [("a_b", "a-b"), ("a--b", "a-b"), ("a_-b", "a-_b"), ("A_b", "a-B")])
def test_names_that_look_alike_as_keys_are_told_apart(one: str, other: str) -> None:
    assert artifact_key("checkpoint", one) != artifact_key("checkpoint", other)
    assert artifact_key("checkpoint", one) == artifact_key("checkpoint", one.upper())


def test_a_pushed_checkpoints_key_is_its_names_and_a_captured_ones_its_own() -> None:
    assert checkpoint_key(checkpoint("Mistral-500")) == "checkpoint-mistral-500"
    one, other = (checkpoint("checkpoint-5", job="my_run") for _ in range(2))
    assert checkpoint_key(one) != checkpoint_key(other)
    assert checkpoint_key(one) == f"checkpoint-my-run-checkpoint-5--{one.id.replace('-', '')[:12]}"


@given(st.text(max_size=300), st.uuids().map(parse_id))
def test_any_folders_name_makes_a_key_that_prefect_takes(folder: str, checkpoint_id: Id) -> None:
    key = checkpoint_key(checkpoint(folder, job="my-run", checkpoint_id=checkpoint_id))
    assert raise_on_name_alphanumeric_dashes_only(key) == key


@given(st.text(min_size=1))
def test_a_text_as_code_never_ends_its_cell_or_its_code(text: str) -> None:
    shown = code(text)
    fence = re.match("`+", shown)
    assert fence is not None and shown.endswith(fence[0])
    inside = shown[len(fence[0]) : -len(fence[0])]
    assert fence[0] not in re.findall("`+", inside)
    assert "\n" not in shown
    assert re.search(r"(?<!\\)\|", inside) is None


def test_a_plain_text_has_no_marks_of_its_own() -> None:
    assert plain("a [link](javascript:x) | <b>`c`</b>\n# d") == (r"a \[link\]\(javascript:x\) \| \<b\>\`c\`\</b\> \# d")


def test_without_a_run_no_artifact_is_made() -> None:
    create_markdown("key", "text", description="", logger=LOGGER)
    create_table("key", [{"a": 1}], description="", logger=LOGGER)


def test_the_catalog_is_a_table_of_the_run(prefect_api: PrefectServer) -> None:
    key = f"catalog-{uuid.uuid4().hex[:8]}"
    row = ListedCheckpoint(
        new_id(), "pushed", "mistral-500", "", "available", "", 2048, 2, "2026-01-31", "2026-01-31", None, False
    )

    @task
    def work() -> None:
        create_table(key, catalog_table([row]), description="The catalog", logger=LOGGER)

    work()
    (artifact,) = prefect_api.post("/artifacts/filter", {"artifacts": {"key": {"any_": [key]}}})
    assert artifact["type"] == "table"
    (shown,) = json.loads(artifact["data"])
    assert (shown["Name"], shown["Size"], shown["Bytes"], shown["Status"]) == (
        "mistral-500",
        "2 KiB",
        2048,
        "available",
    )


def test_no_text_of_others_shows_itself_in_another_order_in_the_ui(prefect_api: PrefectServer) -> None:
    key = artifact_key("hostile", uuid.uuid4().hex)

    @task
    def work() -> None:
        create_markdown(key, f"# {code(ALL)} {plain(ALL)}", description=ALL, logger=LOGGER)
        create_table(key, [{"Reason": ALL}], description=ALL, logger=LOGGER)

    work()
    found = prefect_api.post("/artifacts/filter", {"artifacts": {"key": {"any_": [key]}}})
    table, page = sorted(found, key=lambda artifact: str(artifact["data"]).startswith("#"))
    assert_harmless(page["data"])
    assert_harmless(json.loads(table["data"])[0]["Reason"])
    for artifact in found:
        assert_harmless(artifact["description"])


def test_an_api_that_does_not_answer_is_not_waited_for(
    prefect_api: PrefectServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers = threading.Event()

    def refuse_at_last(sync_client: bool) -> None:
        answers.wait(60)
        raise httpx.ReadTimeout("too late")

    monkeypatch.setattr(artifacts, "get_client", refuse_at_last)
    monkeypatch.setattr(artifacts, "PATIENCE_SECONDS", 0.05)

    @task
    def work() -> str:
        create_markdown("key", "text", description="", logger=LOGGER)
        return "done"

    assert work() == "done"
    answers.set()
    assert "the Prefect API did not take an artifact within 0 seconds" in caplog.messages
