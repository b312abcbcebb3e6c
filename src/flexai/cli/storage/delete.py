"""``flexai storage delete``."""

from __future__ import annotations

import click

from flexai.checkpoints.names import parse_name
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option
from flexai.cli.tracking import open_api


@command("delete", usage="NAME [--json]")
@click.argument("name", metavar="NAME")
@json_option
def delete(name: str, as_json: bool) -> None:
    """Delete a connection.

    What was pushed from it, or exported to it, stays as it is.

    \b
    flexai storage delete models-share
    """
    parse_name(name, what="connection name")
    open_api("to delete the connection")
    from flexai import blocks

    deleted_id = blocks.delete_connection(name)
    terminal.say(f"deleted connection {name!r}")
    if as_json:
        terminal.write_document({"name": name, "id": deleted_id}, as_json=True)
