"""How much memory a run of the program takes while its command saves and deletes."""

from __future__ import annotations

import re

import pytest

from tests.checkpoints.training import trainers
from tests.cli.program import Program

SAVES = 100
LIMIT = 80 * 1024
"""KiB."""

TRAINER = f"""
def peak_of_the_runner():
    return next(line.split()[1] for line in open(f"/proc/{{os.getppid()}}/status") if line.startswith("VmHWM"))

saved = []
for step in range(1, {SAVES} + 1):
    saved.append(output() / f"checkpoint-{{step}}")
    save(saved[-1], trainer_files(step))
    rotate(5, saved)
    time.sleep(0.02)
time.sleep(1)
say(f"peak {{peak_of_the_runner()}}")
"""


@pytest.mark.slow
def test_a_run_takes_little_memory_however_many_checkpoints_it_captures(program: Program) -> None:
    done = program.run("training", "run", "job", "--", *trainers.program(TRAINER))
    assert done.code == 0, done.err
    assert len(program.run("training", "checkpoints", "job", "--json").json()) == SAVES
    found = re.search(r"^peak (\d+)$", done.out, re.MULTILINE)
    assert found is not None
    assert int(found[1]) <= LIMIT
