"""Progress in a run's log and as an artifact."""

from __future__ import annotations

import logging
import uuid
from typing import Any

import pytest
from prefect import task
from prefect.client.orchestration import SyncPrefectClient

from flexai.tasks import artifacts
from flexai.tasks.options import run_logger
from flexai.tasks.run_progress import RunProgress
from tests.servers.prefect import PrefectServer
from tests.support.waiting import until

LOGGER = logging.getLogger("test-progress")


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=LOGGER.name)


def progress_artifacts(server: PrefectServer, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = server.post("/artifacts/filter", {"artifacts": {"key": {"any_": [key]}}})
    return [artifact for artifact in found if artifact["type"] == "progress"]


def test_a_stage_is_logged_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    progress = RunProgress(LOGGER)
    progress.begin("push x", total_bytes=2048, total_files=2)
    progress.advance(moved=1024, files=1)
    progress.note("a retry")
    progress.advance(skipped=1024, files=1)
    progress.end()
    assert caplog.messages == [
        "push x: 2 KiB in 2 files",
        "a retry",
        "push x: 2 KiB, 2 files, 1 KiB already there in 0:00",
    ]
    assert (progress.moved, progress.skipped) == (1024, 1024)


def test_a_long_stage_is_logged_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    progress = RunProgress(LOGGER, update_seconds=0.01, log_seconds=0.02)
    progress.begin("push x", total_bytes=100, total_files=1)
    progress.advance(moved=50)
    until(lambda: len(caplog.messages) >= 3)
    progress.end()
    assert caplog.messages[1].startswith("push x: 50 bytes of 100 bytes (50%), 0 of 1 file")


def test_each_stage_counts_from_its_own_start_and_the_sums_go_on(caplog: pytest.LogCaptureFixture) -> None:
    progress = RunProgress(LOGGER)
    for _ in range(2):
        progress.begin("push x", total_bytes=100, total_files=1)
        progress.advance(moved=100, files=1)
        progress.end()
    assert caplog.messages[1] == caplog.messages[3]
    assert progress.moved == 200


def test_the_end_of_a_stage_that_never_began_is_nothing(caplog: pytest.LogCaptureFixture) -> None:
    RunProgress(LOGGER).end()
    assert caplog.messages == []


def test_in_a_run_progress_is_an_artifact_that_ends_where_the_work_ends(prefect_api: PrefectServer) -> None:
    key = f"push-{uuid.uuid4().hex[:8]}"

    @task
    def work() -> None:
        progress = RunProgress(run_logger(), key=key, update_seconds=0.05)
        progress.begin("push x", total_bytes=100, total_files=1)
        progress.advance(moved=40)
        until(lambda: [one["data"] for one in progress_artifacts(prefect_api, key)] == [40.0])
        progress.advance(moved=60, files=1)
        progress.end()

    work()
    (artifact,) = progress_artifacts(prefect_api, key)
    assert artifact["data"] == 100.0
    assert artifact["task_run_id"] is not None
    assert artifact["description"].startswith(f"`{'█' * 24}` push x: 100 bytes of 100 bytes (100%)")


def test_that_all_has_arrived_is_told_before_the_work_has_ended(prefect_api: PrefectServer) -> None:
    key = f"push-{uuid.uuid4().hex[:8]}"

    @task
    def work() -> None:
        progress = RunProgress(run_logger(), key=key, update_seconds=0.05)
        progress.begin("push x", total_bytes=100, total_files=1)
        progress.advance(moved=40)
        until(lambda: [one["data"] for one in progress_artifacts(prefect_api, key)] == [40.0])
        progress._update_seconds = 3600
        progress.advance(moved=60, files=1)
        until(lambda: [one["data"] for one in progress_artifacts(prefect_api, key)] == [100.0])
        progress.end()

    work()


def test_what_is_done_within_a_second_makes_no_artifact(prefect_api: PrefectServer) -> None:
    key = f"push-{uuid.uuid4().hex[:8]}"

    @task
    def work() -> None:
        progress = RunProgress(run_logger(), key=key, update_seconds=60)
        progress.begin("push x", total_bytes=100, total_files=1)
        progress.end()

    work()
    assert progress_artifacts(prefect_api, key) == []


def test_an_api_that_takes_no_artifact_costs_a_warning_and_not_the_transfer(
    prefect_api: PrefectServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(artifacts, "get_client", lambda sync_client: SyncPrefectClient("http://127.0.0.1:9/api"))
    warning = "the Prefect API does not take the progress any more"

    @task
    def work() -> str:
        progress = RunProgress(LOGGER, key="push-x", update_seconds=0.01, log_seconds=0.02)
        progress.begin("push x", total_bytes=100, total_files=1)
        progress.advance(moved=100, files=1)
        until(lambda: any(message.startswith(warning) for message in caplog.messages))
        lines = len(caplog.messages)
        until(lambda: len(caplog.messages) > lines)
        progress.end()
        artifacts.create_markdown("checkpoint-x", "text", description="", logger=LOGGER)
        return "done"

    assert work() == "done"
    assert sum(message.startswith(warning) for message in caplog.messages) == 1
    assert sum(message.startswith("the Prefect API did not take an artifact") for message in caplog.messages) == 1
