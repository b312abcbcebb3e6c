"""Trainings whose trainer, runner or both are killed at random instants: no completed save is lost, none torn kept."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

from flexai.checkpoints.models import CheckpointStatus
from tests.chaos.stage import Stage
from tests.checkpoints.training.trainers import LAYOUTS, Files, program
from tests.support.machine import check_nothing_is_torn

SAVES = 40
"""More than any trainer makes before it is killed."""

_TRAINER = """
layout, truth, told = LAYOUTS[{layout!r}], Path({truth!r}), Path({told!r})
told.write_text(str(os.getpid()))
for step in range({first}, {first} + {saves}):
    layout.save(output(), step)
    with truth.open("a") as file:
        file.write(f"{{step}}\\n")
    time.sleep({pause})
"""


def play_training(stage: Stage, chance: random.Random, rounds: int) -> None:
    """Jobs in all layouts, each killed three times at random and then run to its end."""
    for number in range(rounds):
        layout = list(LAYOUTS)[number % len(LAYOUTS)]
        job = f"job-{number}-{layout}"
        truth, told = stage.root / f"{job}.truth", stage.root / f"{job}.pid"
        for attempt in range(3):
            text = _TRAINER.format(
                layout=layout,
                truth=str(truth),
                told=str(told),
                first=1 + attempt * SAVES,
                saves=SAVES,
                pause=chance.uniform(0.1, 0.3),
            )
            _run_and_kill(stage, chance, told, job, program(text))
        stage.succeed("training", "run", job, "--", "true")
        _check(stage, job, layout, {int(line) for line in truth.read_text().split()} if truth.exists() else set())


def _run_and_kill(stage: Stage, chance: random.Random, told: Path, job: str, command: list[str]) -> None:
    told.unlink(missing_ok=True)
    run = stage.start("training", "run", job, "--", *command)
    while not told.exists() or not told.read_text():
        time.sleep(0.005)
    trainer = int(told.read_text())
    time.sleep(chance.uniform(0, 1.5))
    whom = chance.choice(["trainer", "runner", "both"])
    print(f"{job}: {whom} killed")
    if whom != "trainer":
        run.kill()
    if whom != "runner":
        with suppress(ProcessLookupError):
            os.kill(trainer, signal.SIGKILL)
    run.wait()


def _check(stage: Stage, job: str, layout: str, completed: set[int]) -> None:
    """Every completed save is there by its content, once, and nothing else is."""
    with stage.look() as machine:
        check_nothing_is_torn(machine)
        record = machine.system.catalog.jobs.find(job)  # type: ignore[arg-type]
        assert record is not None
        found = [
            one
            for one in machine.system.catalog.checkpoints.of_job(record.id)
            if one.status is CheckpointStatus.AVAILABLE
        ]
        steps = [_step_of(layout, machine.fetched(one.id)) for one in found]
        assert len(steps) == len(set(steps)), f"a save of {layout} is captured twice: {steps}"
        assert completed <= set(steps), f"{sorted(completed - set(steps))} of {layout} are lost"


def _step_of(layout: str, files: Files) -> int:
    """The save that a checkpoint is, file by file."""
    for step in range(1, 3 * SAVES + 1):
        if files == LAYOUTS[layout].files(step):
            return step
    raise AssertionError(f"a captured checkpoint of {layout} is no save: {sorted(files)}")
