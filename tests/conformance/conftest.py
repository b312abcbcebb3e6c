"""The stores of the suite as one fixture: every test of this folder runs once for each kind."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from flexai.checkpoints.storage.local import LocalStorage

from .stores import TRAITS, Store


@pytest.fixture(params=list(TRAITS))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of each kind, with a prefix of the test's own."""
    prefix = f"{uuid.uuid4().hex[:8]}/"
    return Store(
        kind="local",
        prefix=prefix,
        open=lambda: LocalStorage(tmp_path / "bucket"),
        open_other=lambda: LocalStorage(tmp_path / "other"),
    )
