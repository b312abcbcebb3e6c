"""``flexai storage inspect``."""

from __future__ import annotations

import click

from flexai.checkpoints.errors import ConflictError
from flexai.checkpoints.names import parse_name
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option
from flexai.cli.tracking import list_connections


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
    every = list_connections("to read the connection")
    found = [connection for connection in every if connection.name == name]
    if not found:
        from flexai.connections.saved import not_there

        raise not_there(name, [connection.name for connection in every])
    if len(found) > 1:
        # Prefect keeps a name for each kind of block; ours is one for all.
        kinds = " and ".join(repr(connection.provider) for connection in found)
        raise ConflictError(
            f"connection {name!r} is there more than once, as {kinds}",
            hint="flexai storage list --json shows them all; delete all but one in Prefect's UI",
        )
    terminal.write_document(found[0].document(), as_json=as_json)
