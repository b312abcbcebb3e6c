"""``flexai checkpoint diff``."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_checkpoint
from flexai.cli.parameters import json_option

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flexai.checkpoints.service.diff import Change, ComparedTensor, FileChange, TensorChange


@command("diff", usage="NAME|UUID NAME|UUID [--tensors] [--values] [--json]")
@click.argument("before", metavar="NAME|UUID", shell_complete=complete_checkpoint)
@click.argument("after", metavar="NAME|UUID", shell_complete=complete_checkpoint)
@click.option(
    "--tensors", is_flag=True, help="Read the files' headers, and compare the tensors' names, types and shapes as well."
)
@click.option(
    "--values",
    is_flag=True,
    help="Compare the bytes of tensors too that have one name, type and shape; implies --tensors.",
)
@json_option
def diff(before: str, after: str, tensors: bool, values: bool, as_json: bool) -> None:
    """Compare two checkpoints.

    Lists the files that were added, removed or changed from the first checkpoint to the second; what is the
    same is counted. Files are compared by their digests: no content is read, but where one has none yet.

    With --tensors the headers of the files are read by range, as inspect --tensors reads them. Tensors are
    matched by their names, also where one moved to another file. With --values their bytes are compared by
    range; those of files that are the same are not read. Some cannot be compared where they lie: packed ones,
    and those of a distributed checkpoint.

    With --json it is files and tensors, each with change and with what it is before and after; the same ones
    are among them. The exit code is 0 whether they differ or not.

    \b
    flexai checkpoint diff my-run/checkpoint-500 my-run/checkpoint-1000
    flexai checkpoint diff mistral-500-checkpoint mistral-600-checkpoint --tensors
    flexai checkpoint diff mistral-500-checkpoint mistral-600-checkpoint --values --json
    """
    from flexai.checkpoints.service.diff import DiffRequest
    from flexai.checkpoints.service.diff import diff as compare
    from flexai.checkpoints.service.system import System
    from flexai.cli.looking import tell_places
    from flexai.cli.tracking import load_connection

    request = DiffRequest(before, after, tensors=tensors, values=values)
    tell_places()
    found = compare(System.open(connect=load_connection, read_only=True), request)
    if as_json:
        terminal.write_document(found.to_dict(), as_json=True)
        return
    _show_files([one for one in found.files if one.change != "same"])
    _show_tensors([one for one in found.tensors or () if one.change != "same"])
    terminal.say(f"files: {_counted(one.change for one in found.files)}")
    if found.tensors is not None:
        terminal.say(f"tensors: {_counted(one.change for one in found.tensors)}")
    if values and (left := sum(map(_is_open, found.tensors or ()))):
        terminal.say(f"the values of {terminal.count(left, 'tensor')} could not be compared where they lie")
    untold = [f"the tensors of {one.path!r} cannot be told ({one.checkpoint}): {one.reason}" for one in found.untold]
    terminal.say_each(untold, terminal.warn)


def _is_open(tensor: TensorChange) -> bool:
    return tensor.change == "same" and tensor.are_values_equal is None


def _counted(changes: Iterable[Change]) -> str:
    numbers = Counter(map(str, changes))
    words = {"added": "added", "removed": "removed", "changed": "changed", "same": "the same"}
    return ", ".join(f"{numbers[change]} {word}" for change, word in words.items() if numbers[change]) or "none"


def _show_files(rows: Sequence[FileChange]) -> None:
    from flexai.checkpoints.documents import short_size
    from flexai.cli.tables import Column, table

    def sizes(row: FileChange) -> str:
        size = _arrow(row.before and short_size(row.before.size), row.after and short_size(row.after.size))
        if row.before is None or row.after is None or row.before.is_executable == row.after.is_executable:
            return size
        return f"{size}, {'executable now' if row.after.is_executable else 'not executable any more'}"

    if rows:
        columns: tuple[Column[FileChange], ...] = (
            Column("CHANGE", lambda row: row.change),
            Column("FILE", lambda row: row.path, is_name=True),
            Column("SIZE", sizes, rank=2),
        )
        terminal.write(table(rows, *columns))


def _show_tensors(rows: Sequence[TensorChange]) -> None:
    from flexai.cli.tables import Column, table

    def kinds(row: TensorChange) -> str:
        what = _arrow(row.before and _kind(row.before), row.after and _kind(row.after))
        return f"{what}, other values" if row.are_values_equal is False else what

    if rows:
        columns: tuple[Column[TensorChange], ...] = (
            Column("CHANGE", lambda row: row.change),
            Column("TENSOR", lambda row: row.name, is_name=True),
            Column("TYPE AND SHAPE", kinds, rank=1, is_text=True),
            Column("FILE", lambda row: _arrow(row.before and row.before.path, row.after and row.after.path), rank=3),
        )
        terminal.write(table(rows, *columns))


def _kind(tensor: ComparedTensor) -> str:
    return f"{tensor.dtype} {'x'.join(map(str, tensor.shape)) or 'scalar'}"


def _arrow(before: str | None, after: str | None) -> str:
    """What it was and what it is, once where that is the same."""
    told = [one for one in (before, after) if one]
    return " -> ".join(dict.fromkeys(told))
