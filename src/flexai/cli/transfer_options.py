"""Arguments and options of what moves checkpoints, and takes a while over it."""

from __future__ import annotations

import click

from flexai.checkpoints.roles import ROLES
from flexai.cli import terminal
from flexai.cli.parameters import read_size


def _note_json(_ctx: click.Context, _parameter: click.Parameter, value: bool) -> bool:
    terminal.verbosity.for_program |= value
    return value


def _note_progress(_ctx: click.Context, _parameter: click.Parameter, value: str) -> None:
    terminal.verbosity.progress = value


transfer_json_option = click.option(
    "-j",
    "--json",
    "as_json",
    is_flag=True,
    callback=_note_json,
    help="Print the result as JSON; without a terminal, progress as well, as events on standard error.",
)
progress_option = click.option(
    "--progress",
    type=click.Choice([terminal.AUTO, "bar", "lines", "json", "none"]),
    default=terminal.AUTO,
    show_default=True,
    expose_value=False,
    callback=_note_progress,
    help="Show progress as a bar, as lines (one in 30 s), or as JSON events (one a second), on standard error.",
)
delete_extra_option = click.option(
    "--delete-extra",
    is_flag=True,
    help="Delete what else lies there, where a checkpoint was brought to before; asks, with a list of it.",
)
force_delete_option = click.option("--force", is_flag=True, help="With --delete-extra: delete it without a question.")
include_option = click.option(
    "--include",
    metavar="PATTERN",
    multiple=True,
    help="Take only files and folders with such a path in the checkpoint, such as '*.json' or 'unet/**'; a pattern is"
    " written as in a .gitignore. Can be given several times.",
)
exclude_option = click.option(
    "--exclude",
    metavar="PATTERN",
    multiple=True,
    help="Leave out what has such a path in the checkpoint, such as 'optimizer.pt', '*.tmp' or 'logs/*'; a folder with"
    " all that is in it. Can be given several times.",
)
only_option = click.option(
    "--only",
    type=click.Choice(ROLES),
    multiple=True,
    help="Take only files for this, as their names tell. Can be given several times.",
)


def _limit_bandwidth(ctx: click.Context, _parameter: click.Parameter, value: str) -> None:
    if not value or ctx.resilient_parsing:
        return
    from flexai.checkpoints.settings import overriding

    # For the operation alone, which may run as a task run of this process.
    ctx.with_resource(overriding(bandwidth_limit=read_size("--bwlimit", value)))


bwlimit_option = click.option(
    "--bwlimit",
    metavar="SIZE",
    default="",
    expose_value=False,
    callback=_limit_bandwidth,
    help="Move at most so many bytes a second (100MiB).",
)
