"""Training jobs in a test: real commands, and what became of what they wrote."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from flexai.checkpoints.models import Checkpoint, CheckpointStatus, TrainingJob
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.training import inspect_job, run_training
from flexai.checkpoints.service.training_requests import TrainingRequest
from tests.checkpoints.training.trainers import Files, program
from tests.support.machine import Machine

SAVE = "save(output() / f'checkpoint-{step}', trainer_files(step))"


class Notes(Progress):
    """Keeps what was noted."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def note(self, message: str) -> None:
        self.messages.append(message)


def run(machine: Machine, text: str, name: str = "run", **options: Any) -> TrainingJob:
    """Run a Python program as a training job."""
    aside = {key: options.pop(key) for key in ("on_output", "on_captured", "progress") if key in options}
    aside.setdefault("on_output", lambda _stream, _data: None)
    if "output_dir" in options:
        options["output_dir"] = str(options["output_dir"])
    return run_training(machine.system, TrainingRequest(name, program(text), **options), **aside)


def captures(machine: Machine, name: str) -> list[Checkpoint]:
    """What a job captured, whole or not."""
    return machine.system.catalog.checkpoints.of_job(inspect_job(machine.system, name).id)


def captured(machine: Machine, name: str = "run") -> list[Checkpoint]:
    """The checkpoints of a job that are available, in the order of their capture."""
    return [one for one in captures(machine, name) if one.status is CheckpointStatus.AVAILABLE]


def contents(machine: Machine, name: str = "run") -> list[tuple[str, Files]]:
    """Names and files of a job's checkpoints, as a fetch brings them."""
    return [(checkpoint.name, machine.fetched(checkpoint.id)) for checkpoint in captured(machine, name)]


def left_of(machine: Machine, job: TrainingJob) -> set[str]:
    """What a job has left on this machine, below its attempt's folder."""
    folder = machine.settings.jobs_path / job.id / f"attempt-{job.attempt}"
    return {path.name for path in folder.iterdir()}


def wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


WAIT = "say('ready'); time.sleep(600)"
RUNNER = """
import sys
from pathlib import Path
from flexai.checkpoints.service.training_requests import TrainingRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.training import run_training
from flexai.checkpoints.settings import load_settings
home, output, exclude, *command = sys.argv[1:]
with System.open(load_settings(home=Path(home))) as system:
    run_training(system, TrainingRequest("run", command, output_dir=output, exclude=exclude.split()))
"""


def kill_a_runner(
    machine: Machine, text: str, *, output: str = "", exclude: str = "", until: Callable[[], bool] = lambda: True
) -> int:
    """Run a program in another process and kill that process once the program prints "ready"; returns its pid."""
    command = program(f"say(f'pid {{os.getpid()}}'); {text}\n{WAIT}")
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(machine.settings.home), output, exclude, *command],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert runner.stdout is not None
    lines = iter(runner.stdout.readline, "")
    pid = int(next(lines).split()[1])
    assert next(line for line in lines if line.startswith("ready"))
    wait_until(until)
    runner.kill()
    runner.wait()
    runner.stdout.close()
    return pid
