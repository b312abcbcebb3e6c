"""``flexai storage list``."""

from __future__ import annotations

from flexai.cli import terminal, tracking
from flexai.cli.commands import command
from flexai.cli.parameters import json_option


@command("list", usage="[--json]")
@json_option
def list_connections(as_json: bool) -> None:
    """List the connections.

    \b
    flexai storage list
    flexai storage list --json
    """
    found = tracking.list_connections("to read the connections")
    if as_json:
        terminal.write_document([connection.document() for connection in found], as_json=True)
        return
    from flexai.cli.tables import Column, table

    shown = table(
        found,
        Column("NAME", lambda one: one.name, is_name=True),
        Column("PROVIDER", lambda one: one.provider, rank=1),
        Column("LOCATION", lambda one: one.block.location if one.block else "", rank=2, is_name=True),
    )
    terminal.write(shown)
    for connection in found:
        if connection.problem:
            terminal.warn(f"connection {connection.name!r} cannot be used: {connection.problem}")
