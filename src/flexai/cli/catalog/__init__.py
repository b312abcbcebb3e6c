"""``flexai catalog``."""

from __future__ import annotations

import click

from flexai.cli.commands import LazyGroup


@click.group(
    "catalog",
    cls=LazyGroup,
    lazy={
        "backup": ("flexai.cli.catalog.backup:backup", "Copy the catalog to a file, also while it is in use."),
        "compact": ("flexai.cli.catalog.compact:compact", "Give back the room of what was deleted."),
        "grants": ("flexai.cli.catalog.grants:grants", "Print the SQL of a team's roles in PostgreSQL."),
    },
)
def catalog() -> None:
    """Look after the catalog.

    The database of checkpoints, training jobs and what the store holds: a file of SQLite, or PostgreSQL.

    \b
    flexai catalog backup /backups/catalog.db
    flexai catalog compact
    flexai catalog grants | psql postgresql://owner@host/flexai
    """
