"""Saves ten times a second for minutes, each deleted by the next, on a machine that is idle and on one that is not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flexai.checkpoints.models import CheckpointStatus
from tests.chaos.conftest import NewStage
from tests.chaos.stage import ROUNDS, Stage
from tests.checkpoints.training.trainers import LAYOUTS, program

pytestmark = pytest.mark.slow

SAVES = 10 * ROUNDS
"""``make chaos`` makes 2,000 of them."""
_ALONE_ROUNDS = 200
"""From so many rounds on, ``make chaos`` has the machine to itself: other tests do not run beside these."""
_BUSY_LOOPS_PER_CORE = 2

_TRAINER = """
begun = time.monotonic()
for step in range(1, {saves} + 1):
    time.sleep(max(0.0, begun + step / 10 - time.monotonic()))
    LAYOUTS[{layout!r}].save(output(), step)
"""


@pytest.mark.parametrize("layout", ["files", "folders", "replaced"])
def test_each_save_is_captured_or_said_to_be_lost_on_a_busy_machine(new_stage: NewStage, layout: str) -> None:
    stage = new_stage()
    with _busy_loops():
        captured, lost = _train(stage, layout, prefix=("nice",))
    print(f"{layout}: {captured} captured, {lost} lost")
    # A loss may be counted twice, and none may be silent.
    assert captured + lost >= SAVES


@pytest.mark.parametrize("layout", ["files", "folders", "replaced"])
def test_each_of_many_saves_is_captured_or_said_to_be_lost(new_stage: NewStage, layout: str) -> None:
    captured, lost = _train(new_stage(), layout)
    print(f"{layout}: {captured} captured, {lost} lost")
    assert captured + lost >= SAVES
    if ROUNDS >= _ALONE_ROUNDS:
        assert (captured, lost) == (SAVES, 0)


def _train(stage: Stage, layout: str, prefix: tuple[str, ...] = ()) -> tuple[int, int]:
    """How many saves were captured, each once and as it was written, and how many are said to be lost."""
    stage.succeed("training", "run", "job", "--", *prefix, *program(_TRAINER.format(layout=layout, saves=SAVES)))
    with stage.look() as machine:
        (job,) = machine.system.catalog.jobs.list()
        found = [
            machine.fetched(one.id)
            for one in machine.system.catalog.checkpoints.of_job(job.id)
            if one.status is CheckpointStatus.AVAILABLE
        ]
    saves = [LAYOUTS[layout].files(step) for step in range(1, SAVES + 1)]
    assert [saves.index(files) for files in found] == sorted({saves.index(files) for files in found})
    return len(found), job.lost


@contextmanager
def _busy_loops() -> Iterator[None]:
    """Keep every core busy, more than once over."""
    loops = [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"])
        for _ in range(_BUSY_LOOPS_PER_CORE * (os.cpu_count() or 1))
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
