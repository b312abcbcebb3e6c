"""Showing what an operation would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flexai.checkpoints.documents import human_size, short_size
from flexai.checkpoints.errors import UsageError
from flexai.cli import terminal
from flexai.cli.tracking import load_connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from flexai.checkpoints.progress import Progress
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.transfer.steps import Action, Preview, Step

_SHOWN = 40
"""Files in the table; --json has all."""

dry_run_option = click.option("--dry-run", is_flag=True, help="Say what would be done and why, and do nothing.")


def show_plan(track: bool | None, plan: Callable[[System, Progress], Preview], *, as_json: bool) -> None:
    """Print what an operation would do, which ``plan`` computes by looking; raises the error that it would end with.

    Raises UsageError where the dry run is asked to be a task run.
    """
    if track:
        raise UsageError(
            "--dry-run and --track cannot be used together", hint="a dry run is no task run: leave out --track"
        )
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.transfer.steps import preview_document
    from flexai.cli.progress_display import shown_progress

    with System.open(connect=load_connection, read_only=True) as system, shown_progress() as progress:
        preview = plan(system, progress)

    if as_json:
        terminal.write_document(preview_document(preview), as_json=True)
    elif preview.steps:
        terminal.write(_table(preview))
    terminal.say(_conclusion(preview))
    if preview.conflict is not None:
        raise preview.conflict
    terminal.hint("nothing was done: the same command without --dry-run does it")


def _table(preview: Preview) -> str:
    from flexai.cli.tables import Column, table

    steps = _most_important(preview)
    shown = table(
        steps,
        Column("ACTION", lambda one: one.action.value),
        Column("CHECKPOINT" if preview.verb == "gc" else "FILE", lambda one: one.name, is_name=True),
        Column("SIZE", lambda one: short_size(one.size), rank=1, right=True),
        Column("WHY", lambda one: one.why, rank=1, is_text=True),
    )
    left_out = len(preview.steps) - len(steps)
    return f"{shown}\n  {terminal.and_more(left_out)}" if left_out else shown


def _most_important(preview: Preview) -> list[Step]:
    """As many steps as are shown: each action gets its share, and the important ones what is left of it."""
    by_action: dict[Action, list[Step]] = {action: [] for action in preview.by_action()}
    for step in preview.steps:
        by_action[step.action].append(step)
    share = _SHOWN // max(1, len(by_action))
    room = _SHOWN - sum(min(share, len(steps)) for steps in by_action.values())
    shown: list[Step] = []
    for steps in by_action.values():
        taken = min(len(steps), share + room)
        room -= max(0, taken - share)
        shown += steps[:taken]
    return shown


def _conclusion(preview: Preview) -> str:
    noun = "checkpoint" if preview.verb == "gc" else "file"
    parts = [
        f"{_WORDS[action]} {terminal.count(count, noun)} ({human_size(size)})"
        for action, (count, size) in preview.by_action().items()
    ]
    figures = []
    if preview.moved_bytes:
        figures.append(f"at most {human_size(preview.moved_bytes)} through this machine")
    if preview.freed_bytes or preview.verb == "gc":
        when = "" if preview.verb == "gc" else " after the grace period"
        figures.append(f"{human_size(preview.freed_bytes)} freed{when}")
    if preview.requests:
        figures.append(f"about {terminal.count(preview.requests, 'request')}")
    files, size = preview.left_out
    if files:
        figures.append(f"{terminal.count(files, 'file')} ({human_size(size)}) left out")
    told = ", ".join(parts) or "do nothing"
    return f"{preview.verb} would {told}" + (f": {', '.join(figures)}" if figures else "")


_WORDS = {
    "conflict": "conflict on",
    "compare": "compare",
    "move": "move",
    "copy": "have the provider copy",
    "delete": "delete",
    "free": "free",
    "skip": "skip",
}
