"""What may be imported when: commands that only show something start at once."""

from __future__ import annotations

import os
import uuid

import pytest

from tests.cli.conftest import Run
from tests.cli.program import Program
from tests.servers.fixtures import S3Server

CLOUD = {"boto3", "botocore", "google.cloud", "requests"}
HEAVY = CLOUD | {
    "prefect",
    "sqlalchemy",
    "alembic",
    "pydantic",
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


WORKING = [
    ["checkpoint", "push", "other", "-f", "a.bin"],
    ["checkpoint", "push", "same", "--from-checkpoint", "other"],
    ["checkpoint", "list"],
    ["checkpoint", "inspect", "other"],
    ["checkpoint", "fetch", "other", "-d", "out"],
    ["checkpoint", "delete", "other"],
    ["checkpoint", "undelete", "other"],
    ["checkpoint", "prune", "--keep-last", "1", "--pushed", "sa*", "--apply"],
    ["checkpoint", "verify", "--repair"],
    ["checkpoint", "gc"],
    ["checkpoint", "recover"],
    ["training", "run", "my-run", "--", "true"],
    ["training", "delete", "my-run"],
    ["config", "show"],
]


def test_a_fetch_imports_nothing_heavy_either(program: Program) -> None:
    loaded = _modules(program, ["checkpoint", "fetch", "base", "-d", "out"])
    assert (program.cwd / "out" / "a.bin").exists()
    assert loaded & HEAVY == set()


def test_a_push_of_what_is_there_already_imports_nothing_heavy_either(program: Program, flexai: Run) -> None:
    path = program.file("old.bin")
    os.utime(path, (1_000_000_000, 1_000_000_000))
    push = ["checkpoint", "push", "old", "-f", "old.bin", "--if-not-exists"]
    assert flexai(*push).code == 0
    printed = program.python(_RUN.format(commands=[push]))
    assert "CODE 0" in printed
    assert set(printed.rpartition("MODULES ")[2].split()) & HEAVY == set()


def test_a_push_of_local_files_imports_nothing_heavy_either(program: Program) -> None:
    assert _modules(program, ["checkpoint", "push", "other", "-f", "a.bin"]) & HEAVY == set()


def _modules_of_work(program: Program) -> set[str]:
    printed = program.python(_RUN.format(commands=WORKING))
    assert printed.count("CODE 0") == len(WORKING)
    return set(printed.rpartition("MODULES ")[2].split())


def test_no_command_on_this_machine_alone_imports_prefect_or_sqlalchemy_or_a_cloud_sdk(program: Program) -> None:
    elsewhere = CLOUD | {"prefect", "sqlalchemy"}
    assert _modules_of_work(program) & elsewhere == set()


def test_no_command_on_a_bucket_that_a_url_names_imports_prefect(program: Program, seaweedfs: S3Server) -> None:
    program.environment |= {
        "AWS_ACCESS_KEY_ID": seaweedfs.access_key_id,
        "AWS_SECRET_ACCESS_KEY": seaweedfs.secret_access_key,
        "AWS_ENDPOINT_URL": seaweedfs.url,
        "FLEXAI_STORE": f"s3://{seaweedfs.bucket}/{uuid.uuid4().hex}",
    }
    loaded = _modules_of_work(program)
    assert "botocore" in loaded
    # Of the SDK its core alone: boto3's transfer manager takes a twentieth of a second to import.
    assert loaded & {"prefect", "fastapi", "alembic", "google.cloud", "google.auth", "boto3", "s3transfer"} == set()


def test_the_program_looks_for_no_garbage_among_its_modules_neither_while_it_starts_nor_at_its_end(
    program: Program,
) -> None:
    printed = program.python(
        "import atexit, gc, sys\n"
        "atexit.register(lambda: print(gc.get_threshold()[0], gc.get_freeze_count() > 0))\n"
        "sys.argv = ['flexai', '--version']\n"
        "from flexai.cli import main\n"
        "main()"
    )
    assert printed.splitlines()[-1] == "100000 True"


def test_help_of_a_group_imports_none_of_its_commands(program: Program) -> None:
    loaded = _modules(program, ["checkpoint", "--help"])
    assert "flexai.cli.checkpoint" in loaded
    assert not {name for name in loaded if name.startswith("flexai.cli.checkpoint.")}


def test_a_command_imports_no_other_command(program: Program) -> None:
    loaded = _modules(program, ["checkpoint", "list"])
    commands = {name for name in loaded if name.startswith(("flexai.cli.checkpoint.", "flexai.cli.training"))}
    assert commands == {"flexai.cli.checkpoint.list"}
