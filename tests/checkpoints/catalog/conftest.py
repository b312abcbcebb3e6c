"""Every test of the catalog runs on SQLite and on PostgreSQL, each time on a database of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexai.checkpoints.catalog.blobs import Blobs
from flexai.checkpoints.catalog.catalog import Catalog
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
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with an empty catalog of the newest form."""
    if request.param == "sqlite":
        path = tmp_path / "catalog.db"
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    template: str = request.getfixturevalue("postgresql_template")
    server: PostgreSQL = request.getfixturevalue("postgresql")
    name = server.create_database(template=template)
    yield server.url(name)
    server.drop_database(name)


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
