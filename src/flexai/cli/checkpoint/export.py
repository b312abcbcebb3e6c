"""``flexai checkpoint export``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.service.requests import ExportRequest
from flexai.cli import terminal
from flexai.cli.commands import command
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
def export(dry_run: bool, track: bool | None, as_json: bool, **options: Any) -> None:
    """Copy a checkpoint to a storage provider.

    The provider copies by itself where it can. The object flexai-manifest.json is finished last, so that a
    reader can tell a whole export from a torn one; an export that was interrupted goes on where it stopped
    when it is run again.

    A part is named by patterns, or by what its files are for. The export says that it is one, so that it is
    taken for the whole nowhere; an export of more of the checkpoint to the same place adds to it.

    \b
    flexai checkpoint export 90c8f215-e131-4f9c-936c-12fe1fe9a6f1 --storage-provider aws-storage-conn-eu \\
      --destination-path my-bucket/checkpoints/mistral-train/
    flexai checkpoint export mistral-500-checkpoint --only weights --only config \\
      --storage-provider aws-storage-conn-eu --destination-path my-bucket/weights/mistral-500/
    """
    request = ExportRequest(**options)
    if dry_run:
        show_plan(track, partial(_plan, request), as_json=as_json)
        return

    def run(force: bool) -> Document:
        asked = replace(request, force=force)
        return run_operation(track, "export_checkpoint", asked, partial(_export, asked))

    done = insisting(run, force=request.force, question="delete that?")
    exported, kept, size = done["exportedFiles"], done["skippedFiles"], done["movedBytes"]
    already = f"; {terminal.count(kept, 'file')} there already" if kept else ""
    deleted = f"; {terminal.count(done['deletedFiles'], 'other file')} deleted" if done["deletedFiles"] else ""
    terminal.say(
        f"exported {request.reference} to {request.storage_provider}:{request.destination_path}:"
        f" {terminal.count_of_part(exported, kept, done['leftOutFiles'])}, {human_size(size)}{already}{deleted}"
    )
    if as_json:
        terminal.write_document(done, as_json=True)


def _export(request: ExportRequest, system: System, progress: Progress) -> Document:
    from flexai.checkpoints.service.export import export as export_checkpoint

    return export_checkpoint(system, request, progress=progress).to_dict()


def _plan(request: ExportRequest, system: System, progress: Progress) -> Preview:
    from flexai.checkpoints.service.preview import preview_export

    return preview_export(system, request, progress=progress)
