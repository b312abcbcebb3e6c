"""What may be imported when: commands that only show something start at once."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Run
from tests.cli.program import Program

CLOUD = {"boto3", "botocore", "google.cloud", "requests"}
HEAVY = CLOUD | {
    "prefect",
    "sqlalchemy",
    "alembic",
    "pydantic",
    "pydantic_settings",
    "rich",
    "yaml",
    "fastapi",
    "httpx",
}

SHOWING = [
    ["--help"],
    ["--version"],
    ["checkpoint", "--help"],
    ["checkpoint", "push", "--help"],
    ["checkpoint", "list"],
    ["checkpoint", "list", "--json"],
    ["checkpoint", "list", "--deleted"],
    ["checkpoint", "inspect", "base"],
    ["checkpoint", "inspect", "base", "--json"],
    ["checkpoint", "inspect", "unknown"],
    ["checkpoint", "fetch", "--bad-flag"],
    ["training", "list"],
    ["training", "inspect", "unknown"],
    ["training", "checkpoints", "unknown"],
    ["storage", "--help"],
    ["up", "--help"],
    ["down"],
    ["completion", "fish"],
]

_RUN = """
import sys
from flexai.cli import cli
for arguments in {commands!r}:
    try:
        cli.main(arguments)
    except SystemExit as leaving:
        sys.stdout.write(f"\\nCODE {{leaving.code}}")
sys.stdout.write("\\nMODULES " + " ".join(sys.modules))
"""


def _modules(program: Program, *commands: list[str]) -> set[str]:
    """What is loaded after the commands have run one after the other in a new process."""
    printed = program.python(_RUN.format(commands=commands))
    return set(printed.rpartition("MODULES ")[2].split())


@pytest.fixture(autouse=True)
def base(program: Program, flexai: Run) -> None:
    """A checkpoint to look at."""
    program.file("a.bin")
    assert flexai("checkpoint", "push", "base", "-f", "a.bin").code == 0


@pytest.mark.parametrize("arguments", SHOWING, ids=" ".join)
def test_a_command_that_only_shows_something_imports_nothing_heavy(program: Program, arguments: list[str]) -> None:
    assert _modules(program, arguments) & HEAVY == set()


def test_completing_a_name_imports_nothing_heavy(program: Program) -> None:
    words = {"COMP_WORDS": "flexai checkpoint inspect b", "COMP_CWORD": "3", "_FLEXAI_COMPLETE": "bash_complete"}
    printed = program.python(_RUN.format(commands=[[]]), words)
    assert "plain,base" in printed
    assert set(printed.rpartition("MODULES ")[2].split()) & HEAVY == set()


def test_no_command_on_this_machine_alone_imports_prefect_or_a_cloud_sdk(program: Program) -> None:
    commands = [
        ["checkpoint", "push", "other", "-f", "a.bin"],
        ["checkpoint", "fetch", "base", "-d", "out"],
        ["checkpoint", "delete", "base"],
        ["checkpoint", "undelete", "base"],
        ["checkpoint", "verify"],
        ["checkpoint", "gc"],
        ["checkpoint", "recover"],
        ["config", "show"],
    ]
    printed = program.python(_RUN.format(commands=commands))
    assert printed.count("CODE 0") == len(commands)
    assert set(printed.rpartition("MODULES ")[2].split()) & (CLOUD | {"prefect"}) == set()


def test_help_of_a_group_imports_none_of_its_commands(program: Program) -> None:
    loaded = _modules(program, ["checkpoint", "--help"])
    assert "flexai.cli.checkpoint" in loaded
    assert not {name for name in loaded if name.startswith("flexai.cli.checkpoint.")}


def test_a_command_imports_no_other_command(program: Program) -> None:
    loaded = _modules(program, ["checkpoint", "list"])
    commands = {name for name in loaded if name.startswith(("flexai.cli.checkpoint.", "flexai.cli.training"))}
    assert commands == {"flexai.cli.checkpoint.list"}
