"""Every test of the catalog runs on SQLite and on PostgreSQL, each time on a database of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexai.checkpoints.catalog.blobs import Blobs
from flexai.checkpoints.catalog.catalog import Catalog
from flexai.checkpoints.catalog.tables import metadata
from tests.checkpoints.catalog.others import OtherProcesses
from tests.checkpoints.catalog.steps import STORE_ID
from tests.servers.postgresql import PostgreSQL


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite catalog of the newest form, to be copied."""
    path = tmp_path_factory.mktemp("template") / "catalog.db"
    Catalog.open(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def postgresql_template(postgresql: PostgreSQL) -> str:
    """The name of a PostgreSQL database with a catalog of the newest form, to be copied."""
    name = postgresql.create_database()
    Catalog.open(postgresql.url(name)).close()
    return name


@pytest.fixture(scope="session")
def postgresql_catalog(postgresql: PostgreSQL, postgresql_template: str) -> str:
    """The name of the PostgreSQL database that one test after the other uses."""
    return postgresql.create_database(template=postgresql_template)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without a catalog."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/home/catalog.db"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    name = server.create_database()
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def own_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with an empty catalog of the newest form, whose tables the test may change."""
    if request.param == "sqlite":
        yield _sqlite_copy(request, tmp_path)
        return
    template: str = request.getfixturevalue("postgresql_template")
    server: PostgreSQL = request.getfixturevalue("postgresql")
    name = server.create_database(template=template)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with an empty catalog of the newest form, whose tables the test leaves as they are."""
    if request.param == "sqlite":
        return _sqlite_copy(request, tmp_path)
    name: str = request.getfixturevalue("postgresql_catalog")
    server: PostgreSQL = request.getfixturevalue("postgresql")
    # A database of its own for each test would take ten times as long.
    server.empty_tables(name, [table.name for table in reversed(metadata.sorted_tables)])
    return server.url(name)


def _sqlite_copy(request: pytest.FixtureRequest, folder: Path) -> str:
    template: Path = request.getfixturevalue("sqlite_template")
    shutil.copyfile(template, folder / "catalog.db")
    return f"sqlite:///{folder}/catalog.db"


@pytest.fixture
def catalog(database_url: str) -> Iterator[Catalog]:
    """An empty catalog."""
    opened = Catalog.open(database_url)
    yield opened
    opened.close()


@pytest.fixture
def blobs(catalog: Catalog) -> Blobs:
    """The blobs of the catalog's one store."""
    return catalog.blobs(STORE_ID)


@pytest.fixture(scope="session")
def zygote() -> Iterator[OtherProcesses]:
    """What other processes are made from; a test takes ``others``."""
    with OtherProcesses() as processes:
        yield processes


@pytest.fixture
def others(zygote: OtherProcesses) -> Iterator[OtherProcesses]:
    """Other processes that work on the catalog; those still there are killed when the test ends."""
    yield zygote
    zygote.kill_all()
