"""SIGKILL at any instant: nothing torn is ever available, a rerun finishes, nothing moves twice, nothing is left."""

from __future__ import annotations

import random
import subprocess
import sys
import time

from tests.chaos.conftest import NewStage
from tests.chaos.plays import (
    play_collection,
    play_export,
    play_fetch,
    play_push,
    play_push_from_provider,
    play_recovery,
)
from tests.chaos.processes import SMALL_SETTINGS
from tests.chaos.stage import ROUNDS, Stage, checkpoint_files
from tests.support.machine import check_all, check_nothing_is_torn


def test_a_push_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    play_push(new_stage(), chance, ROUNDS)


def test_a_push_that_is_killed_with_its_catalog_in_postgresql(postgresql_stage: Stage, chance: random.Random) -> None:
    play_push(postgresql_stage, chance, max(2, ROUNDS // 4))


def test_a_push_from_a_provider_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    play_push_from_provider(new_stage(), chance, max(2, ROUNDS // 2))


def test_a_fetch_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    play_fetch(new_stage(), chance, ROUNDS)


def test_an_export_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    play_export(new_stage(), chance, ROUNDS)


def test_a_collection_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    play_collection(new_stage(), chance, ROUNDS)


def test_a_recovery_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    play_recovery(new_stage(), chance, ROUNDS // 2 + 1)


def test_the_installed_program_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    """The whole program, its start included, as a user's shell runs it."""
    stage = new_stage()
    program = [sys.executable, "-m", "flexai.cli"]
    environment = {"PATH": "/usr/bin:/bin", "DO_NOT_TRACK": "1"} | SMALL_SETTINGS | stage.environment
    for number in range(max(1, ROUNDS // 6)):
        files = checkpoint_files(number)
        push = [*program, "checkpoint", "push", f"name-{number}", "-f", str(stage.write("run", files))]
        for _ in range(2):
            process = subprocess.Popen(push, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(chance.uniform(0.3, 2))
            process.kill()
            process.wait()
            with stage.look() as machine:
                check_nothing_is_torn(machine)
        done = subprocess.run([*push, "--if-not-exists"], env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with stage.look() as machine:
            check_all(machine, [f"name-{number}"], files)
