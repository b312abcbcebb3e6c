"""``flexai checkpoint list``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from flexai.checkpoints.documents import age, checkpoint_list_document, short_size
from flexai.checkpoints.models import ListedCheckpoint, from_text, now
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option


@command("list", usage="[--deleted] [--json]")
@click.option("--deleted", is_flag=True, help="List the deleted checkpoints that can still come back instead.")
@json_option
def list_checkpoints(deleted: bool, as_json: bool) -> None:
    """List the pushed checkpoints.

    Oldest first, and with a word at those that are protected. Those that a training job wrote are listed by:
    flexai training checkpoints JOB

    \b
    flexai checkpoint list
    flexai checkpoint list --json
    flexai checkpoint list --deleted
    """
    from flexai.checkpoints.catalog.catalog import Catalog

    with Catalog.look() as catalog:
        rows = catalog.checkpoints.list_deleted() if deleted else catalog.checkpoints.list_pushed()
    if as_json:
        terminal.write_document(checkpoint_list_document(rows), as_json=True)
    else:
        terminal.write(_deleted_table(rows) if deleted else _table(rows))


def _table(rows: Sequence[ListedCheckpoint]) -> str:
    from flexai.cli.tables import dashed_table

    time = now()
    return dashed_table(
        ("NAME", "FILES COUNT", "TOTAL SIZE", "STATUS", "CREATED AT"),
        [
            (row.name, str(row.file_count), short_size(row.size), _status(row), age(from_text(row.created_at), time))
            for row in rows
        ],
        right=frozenset({1}),
    )


def _status(row: ListedCheckpoint) -> str:
    return f"{row.status}, protected" if row.is_protected else row.status


def _deleted_table(rows: Sequence[ListedCheckpoint]) -> str:
    from flexai.cli.tables import dashed_table

    time = now()
    return dashed_table(
        ("ID", "NAME", "FILES COUNT", "TOTAL SIZE", "DELETED AT"),
        [
            (
                row.id,
                row.title,
                str(row.file_count),
                short_size(row.size),
                age(from_text(row.deleted_at or row.updated_at), time),
            )
            for row in rows
        ],
        right=frozenset({2}),
    )
