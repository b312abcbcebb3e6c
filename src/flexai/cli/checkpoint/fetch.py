"""``flexai checkpoint fetch``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.service.requests import FetchRequest
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_directory
from flexai.cli.dry_run import dry_run_option, show_plan
from flexai.cli.parameters import checkpoint_argument, insisting, track_option
from flexai.cli.tracking import run_operation
from flexai.cli.transfer_options import (
    bwlimit_option,
    delete_extra_option,
    exclude_option,
    force_delete_option,
    include_option,
    only_option,
    progress_option,
    transfer_json_option,
)

if TYPE_CHECKING:
    from flexai.checkpoints.documents import Document
    from flexai.checkpoints.progress import Progress
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.transfer.steps import Preview


@command("fetch", usage="NAME|UUID[:PATH] [-d DIRECTORY] [OPTIONS]", resumable=True)
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
@include_option
@exclude_option
@only_option
@delete_extra_option
@force_delete_option
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

    A part is named by patterns, by what its files are for, or by NAME:PATH for one file or folder. It keeps
    its path in the checkpoint. A trainer that writes one file for all has it counted as weights.

    \b
    flexai checkpoint fetch mistral-500-checkpoint
    flexai checkpoint fetch mistral-500-checkpoint --destination saved-checkpoints/mistral
    flexai checkpoint fetch my-run/checkpoint-500 -d restored
    flexai checkpoint fetch mistral-500-checkpoint:config.json -d restored
    flexai checkpoint fetch mistral-500-checkpoint --only weights --only config -d restored
    flexai checkpoint fetch mistral-500-checkpoint --include '*.safetensors' --exclude 'optimizer*' -d restored
    flexai checkpoint fetch 90c8f215-e131-4f9c-936c-12fe1fe9a6f1 -d restored --overwrite
    """
    request = FetchRequest(**options)
    if dry_run:
        show_plan(track, partial(_plan, request), as_json=as_json)
        return

    def run(force: bool) -> Document:
        asked = replace(request, force=force)
        return run_operation(track, "fetch_checkpoint", asked, partial(_fetch, asked))

    done = insisting(run, force=request.force, question="delete that?")
    fetched, kept, size = done["fetchedFiles"], done["keptFiles"], done["movedBytes"]
    already = f"; {terminal.count(kept, 'file')} there already" if kept else ""
    deleted = f"; {terminal.count(done['deletedFiles'], 'other file')} deleted" if done["deletedFiles"] else ""
    terminal.say(
        f"fetched {request.reference} to {request.destination}:"
        f" {terminal.count_of_part(fetched, kept, done['leftOutFiles'])}, {human_size(size)}{already}{deleted}"
    )
    if as_json:
        terminal.write_document(done, as_json=True)


def _fetch(request: FetchRequest, system: System, progress: Progress) -> Document:
    from flexai.checkpoints.service.fetch import fetch as fetch_checkpoint

    return fetch_checkpoint(system, request, progress=progress).to_dict()


def _plan(request: FetchRequest, system: System, progress: Progress) -> Preview:
    from flexai.checkpoints.service.preview import preview_fetch

    return preview_fetch(system, request, progress=progress)
