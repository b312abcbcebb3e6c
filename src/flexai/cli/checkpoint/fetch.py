"""``flexai checkpoint fetch``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.service.requests import FetchRequest
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_directory
from flexai.cli.dry_run import dry_run_option, show_plan
from flexai.cli.parameters import (
    bwlimit_option,
    checkpoint_argument,
    progress_option,
    track_option,
    transfer_json_option,
)
from flexai.cli.tracking import run_operation

if TYPE_CHECKING:
    from flexai.checkpoints.documents import Document
    from flexai.checkpoints.progress import Progress
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.transfer.steps import Preview


@command("fetch", usage="NAME|UUID [-d DIRECTORY] [OPTIONS]", resumable=True)
@checkpoint_argument
@click.option(
    "-d",
    "--destination",
    metavar="DIRECTORY",
    default=".",
    shell_complete=complete_directory,
    help="Where the files go; made where it is missing. The working directory by default.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that are there with other content.")
@click.option(
    "--refuse-executable",
    is_flag=True,
    help="Fetch nothing where a file runs code when it is loaded, or could not be followed.",
)
@click.option(
    "--require-digests",
    is_flag=True,
    help="Fetch nothing where a file has neither a digest nor a checksum that it is compared with.",
)
@click.option(
    "--node",
    metavar="R",
    type=click.IntRange(0),
    help="Fetch what one of the machines has brought that wrote the checkpoint together, also of an incomplete one.",
)
@bwlimit_option
@dry_run_option
@track_option
@progress_option
@transfer_json_option
def fetch(dry_run: bool, track: bool | None, as_json: bool, **options: Any) -> None:
    """Fetch a checkpoint into a directory.

    The files land in DIRECTORY itself. One that is there already with the right content is kept; one with
    other content is refused, unless --overwrite is given. Every file is checked against its digest before it
    gets its name, and a fetch that was interrupted goes on where it stopped when it is run again.

    \b
    flexai checkpoint fetch mistral-500-checkpoint
    flexai checkpoint fetch mistral-500-checkpoint --destination saved-checkpoints/mistral
    flexai checkpoint fetch my-run/checkpoint-500 -d restored
    flexai checkpoint fetch 90c8f215-e131-4f9c-936c-12fe1fe9a6f1 -d restored --overwrite
    """
    request = FetchRequest(**options)
    if dry_run:
        show_plan(track, partial(_plan, request), as_json=as_json)
        return
    done = run_operation(track, "fetch_checkpoint", request, partial(_fetch, request))
    fetched, kept, size = done["fetchedFiles"], done["keptFiles"], done["movedBytes"]
    already = f"; {terminal.count(kept, 'file')} there already" if kept else ""
    terminal.say(
        f"fetched {request.reference} to {request.destination}:"
        f" {terminal.count(fetched, 'file')}, {human_size(size)}{already}"
    )
    if as_json:
        terminal.write_document(done, as_json=True)


def _fetch(request: FetchRequest, system: System, progress: Progress) -> Document:
    from flexai.checkpoints.service.fetch import fetch as fetch_checkpoint

    return fetch_checkpoint(system, request, progress=progress).to_dict()


def _plan(request: FetchRequest, system: System, progress: Progress) -> Preview:
    from flexai.checkpoints.service.preview import preview_fetch

    return preview_fetch(system, request, progress=progress)
