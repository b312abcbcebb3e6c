"""``flexai checkpoint push``."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.names import parse_name, parse_reference
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_checkpoint, complete_file
from flexai.cli.dry_run import check_untracked, dry_run_option, show
from flexai.cli.parameters import bwlimit_option, progress_option, track_option, transfer_json_option
from flexai.cli.tracking import load_connection, run_tracked, tracking_api

if TYPE_CHECKING:
    from flexai.checkpoints.service.push import PushSource

_FROM_FILES = "flexai checkpoint push NAME --file SOURCE[=DESTINATION] …"
_FROM_PROVIDER = "flexai checkpoint push NAME --storage-provider CONNECTION --source-path BUCKET/PATH"
_FROM_CHECKPOINT = "flexai checkpoint push NAME --from-checkpoint NAME|UUID"
_FORMS = f"use one of: {_FROM_FILES}; {_FROM_PROVIDER}; {_FROM_CHECKPOINT}"


@command(
    "push",
    usage="NAME (-f SOURCE[=DESTINATION]… | --storage-provider CONNECTION --source-path BUCKET/PATH"
    " | --from-checkpoint NAME|UUID) [OPTIONS]",
    resumable=True,
)
@click.argument("name", metavar="NAME")
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
    help="The file or folder on the storage provider; a folder's content lands at the checkpoint's root.",
)
@click.option(
    "--from-checkpoint",
    metavar="NAME|UUID",
    default="",
    shell_complete=complete_checkpoint,
    help="A checkpoint that is here already, such as a captured one: it gets a name, and no byte moves.",
)
@click.option("--if-not-exists", is_flag=True, help="Succeed where the name is taken by the same content.")
@click.option("--follow-symlinks", is_flag=True, help="Push what symbolic links lead to instead of refusing them.")
@click.option("--rehash", is_flag=True, help="Read files again that look unchanged since they were last pushed.")
@bwlimit_option
@dry_run_option
@track_option
@progress_option
@transfer_json_option
def push(
    name: str,
    files: tuple[str, ...],
    storage_provider: str,
    source_path: str,
    from_checkpoint: str,
    if_not_exists: bool,
    follow_symlinks: bool,
    rehash: bool,
    dry_run: bool,
    track: bool | None,
    as_json: bool,
) -> None:
    """Push a new checkpoint.

    From files and folders of this machine, from a storage provider, or from a checkpoint that a training job
    wrote. Without a DESTINATION a file keeps its name, and a folder's content lands at the checkpoint's root.
    The command returns when the checkpoint is available; one that was interrupted goes on where it stopped
    when it is run again.

    \b
    flexai checkpoint push mistral-500-checkpoint --file output/ckpt.pt
    flexai checkpoint push mistral-500-checkpoint --file output/ckpt.pt=sd-xl-2500.ckpt --file config.json
    flexai checkpoint push llama-base --file ./Llama-2-7b-hf --if-not-exists
    flexai checkpoint push mistral-s3 --storage-provider aws-storage-conn-eu --source-path my-bucket/mistral/
    flexai checkpoint push best-run --from-checkpoint 90c8f215-e131-4f9c-936c-12fe1fe9a6f1
    """
    parse_name(name, what="checkpoint name")
    for_files = [flag for flag, given in (("--follow-symlinks", follow_symlinks), ("--rehash", rehash)) if given]
    _check_source(name, files, storage_provider, source_path, from_checkpoint, for_files)
    if dry_run:
        check_untracked(track)
        source = _push_source(files, storage_provider, source_path, from_checkpoint, follow_symlinks, rehash)
        _preview(name, source, if_not_exists, as_json)
        return
    api = tracking_api(track)
    if api is not None:
        done = run_tracked(
            api,
            "push_checkpoint",
            name,
            files=list(files),
            follow_symlinks=follow_symlinks,
            rehash=rehash,
            storage_provider=storage_provider,
            source_path=source_path,
            from_checkpoint=from_checkpoint,
            if_not_exists=if_not_exists,
        )
        checkpoint_id = str(done["metadata"]["id"])
    elif files and if_not_exists and not rehash and (found := _find_unchanged(name, files, follow_symlinks)):
        checkpoint_id = found
    else:
        source = _push_source(files, storage_provider, source_path, from_checkpoint, follow_symlinks, rehash)
        checkpoint_id = _push_directly(name, source, if_not_exists)
    _report(checkpoint_id, as_json)


def _check_source(
    name: str,
    files: Sequence[str],
    storage_provider: str,
    source_path: str,
    from_checkpoint: str,
    for_files: Sequence[str],
) -> None:
    """Raise UsageError for flags that make no sense together; ``for_files`` are those that only files have."""
    provider_flags = [
        flag for flag, value in (("--storage-provider", storage_provider), ("--source-path", source_path)) if value
    ]
    sources = [
        flags
        for flags in (["--file"] if files else [], provider_flags, ["--from-checkpoint"] if from_checkpoint else [])
        if flags
    ]
    if len(sources) > 1:
        raise UsageError(f"{sources[0][0]} and {sources[1][-1]} cannot be used together", hint=_FORMS)
    if not sources:
        raise UsageError("there is nothing to push: no source is given", hint=_FORMS)
    if provider_flags == ["--source-path"]:
        is_local = os.path.lexists(source_path)
        as_file = shlex.join(["flexai", "checkpoint", "push", name, "--file", source_path])
        raise UsageError(
            "--source-path needs --storage-provider: it is a path on a storage provider",
            hint=as_file if is_local else _FROM_PROVIDER,
        )
    if provider_flags == ["--storage-provider"]:
        raise UsageError("--storage-provider needs --source-path: what to push from it", hint=_FROM_PROVIDER)
    if for_files and not files:
        raise UsageError(f"{for_files[0]} and {sources[0][-1]} cannot be used together", hint=_FROM_FILES)
    if from_checkpoint:
        parse_reference(from_checkpoint)


def _push_source(
    files: tuple[str, ...],
    storage_provider: str,
    source_path: str,
    from_checkpoint: str,
    follow_symlinks: bool,
    rehash: bool,
) -> PushSource:
    from flexai.checkpoints.service.push import ExistingCheckpoint, LocalFiles, ProviderPath

    if files:
        return LocalFiles(files, follow_symlinks=follow_symlinks, rehash=rehash)
    if from_checkpoint:
        return ExistingCheckpoint(from_checkpoint)
    return ProviderPath(load_connection(storage_provider), source_path)


def _find_unchanged(name: str, files: Sequence[str], follow_symlinks: bool) -> str:
    """The id of the checkpoint that these files are known to be already; empty where they are not, or not known to."""
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.service.unchanged import find_unchanged

    with System.open(connect=load_connection) as system:
        found = find_unchanged(system, name, files, follow_symlinks=follow_symlinks)
    return found.id if found else ""


def _push_directly(name: str, source: PushSource, if_not_exists: bool) -> str:
    from flexai.checkpoints.service.push import push as push_checkpoint
    from flexai.checkpoints.service.system import System
    from flexai.cli.progress_display import shown_progress

    with System.open(connect=load_connection) as system, shown_progress() as progress:
        return str(push_checkpoint(system, name, source, if_not_exists=if_not_exists, progress=progress).id)


def _preview(name: str, source: PushSource, if_not_exists: bool, as_json: bool) -> None:
    from flexai.checkpoints.service.preview import preview_push
    from flexai.checkpoints.service.system import System

    with System.open(connect=load_connection, read_only=True) as system:
        preview = preview_push(system, name, source, if_not_exists=if_not_exists)
    show(preview, as_json=as_json)


def _report(checkpoint_id: str, as_json: bool) -> None:
    from flexai.checkpoints.catalog.catalog import Catalog
    from flexai.checkpoints.service.inspect import inspect_checkpoint

    with Catalog.look() as catalog:
        checkpoint = catalog.checkpoints.get(parse_reference(checkpoint_id))
        document = inspect_checkpoint(catalog, checkpoint_id) if as_json else None
    terminal.say(
        f"checkpoint {checkpoint.name!r} is {checkpoint.status}:"
        f" {terminal.count(checkpoint.file_count, 'file')}, {human_size(checkpoint.size)} ({checkpoint_id})"
    )
    if document is not None:
        terminal.write_document(document, as_json=True)
