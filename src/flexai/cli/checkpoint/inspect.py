"""``flexai checkpoint inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import checkpoint_argument, json_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexai.checkpoints.models import ListedFile


@command("inspect", usage="NAME|UUID [--executable] [--json]")
@checkpoint_argument
@click.option(
    "--executable",
    is_flag=True,
    help="Look into every file, without loading it, and tell what it would run when it is loaded.",
)
@json_option
def inspect(reference: str, executable: bool, as_json: bool) -> None:
    """Show everything about a checkpoint.

    When it was made and by whom, where its files came from, its status, its files, and where it was exported;
    of a captured checkpoint also its step, its losses, its model, and whether it can be resumed or served. As
    YAML, unless --json is given.

    With --executable each file is read by range from the store: pickles are followed, never loaded. A file has
    executable, what it imports or calls that is not known to be harmless, and notFollowed, what could not be
    looked into and so may run anything. Without --json, these files are named once more below.

    \b
    flexai checkpoint inspect mistral-500-checkpoint
    flexai checkpoint inspect my-run/checkpoint-500
    flexai checkpoint inspect mistral-500-checkpoint --executable
    flexai checkpoint inspect 90c8f215-e131-4f9c-936c-12fe1fe9a6f1 --json
    """
    from flexai.checkpoints.catalog.catalog import Catalog
    from flexai.checkpoints.documents import checkpoint_document
    from flexai.checkpoints.service.inspect import look_up, with_code

    with Catalog.look() as catalog:
        checkpoint, files, exports = look_up(catalog, reference)
    if executable:
        from flexai.cli.tracking import load_connection

        files = with_code(checkpoint, files, connect=load_connection)
    terminal.write_document(checkpoint_document(checkpoint, files, exports), as_json=as_json)
    if executable and not as_json:
        _say_what_runs(files)


def _say_what_runs(files: Sequence[ListedFile]) -> None:
    from flexai.cli.tables import fitted_table

    rows = [
        (file.path, ", ".join([*(file.executable or ()), *(f"not followed: {what}" for what in file.not_followed)]))
        for file in files
        if file.executable or file.not_followed
    ]
    terminal.say("")
    if rows:
        for line in fitted_table(("FILE", "RUNS WHEN IT IS LOADED"), rows, wide=(0, 1)).splitlines():
            terminal.say(line)
    else:
        terminal.say(f"none of {terminal.count(len(files), 'file')} runs code when it is loaded")
