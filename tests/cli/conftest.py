"""The program, as its users start it, and in this process where that is enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from flexai.cli.root import cli
from tests.cli.program import Done, Program
from tests.servers.prefect import prefect_server

__all__ = ["prefect_server"]

Run = Callable[..., Done]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """The program as a process, with a home and a working directory of its own."""
    return Program(tmp_path)


@pytest.fixture
def flexai(program: Program, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """The program in this process, in the surroundings that ``program`` has."""
    monkeypatch.setattr("os.environ", dict(program.environment))
    monkeypatch.chdir(program.cwd)

    def run(*arguments: str) -> Done:
        result = CliRunner().invoke(cli, list(arguments))
        return Done(result.exit_code, result.stdout, result.stderr)

    yield run
