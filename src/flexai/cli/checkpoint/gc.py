"""``flexai checkpoint gc``."""

from __future__ import annotations

import click

from flexai.checkpoints.documents import human_size
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import read_duration
from flexai.cli.tracking import load_connection


@command("gc", usage="[--grace-period DURATION] [--dry-run]", resumable=True)
@click.option(
    "--grace-period",
    metavar="DURATION",
    default="",
    help="Take only what was deleted or abandoned longer ago than this: 90s, 15m, 24h, 7d, 2w."
    " The setting grace_period by default.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be taken, and take nothing.")
def collect_garbage(grace_period: str, dry_run: bool) -> None:
    """Free the room that deleted checkpoints take.

    Takes the bytes that no checkpoint needs any more: those of checkpoints deleted, and of pushes interrupted
    and never continued, longer ago than the grace period. What another checkpoint shares stays.

    \b
    flexai checkpoint gc --dry-run
    flexai checkpoint gc --grace-period 24h
    """
    from flexai.checkpoints.service.gc import collect_garbage as collect
    from flexai.checkpoints.service.system import System
    from flexai.cli.progress import shown_progress

    period = read_duration("--grace-period", grace_period) if grace_period else None
    with System.open(connect=load_connection) as system, shown_progress() as progress:
        report = collect(system, grace_period=period, dry_run=dry_run, progress=progress)
    terminal.write(
        f"{'would free' if dry_run else 'freed'} {human_size(report.freed_bytes)}"
        f" in {terminal.count(report.blobs, 'blob')}:"
        f" {terminal.count(report.checkpoints, 'deleted checkpoint')},"
        f" {terminal.count(report.abandoned, 'abandoned push', 'abandoned pushes')}"
    )
    if report.strangers:
        terminal.warn(f"{terminal.count(len(report.strangers), 'blob')} in the store the catalog does not know")
        terminal.hint("flexai checkpoint recover enters the checkpoints that need them, where there are any")
