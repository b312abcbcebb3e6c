"""Signals to ``flexai training run``, the grace after them, and the exit codes, with real trainers as processes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from typing import Any

import pytest

from flexai.checkpoints.catalog.jobs import Jobs
from flexai.checkpoints.errors import StorageUnavailableError
from flexai.checkpoints.service.support import job_run
from flexai.checkpoints.training import runner
from tests.checkpoints.training.trainers import program as trainer
from tests.cli.conftest import Run
from tests.cli.program import Program

pytestmark = pytest.mark.slow

# Saves at a signal, in about a second, and then ends as its last word says.
SAVES = """
def save_and_leave(number, _frame):
    signal.signal(number, signal.SIG_IGN)
    say(f"got {signal.Signals(number).name}")
    save(output() / "checkpoint-7", trainer_files(7), pause=0.1)
    LEAVE
for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
    signal.signal(number, save_and_leave)
say("ready")
while True:
    time.sleep(600)
"""


def _start(program: Program, command: list[str], *flags: str) -> subprocess.Popen[str]:
    job = program.start("training", "run", "my-run", *flags, "--", *command)
    assert job.stdout is not None
    assert job.stdout.readline() == "ready\n"
    return job


def _status(program: Program) -> tuple[str, int]:
    runtime = program.run("training", "inspect", "my-run", "--json").json()["runtime"]
    return runtime["status"], runtime["exitCode"]


def _captured(program: Program) -> list[tuple[str, str]]:
    rows = program.run("training", "checkpoints", "my-run", "--json").json()
    return [(row["name"], row["status"]) for row in rows]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_of_a_scheduler_reaches_the_trainer_and_stops_nothing_by_itself(
    program: Program, number: signal.Signals
) -> None:
    job = _start(program, trainer(SAVES.replace("LEAVE", "sys.exit(0)")))
    job.send_signal(number)
    out, err = job.communicate()
    assert (job.returncode, out) == (0, f"got {number.name}\n"), err
    assert _status(program) == ("succeeded", 0)
    assert _captured(program) == [("checkpoint-7", "available")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("code", [0, 3])
def test_a_stopped_trainer_that_saves_within_the_grace_is_captured_and_its_exit_code_is_ours(
    program: Program, number: signal.Signals, code: int
) -> None:
    job = _start(program, trainer(SAVES.replace("LEAVE", f"sys.exit({code})")), "--grace", "10m")
    job.send_signal(number)
    out, err = job.communicate()
    assert (job.returncode, out) == (code, f"got {number.name}\n"), err
    assert "training job 'my-run' stopped" in err
    assert _status(program) == ("stopped", code)
    assert _captured(program) == [("checkpoint-7", "available")]


@pytest.mark.parametrize(
    ("number", "left", "code"), [(signal.SIGTERM, 0, 75), (signal.SIGTERM, 3, 75), (signal.SIGINT, 0, 0)]
)
def test_a_scheduler_can_tell_a_run_that_term_stopped_from_one_that_is_done(
    program: Program, number: signal.Signals, left: int, code: int
) -> None:
    command = trainer(SAVES.replace("LEAVE", f"sys.exit({left})"))
    job = _start(program, command, "--grace", "10m", "--preempted-exit-code", "75")
    job.send_signal(number)
    job.communicate()
    # The record has the command's own.
    assert (job.returncode, _status(program)) == (code, ("stopped", left))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_scheduler_can_tell_it_too_where_the_command_had_not_begun(
    flexai: Run, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    make_environment = runner.command_environment

    def interrupted(*arguments: Any) -> dict[str, str]:
        os.kill(os.getpid(), number)
        return make_environment(*arguments)

    monkeypatch.setattr(job_run, "command_environment", interrupted)
    done = flexai("training", "run", "my-run", "--preempted-exit-code", "75", "--", "true")
    assert done.code == code
    assert "before the command began" in done.err


def test_a_run_that_its_owner_stops_exits_with_the_command_s_code(program: Program) -> None:
    job = _start(program, trainer(SAVES.replace("LEAVE", "sys.exit(0)")), "--preempted-exit-code", "75")
    assert program.run("training", "stop", "my-run").code == 0
    job.communicate()
    assert job.returncode == 0


def test_a_run_that_ends_by_itself_exits_with_the_command_s_code(flexai: Run) -> None:
    assert flexai("training", "run", "my-run", "--preempted-exit-code", "75", "--", "sh", "-c", "exit 3").code == 3
    assert flexai("training", "run", "my-run", "--preempted-exit-code", "75", "--", "true").code == 0


def test_a_trainer_whose_shell_does_not_survive_the_stop_is_captured_as_well(program: Program) -> None:
    script = shlex.join(trainer(SAVES.replace("LEAVE", "sys.exit(0)")))
    job = _start(program, ["sh", "-c", f"{script}; true"])
    job.send_signal(signal.SIGTERM)
    _, err = job.communicate()
    assert job.returncode == 128 + signal.SIGTERM, err
    assert _captured(program) == [("checkpoint-7", "available")]


def test_the_grace_can_be_given_and_ends_a_trainer_that_does_not(program: Program) -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN); say('ready'); time.sleep(600)"
    job = _start(program, trainer(deaf), "--grace", "0s")
    job.send_signal(signal.SIGTERM)
    job.communicate()
    assert job.returncode == 128 + signal.SIGKILL
    assert _status(program) == ("stopped", 137)


@pytest.mark.parametrize(
    ("end", "code"),
    [("sys.exit(1)", 1), ("os.kill(os.getpid(), signal.SIGKILL)", 137), ("os.kill(os.getpid(), signal.SIGUSR1)", 138)],
)
def test_what_is_saved_just_before_a_failure_is_captured(program: Program, end: str, code: int) -> None:
    job = program.start(
        "training", "run", "my-run", "--", *trainer(f"save(output() / 'checkpoint-7', trainer_files(7)); {end}")
    )
    _, err = job.communicate()
    assert job.returncode == code, err
    assert _status(program) == ("failed", code)
    assert _captured(program) == [("checkpoint-7", "available")]


def test_a_grace_that_is_none_is_refused(program: Program) -> None:
    done = program.run("training", "run", "my-run", "--grace", "soon", "--", sys.executable)
    assert (done.code, done.error) == (2, "--grace 'soon' is no duration")


def test_the_exit_code_is_the_commands_also_where_the_end_could_not_be_recorded(
    flexai: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def be_away(*_: object, **__: object) -> None:
        raise StorageUnavailableError("the catalog does not answer")

    monkeypatch.setenv("FLEXAI_PATIENCE", "0s")
    monkeypatch.setattr(Jobs, "finish", be_away)
    done = flexai("training", "run", "my-run", "--", "sh", "-c", "exit 5")
    assert "the job's end is kept on this machine" in done.err
    assert done.code == 5
    shown = flexai("training", "inspect", "my-run", "--json").json()["runtime"]
    assert (shown["status"], shown["exitCode"]) == ("failed", 5)
