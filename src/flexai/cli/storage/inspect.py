"""``flexai storage inspect``."""

from __future__ import annotations

import click

from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.names import parse_name
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option
from flexai.cli.tracking import open_api


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
    open_api("to read the connection")
    from flexai import blocks
    from flexai.cli.storage.documents import connection_document

    found = [connection for connection in blocks.list_connections() if connection.name == name]
    if not found:
        raise NotFoundError(
            f"there is no storage provider connection {name!r}", hint="flexai storage list shows what there is"
        )
    for connection in found:
        terminal.write_document(connection_document(connection), as_json=as_json)
