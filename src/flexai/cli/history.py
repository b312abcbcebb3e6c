"""``flexai history`` and ``flexai checkpoint history``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flexai.checkpoints.documents import history_document
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import checkpoint_argument, json_option, read_since

if TYPE_CHECKING:
    from flexai.checkpoints.models import HistoryEntry

F = TypeVar("F", bound=Callable[..., Any])

_SHOWN = {"name": "name", "status": "status", "is_protected": "protected", "exit_code": "exit code", "step": "step"}
"""Fields whose change people see, and what they are called; --json has all."""


def _options(function: F) -> F:
    limit = click.option(
        "--limit",
        metavar="N",
        type=click.IntRange(min=1),
        default=100,
        show_default=True,
        help="Show the last N changes.",
    )
    since = click.option(
        "--since",
        metavar="TIME",
        default="",
        callback=read_since,
        help="Show what was changed since 2026-01-31 or 2026-01-31T12:00, in UTC, or within the last 90m, 24h, 7d.",
    )
    by = click.option("--by", metavar="USER[@HOST]", default="", help="Show what this user changed.")
    return limit(since(by(json_option(function))))


@command("history", usage="[--limit N] [--since TIME] [--by USER[@HOST]] [--json]")
@_options
def history(as_json: bool, **options: Any) -> None:
    """Show what was changed, by whom and from where.

    Checkpoints, training jobs and the store, oldest change first. Each is written down together with the change
    itself, and stays when what was changed is gone. --json also has the fields as they were before and after,
    the machine and, of what a flow did, the flow run's id.

    \b
    flexai history
    flexai history --since 24h --by alice
    flexai history --limit 1000 --json
    """
    _show("", as_json=as_json, **options)


@command("history", usage="NAME|UUID [--limit N] [--since TIME] [--by USER[@HOST]] [--json]")
@checkpoint_argument
@_options
def checkpoint_history(reference: str, as_json: bool, **options: Any) -> None:
    """Show what was changed of a checkpoint, and by whom.

    Of a NAME, all checkpoints that have ever had it, deleted ones too, oldest change first; of a UUID, that one.

    \b
    flexai checkpoint history mistral-500-checkpoint
    flexai checkpoint history my-run/checkpoint-500 --json
    """
    _show(reference, as_json=as_json, **options)


def _show(reference: str, *, as_json: bool, limit: int, since: datetime | None, by: str) -> None:
    from flexai.checkpoints.catalog.history import HistoryFilter
    from flexai.checkpoints.service.inspect import look_up_history
    from flexai.cli.looking import look

    with look() as catalog:
        found = look_up_history(catalog, HistoryFilter(limit + 1, since, by), reference)
    shown = found[-limit:]
    if as_json:
        terminal.write_document(history_document(shown), as_json=True)
    else:
        terminal.write(_table(shown))
    if len(found) > limit:
        terminal.hint(f"earlier changes are not shown: --limit {10 * limit} shows more")


def _table(entries: Sequence[HistoryEntry]) -> str:
    from flexai.cli.tables import Column, table

    return table(
        entries,
        Column("AT (UTC)", lambda one: f"{one.at:%Y-%m-%d %H:%M:%S}", rank=1),
        Column("BY", _who, rank=2, is_name=True),
        Column("ACTION", lambda one: one.action),
        Column("WHAT", lambda one: one.title, is_name=True),
        Column("CHANGE", _change, rank=3, is_text=True),
    )


def _who(entry: HistoryEntry) -> str:
    is_elsewhere = entry.host and not entry.actor.endswith(f"@{entry.host}")
    return f"{entry.actor} on {entry.host}" if is_elsewhere else entry.actor


def _change(entry: HistoryEntry) -> str:
    told = [
        f"{word}: {' → '.join(_text(fields[name]) for fields in (entry.before, entry.after) if name in fields)}"
        for name, word in _SHOWN.items()
        if name in entry.before or (name == "status" and name in entry.after)
    ]
    places = [
        f"{one['storage_provider']}:{one['destination_path']}{' (a part)' if one.get('is_part') else ''}"
        for one in entry.after.get("exports") or ()
    ]
    told += [f"to {place}" for place in places[-1:]]
    told += [str(path) for path in entry.after.get("repaired") or ()]
    told += [f"flow run {entry.flow_run_id}"] if entry.flow_run_id else []
    return ", ".join(told)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
