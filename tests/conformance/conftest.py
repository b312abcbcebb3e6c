"""The stores of the suite as one fixture: every test of this folder runs once for each kind."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.servers.hub import Hub, serve_hub

from .kinds import KINDS
from .stores import PAGE_SIZE, Store


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "reads: only reads, and so runs on stores that can do no more, too")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    chosen = [mark for mark in metafunc.definition.iter_markers("parametrize") if "store" in mark.args[0]]
    if "store" in metafunc.fixturenames and not chosen:
        only_reads = metafunc.definition.get_closest_marker("reads") is not None
        kinds = {name: kind for name, kind in KINDS.items() if only_reads or kind.traits.can_write}
        names = [pytest.param(name, marks=pytest.mark.slow if kind.is_slow else ()) for name, kind in kinds.items()]
        metafunc.parametrize("store", names, indirect=True)


@pytest.fixture(scope="session")
def hub() -> Iterator[Hub]:
    """The Hub's stand-in, with pages as short as those of the other listings."""
    with serve_hub() as hub:
        hub.page_size = PAGE_SIZE
        yield hub


@pytest.fixture
def store(request: pytest.FixtureRequest) -> Store:
    """A store of each kind, with a prefix of the test's own."""
    kind = KINDS[request.param]
    buckets = kind.buckets(request)
    return Store(
        traits=kind.traits,
        prefix=f"{uuid.uuid4().hex[:8]}/",
        open=lambda: buckets.open(buckets.names[0]),
        open_other=lambda: buckets.open(buckets.names[1]),
        fill=buckets.fill,
    )
