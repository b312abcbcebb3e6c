"""``flexai catalog backup``."""

from __future__ import annotations

from pathlib import Path

import click

from flexai.checkpoints.documents import flexai_size, human_size
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option


@command("backup", usage="FILE [--json]")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@json_option
def backup(file: Path, as_json: bool) -> None:
    """Copy the catalog to a file, also while it is in use.

    The copy is the catalog as it is at one moment, and gets its name last. That of an SQLite catalog is one as
    well, and is checked; that of a database of PostgreSQL, which pg_dump makes, is for pg_restore. How they are
    brought back is told in docs/team.md.

    \b
    flexai catalog backup /backups/catalog.db
    """
    from flexai.checkpoints.catalog.backup import back_up
    from flexai.checkpoints.settings import database_url

    size = back_up(database_url(), file)
    terminal.say(f"copied the catalog to {file} ({human_size(size)})")
    if as_json:
        terminal.write_document({"file": str(file), "size": flexai_size(size), "sizeBytes": size}, as_json=True)
