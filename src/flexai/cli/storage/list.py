"""``flexai storage list``."""

from __future__ import annotations

from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option
from flexai.cli.tracking import open_api


@command("list", usage="[--json]")
@json_option
def list_connections(as_json: bool) -> None:
    """List the connections.

    \b
    flexai storage list
    flexai storage list --json
    """
    open_api("to read the connections")
    from flexai import blocks

    found = blocks.list_connections()
    if as_json:
        terminal.write_document([connection.document() for connection in found], as_json=True)
        return
    from flexai.cli.tables import dashed_table

    rows = [
        (connection.name, connection.provider, connection.block.location if connection.block else "")
        for connection in found
    ]
    terminal.write(dashed_table(("NAME", "PROVIDER", "LOCATION"), rows))
    for connection in found:
        if connection.problem:
            terminal.warn(f"connection {connection.name!r} cannot be used: {connection.problem}")
