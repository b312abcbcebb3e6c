"""The command and the Python API in one home, each of which sees what the other has done."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run, flexai, program
from tests.cli.program import Program

__all__ = ["flexai", "program"]


@pytest.fixture
def files(program: Program, flexai: Run) -> Path:
    """A folder with a small checkpoint, in the working directory of a home that is still empty."""
    program.file("out/weights.bin", bytes(1024))
    program.file("config.json", "{}")
    return program.cwd / "out"
