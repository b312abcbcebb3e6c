"""``flexai checkpoint export``."""

from __future__ import annotations

import click

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.names import parse_reference
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.dry_run import check_untracked, dry_run_option, show
from flexai.cli.parameters import (
    bwlimit_option,
    checkpoint_argument,
    progress_option,
    track_option,
    transfer_json_option,
)
from flexai.cli.tracking import load_connection, run_tracked, tracking_api


@command(
    "export",
    usage="NAME|UUID --storage-provider CONNECTION --destination-path BUCKET/PREFIX [OPTIONS]",
    resumable=True,
)
@checkpoint_argument
@click.option(
    "--storage-provider", metavar="CONNECTION", required=True, help="The storage provider connection to write to."
)
@click.option(
    "--destination-path",
    metavar="BUCKET/PREFIX",
    required=True,
    help="The bucket, and the folder in it, that the files go to.",
)
@click.option("--overwrite", is_flag=True, help="Replace objects that are there with other content.")
@bwlimit_option
@dry_run_option
@track_option
@progress_option
@transfer_json_option
def export(
    reference: str,
    storage_provider: str,
    destination_path: str,
    overwrite: bool,
    dry_run: bool,
    track: bool | None,
    as_json: bool,
) -> None:
    """Copy a checkpoint to a storage provider.

    The provider copies by itself where it can. The object flexai-manifest.json is finished last, so that a
    reader can tell a whole export from a torn one; an export that was interrupted goes on where it stopped
    when it is run again.

    \b
    flexai checkpoint export 90c8f215-e131-4f9c-936c-12fe1fe9a6f1 --storage-provider aws-storage-conn-eu \\
      --destination-path my-bucket/checkpoints/mistral-train/
    """
    parse_reference(reference)
    if dry_run:
        check_untracked(track)
        _preview(reference, storage_provider, destination_path, overwrite, as_json)
        return
    api = tracking_api(track)
    if api is not None:
        done = run_tracked(api, "export_checkpoint", reference, storage_provider, destination_path, overwrite=overwrite)
    else:
        from flexai.checkpoints.service.export import export as export_checkpoint
        from flexai.checkpoints.service.result_documents import export_document
        from flexai.checkpoints.service.system import System
        from flexai.cli.progress_display import shown_progress

        connection = load_connection(storage_provider)
        with System.open(connect=load_connection) as system, shown_progress() as progress:
            report = export_checkpoint(
                system, reference, connection, destination_path, overwrite=overwrite, progress=progress
            )
        done = export_document(report)
    exported, kept, size = done["exportedFiles"], done["skippedFiles"], done["movedBytes"]
    already = f"; {terminal.count(kept, 'file')} there already" if kept else ""
    terminal.say(
        f"exported {reference} to {storage_provider}:{destination_path}:"
        f" {terminal.count(exported, 'file')}, {human_size(size)}{already}"
    )
    if as_json:
        terminal.write_document(done, as_json=True)


def _preview(reference: str, storage_provider: str, destination_path: str, overwrite: bool, as_json: bool) -> None:
    from flexai.checkpoints.service.preview import preview_export
    from flexai.checkpoints.service.system import System
    from flexai.cli.progress_display import shown_progress

    connection = load_connection(storage_provider)
    with System.open(connect=load_connection, read_only=True) as system, shown_progress() as progress:
        preview = preview_export(
            system, reference, connection, destination_path, overwrite=overwrite, progress=progress
        )
    show(preview, as_json=as_json)
