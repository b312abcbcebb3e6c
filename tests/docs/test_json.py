"""What commands print with ``--json`` is what the reference says of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest

from flexai.cli.root import cli
from tests.checkpoints.training.trainers import program as trainer
from tests.cli.program import Done, Program

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
SCHEMAS: dict[str, Any] = {
    command: json.loads(schema)
    for command, schema in re.findall(r"^## `flexai ([^`]*) --json`\n\n```json\n(.*?)\n```", PAGE, re.M | re.S)
}
SAVE = "save(output() / 'checkpoint-5', trainer_files(5))\n(output() / 'run.log').write_text('step 5')"


def _with_json(command: click.Command, path: str) -> Iterator[str]:
    """The commands that print JSON; one with a dry run prints another document with ``--dry-run``."""
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            if not child.hidden:
                yield from _with_json(child, f"{path} {name}".strip())
    options = {name for one in command.params for name in one.opts}
    if "--json" in options:
        yield path
        if "--dry-run" in options:
            yield f"{path} --dry-run"


def test_every_command_with_json_has_a_schema() -> None:
    assert SCHEMAS.keys() == set(_with_json(cli, ""))


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """The program; the server that it has brought up goes down with the test."""
    program = Program(tmp_path)
    yield program
    program.run("down", "--grace", "5")


LINES = (
    "checkpoint push one -f one --dry-run",
    "checkpoint push one -f one",
    "checkpoint push two -f two",
    "checkpoint list --kind all",
    "checkpoint inspect two --tensors",
    "checkpoint inspect two --executable",
    "checkpoint inspect my-run/checkpoint-5",
    "checkpoint diff one two",
    "checkpoint diff one two --values",
    "checkpoint fetch one -d out --dry-run",
    "checkpoint fetch one -d out",
    "checkpoint export one --storage-provider share --destination-path bucket/one --dry-run",
    "checkpoint export one --storage-provider share --destination-path bucket/one",
    "checkpoint inspect one",
    "checkpoint protect one",
    "checkpoint unprotect one",
    "checkpoint verify",
    "checkpoint delete one --dry-run",
    "checkpoint delete one",
    "checkpoint list --deleted",
    "checkpoint undelete one",
    "checkpoint delete two",
    "checkpoint gc --dry-run",
    "checkpoint gc",
    "checkpoint prune --job my-run --keep-last 1",
    "training list",
    "training inspect my-run",
    "training checkpoints my-run",
    "training files my-run",
    "training capture my-run",
    "training stop my-run",
    "training delete my-run",
    "history",
    "checkpoint history one",
    "config show",
    "catalog backup copy.db",
    "catalog compact",
    "checkpoint recover",
    "store adopt",
)
OF_A_SERVER = (
    "deploy",
    "status",
    # Without one each of these would start Prefect in its own process.
    "storage create another --provider local --root share",
    "storage list",
    "storage inspect share",
    "storage check share",
    "storage check share bucket",
    "storage delete another",
)


@pytest.mark.slow
def test_what_every_command_prints_is_as_its_schema_says(program: Program) -> None:
    header = json.dumps({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    program.file("one/a.safetensors", len(header).to_bytes(8, "little") + header + b"1")
    program.file("two/a.safetensors", len(header).to_bytes(8, "little") + header + b"2")
    program.file("two/torn.npy", b"torn")
    (program.cwd / "share").mkdir()
    _succeeds(program, "storage create share --provider local --root share")
    _succeeds(program, "training run my-run --", *trainer(SAVE))
    seen = {_judged(program, line) for line in LINES}
    _succeeds(program, "up")
    seen |= {_judged(program, line) for line in OF_A_SERVER}
    assert seen == SCHEMAS.keys()


def _judged(program: Program, line: str) -> str:
    """The command whose schema a line's document is compared with: with ``--dry-run`` it prints another one."""
    command = next(one for one in SCHEMAS if f"{line} ".startswith(f"{one} "))
    command += " --dry-run" if "--dry-run" in line.split() else ""
    jsonschema.validate(_succeeds(program, line, "--json").json(), SCHEMAS[command])
    return command


def _succeeds(program: Program, line: str, *more: str) -> Done:
    done = program.run(*line.split(), *more)
    assert done.code == 0, done.err
    return done


def test_a_status_without_a_server_is_as_its_schema_says(program: Program) -> None:
    document = program.run("status", "--json").json()
    jsonschema.validate(document, SCHEMAS["status"])
    assert not document["server"]["answers"]


def test_what_is_not_as_it_should_be_is_as_its_schema_says(program: Program) -> None:
    program.file("one/a.bin")
    _succeeds(program, "checkpoint push one -f one")
    for blob in (program.home / "store/blobs").rglob("*"):
        if blob.is_file():
            blob.chmod(0o600)
            blob.write_bytes(b"damaged")
    verified = program.run("checkpoint", "verify", "--repair", "--json")
    jsonschema.validate(verified.json(), SCHEMAS["checkpoint verify"])
    assert (verified.code, len(verified.json()["damaged"]), len(verified.json()["unrepaired"])) == (6, 1, 1)
    for path in [*program.home.glob("catalog.db*"), *(program.home / "store/blobs").rglob("*")]:
        if path.is_file():
            path.unlink()
    recovered = program.run("checkpoint", "recover", "--json")
    jsonschema.validate(recovered.json(), SCHEMAS["checkpoint recover"])
    assert (recovered.code, len(recovered.json()["problems"])) == (6, 1)


def test_a_plan_that_ends_in_a_conflict_is_as_its_schema_says(program: Program) -> None:
    program.file("one/a.bin")
    _succeeds(program, "checkpoint push one -f one")
    document = program.run("checkpoint", "push", "one", "-f", "one", "--dry-run", "--json").json()
    jsonschema.validate(document, SCHEMAS["checkpoint push --dry-run"])
    assert document["conflict"]
