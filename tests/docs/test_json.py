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

from flexai.cli import cli
from tests.checkpoints.training.trainers import program as trainer
from tests.cli.program import Program

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
SCHEMAS: dict[str, Any] = {
    command: json.loads(schema)
    for command, schema in re.findall(r"^## `flexai ([^`]*) --json`\n\n```json\n(.*?)\n```", PAGE, re.M | re.S)
}
WITHOUT = {
    "checkpoint history": "it is that of history",
    "deploy": "it has what Prefect says of deployments",
    "status": "it has what is there of Prefect",
}
SAVE = "save(output() / 'checkpoint-5', trainer_files(5))\n(output() / 'run.log').write_text('step 5')"


def _with_json(command: click.Command, path: str) -> Iterator[str]:
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            if not child.hidden:
                yield from _with_json(child, f"{path} {name}".strip())
    elif any("--json" in one.opts for one in command.params):
        yield path


def test_every_command_with_json_has_a_schema_or_says_why_not() -> None:
    assert set(_with_json(cli, "")) == SCHEMAS.keys() | WITHOUT.keys()
    assert not SCHEMAS.keys() & WITHOUT.keys()


@pytest.mark.slow
def test_what_every_command_prints_is_as_its_schema_says(tmp_path: Path) -> None:
    program = Program(tmp_path)
    header = json.dumps({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    program.file("one/a.safetensors", len(header).to_bytes(8, "little") + header + b"1")
    program.file("two/a.safetensors", len(header).to_bytes(8, "little") + header + b"2")
    program.file("two/torn.npy", b"torn")
    (program.cwd / "share").mkdir()
    for line in ("storage create share --provider local --root share", "training run my-run --"):
        words = [*line.split(), *(trainer(SAVE) if line.endswith("--") else ())]
        done = program.run(*words)
        assert done.code == 0, done.err
    seen = set()
    for line in (
        "checkpoint push one -f one",
        "checkpoint push two -f two",
        "checkpoint list --kind all",
        "checkpoint inspect two --tensors",
        "checkpoint inspect two --executable",
        "checkpoint inspect my-run/checkpoint-5",
        "checkpoint diff one two",
        "checkpoint diff one two --values",
        "checkpoint fetch one -d out",
        "checkpoint export one --storage-provider share --destination-path bucket/one",
        "checkpoint inspect one",
        "checkpoint protect one",
        "checkpoint unprotect one",
        "checkpoint verify",
        "checkpoint delete one",
        "checkpoint list --deleted",
        "checkpoint undelete one",
        "checkpoint delete two",
        "checkpoint gc",
        "checkpoint prune --job my-run --keep-last 1",
        "training list",
        "training inspect my-run",
        "training checkpoints my-run",
        "training files my-run",
        "history",
        "storage list",
        "storage inspect share",
        "config show",
        "catalog compact",
    ):
        done = program.run(*line.split(), "--json")
        assert done.code == 0, done.err
        command = next(one for one in SCHEMAS if f"{line} ".startswith(f"{one} "))
        jsonschema.validate(done.json(), SCHEMAS[command])
        seen.add(command)
    assert seen == SCHEMAS.keys()
