"""``flexai checkpoint gc``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from flexai.checkpoints.service.store_requests import GarbageRequest
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.dry_run import dry_run_option, show_plan
from flexai.cli.parameters import progress_option, read_duration, track_option, transfer_json_option
from flexai.cli.tracking import run_operation

if TYPE_CHECKING:
    from flexai.checkpoints.documents import Document
    from flexai.checkpoints.progress import Progress
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.transfer.steps import Preview


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
    request = GarbageRequest(read_duration("--grace-period", grace_period) if grace_period else None)
    if dry_run:
        unreferenced: list[str] = []
        show_plan(track, partial(_plan, request, unreferenced), as_json=as_json)
        _warn_of(unreferenced)
        return
    done = run_operation(track, "collect_garbage", request, partial(_collect, request))
    if as_json:
        terminal.write_document(done, as_json=True)
    else:
        terminal.write(
            f"freed {done['freed']} in {terminal.count(done['blobs'], 'blob')}:"
            f" {terminal.count(done['deletedCheckpoints'], 'deleted checkpoint')},"
            f" {terminal.count(done['abandonedPushes'], 'abandoned push', 'abandoned pushes')}"
        )
    _warn_of(done["unreferenced"])


def _collect(request: GarbageRequest, system: System, progress: Progress) -> Document:
    from flexai.checkpoints.service.gc import collect_garbage as collect

    return collect(system, request, progress=progress).to_dict()


def _plan(request: GarbageRequest, unreferenced: list[str], system: System, _: Progress) -> Preview:
    from flexai.checkpoints.service.gc import find_unreferenced
    from flexai.checkpoints.service.preview import preview_garbage

    unreferenced += find_unreferenced(system)
    return preview_garbage(system, request)


def _warn_of(unreferenced: Sequence[str]) -> None:
    if unreferenced:
        terminal.warn(f"{terminal.count(len(unreferenced), 'unreferenced blob')}: the catalog does not know them")
        terminal.hint("flexai checkpoint recover enters the checkpoints that need them, where there are any")
