"""Trainings whose trainer, runner or both are killed at random instants, and that go on by the same command.

No completed save is lost, none torn is kept, and each attempt goes on from the last completed save or a later one.
"""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

from flexai.checkpoints.models import CheckpointStatus
from tests.chaos.stage import Stage
from tests.checkpoints.training.trainers import LAYOUTS, program, step_of
from tests.support.machine import check_nothing_is_torn

KILLS = 3
"""How often a training is killed before it runs to its end."""

_TRAINER = """
layout, truth, told, end = {layout!r}, Path({truth!r}), Path({told!r}), Path({end!r})
step = step_of(layout, read_input()) if read_input() else 0
with truth.open("a") as file:
    file.write(f"from {{step}}\\n")
told.write_text(str(os.getpid()))
while True:
    step += 1
    LAYOUTS[layout].save(output(), step)
    with truth.open("a") as file:
        file.write(f"{{step}}\\n")
    if end.exists():
        break
    wait_until_pinned(output())
    time.sleep({pause})
"""


def play_training(stage: Stage, chance: random.Random, rounds: int) -> None:
    """Jobs in all layouts, each killed at random and then run to its end, always by the same command."""
    for number in range(rounds):
        layout = list(LAYOUTS)[number % len(LAYOUTS)]
        job = f"job-{number}-{layout}"
        truth, told, end = (stage.root / f"{job}.{kind}" for kind in ("truth", "pid", "end"))
        pause = chance.uniform(0.1, 0.3)
        text = _TRAINER.format(layout=layout, truth=str(truth), told=str(told), end=str(end), pause=pause)
        command = ["training", "run", job, "--checkpoint", "latest", "--", *program(text)]
        for _ in range(KILLS):
            _run_and_kill(stage, chance, told, job, command)
        end.touch()
        stage.succeed(*command)
        _check(stage, job, layout, _completed(truth.read_text()))


def _completed(truth: str) -> set[int]:
    """The saves that were completed, where each attempt went on from the last of them or from a later one."""
    completed: set[int] = set()
    for line in truth.splitlines():
        if line.startswith("from "):
            assert int(line.removeprefix("from ")) >= max(completed, default=0), f"not from the latest: {truth!r}"
        else:
            completed.add(int(line))
    return completed


def _run_and_kill(stage: Stage, chance: random.Random, told: Path, job: str, command: list[str]) -> None:
    told.unlink(missing_ok=True)
    run = stage.start(*command)
    while not told.exists() or not told.read_text():
        assert run.is_running(), run.wait().text
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
        steps = [step_of(layout, machine.fetched(one.id)) for one in found]
        assert len(steps) == len(set(steps)), f"a save of {layout} is captured twice: {steps}"
        assert completed <= set(steps), f"{sorted(completed - set(steps))} of {layout} are lost"
