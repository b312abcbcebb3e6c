from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.fixtures import no_settings_of_this_machine

__all__ = ["no_settings_of_this_machine"]


@pytest.fixture(scope="session")
def frameworks() -> Path:
    """The virtual environment that ``make frameworks`` makes."""
    place = os.environ.get("FLEXAI_TEST_FRAMEWORKS", "")
    if not place:
        pytest.skip("the frameworks are not installed; `make frameworks` installs them and runs this")
    return Path(place).resolve()
