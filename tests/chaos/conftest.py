from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.chaos.processes import Processes
from tests.chaos.stage import Stage
from tests.servers.postgresql import PostgreSQL
from tests.support.fixtures import fast_path, home_template, no_settings_of_this_machine
from tests.support.machine import copy_home

__all__ = ["fast_path", "home_template", "no_settings_of_this_machine"]


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    """What starts processes of the program."""
    with Processes(tmp_path_factory.mktemp("output")) as made:
        yield made


@pytest.fixture
def chance() -> random.Random:
    """Another seed every time, told where a test fails."""
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    return random.Random(seed)


NewStage = Callable[[], Stage]


@pytest.fixture
def new_stage(processes: Processes, fast_path: Path, home_template: Path) -> NewStage:
    """Makes stages with an empty catalog, in a file of the home folder, and an empty store."""
    numbers = count(1)

    def make() -> Stage:
        stage = Stage(fast_path / f"stage-{next(numbers)}", processes)
        copy_home(home_template, stage.root)
        return stage

    return make


@pytest.fixture
def postgresql_stage(
    processes: Processes, fast_path: Path, home_template: Path, postgresql: PostgreSQL
) -> Iterator[Stage]:
    """A stage whose catalog is a PostgreSQL database."""
    name = postgresql.create_database()
    stage = Stage(fast_path / "stage", processes, database_url=postgresql.url(name))
    copy_home(home_template, stage.root)
    (stage.root / "home" / "catalog.db").unlink()
    yield stage
    postgresql.drop_database(name)
