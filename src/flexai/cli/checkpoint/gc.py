"""``flexai checkpoint gc``."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

import click

from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.dry_run import check_untracked, dry_run_option, show
from flexai.cli.parameters import progress_option, read_duration, track_option, transfer_json_option
from flexai.cli.tracking import load_connection, run_tracked, tracking_api


@command("gc", usage="[--grace-period DURATION] [--dry-run] [OPTIONS]", resumable=True)
@click.option(
    "--grace-period",
    metavar="DURATION",
    default="",
    help="Take only what was deleted or abandoned longer ago than this: 90s, 15m, 24h, 7d, 2w."
    " The setting grace_period by default.",
)
@dry_run_option
@track_option
@progress_option
@transfer_json_option
def collect_garbage(grace_period: str, dry_run: bool, track: bool | None, as_json: bool) -> None:
    """Free the room that deleted checkpoints take.

    Takes the bytes that no checkpoint needs any more: those of checkpoints deleted, and of pushes interrupted
    and never continued, longer ago than the grace period. What another checkpoint shares stays.

    \b
    flexai checkpoint gc --dry-run
    flexai checkpoint gc --grace-period 24h
    """
    period = read_duration("--grace-period", grace_period) if grace_period else None
    if dry_run:
        check_untracked(track)
        _preview(period, as_json)
        return
    api = tracking_api(track)
    if api is not None:
        done = run_tracked(api, "collect_garbage", grace_period=period)
    else:
        from flexai.checkpoints.service.gc import collect_garbage as collect
        from flexai.checkpoints.service.result_documents import garbage_document
        from flexai.checkpoints.service.system import System
        from flexai.cli.progress_display import shown_progress

        with System.open(connect=load_connection) as system, shown_progress() as progress:
            done = garbage_document(collect(system, grace_period=period, progress=progress))
    if as_json:
        terminal.write_document(done, as_json=True)
    else:
        terminal.write(
            f"freed {done['freed']} in {terminal.count(done['blobs'], 'blob')}:"
            f" {terminal.count(done['deletedCheckpoints'], 'deleted checkpoint')},"
            f" {terminal.count(done['abandonedPushes'], 'abandoned push', 'abandoned pushes')}"
        )
    _warn_of(done["unreferenced"])


def _preview(grace_period: timedelta | None, as_json: bool) -> None:
    from flexai.checkpoints.service.gc import find_unreferenced
    from flexai.checkpoints.service.preview import preview_garbage
    from flexai.checkpoints.service.system import System

    with System.open(connect=load_connection, read_only=True) as system:
        preview = preview_garbage(system, grace_period=grace_period)
        unreferenced = find_unreferenced(system)
    show(preview, as_json=as_json)
    _warn_of(unreferenced)


def _warn_of(unreferenced: Sequence[str]) -> None:
    if unreferenced:
        terminal.warn(f"{terminal.count(len(unreferenced), 'unreferenced blob')}: the catalog does not know them")
        terminal.hint("flexai checkpoint recover enters the checkpoints that need them, where there are any")
