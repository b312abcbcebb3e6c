"""``flexai checkpoint list``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from flexai.checkpoints.documents import age, checkpoint_list_document, short_size
from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.models import ListedCheckpoint, from_text, now
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_checkpoint, complete_job
from flexai.cli.parameters import json_option, read_since

if TYPE_CHECKING:
    from flexai.cli.tables import Column

_PUSHED = ("name", "files", "size", "status", "created", "creator")
_CAPTURED = ("name", "step", "files", "size", "status", "created", "creator")
_DELETED = ("id", "name", "files", "size", "deleted", "creator")


@command(
    "list",
    usage="[PATTERN…] [--job NAME|UUID] [--owner USER[@HOST]] [--status STATUS] [--since TIME]"
    " [--kind pushed|captured|all] [--sort ORDER] [--limit N] [--columns NAMES] [--deleted] [--json]",
)
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1, shell_complete=complete_checkpoint)
@click.option(
    "--job", metavar="NAME|UUID", default="", shell_complete=complete_job, help="List what this training job captured."
)
@click.option("--owner", metavar="USER[@HOST]", default="", help="List what this user made.")
@click.option(
    "--status",
    type=click.Choice(["available", "uploading", "syncing", "failed", "incomplete"]),
    help="List those of this status.",
)
@click.option(
    "--since",
    metavar="TIME",
    default="",
    callback=read_since,
    help="List what was made since 2026-01-31 or 2026-01-31T12:00, in UTC, or within the last 90m, 24h, 7d.",
)
@click.option(
    "--kind",
    type=click.Choice(["pushed", "captured", "all"]),
    help="Pushed ones by default; captured ones where --job or a PATTERN with a / says so.",
)
@click.option(
    "--sort",
    metavar="ORDER",
    default="",
    help="size (the largest first), created (the newest first), name, or a metric as NAME[:min|max] (the best first)."
    " The oldest first by default.",
)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(min=0),
    default=0,
    help="List the first N of the order; without --sort the newest N; with 0 all.",
)
@click.option(
    "--columns",
    metavar="NAMES",
    default="",
    help="What to show, separated by commas: id, name, job, kind, step, files, size, status, created, creator, deleted,"
    " resumable, and metrics.",
)
@click.option("--deleted", is_flag=True, help="List the deleted checkpoints that can still come back instead.")
@json_option
def list_checkpoints(columns: str, as_json: bool, status: str | None, kind: str | None, **options: Any) -> None:
    """List checkpoints.

    The pushed ones, oldest first, and with a word at those that are protected or damaged; or what training jobs
    captured.
    A PATTERN is a part of the name, or has * for any letters and ? for one. All that is said has to be so; of
    several PATTERNs one has to fit.

    \b
    flexai checkpoint list
    flexai checkpoint list mistral --since 7d --sort size --limit 10
    flexai checkpoint list --job my-run --sort eval-loss --columns name,step,eval-loss
    flexai checkpoint list 'my-run/*' --json
    flexai checkpoint list --deleted
    """
    from flexai.checkpoints.service.listing import ORDERS, ListRequest
    from flexai.checkpoints.service.listing import list_checkpoints as find
    from flexai.cli.looking import look

    request = ListRequest(status=status or "", kind=kind or "", **options)
    with look() as catalog:
        rows = find(catalog, request)
    if as_json:
        terminal.write_document(checkpoint_list_document(rows), as_json=True)
        return
    names = tuple(filter(None, (name.strip() for name in columns.split(","))))
    if not names:
        names = _DELETED if request.deleted else _PUSHED if request.only_kind == "pushed" else _CAPTURED
        if request.sort and request.sort not in ORDERS:
            names = (names[0], request.sort.removesuffix(":min").removesuffix(":max"), *names[1:])
    from flexai.cli.tables import table

    known = _columns()
    terminal.write(table(rows, *[known[name] if name in known else _metric(name, rows) for name in names]))


def _columns() -> dict[str, Column[ListedCheckpoint]]:
    from flexai.cli.tables import ID_DIGITS, Column

    time = now()
    is_told = {True: "true", False: "false", None: "unknown"}
    return {
        "id": Column("ID", lambda row: row.id, rank=4, short=lambda text: text[:ID_DIGITS]),
        "name": Column("NAME", lambda row: row.title, is_name=True),
        "job": Column("JOB", lambda row: row.job_name or "-", rank=3, is_name=True),
        "kind": Column("KIND", lambda row: row.kind, rank=3),
        "step": Column("STEP", lambda row: "-" if row.step is None else str(row.step), rank=1, right=True),
        "files": Column("FILES COUNT", lambda row: str(row.file_count), rank=3, right=True),
        "size": Column("TOTAL SIZE", lambda row: short_size(row.size), rank=1),
        "status": Column(
            "STATUS", lambda row: f"{row.standing}, protected" if row.is_protected else row.standing, rank=1
        ),
        "created": Column("CREATED AT", lambda row: age(from_text(row.created_at), time), rank=2),
        "deleted": Column("DELETED AT", lambda row: age(from_text(row.deleted_at or row.updated_at), time), rank=1),
        "creator": Column("CREATED BY", lambda row: row.creator, rank=5, is_name=True),
        "resumable": Column("RESUMABLE", lambda row: is_told[row.resumable], rank=2),
    }


def _metric(name: str, rows: Sequence[ListedCheckpoint]) -> Column[ListedCheckpoint]:
    from flexai.checkpoints.choosing import is_known, metric_for
    from flexai.cli.tables import Column, number

    if rows and not is_known(name, rows):
        raise UsageError(f"there is no column {name!r}", hint=f"there is {', '.join(_columns())}, and metrics")
    metric = metric_for(name, rows)
    return Column(name.upper(), lambda row: number(metric and metric.of(row)), rank=1, right=True)
