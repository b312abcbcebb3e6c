"""The reference pages say what the program says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from flexai.cli.root import cli

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_command_and_every_option_has_a_help_text() -> None:
    silent = [path for path, text in _help_texts(cli, "flexai") if not (text or "").strip()]
    assert not silent


def _help_texts(command: click.Command, path: str) -> Iterator[tuple[str, str | None]]:
    yield path, command.help
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            yield f"{path} {param.opts[0]}", param.help
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None, f"{path} lists {name}, but does not have it"
            if not child.hidden:
                yield from _help_texts(child, f"{path} {name}")
