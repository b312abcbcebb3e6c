"""``flexai checkpoint list``."""

from __future__ import annotations

from collections.abc import Sequence

import click

from flexai.checkpoints.documents import CheckpointRow, age, checkpoint_list_document, present, short_size
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
    from flexai.checkpoints.catalog.reader import open_reader

    with open_reader() as reader:
        rows = reader.deleted_checkpoints() if deleted else reader.pushed_checkpoints()
    if as_json:
        terminal.write_document(checkpoint_list_document(rows), as_json=True)
    else:
        terminal.write(_deleted_table(rows) if deleted else _table(rows))


def _table(rows: Sequence[CheckpointRow]) -> str:
    from flexai.cli.tables import dashed_table

    now = present()
    return dashed_table(
        ("NAME", "FILES COUNT", "TOTAL SIZE", "STATUS", "CREATED AT"),
        [(row.name, str(row.file_count), short_size(row.size), _status(row), age(row.created_at, now)) for row in rows],
        right=frozenset({1}),
    )


def _status(row: CheckpointRow) -> str:
    return f"{row.status}, protected" if row.is_protected else row.status


def _deleted_table(rows: Sequence[CheckpointRow]) -> str:
    from flexai.cli.tables import dashed_table

    now = present()
    return dashed_table(
        ("ID", "NAME", "FILES COUNT", "TOTAL SIZE", "DELETED AT"),
        [
            (row.id, row.title, str(row.file_count), short_size(row.size), age(row.deleted_at or "", now))
            for row in rows
        ],
        right=frozenset({2}),
    )
