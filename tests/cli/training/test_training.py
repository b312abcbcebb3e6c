"""Training jobs from the command line, with real commands."""

from __future__ import annotations

import json
import signal
import sys
import uuid
from pathlib import Path

import pytest
import yaml

from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.models import ListedCheckpoint
from flexai.checkpoints.service import inspect
from flexai.cli import terminal
from tests.cli.conftest import Run
from tests.cli.program import Program
from tests.support.waiting import until

# Writes a whole checkpoint of the Transformers kind, and one in the output directory itself.
TRAIN = """
import json, os, pathlib, struct
root = pathlib.Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"])
def weights(path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
for name in ("checkpoint-5", ""):
    folder = root / name
    folder.mkdir(exist_ok=True)
    weights(folder / "model.safetensors")
    config = {"architectures": ["GPT2LMHeadModel"], "transformers_version": "4.57.1", "model_type": "gpt2"}
    (folder / "config.json").write_text(json.dumps(config))
    if name:
        log = [{"step": 5, "loss": 2.5}, {"step": 5, "eval_loss": 2.25}]
        (folder / "trainer_state.json").write_text(json.dumps({"global_step": 5, "log_history": log}))
print("token", os.environ.get("TOKEN"))
print("input", sorted(os.listdir(os.environ["FLEXAI_INPUT_CHECKPOINT_DIR"]))
      if "FLEXAI_INPUT_CHECKPOINT_DIR" in os.environ else None)
"""


_TWO = ("first", "second")


def _train(program: Program, name: str, *flags: str) -> None:
    program.file("train.py", TRAIN)
    done = program.run("training", "run", name, *flags, "--", sys.executable, "train.py")
    assert done.code == 0, done.err


def test_a_job_and_the_checkpoints_it_wrote_are_shown(program: Program) -> None:
    program.file("train.py", TRAIN)
    done = program.run("training", "run", "my-run", "-E", "TOKEN=a=b", "--", sys.executable, "train.py")
    assert (done.code, done.out) == (0, "token a=b\ninput None\n")
    assert "training job 'my-run' succeeded" in done.err
    assert done.hint == "flexai training checkpoints my-run lists what it wrote"

    rows = {row["name"]: row for row in program.run("training", "checkpoints", "my-run", "--json").json()}
    assert set(rows) == {"checkpoint-5", ""}
    row = rows["checkpoint-5"]
    assert (row["step"], row["trainLoss"], row["evalLoss"], row["node"]) == (5, 2.5, 2.25, "0")
    assert (row["model"], row["version"], row["inferenceReady"]) == ("GPT2LMHeadModel", "4.57.1", True)

    head, rule, *lines = program.run("training", "checkpoints", "my-run").out.splitlines()
    assert [title.strip() for title in head.split("|")] == [
        "ID",
        "NAME",
        "NODE",
        "STEP",
        "TRAIN LOSS",
        "EVAL LOSS",
        "MODEL",
        "VERSION",
        "INFERENCE READY",
        "TIMESTAMP",
        "RESUMABLE",
        "BEST",
        "SIZE",
    ]
    assert set(rule) == {"-", "+"}
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")] for line in lines}
    assert cells["checkpoint-5"][2:9] == ["0", "5", "2.5", "2.25", "GPT2LMHeadModel", "4.57.1", "true"]
    assert cells["."][0] == rows[""]["id"]
    assert cells["."][3:6] == ["-", "-", "-"]

    assert program.run("checkpoint", "list", "--json").json() == []
    shown = program.run("checkpoint", "inspect", row["id"], "--json").json()
    assert shown["status"]["metadata"]["job"] == "my-run"
    assert program.run("checkpoint", "fetch", row["id"], "-d", "out").code == 0
    assert (program.cwd / "out/model.safetensors").is_file()

    job = program.run("training", "inspect", "MY-RUN").out
    assert yaml.safe_load(job) == program.run("training", "inspect", "my-run", "-j").json()
    document = yaml.safe_load(job)
    assert (document["runtime"]["status"], document["runtime"]["exitCode"]) == ("succeeded", 0)
    assert document["spec"]["environment"] == ["TOKEN"]
    assert "a=b" not in job

    (listed,) = program.run("training", "list", "--json").json()
    assert (listed["name"], listed["status"], listed["checkpointsCount"]) == ("my-run", "succeeded", 2)
    table = program.run("training", "list").out.splitlines()
    assert [cell.strip() for cell in table[2].split("|")][:3] == ["my-run", "succeeded", "2"]

    logs = program.run("training", "logs", "my-run")
    assert (logs.code, "token a=b\n" in logs.out) == (0, True)


def test_a_job_starts_from_a_checkpoint(program: Program) -> None:
    program.file("base/weights.bin")
    assert program.run("checkpoint", "push", "base", "-f", "base").code == 0
    program.file("train.py", TRAIN)
    done = program.run("training", "run", "my-run", "-C", "base", "--", sys.executable, "train.py")
    assert done.out.splitlines()[-1] == "input ['weights.bin']"
    assert program.run("training", "inspect", "my-run", "--json").json()["spec"]["inputCheckpoint"] == "base"


def test_the_exit_code_is_the_commands(program: Program) -> None:
    done = program.run("training", "run", "my-run", "--", "sh", "-c", "exit 7")
    assert done.code == 7
    assert "training job 'my-run' failed" in done.err
    assert program.run("training", "inspect", "my-run", "--json").json()["runtime"]["exitCode"] == 7


def test_a_command_that_cannot_be_started_is_one_sentence(program: Program) -> None:
    done = program.run("training", "run", "my-run", "--", "no-such-program")
    assert done.code == 1
    assert "no-such-program" in done.error
    assert "Traceback" not in done.err


def test_a_running_job_is_followed_and_stopped(program: Program) -> None:
    script = "import time; print('started', flush=True); time.sleep(600)"
    job = program.start("training", "run", "my-run", "--", sys.executable, "-c", script)
    assert job.stdout is not None
    assert job.stdout.readline() == "started\n"
    assert program.run("training", "inspect", "my-run", "--json").json()["runtime"]["status"] == "in progress"
    logs = program.start("training", "logs", "my-run", "--follow")
    assert logs.stdout is not None
    assert logs.stdout.readline() == "started\n"
    refused = program.run("training", "delete", "my-run")
    assert (refused.code, refused.hint) == (4, "stop it first: flexai training stop my-run")
    stopped = program.run("training", "stop", "my-run", "--json")
    assert (stopped.code, stopped.json()["runtime"]["status"]) == (0, "stop in progress")
    assert stopped.err == "training job 'my-run' is stop in progress\n"
    assert job.wait() == 128 + signal.SIGTERM
    assert logs.wait() == 0
    for process in (job, logs):
        process.communicate()
    document = program.run("training", "inspect", "my-run", "--json").json()
    assert document["runtime"]["status"] == "stopped"
    assert program.run("training", "stop", "my-run", "--json").json() == document


def test_ctrl_c_ends_the_command_and_then_the_program(program: Program) -> None:
    script = "import time; print('started', flush=True); time.sleep(600)"
    job = program.start("training", "run", "my-run", "--", sys.executable, "-c", script)
    assert job.stdout is not None
    assert job.stdout.readline() == "started\n"
    job.send_signal(signal.SIGINT)
    _, stderr = job.communicate()
    assert job.returncode == 130
    assert "training job 'my-run' stopped" in stderr


def test_a_job_is_deleted_with_its_checkpoints_unless_they_are_kept(program: Program) -> None:
    for name in _TWO:
        _train(program, name)
    first = program.run("training", "checkpoints", "first", "--json").json()
    second = program.run("training", "checkpoints", "second", "--json").json()
    ids = {name: program.run("training", "inspect", name, "--json").json()["metadata"]["id"] for name in _TWO}
    deleted = program.run("training", "delete", "first", "--json")
    assert (deleted.code, deleted.json()) == (0, {"name": "first", "id": ids["first"], "deletedCheckpoints": 2})
    deleted = program.run("training", "delete", "second", "--keep-checkpoints", "--json")
    assert (deleted.code, deleted.json()) == (0, {"name": "second", "id": ids["second"], "deletedCheckpoints": 0})
    assert program.run("checkpoint", "inspect", first[0]["id"]).code == 3
    assert program.run("checkpoint", "inspect", second[0]["id"]).code == 0
    gone = program.run("training", "inspect", "first")
    assert (gone.code, gone.error) == (3, "there is no training job 'first'")
    assert gone.hint == "flexai training list shows what there is"


def test_the_output_directory_can_be_named(program: Program) -> None:
    _train(program, "my-run", "--output-dir", "out")
    assert (program.cwd / "out/checkpoint-5/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--env", "5ecret"], "takes a variable from the environment, and there is none of that name"),
        (["--env", "AWFUL_5ecret"], "takes a variable from the environment, and there is none of that name"),
        (["--env", "1A=5ecret"], "'1A' is no name of a variable"),
        (["--env", "=5ecret"], "'' is no name of a variable"),
        (["-E", "A=5ecret", "-E", "A=5ecret"], "--env A is given twice"),
        (["-C", "a b"], "'a b'"),
    ],
)
def test_wrong_flags_are_refused_without_repeating_a_secret(program: Program, flags: list[str], words: str) -> None:
    done = program.run("training", "run", "my-run", *flags, "--", "true")
    assert done.code == 2
    assert words in done.error
    assert "5ecret" not in done.err
    assert not Path(program.home).exists()


def test_a_secret_that_comes_from_the_environment_is_seen_by_no_other_process(program: Program) -> None:
    code = """
import os, pathlib
secret = os.environ["MY_TOKEN"]
for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    try:
        assert secret.encode() not in path.read_bytes(), path
    except OSError:
        pass
print(len(secret))
"""
    secret = uuid.uuid4().hex
    program.file("look.py", code)
    flags = ("training", "run", "my-run", "--env", "MY_TOKEN", "--", sys.executable, "look.py")
    done = program.run(*flags, env={"MY_TOKEN": secret})
    assert (done.code, done.out) == (0, "32\n"), done.err
    shown = program.run("training", "inspect", "my-run", "--json")
    assert shown.json()["spec"]["environment"] == ["MY_TOKEN"]
    assert secret not in shown.out


def test_options_of_the_command_need_two_dashes_before_it(program: Program) -> None:
    done = program.run("training", "run", "my-run", "python", "train.py", "--lr", "1")
    assert done.code == 2
    assert done.error.startswith("no such option '--lr'")
    assert done.hint == "flexai training run NAME [OPTIONS] -- COMMAND [ARGUMENT…]"


def test_a_name_and_a_command_are_needed(program: Program) -> None:
    assert program.run("training", "run", "my-run").error.startswith("missing argument 'COMMAND")
    assert program.run("training", "run", "x", "--", "true").code == 2


@pytest.mark.parametrize("verb", ["inspect", "checkpoints", "logs", "stop", "delete"])
def test_an_unknown_job_is_not_found(program: Program, verb: str) -> None:
    done = program.run("training", verb, "unknown")
    assert (done.code, done.error) == (3, "there is no training job 'unknown'")


def test_a_job_whose_runner_was_killed_shows_as_interrupted(program: Program) -> None:
    script = "import time; print('started', flush=True); time.sleep(600)"
    job = program.start("training", "run", "my-run", "--", sys.executable, "-c", script)
    assert job.stdout is not None
    assert job.stdout.readline() == "started\n"
    job.kill()
    job.wait()
    job.communicate()
    document = program.run("training", "inspect", "my-run", "--json").json()
    assert document["runtime"]["status"] == "interrupted"
    assert json.dumps(document)
    until(lambda: program.run("training", "delete", "my-run").code == 0, "the end of its command")
    assert program.run("training", "list", "--json").json() == []


def test_metrics_are_shown_where_the_terminal_has_room_for_them_and_all_of_them_in_json(program: Program) -> None:
    program.file(
        "train.py",
        """
import json, os, pathlib
folder = pathlib.Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"]) / "checkpoint-5"
folder.mkdir(parents=True)
(folder / "weights.bin").write_bytes(b"w")
row = {"step": 5, "loss": 1.0, "grad_norm": 0.125, "eval_f1": 0.75, "eval_accuracy": 0.5}
state = {"global_step": 5, "log_history": [row], "metric_for_best_model": "accuracy"}
(folder / "trainer_state.json").write_text(json.dumps(state))
""",
    )
    assert program.run("training", "run", "my-run", "--", sys.executable, "train.py").code == 0
    (row,) = program.run("training", "checkpoints", "my-run", "--json").json()
    assert row["metrics"] == {"loss": 1.0, "grad_norm": 0.125, "eval_f1": 0.75, "eval_accuracy": 0.5}
    assert row["bestBy"] == "accuracy"
    program.environment["COLUMNS"] = "220"
    head, _, line = program.run("training", "checkpoints", "my-run").out.splitlines()
    told = ["RESUMABLE", "BEST", "SIZE", "eval_accuracy", "eval_f1", "grad_norm"]
    assert [title.strip() for title in head.split("|")][10:] == told
    assert [cell.strip() for cell in line.split("|")][10:12] == ["unknown", "best"]
    assert [cell.strip() for cell in line.split("|")][13:] == ["0.5", "0.75", "0.125"]

    for columns, left in ((80, ["NAME", "STEP", "RESUMABLE", "BEST", "SIZE", "eval_accuracy"]), (44, ["NAME", "STEP"])):
        program.environment["COLUMNS"] = str(columns)
        head, rule, _ = program.run("training", "checkpoints", "my-run").out.splitlines()
        assert len(rule) <= columns
        assert set(left) <= {title.strip() for title in head.split("|")}


def test_a_loss_that_the_trainer_chooses_by_is_among_what_80_columns_show(program: Program) -> None:
    program.file(
        "train.py",
        """
import json, os, pathlib
folder = pathlib.Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"]) / "checkpoint-of-a-longer-name-5"
folder.mkdir(parents=True)
(folder / "weights.bin").write_bytes(b"w")
state = {"global_step": 5, "log_history": [{"step": 5, "val_loss": 0.25}], "metric_for_best_model": "val_loss"}
(folder / "trainer_state.json").write_text(json.dumps(state))
""",
    )
    assert program.run("training", "run", "my-run", "--", sys.executable, "train.py").code == 0
    program.environment["COLUMNS"] = "80"
    head, _, line = program.run("training", "checkpoints", "my-run").out.splitlines()
    shown = dict(zip(*([cell.strip() for cell in row.split("|")] for row in (head, line)), strict=True))
    assert (shown["EVAL LOSS"], shown["BEST"]) == ("0.25", "best")


def test_of_many_checkpoints_that_were_not_captured_some_are_named(
    program: Program, flexai: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _train(program, "my-run")
    find = inspect.captured_rows

    def none_was_captured(catalog: Catalog, reference: str) -> tuple[list[ListedCheckpoint], list[ListedCheckpoint]]:
        row = find(catalog, reference)[0][0]._replace(status="failed", reason="the disk was full")
        return [], [row] * (terminal.MOST_LINES + 5)

    monkeypatch.setattr(inspect, "captured_rows", none_was_captured)
    done = flexai("training", "checkpoints", "my-run")
    warnings = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == terminal.MOST_LINES + 1
    assert warnings[0] == "warning: checkpoint 'checkpoint-5' was not captured: the disk was full"
    elsewhere = "flexai checkpoint list --job my-run --status failed --json"
    assert warnings[-1] == f"warning: … and 5 more, which {elsewhere} shows"
    assert flexai(*elsewhere.split()[1:]).json() == []
