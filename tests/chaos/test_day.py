"""A day of a team in a minute."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest

from tests.chaos.conftest import NewStage
from tests.chaos.day import play_day
from tests.chaos.processes import Processes
from tests.chaos.stage import ROUNDS, Stage
from tests.servers.postgresql import PostgreSQL, running_or_skipped

pytestmark = pytest.mark.slow

FIRST_SECONDS = 5.0 if ROUNDS >= 100 else 1.0
UP_SECONDS = 5.0 if ROUNDS >= 100 else 1.0
DOWN_SECONDS = 1.0 if ROUNDS >= 100 else 0.3


@pytest.fixture
def restarted() -> Iterator[PostgreSQL]:
    """A PostgreSQL of the test's own, which keeps what it has committed."""
    with running_or_skipped({"max_connections": "300"}) as server:
        yield server


def test_a_day_of_pushes_deletions_gc_retention_mirror_and_scrub_at_once_fails_no_command(
    new_stage: NewStage, chance: random.Random
) -> None:
    play_day(new_stage(), chance, lambda has_ended: None)


def test_a_day_with_a_postgresql_that_is_restarted_again_and_again_fails_no_command(
    processes: Processes, fast_path: Path, restarted: PostgreSQL, chance: random.Random
) -> None:
    stage = Stage(fast_path / "stage", processes, database_url=restarted.url(restarted.create_database()))
    restarts = 0

    def restart(has_ended: threading.Event) -> None:
        nonlocal restarts
        for as_crash in cycle(chance.choice([(False, True), (True, False)])):
            if has_ended.wait(UP_SECONDS if restarts else FIRST_SECONDS) and restarts:
                return
            restarted.stop(as_crash=as_crash)
            time.sleep(DOWN_SECONDS)
            restarted.start()
            restarts += 1

    play_day(stage, chance, restart)
    assert restarts
