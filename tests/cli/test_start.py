"""What may be imported when: commands that only show something start at once."""

from __future__ import annotations

import json
import os
import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from flexai.checkpoints.storage.kinds import KINDS
from tests.cli.conftest import Run
from tests.cli.program import Program
from tests.servers.fixtures import S3Server

PREFECT_DATABASE = Path(__file__).parents[1] / "prefect_server/databases/prefect-3.8.8.sql"
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
from flexai.cli.root import cli
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


OF_CHANGES = {
    *(f"flexai.checkpoints.catalog.{name}" for name in ("changes", "checkpoints", "exports", "identity", "jobs")),
    *("flexai.checkpoints.storage.retry", "flexai.checkpoints.private_folders"),
    *("shutil", "textwrap", "tempfile", "logging", "contextvars", "bisect", "heapq"),
}
"""What only commands need that change, move or draw for a terminal."""


@pytest.mark.parametrize(
    ("arguments", "no_more"),
    [
        (["checkpoint", "list"], {"choosing", "roles", "catalog.job_queries"}),
        (["checkpoint", "inspect", "base"], {"choosing", "catalog.job_queries"}),
        (["training", "checkpoints", "my-run"], {"roles"}),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_a_command_that_only_shows_something_imports_nothing_that_changes_something(
    program: Program, flexai: Run, arguments: list[str], no_more: set[str]
) -> None:
    assert flexai("training", "run", "my-run", "--", "true").code == 0
    assert _modules(program, arguments) & (OF_CHANGES | {f"flexai.checkpoints.{name}" for name in no_more}) == set()


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
    # Nor what few fetches need: of files without digests, of many files, of a first use, of other requests.
    rare = {"hashlib", "ctypes", "tempfile", "shutil", "tomllib", "logging"}
    rare |= {f"flexai.checkpoints.service.{one}_requests" for one in ("push", "change", "store", "training")}
    assert loaded & rare == set()


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


WITH_A_CONNECTION = [
    ["storage", "list"],
    ["storage", "inspect", "share-conn"],
    ["checkpoint", "export", "base", "--storage-provider", "share-conn", "--destination-path", "bucket/out"],
    ["checkpoint", "push", "back", "--storage-provider", "share-conn", "--source-path", "bucket/out"],
]


def test_no_command_that_names_a_connection_imports_prefect_where_its_database_lies_here(program: Program) -> None:
    save_connection(Path(program.environment["PREFECT_HOME"]), program.cwd)
    printed = program.python(_RUN.format(commands=WITH_A_CONNECTION))
    assert printed.count("CODE 0") == len(WITH_A_CONNECTION), printed
    assert set(printed.rpartition("MODULES ")[2].split()) & {"prefect", "fastapi", "sqlalchemy", "httpx"} == set()
    assert (program.cwd / "bucket/out/a.bin").exists()


def test_no_command_on_a_store_in_a_connection_imports_prefect(program: Program) -> None:
    save_connection(Path(program.environment["PREFECT_HOME"]), program.cwd)
    program.environment |= {"FLEXAI_STORE": "share-conn:bucket/store", "FLEXAI_HOME": str(program.home / "other")}
    assert _modules_of_work(program) & {"prefect", "fastapi", "httpx", "alembic"} == set()
    assert (program.cwd / "bucket/store").is_dir()


def save_connection(prefect_home: Path, root: Path) -> None:
    """Save the connection ``share-conn`` to a directory, in a database of Prefect's own making."""
    prefect_home.mkdir()
    with closing(sqlite3.connect(prefect_home / "prefect.db")) as database:
        database.executescript(PREFECT_DATABASE.read_text(encoding="utf-8"))
        (key,) = database.execute("SELECT json_extract(value, '$.fernet_key') FROM configuration").fetchone()
        fields = Fernet(key).encrypt(json.dumps({"root": str(root)}).encode()).decode()
        database.execute("UPDATE block_type SET slug = ?", [KINDS["local"].block])
        database.execute("UPDATE block_document SET name = 'share-conn', data = ?", [json.dumps(fields)])
        database.commit()


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
    # Nor what only other clients of HTTP take.
    assert loaded & {"http.cookiejar", "requests"} == set()


def test_the_program_looks_for_no_garbage_among_its_modules_neither_while_it_starts_nor_at_its_end(
    program: Program,
) -> None:
    printed = program.python(
        "import atexit, gc, sys\n"
        "atexit.register(lambda: print(gc.get_threshold()[0], gc.get_freeze_count() > 0))\n"
        "sys.argv = ['flexai', '--version']\n"
        "from flexai.cli import main\n"
        "print('before', 'click' in sys.modules)\n"
        "main()"
    )
    assert printed.splitlines()[0] == "before False"
    assert printed.splitlines()[-1] == "100000 True"


def test_what_was_imported_is_set_aside_before_a_command_runs(program: Program) -> None:
    printed = program.python(
        "import gc, sys, types\n"
        "root = sys.modules['flexai.cli.root'] = types.ModuleType('flexai.cli.root')\n"
        "root.run = lambda: print(gc.get_freeze_count() > 1000)\n"
        "from flexai.cli import main\n"
        "main()"
    )
    assert printed.splitlines() == ["True"]


def test_help_of_a_group_imports_none_of_its_commands(program: Program) -> None:
    loaded = _modules(program, ["checkpoint", "--help"])
    assert "flexai.cli.checkpoint" in loaded
    assert not {name for name in loaded if name.startswith("flexai.cli.checkpoint.")}


def test_a_command_imports_no_other_command(program: Program) -> None:
    loaded = _modules(program, ["checkpoint", "list"])
    commands = {name for name in loaded if name.startswith(("flexai.cli.checkpoint.", "flexai.cli.training"))}
    assert commands == {"flexai.cli.checkpoint.list"}


def test_a_tracked_push_imports_no_connection_and_no_other_task(program: Program) -> None:
    code = "import sys, flexai.tasks\nflexai.tasks.push_checkpoint\nprint('\\n'.join(sys.modules))"
    loaded = set(program.python(code).split())
    assert "flexai.tasks.push" in loaded
    assert not loaded & {"flexai.blocks", "flexai.tasks.export", "flexai.tasks.training", "flexai.tasks.verify"}
