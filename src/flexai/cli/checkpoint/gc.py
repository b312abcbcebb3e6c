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
from flexai.cli.parameters import read_duration, track_option
from flexai.cli.tracking import run_operation
from flexai.cli.transfer_options import progress_option, transfer_json_option

if TYPE_CHECKING:
    from flexai.checkpoints.documents import Document
    from flexai.checkpoints.progress import Progress
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.transfer.steps import Preview


@command("gc", usage="[--grace-period DURATION] [--unreferenced] [--dry-run] [OPTIONS]", resumable=True)
@click.option(
    "--grace-period",
    metavar="DURATION",
    default="",
    help="Take only what was deleted or abandoned longer ago than this: 90s, 15m, 24h, 7d, 2w."
    " The setting grace_period by default.",
)
@click.option(
    "--unreferenced",
    is_flag=True,
    help="Take blobs too that neither the catalog nor any manifest in the store knows, and that were stored longer ago"
    " than the grace period.",
)
@dry_run_option
@track_option
@progress_option
@transfer_json_option
def collect_garbage(grace_period: str, unreferenced: bool, dry_run: bool, track: bool | None, as_json: bool) -> None:
    """Free the room that deleted checkpoints take.

    Takes the bytes that no checkpoint needs any more: those of checkpoints deleted, and of pushes interrupted
    and never continued, longer ago than the grace period. What another checkpoint shares stays.

    \b
    flexai checkpoint gc --dry-run
    flexai checkpoint gc --grace-period 24h
    """
    duration = read_duration("--grace-period", grace_period) if grace_period else None
    request = GarbageRequest(duration, unreferenced)
    if dry_run:
        unknown: list[str] = []
        show_plan(track, partial(_plan, request, unknown), as_json=as_json)
        _warn_of(unknown, request)
        return
    done = run_operation(track, "collect_garbage", request, partial(_collect, request))
    if as_json:
        terminal.write_document(done, as_json=True)
    else:
        terminal.write(
            f"freed {done['freed']} in {terminal.count(done['blobs'], 'blob')}:"
            f" {terminal.count(done['deletedCheckpoints'], 'deleted checkpoint')},"
            f" {terminal.count(done['abandonedPushes'], 'abandoned push', 'abandoned pushes')}"
            + (f", {terminal.count(len(done['collectedUnreferenced']), 'unreferenced blob')}" if unreferenced else "")
        )
    if finished := done["finishedPushes"]:
        terminal.say(f"available now, since all of it had arrived when its push broke off: {', '.join(finished)}")
    _warn_of(done["unreferenced"], request)
    if unreadable := done["unreadableManifests"]:
        terminal.warn(
            f"no unreferenced blob was taken: what {terminal.count(len(unreadable), 'checkpoint')} would need that only"
            f" the store knows cannot be read: {', '.join(unreadable[:3])}{', …' if len(unreadable) > 3 else ''}"
        )
        terminal.hint("where they are of no use any more, delete manifests/ID.json of each from the store")
    for reason in done["skipped"]:
        terminal.warn(f"unfinished uploads may be left in the store: {reason}")
    if newer := done["newerInStore"]:
        terminal.warn(
            f"kept {terminal.count(len(newer), 'checkpoint')} that the store knows more of than the catalog:"
            f" {', '.join(newer[:3])}{', …' if len(newer) > 3 else ''}"
        )
        terminal.hint("flexai checkpoint recover enters them")


def _collect(request: GarbageRequest, system: System, progress: Progress) -> Document:
    from flexai.checkpoints.service.gc import collect_garbage as collect

    return collect(system, request, progress=progress).to_dict()


def _plan(request: GarbageRequest, unknown: list[str], system: System, _: Progress) -> Preview:
    from flexai.checkpoints.service.preview import preview_garbage

    return preview_garbage(system, request, unknown=unknown)


def _warn_of(unknown: Sequence[str], request: GarbageRequest) -> None:
    if unknown:
        them = "it" if len(unknown) == 1 else "them"
        terminal.warn(f"{terminal.count(len(unknown), 'unreferenced blob')}: the catalog does not know {them}")
        others = "" if request.unreferenced else "; gc --unreferenced takes the others"
        terminal.hint(f"flexai checkpoint recover enters the checkpoints that need {them}, where there are any{others}")
