"""``flexai checkpoint fetch``."""

from __future__ import annotations

import click

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.names import parse_reference
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_directory
from flexai.cli.dry_run import check_untracked, dry_run_option, show
from flexai.cli.parameters import (
    bwlimit_option,
    checkpoint_argument,
    progress_option,
    track_option,
    transfer_json_option,
)
from flexai.cli.tracking import load_connection, run_tracked, tracking_api


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
@bwlimit_option
@dry_run_option
@track_option
@progress_option
@transfer_json_option
def fetch(reference: str, destination: str, overwrite: bool, dry_run: bool, track: bool | None, as_json: bool) -> None:
    """Fetch a checkpoint into a directory.

    The files land in DIRECTORY itself. One that is there already with the right content is kept; one with
    other content is refused, unless --overwrite is given. Every file is checked against its digest before it
    gets its name, and a fetch that was interrupted goes on where it stopped when it is run again.

    \b
    flexai checkpoint fetch mistral-500-checkpoint
    flexai checkpoint fetch mistral-500-checkpoint --destination saved-checkpoints/mistral
    flexai checkpoint fetch 90c8f215-e131-4f9c-936c-12fe1fe9a6f1 -d restored --overwrite
    """
    parse_reference(reference)
    if dry_run:
        check_untracked(track)
        _preview(reference, destination, overwrite, as_json)
        return
    api = tracking_api(track)
    if api is not None:
        done = run_tracked(api, "fetch_checkpoint", reference, destination, overwrite=overwrite)
    else:
        from pathlib import Path

        from flexai.checkpoints.service.fetch import fetch as fetch_checkpoint
        from flexai.checkpoints.service.result_documents import fetch_document
        from flexai.checkpoints.service.system import System
        from flexai.cli.progress_display import shown_progress

        with System.open(connect=load_connection) as system, shown_progress() as progress:
            report = fetch_checkpoint(system, reference, Path(destination), overwrite=overwrite, progress=progress)
        done = fetch_document(report)
    fetched, kept, size = done["fetchedFiles"], done["keptFiles"], done["movedBytes"]
    already = f"; {terminal.count(kept, 'file')} there already" if kept else ""
    terminal.say(
        f"fetched {reference} to {destination}: {terminal.count(fetched, 'file')}, {human_size(size)}{already}"
    )
    if as_json:
        terminal.write_document(done, as_json=True)


def _preview(reference: str, destination: str, overwrite: bool, as_json: bool) -> None:
    from pathlib import Path

    from flexai.checkpoints.service.preview import preview_fetch
    from flexai.checkpoints.service.system import System
    from flexai.cli.progress_display import shown_progress

    with System.open(connect=load_connection, read_only=True) as system, shown_progress() as progress:
        preview = preview_fetch(system, reference, Path(destination), overwrite=overwrite, progress=progress)
    show(preview, as_json=as_json)
