"""A person's decision between push and export, in runs of a deployment and without one."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.errors import UsageError
from flexai.flows.approval import ask_for_approval
from flexai.flows.train_push_export import train_push_export
from flexai.flows.training_forms import ApprovalSpec, ExportSpec, PushSpec, Selection, TrainingSpec
from flexai.tasks import list_checkpoints
from tests.flows.conftest import RunDeployed
from tests.servers.prefect import PrefectServer
from tests.support.waiting import until

pytestmark = pytest.mark.slow

CODE = """
import os, pathlib
count = pathlib.Path("trainings")
count.write_text(str(int(count.read_text() or 0) + 1) if count.exists() else "1")
folder = pathlib.Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"], "checkpoint-1")
folder.mkdir()
(folder / "trainer_state.json").write_text('{"global_step": 1, "log_history": [{"step": 1, "eval_loss": 0.25}]}')
"""


@pytest.fixture
def job() -> str:
    """A name that no other test uses: all share one server."""
    return f"asked-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def parameters(job: str, share: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A training of a moment, and an export that a person has to approve."""
    monkeypatch.setenv("FLEXAI_QUIET_PERIOD", "0")
    return {
        "training": {"name": job, "command": [sys.executable, "-c", CODE]},
        "push": {"select": "latest"},
        "export": {"storage_provider": share, "path_template": "models/{name}", "approval": {"timeout_hours": 1}},
    }


def resume(server: PrefectServer, flow_run_id: str, **answer: str) -> dict[str, Any]:
    """Answer as Prefect's form does."""
    found: dict[str, Any] = server.post(f"/flow_runs/{flow_run_id}/resume", {"run_input": answer})
    return found


def retry(server: PrefectServer, flow_run_id: str) -> None:
    """What the UI's button *Retry* does."""
    state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
    assert server.post(f"/flow_runs/{flow_run_id}/set_state", {"state": state})["status"] == "ACCEPT"


def test_an_approved_export_is_made_by_a_second_run_that_does_nothing_twice(
    prefect_api: PrefectServer, run_deployed: RunDeployed, parameters: dict[str, Any], job: str, tmp_path: Path
) -> None:
    run_id = run_deployed.begin(train_push_export, parameters)
    waiting = run_deployed.go_on(train_push_export, run_id)
    assert (waiting["state"]["type"], waiting["state"]["name"]) == ("PAUSED", "Suspended")
    assert [row["name"] for row in list_checkpoints.fn()] == [f"{job}-checkpoint-1"]
    assert not (tmp_path / "share" / "models").exists()

    question = prefect_api.get(f"/flow_runs/{run_id}/input/suspended-approval-description")
    assert "| 0.25 |" in question and f"models/{job}-checkpoint-1" in question
    form = prefect_api.get(f"/flow_runs/{run_id}/input/suspended-approval-schema")
    assert form["definitions"]["ApprovalAnswer"]["enum"] == ["approve", "decline"]
    assert form["required"] == ["decision"]

    assert resume(prefect_api, run_id, decision="perhaps")["status"] == "REJECT"
    assert resume(prefect_api, run_id, decision="approve", note="well done")["status"] == "ACCEPT"
    ended = run_deployed.go_on(train_push_export, run_id)
    assert ended["state"]["type"] == "COMPLETED", ended["state"]
    assert (tmp_path / "share" / "models" / f"{job}-checkpoint-1" / "trainer_state.json").is_file()
    assert (tmp_path / "trainings").read_text() == "1"
    pages = prefect_api.post("/artifacts/filter", {"artifacts": {"key": {"any_": [f"train-push-export-{job}"]}}})
    assert "The export was approved: `well done`" in max(pages, key=lambda page: str(page["created"]))["data"]

    # Asked once is enough: everything is there.
    again = run_deployed(train_push_export, parameters)
    assert again["state"]["type"] == "COMPLETED", again["state"]


def test_a_declined_export_is_not_made_and_the_run_ends_well(
    prefect_api: PrefectServer, run_deployed: RunDeployed, parameters: dict[str, Any], job: str, tmp_path: Path
) -> None:
    run_id = run_deployed.begin(train_push_export, parameters)
    run_deployed.go_on(train_push_export, run_id)
    resume(prefect_api, run_id, decision="decline")
    ended = run_deployed.go_on(train_push_export, run_id)
    assert (ended["state"]["type"], ended["name"]) == ("COMPLETED", f"train {job} (export declined)")
    assert not (tmp_path / "share" / "models").exists()
    assert [row["name"] for row in list_checkpoints.fn()] == [f"{job}-checkpoint-1"]


def test_a_retry_after_an_approved_export_that_failed_does_not_ask_again(
    prefect_api: PrefectServer, run_deployed: RunDeployed, parameters: dict[str, Any], job: str, tmp_path: Path
) -> None:
    run_id = run_deployed.begin(train_push_export, parameters)
    run_deployed.go_on(train_push_export, run_id)
    resume(prefect_api, run_id, decision="approve", note="well done")
    in_the_way = tmp_path / "share" / "models"
    in_the_way.write_text("a file")
    assert run_deployed.go_on(train_push_export, run_id)["state"]["type"] == "FAILED"

    in_the_way.unlink()
    retry(prefect_api, run_id)
    ended = run_deployed.go_on(train_push_export, run_id)
    assert ended["state"]["type"] == "COMPLETED", ended["state"]
    assert (in_the_way / f"{job}-checkpoint-1" / "trainer_state.json").is_file()
    pages = prefect_api.post("/artifacts/filter", {"artifacts": {"key": {"any_": [f"train-push-export-{job}"]}}})
    assert "The export was approved: `well done`" in max(pages, key=lambda page: str(page["created"]))["data"]


@pytest.mark.xdist_group("waits")
def test_a_retry_asks_again_where_no_answer_came_in_time_or_the_answer_was_no(
    prefect_api: PrefectServer, run_deployed: RunDeployed, parameters: dict[str, Any], job: str, tmp_path: Path
) -> None:
    parameters["export"]["approval"]["timeout_hours"] = 10 / 3600
    run_id = run_deployed.begin(train_push_export, parameters)
    run_deployed.go_on(train_push_export, run_id)
    until(lambda: prefect_api.get(f"/flow_runs/{run_id}")["state"]["type"] != "PAUSED", "the end of the wait")
    late = prefect_api.get(f"/flow_runs/{run_id}")
    assert (late["state"]["type"], late["state"]["message"]) == ("FAILED", "The flow was paused and never resumed.")
    for decision in ("decline", "approve"):
        retry(prefect_api, run_id)
        assert run_deployed.go_on(train_push_export, run_id)["state"]["name"] == "Suspended"
        assert resume(prefect_api, run_id, decision=decision)["status"] == "ACCEPT"
        ended = run_deployed.go_on(train_push_export, run_id)
        assert ended["state"]["type"] == "COMPLETED", ended["state"]
        assert (tmp_path / "share" / "models").exists() == (decision == "approve")
    assert (tmp_path / "trainings").read_text() == "1"


def test_a_run_without_a_deployment_waits_in_its_process(
    prefect_api: PrefectServer, parameters: dict[str, Any], job: str, share: str, tmp_path: Path
) -> None:
    def answer() -> None:
        wanted = {"flow_runs": {"name": {"any_": [f"train {job}"]}, "state": {"type": {"any_": ["PAUSED"]}}}}
        found = until(lambda: prefect_api.post("/flow_runs/filter", wanted), "the question")
        while resume(prefect_api, found[0]["id"], decision="approve")["status"] != "ACCEPT":
            time.sleep(0.1)  # the form is saved a moment after the state

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        summary = train_push_export(
            TrainingSpec.model_validate(parameters["training"]),
            PushSpec(select=Selection.LATEST),
            ExportSpec(storage_provider=share, path_template="models/{name}", approval=ApprovalSpec()),
        )
    finally:
        thread.join()
    assert summary["approval"] == {"decision": "approve", "note": ""}
    assert summary["checkpoints"][0]["export"]["exportedFiles"] == 1


def test_outside_of_a_run_no_person_can_be_asked() -> None:
    with pytest.raises(UsageError, match="this is no flow run"):
        ask_for_approval("Export this?", timeout_seconds=1)
