"""``flexai checkpoint inspect``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import checkpoint_argument, json_option

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flexai.checkpoints.models import ListedFile
    from flexai.checkpoints.training.formats.tensors import TensorInfo


@command("inspect", usage="NAME|UUID [--executable] [--tensors] [--json]")
@checkpoint_argument
@click.option(
    "--executable",
    is_flag=True,
    help="Look into every file, without loading it, and tell what it would run when it is loaded.",
)
@click.option(
    "--tensors", is_flag=True, help="Read the files' headers, and list the tensors: names, types, shapes and sizes."
)
@json_option
def inspect(reference: str, executable: bool, tensors: bool, as_json: bool) -> None:
    """Show everything about a checkpoint.

    When it was made and by whom, where its files came from, its status, its files, and where it was exported;
    of a captured checkpoint also its step, its losses, its model, and whether it can be resumed or served. As
    YAML, unless --json is given.

    With --executable each file is read by range from the store: pickles are followed, never loaded. A file has
    executable, what it imports or calls that is not known to be harmless, and notFollowed, what could not be
    looked into and so may run anything. Without --json, these files are named once more below.

    With --tensors the headers of the files are read by range from the store, also of a pickle, which is never
    loaded. The tensors are a table, or with --json tensors of the status: each has path, name, dtype, shape and
    sizeBytes, which is null where the type does not tell it. tensorsNotRead has path and reason.

    \b
    flexai checkpoint inspect mistral-500-checkpoint
    flexai checkpoint inspect mistral-500-checkpoint --tensors
    flexai checkpoint inspect my-run/checkpoint-500
    flexai checkpoint inspect mistral-500-checkpoint --executable
    flexai checkpoint inspect 90c8f215-e131-4f9c-936c-12fe1fe9a6f1 --json
    """
    from flexai.checkpoints.documents import checkpoint_document
    from flexai.checkpoints.service.inspect import look_up, with_code
    from flexai.cli.looking import look

    with look() as catalog:
        checkpoint, files, exports = look_up(catalog, reference)
    if executable:
        from flexai.cli.tracking import load_connection

        files = with_code(checkpoint, files, connect=load_connection)
    document = checkpoint_document(checkpoint, files, exports)
    if tensors:
        from flexai.checkpoints.service.inspect import tensors_of
        from flexai.cli.tracking import load_connection

        found = tensors_of(checkpoint, connect=load_connection)
        if not as_json:
            _show_tensors([(path, one) for path, told in found.told.items() for one in told], found.untold)
            return
        document["status"] |= found.to_dict()
    terminal.write_document(document, as_json=as_json)
    if executable and not as_json:
        _say_what_runs(files)


def _show_tensors(rows: Sequence[tuple[str, TensorInfo]], untold: Mapping[str, str]) -> None:
    from flexai.checkpoints.documents import human_size, short_size
    from flexai.cli.tables import Column, table

    def size_of(row: tuple[str, TensorInfo]) -> str:
        return "" if row[1].size is None else short_size(row[1].size)

    if rows:
        terminal.write(
            table(
                rows,
                Column("TENSOR", lambda row: row[1].name, is_name=True),
                Column("TYPE", lambda row: row[1].dtype, rank=1),
                Column("SHAPE", lambda row: "x".join(map(str, row[1].shape)) or "scalar", rank=1),
                Column("SIZE", size_of, rank=2, right=True),
                Column("FILE", lambda row: row[0], rank=3, is_name=True),
            )
        )
    size = human_size(sum(one.size or 0 for _, one in rows))
    terminal.say(f"{terminal.count(len(rows), 'tensor')}, {size}")
    terminal.say_each([f"the tensors of {path!r} cannot be told: {why}" for path, why in untold.items()], terminal.warn)


def _say_what_runs(files: Sequence[ListedFile]) -> None:
    from flexai.cli.tables import Column, table

    def what_runs(file: ListedFile) -> str:
        return ", ".join([*(file.executable or ()), *(f"not followed: {what}" for what in file.not_followed)])

    rows = [file for file in files if file.executable or file.not_followed]
    terminal.say("")
    if rows:
        columns: tuple[Column[ListedFile], ...] = (
            Column("FILE", lambda file: file.path, is_name=True),
            Column("RUNS WHEN IT IS LOADED", what_runs, is_text=True),
        )
        for line in table(rows, *columns).splitlines():
            terminal.say(line)
    else:
        terminal.say(f"none of {terminal.count(len(files), 'file')} runs code when it is loaded")
