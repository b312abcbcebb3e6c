"""The stand-in Hub, with one repository on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flexai.checkpoints.storage.hub.repository import HubStorage
from tests.servers.hub import Hub, serve_hub

from .hub.hub_samples import FILES, TOKEN, OpenRepo, Waits


@pytest.fixture
def waits() -> Waits:
    """Where the repository's waits are noted."""
    return Waits()


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A stand-in with the repository ``org/model``, and a token for private ones."""
    with serve_hub() as hub:
        hub.readers = {TOKEN: {"org/private", "org/gated"}, "hf_Stranger": set()}
        hub.add("org/model", FILES)
        yield hub


@pytest.fixture
def open_repo(hub: Hub, waits: Waits) -> OpenRepo:
    """Opens ``org/model`` or another repository of the stand-in."""

    def open_repo(repo: str = "org/model", **options: Any) -> HubStorage:
        return HubStorage(repo, endpoint=hub.endpoint, policy=waits.policy(), **{"read_timeout": 20.0, **options})

    return open_repo
