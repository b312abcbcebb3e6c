"""``flexai checkpoint push``."""

from __future__ import annotations

import os
import shlex
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from flexai.checkpoints.documents import human_size, identity
from flexai.checkpoints.errors import NotFoundError, RequestError, StorageError
from flexai.checkpoints.names import parse_reference
from flexai.checkpoints.service.push_requests import AnyPushRequest, NameRequest, PushRequest
from flexai.cli import terminal
from flexai.cli.commands import command, in_flags
from flexai.cli.completion import complete_checkpoint, complete_file
from flexai.cli.dry_run import dry_run_option, show_plan
from flexai.cli.parameters import track_option
from flexai.cli.tracking import run_operation
from flexai.cli.transfer_options import bwlimit_option, exclude_option, progress_option, transfer_json_option

if TYPE_CHECKING:
    from flexai.checkpoints.documents import Document
    from flexai.checkpoints.progress import Progress
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.transfer.steps import Preview

_FROM_FILES = "flexai checkpoint push NAME --file SOURCE[=DESTINATION] …"
_FROM_PROVIDER = "flexai checkpoint push NAME --storage-provider CONNECTION --source-path BUCKET/PATH"
_FROM_CHECKPOINT = "flexai checkpoint push NAME --from-checkpoint NAME|UUID"
_FORMS = f"use one of: {_FROM_FILES}; {_FROM_PROVIDER}; {_FROM_CHECKPOINT}"


@command(
    "push",
    usage="NAME (SOURCE[=DESTINATION]… | -f SOURCE[=DESTINATION]… | --storage-provider CONNECTION"
    " --source-path BUCKET/PATH | --from-checkpoint NAME|UUID) [OPTIONS]",
    resumable=True,
)
@click.argument("name", metavar="NAME")
@click.argument("sources", metavar="SOURCE[=DESTINATION]...", nargs=-1, shell_complete=complete_file)
@click.option(
    "-f",
    "--file",
    "files",
    metavar="SOURCE[=DESTINATION]",
    multiple=True,
    shell_complete=complete_file,
    help="A file or folder of this machine, and its path in the checkpoint. Can be given several times.",
)
@click.option(
    "--storage-provider", metavar="CONNECTION", default="", help="The storage provider connection to read from."
)
@click.option(
    "--source-path",
    metavar="BUCKET/PATH",
    default="",
    help="The file or folder on the storage provider; a folder's content lands at the checkpoint's root. With a final"
    " / it is a folder.",
)
@click.option(
    "--from-checkpoint",
    metavar="NAME|UUID",
    default="",
    shell_complete=complete_checkpoint,
    help="A checkpoint that is here already, such as a captured one: it gets a name, and no byte moves.",
)
@exclude_option
@click.option(
    "--default-excludes/--no-default-excludes",
    default=True,
    help="Leave out .git, __pycache__ and the lock files of the Hub's cache in local folders, or push them as well. A"
    " folder's .flexaiignore has its own patterns, as a .gitignore has.",
)
@click.option("--if-not-exists", is_flag=True, help="Succeed where the name is taken by the same content.")
@click.option(
    "--follow-symlinks",
    is_flag=True,
    help="Push what symbolic links lead to instead of refusing them; from a snapshot of the Hub's cache also blobs.",
)
@click.option("--rehash", is_flag=True, help="Read files again that look unchanged since they were last pushed.")
@click.option(
    "--refuse-executable",
    is_flag=True,
    help="Push nothing where a file runs code when it is loaded, or could not be followed.",
)
@bwlimit_option
@dry_run_option
@track_option
@progress_option
@transfer_json_option
def push(
    sources: tuple[str, ...],
    files: tuple[str, ...],
    dry_run: bool,
    track: bool | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Push a new checkpoint.

    From files and folders of this machine, from a storage provider, or from a checkpoint that a training job
    wrote. Without a DESTINATION a file keeps its name, and a folder's content lands at the checkpoint's root.
    The command returns when the checkpoint is available; one that was interrupted goes on where it stopped
    when it is run again.

    \b
    flexai checkpoint push mistral-500-checkpoint output/ckpt.pt
    flexai checkpoint push mistral-500-checkpoint --file output/ckpt.pt=sd-xl-2500.ckpt --file config.json
    flexai checkpoint push llama-base --file ./Llama-2-7b-hf --if-not-exists
    flexai checkpoint push mistral-s3 --storage-provider aws-storage-conn-eu --source-path my-bucket/mistral/
    flexai checkpoint push best-run --from-checkpoint 90c8f215-e131-4f9c-936c-12fe1fe9a6f1
    flexai checkpoint push my-run-500 --from-checkpoint my-run/checkpoint-500
    """
    try:
        request = AnyPushRequest(files=(*sources, *files), **options).request()
    except RequestError as error:
        raise in_flags(error, click.get_current_context(), hint=_hint(error, **options)) from None
    if dry_run:
        show_plan(track, partial(_plan, request), as_json=as_json)
        return
    unchanged = partial(_find_unchanged, request)
    done = run_operation(track, "push_checkpoint", request, partial(_push, request), done_before=unchanged)
    _report(done["metadata"], as_json)


def _hint(error: RequestError, *, name: str, source_path: str, **_: object) -> str | None:
    """The form of the command to use instead; None where that is not what is wrong."""
    match error.fields:
        case ("source_path", "storage_provider") if os.path.lexists(source_path):
            return shlex.join(["flexai", "checkpoint", "push", name, "--file", source_path])
        case ("source_path", "storage_provider") | ("storage_provider", "source_path"):
            return _FROM_PROVIDER
        case (("follow_symlinks" | "rehash" | "default_excludes"), _):
            return _FROM_FILES
        case ("exclude",):
            return None
        case _:
            return _FORMS


def _find_unchanged(request: PushRequest | NameRequest, system: System) -> Document | None:
    if isinstance(request, NameRequest):
        return None
    from flexai.checkpoints.service.support.unchanged import find_unchanged

    checkpoint = find_unchanged(system, request)
    return {"metadata": identity(checkpoint)} if checkpoint else None


def _push(request: PushRequest | NameRequest, system: System, progress: Progress) -> Document:

    if isinstance(request, NameRequest):
        from flexai.checkpoints.service.naming import name_checkpoint

        return {"metadata": identity(name_checkpoint(system, request, progress=progress))}
    from flexai.checkpoints.service.push import push as push_checkpoint

    return {"metadata": identity(push_checkpoint(system, request, progress=progress))}


def _plan(request: PushRequest | NameRequest, system: System, progress: Progress) -> Preview:
    from flexai.checkpoints.service.preview import preview_name, preview_push

    if isinstance(request, NameRequest):
        return preview_name(system, request, progress=progress)
    return preview_push(system, request, progress=progress)


def _report(metadata: Document, as_json: bool) -> None:
    from flexai.checkpoints.service.inspect import inspect_checkpoint
    from flexai.cli.looking import look

    checkpoint_id = metadata["id"]
    try:
        with look() as catalog:
            checkpoint = catalog.checkpoints.get(parse_reference(checkpoint_id))
            document = inspect_checkpoint(catalog, checkpoint_id) if as_json else None
    except (StorageError, NotFoundError) as error:
        if as_json:
            raise
        # The push is done, whatever has become of the catalog, or of the checkpoint, since.
        terminal.say(f"checkpoint {metadata['name']!r} is pushed ({checkpoint_id})")
        terminal.warn(f"it could not be looked at: {error.message}")
        return
    terminal.say(
        f"checkpoint {checkpoint.name!r} is {checkpoint.status}:"
        f" {terminal.count(checkpoint.file_count, 'file')}, {human_size(checkpoint.size)} ({checkpoint_id})"
    )
    if document is not None:
        terminal.write_document(document, as_json=True)
