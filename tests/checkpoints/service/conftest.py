from __future__ import annotations

from pathlib import Path

import pytest

from tests.checkpoints.service.pushes import SOURCE
from tests.support.fixtures import (
    fast_path,
    home_template,
    machine,
    new_machine,
    no_settings_of_this_machine,
    postgresql_catalog,
)
from tests.support.machine import Machine

__all__ = [
    "fast_path",
    "home_template",
    "machine",
    "new_machine",
    "no_settings_of_this_machine",
    "postgresql_catalog",
]


@pytest.fixture
def source(machine: Machine) -> Path:
    """A folder of every kind of file, to be pushed."""
    return machine.write("run", SOURCE)
