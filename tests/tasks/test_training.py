"""Training jobs, as tasks' functions: real commands."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import threading
from contextvars import ContextVar
from pathlib import Path

import pytest
from pydantic import SecretStr

from flexai.checkpoints.errors import JobFailedError, NotFoundError, UsageError
from flexai.tasks import list_training_checkpoints, run_training
from flexai.tasks.training import Aside
from tests.tasks.conftest import as_json

SAVE = """
    import json, os, pathlib
    print("one step")
    folder = pathlib.Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"], "checkpoint-1")
    folder.mkdir()
    (folder / "notes.json").write_text(json.dumps({"value": os.environ.get("VALUE", "")}))
"""

LOGGER = logging.getLogger("test-aside")
RUN: ContextVar[str] = ContextVar("run", default="")
IDENTITY = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_QUIET_PERIOD", "0")


def test_a_command_is_run_and_its_checkpoints_are_captured(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    job = run_training.fn("my-run", python(SAVE))
    assert (job["metadata"]["name"], job["runtime"]["status"], job["runtime"]["attempt"]) == ("my-run", "succeeded", 1)
    assert as_json(job) == job
    rows = list_training_checkpoints.fn("my-run")
    assert [(row["name"], row["status"]) for row in rows] == [("checkpoint-1", "available")]
    assert as_json(rows) == rows == list_training_checkpoints.fn(job["metadata"]["id"])
    assert "one step" in caplog.messages
    assert "training job 'my-run' succeeded (attempt 1)" in caplog.messages


def test_a_command_that_fails_fails_the_task_and_the_next_run_is_the_next_attempt(home: Path) -> None:
    with pytest.raises(
        JobFailedError, match="training job 'my-run' failed: the command ended with exit code 3"
    ) as caught:
        run_training.fn("my-run", python("raise SystemExit(3)"))
    assert caught.value.hint == "flexai training logs my-run shows what it printed"
    assert run_training.fn("my-run", python(SAVE))["runtime"]["attempt"] == 2


def test_a_job_that_has_succeeded_is_not_run_again_where_that_is_wanted(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = run_training.fn("my-run", python(SAVE))
    caplog.clear()
    assert run_training.fn("my-run", python("raise SystemExit(3)"), reuse_succeeded=True) == first
    assert "training job 'my-run' had succeeded before and was not run again (attempt 1)" in caplog.messages


def test_variables_reach_the_command_and_secret_ones_no_log(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Written backwards, so that only the value itself is the value.
    check = SAVE + "\n    assert os.environ['TOKEN'][::-1] == '7f3-yranac' and os.environ['VALUE'] == 'plain'"
    job = run_training.fn("my-run", python(check), env={"TOKEN": SecretStr("canary-3f7"), "VALUE": "plain"})
    assert job["spec"]["environment"] == ["TOKEN", "VALUE"]
    assert "canary-3f7" not in caplog.text


def test_the_commit_of_the_code_is_known_of_the_job(home: Path, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text("print('one step')\n")
    commands = (["init", "-q"], ["add", "train.py"], [*IDENTITY, "commit", "-q", "-m", "first"], ["rev-parse", "HEAD"])
    *_, commit = [
        subprocess.run(["git", *command], check=True, capture_output=True, text=True, timeout=60).stdout.strip()
        for command in commands
    ]
    assert run_training.fn("my-run", python(SAVE))["spec"]["codeCommit"] == commit
    (tmp_path / "train.py").write_text("print('another step')\n")
    assert run_training.fn("my-next-run", python(SAVE))["spec"]["codeCommit"] == f"{commit}-dirty"


def test_a_checkpoint_is_started_from(home: Path) -> None:
    run_training.fn("my-run", python(SAVE))
    (row,) = list_training_checkpoints.fn("my-run")
    resume = "import os, pathlib\nassert list(pathlib.Path(os.environ['FLEXAI_INPUT_CHECKPOINT_DIR']).iterdir())"
    job = run_training.fn("my-next-run", python(resume), checkpoint=row["id"])
    assert job["spec"]["inputCheckpointID"] == row["id"]


def test_the_output_may_go_to_a_directory_of_the_users(home: Path, tmp_path: Path) -> None:
    run_training.fn("my-run", python(SAVE), output_dir=str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "checkpoint-1" / "notes.json").is_file()


def test_what_makes_no_sense_is_refused(home: Path) -> None:
    with pytest.raises(UsageError):
        run_training.fn("my-run", [])
    with pytest.raises(NotFoundError):
        list_training_checkpoints.fn("my-run")


def test_things_aside_are_done_in_order_in_the_context_of_the_run() -> None:
    RUN.set("mine")
    done: list[tuple[int, str]] = []
    with Aside(LOGGER) as aside:
        threads = [threading.Thread(target=aside.do, args=(lambda: done.append((1, RUN.get())),))]
        threads[0].start()
        threads[0].join()
        aside.do(lambda: done.append((2, RUN.get())))
    assert done == [(1, "mine"), (2, "mine")]


def test_a_thing_aside_that_fails_is_logged_and_the_next_ones_are_done(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    def fail() -> None:
        raise RuntimeError("it went wrong")

    with Aside(LOGGER) as aside:
        aside.do(fail)
        aside.do(lambda: done.append(1))
    assert done == [1]
    assert caplog.messages == ["a report to Prefect has failed"]


def test_a_thing_aside_that_takes_too_long_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    answers = threading.Event()
    with Aside(LOGGER, patience=0.05) as aside:
        aside.do(lambda: answers.wait(60))
    answers.set()
    assert caplog.messages == ["Prefect was not told of everything, because it takes too long"]
