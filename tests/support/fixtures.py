"""The machine that a test works on.

Its catalog is an SQLite file; with ``FLEXAI_TEST_CATALOG=postgresql`` in the environment it is a PostgreSQL database.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.catalog.catalog import Catalog
from tests.servers.postgresql import PostgreSQL
from tests.support.machine import Machine, copy_home, fast_folder, make_template

_OF_THE_TESTS = ("FLEXAI_TEST", "FLEXAI_CHAOS", "FLEXAI_NO_SKIPS")

NewMachine = Callable[..., Machine]


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting comes from the user who runs the tests."""
    for variable in list(os.environ):
        if variable.startswith("FLEXAI_") and not variable.startswith(
            ("FLEXAI_TEST", "FLEXAI_CHAOS", "FLEXAI_NO_SKIPS")
        ):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("FLEXAI_HOME", str(tmp_path / "no-home"))


def work_in_a_deleted_directory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder the working directory and delete it, as another process may."""
    (folder / "gone").mkdir()
    monkeypatch.chdir(folder / "gone")
    (folder / "gone").rmdir()


@pytest.fixture(scope="session")
def home_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with an empty catalog and store, to be copied."""
    return make_template(tmp_path_factory.mktemp("template") / "home")


@pytest.fixture
def fast_path() -> Iterator[Path]:
    """An empty folder in memory where there is such a thing, for tests that sync many files."""
    with tempfile.TemporaryDirectory(prefix="flexai-", dir=fast_folder()) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgresql_catalog(postgresql: PostgreSQL) -> str:
    """The name of a database with an empty catalog, to be copied."""
    name = postgresql.create_database()
    Catalog.open(postgresql.url(name)).close()
    return name


@pytest.fixture
def new_machine(home_template: Path, fast_path: Path, request: pytest.FixtureRequest) -> Iterator[NewMachine]:
    """Makes machines; settings may be given."""
    with ExitStack() as stack:
        numbers = count(1)

        def make(**changes: Any) -> Machine:
            root = fast_path / f"machine-{next(numbers)}"
            copy_home(home_template, root)
            if os.environ.get("FLEXAI_TEST_CATALOG") == "postgresql":
                server: PostgreSQL = request.getfixturevalue("postgresql")
                name = server.create_database(template=request.getfixturevalue("postgresql_catalog"))
                stack.callback(server.drop_database, name)
                changes = {"database_url": server.url(name), **changes}
                # The template's store belongs to the template's catalog. As that one, this is there before a test.
                (root / "home" / "store" / "store.json").unlink()
                with Machine.start(root, **changes):
                    pass
            return stack.enter_context(Machine.start(root, **changes))

        yield make


@pytest.fixture
def machine(new_machine: NewMachine) -> Machine:
    """A machine with an empty catalog and store, whose transfers have one thread."""
    return new_machine()
