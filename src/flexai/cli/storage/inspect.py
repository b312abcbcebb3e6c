"""``flexai storage inspect``."""

from __future__ import annotations

import click

from flexai.checkpoints.names import parse_name
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option
from flexai.cli.tracking import saved_connection


@command("inspect", usage="NAME [--json]")
@click.argument("name", metavar="NAME")
@json_option
def inspect(name: str, as_json: bool) -> None:
    """Show everything about a connection.

    Its provider, its settings, and what the last check found; secrets are never shown. As YAML, unless --json
    is given.

    \b
    flexai storage inspect models-share
    flexai storage inspect models-share --json
    """
    parse_name(name, what="connection name")
    terminal.write_document(saved_connection(name).document(), as_json=as_json)
