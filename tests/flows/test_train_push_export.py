"""The flow, on a real Prefect server and with real trainings."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import uuid
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.system import Secret

from flexai.checkpoints.errors import InvalidNameError, JobFailedError, NotFoundError, UsageError
from flexai.flows.train_push_export import train_push_export
from flexai.flows.training_forms import ExportSpec, PushSpec, Selection, TrainingSpec
from flexai.tasks import list_checkpoints
from tests.servers.prefect import PrefectServer
from tests.support.waiting import until

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_digits.py"
# 360 steps. All are kept: a checkpoint that is deleted a few hundredths of a second later may not have been seen.
DIGITS = [sys.executable, str(EXAMPLE), "--epochs", "1", "--hidden", "8", "--save-steps", "120", "--keep", "3"]

pytestmark = pytest.mark.usefixtures("prefect_api")


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEXAI_QUIET_PERIOD", "0")


@pytest.fixture
def job() -> str:
    """A name that no other test uses: all share one server."""
    return f"digits-{uuid.uuid4().hex[:8]}"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def flow_runs(server: PrefectServer, name: str, *, ended: int) -> list[dict[str, Any]]:
    """The flow runs of a name, oldest first, once so many have ended."""
    wanted = {"flow_runs": {"name": {"any_": [name]}}, "sort": "START_TIME_ASC"}

    def runs() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = server.post("/flow_runs/filter", wanted)
        return found if sum(run["state_type"] in {"COMPLETED", "FAILED", "CRASHED"} for run in found) >= ended else []

    return until(runs, f"the end of {ended} runs {name!r}")


def task_runs_of(server: PrefectServer, flow_run_id: str, *, count: int) -> list[str]:
    """The tasks that a flow run ran, once the server has recorded so many."""
    wanted = {"task_runs": {"flow_run_id": {"any_": [flow_run_id]}}, "sort": "EXPECTED_START_TIME_ASC"}
    until(lambda: len(server.post("/task_runs/filter", wanted)) >= count, f"{count} task runs")
    runs = server.post("/task_runs/filter", wanted)
    return [run["task_key"].rpartition("-")[0] for run in runs]


def test_the_best_checkpoint_is_pushed_and_exported_and_a_rerun_moves_nothing(
    prefect_api: PrefectServer, home: Path, job: str, share: str, tmp_path: Path
) -> None:
    training = TrainingSpec(name=job, command=DIGITS)
    push = PushSpec(name_template="{job}-{step}", only_resumable=True)
    export = ExportSpec(storage_provider=share, path_template="models/{job}/{name}")

    first = train_push_export(training, push, export)
    assert json.loads(json.dumps(first)) == first
    (best,) = first["checkpoints"]
    name = f"{job}-{best['step']}"
    assert best["pushed"]["name"] == name
    assert (best["export"]["exportedFiles"], best["export"]["skippedFiles"]) == (5, 0)
    folder = tmp_path / "share" / "models" / job / name
    assert json.loads((folder / "trainer_state.json").read_text())["global_step"] == best["step"]
    assert [row["name"] for row in list_checkpoints.fn()] == [name]

    again = train_push_export(training, push, export)
    assert again["job"] == first["job"]
    assert again["checkpoints"][0]["pushed"] == best["pushed"]
    done_again = again["checkpoints"][0]["export"]
    assert (done_again["exportedFiles"], done_again["skippedFiles"], done_again["movedBytes"]) == (0, 5, 0)

    runs = flow_runs(prefect_api, f"train {job}", ended=2)
    assert [run["state_type"] for run in runs] == ["COMPLETED", "COMPLETED"]
    tasks = ["run_training", "list_training_checkpoints", "push_selection", "export_selection"]
    assert task_runs_of(prefect_api, runs[0]["id"], count=4) == tasks
    page = {"artifacts": {"key": {"any_": [f"train-push-export-{job}"]}}}
    assert f"| `{name}` | `{share}:models/{job}/{name}` |" in prefect_api.post("/artifacts/filter", page)[0]["data"]


@pytest.mark.slow
def test_only_an_export_that_is_worth_more_than_one_shard_is_given_out_in_shards(
    prefect_api: PrefectServer, home: Path, job: str, share: str, tmp_path: Path
) -> None:
    training, push = TrainingSpec(name=job, command=DIGITS), PushSpec(select=Selection.ALL)
    # The last of the four holds the model alone, and is smaller.
    export = ExportSpec(storage_provider=share, path_template="models/{name}", shard_size="8KB")
    summary = train_push_export(training, push, export)
    sizes = [row["sizeBytes"] for row in summary["checkpoints"]]
    assert [row["export"]["movedBytes"] for row in summary["checkpoints"]] == sizes
    (run,) = flow_runs(prefect_api, f"train {job}", ended=1)
    tasks = task_runs_of(prefect_api, run["id"], count=10)
    assert tasks[:3] == ["run_training", "list_training_checkpoints", "push_selection"]
    assert tasks[3:] == [*["export_shard"] * 6, "export_selection"]
    again = train_push_export(training, push, export)
    assert [row["export"]["movedBytes"] for row in again["checkpoints"]] == [0] * 4


@pytest.mark.slow
def test_all_checkpoints_take_no_more_task_runs_than_one(
    prefect_api: PrefectServer, home: Path, job: str, share: str, tmp_path: Path
) -> None:
    summary = train_push_export(
        TrainingSpec(name=job, command=DIGITS),
        PushSpec(select=Selection.ALL),
        ExportSpec(storage_provider=share, path_template="models/{name}"),
    )
    names = [row["pushed"]["name"] for row in summary["checkpoints"]]
    assert set(names) == {f"{job}-checkpoint-{step}" for step in (120, 240, 360)} | {f"{job}-final"}
    assert sorted(path.name for path in (tmp_path / "share" / "models").iterdir()) == sorted(names)
    (run,) = flow_runs(prefect_api, f"train {job}", ended=1)
    assert len(task_runs_of(prefect_api, run["id"], count=4)) == 4


STUMBLING = """
    import os, pathlib, runpy, sys
    if not pathlib.Path("stumbled").exists():
        pathlib.Path("stumbled").touch()
        sys.argv = [{example!r}, "--epochs", "1", "--hidden", "8", "--save-steps", "120"]
        runpy.run_path({example!r}, run_name="__main__")
        sys.exit(9)
    print("starting from", os.listdir(os.environ["FLEXAI_INPUT_CHECKPOINT_DIR"]))
    sys.argv = [{example!r}, "--epochs", "2", "--hidden", "8", "--save-steps", "300"]
    runpy.run_path({example!r}, run_name="__main__")
"""


@pytest.mark.slow
def test_a_failed_job_is_trained_again_from_its_latest_checkpoint_where_that_is_wanted(home: Path, job: str) -> None:
    training = TrainingSpec(name=job, command=python(STUMBLING.format(example=str(EXAMPLE))), continue_failed=True)
    push = PushSpec(name_template="{job}-{step}", select=Selection.LATEST, only_resumable=True)
    with pytest.raises(JobFailedError, match="exit code 9"):
        train_push_export(training, push)
    assert list_checkpoints.fn() == []
    summary = train_push_export(training, push)
    assert summary["job"]["runtime"]["attempt"] == 2
    assert summary["job"]["spec"]["inputCheckpoint"] == "checkpoint-360"
    assert summary["checkpoints"][0]["pushed"]["name"] == f"{job}-720"


@pytest.mark.slow
def test_a_job_that_was_stopped_goes_on_from_its_latest_checkpoint_by_itself(
    home: Path, job: str, tmp_path: Path
) -> None:
    waiting = STUMBLING.replace("sys.exit(9)", "pathlib.Path('waits').touch(); import time; time.sleep(600)")
    command = python(waiting.format(example=str(EXAMPLE)))
    program = [str(Path(sys.executable).parent / "flexai"), "training", "run", job, "--no-track", "--", *command]
    process = subprocess.Popen(program, cwd=tmp_path)
    try:
        until((tmp_path / "waits").exists, "the training")
        process.terminate()
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    summary = train_push_export(TrainingSpec(name=job, command=command), PushSpec(select=Selection.LATEST))
    assert summary["job"]["runtime"]["attempt"] == 2
    assert summary["job"]["spec"]["inputCheckpoint"] == "checkpoint-360"


@pytest.mark.parametrize(
    ("push", "export", "error"),
    [
        (PushSpec(name_template="{job}-" + "x" * 55), None, InvalidNameError),
        (PushSpec(), ExportSpec(storage_provider="no-such-share", path_template="models/{name}"), NotFoundError),
        (PushSpec(), ExportSpec(storage_provider="no-such-share", path_template="a/../{name}"), UsageError),
        (
            PushSpec(select=Selection.ALL),
            ExportSpec(storage_provider="no-such-share", path_template="models/{job}"),
            UsageError,
        ),
    ],
)
def test_what_can_be_known_to_fail_fails_before_the_training(
    home: Path, job: str, tmp_path: Path, push: PushSpec, export: ExportSpec | None, error: type[Exception]
) -> None:
    command = python("import pathlib; pathlib.Path('trained').touch()")
    with pytest.raises(error):
        train_push_export(TrainingSpec(name=job, command=command), push, export)
    assert not (tmp_path / "trained").exists()


def test_a_share_that_is_not_mounted_fails_before_the_training(
    home: Path, job: str, share: str, tmp_path: Path
) -> None:
    (tmp_path / "share").rmdir()
    command = python("import pathlib; pathlib.Path('trained').touch()")
    export = ExportSpec(storage_provider=share, path_template="models/{name}")
    with pytest.raises(NotFoundError, match="is not there"):
        train_push_export(TrainingSpec(name=job, command=command), PushSpec(), export)
    assert not (tmp_path / "trained").exists()


SECRETIVE = """
    import os, pathlib
    assert os.environ["TOKEN"].startswith("canary-") and os.environ["MODE"] == "offline"
    folder = pathlib.Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"], "checkpoint-1")
    folder.mkdir()
    (folder / "notes.txt").write_text("done")
"""


def test_secrets_come_from_prefects_blocks_and_are_recorded_nowhere(
    prefect_api: PrefectServer, home: Path, job: str
) -> None:
    canary = f"canary-{uuid.uuid4().hex}"
    Secret(value=canary).save(f"secret-{job}")
    training = TrainingSpec(
        name=job, command=python(SECRETIVE), env={"MODE": "offline"}, secrets={"TOKEN": f"secret-{job}"}
    )
    summary = train_push_export(training, PushSpec(select=Selection.LATEST))
    assert sorted(summary["job"]["spec"]["environment"]) == ["MODE", "TOKEN"]
    flow_runs(prefect_api, f"train {job}", ended=1)
    assert "flow_run" in prefect_api.database_holds(f"secret-{job}")
    assert prefect_api.database_holds(canary) == []
    assert not any(canary.encode() in path.read_bytes() for path in home.rglob("*") if path.is_file())


def test_a_secret_that_is_not_there_fails_before_the_training(home: Path, job: str, tmp_path: Path) -> None:
    command = python("import pathlib; pathlib.Path('trained').touch()")
    with pytest.raises(NotFoundError, match="there is no Prefect Secret block 'no-such-secret'"):
        train_push_export(TrainingSpec(name=job, command=command, secrets={"TOKEN": "no-such-secret"}))
    assert not (tmp_path / "trained").exists()


def test_a_date_in_the_jobs_name_is_that_of_the_run(prefect_api: PrefectServer, home: Path, job: str) -> None:
    command = python(SECRETIVE.replace('assert os.environ["TOKEN"]', "pass #"))
    training = TrainingSpec(name=f"{job}-{{date}}", command=command)
    summary = train_push_export(training, PushSpec(select=Selection.LATEST))
    name = summary["job"]["metadata"]["name"]
    prefix, _, date = name.rpartition("-")
    assert prefix == job
    assert len(date) == 8 and date.isdigit()
    assert [run["parameters"]["training"]["name"] for run in flow_runs(prefect_api, f"train {name}", ended=1)] == [
        f"{job}-{{date}}"
    ]
