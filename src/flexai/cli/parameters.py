"""Arguments and options that several commands take."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from flexai.checkpoints.errors import ExtraFilesError, NotYoursError, UsageError
from flexai.cli import terminal
from flexai.cli.completion import complete_checkpoint, complete_job

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

checkpoint_argument = click.argument("reference", metavar="NAME|UUID", shell_complete=complete_checkpoint)
job_argument = click.argument("reference", metavar="NAME|UUID", shell_complete=complete_job)
json_option = click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")


capture_exclude_option = click.option(
    "--exclude",
    metavar="PATTERN",
    multiple=True,
    help="Do not capture what has such a path below the output directory, such as 'samples/', '*.mp4' or"
    " 'optimizer.pt'; neither as a checkpoint's file nor beside the checkpoints. The directory's .flexaiignore has its"
    " own patterns, and .git, __pycache__ and the lock files of the Hub's cache are left out anyway. Can be given"
    " several times.",
)
force_option = click.option("--force", is_flag=True, help="Change also what another user made, without a question.")
track_option = click.option(
    "--track/--no-track",
    default=None,
    help="Run as a Prefect task run, or without Prefect. By default as one where a Prefect API is configured.",
)


def insisting(run: Callable[[bool], T], *, force: bool, question: str) -> T:
    """Run what asks to be insisted on, and again with force once the user has answered with yes.

    It changes what another user made, or deletes what lies beside a checkpoint, of which there is a list first. Raises
    what it raises: NotYoursError or ExtraFilesError where the answer is no, or no user sits at a terminal.
    """
    try:
        return run(force)
    except (NotYoursError, ExtraFilesError) as error:
        if isinstance(error, ExtraFilesError):
            for path in error.paths:
                terminal.say(f"  {path}")
        if not terminal.agrees(f"{error.message}: {question}"):
            raise
        return run(True)


def read_size(option: str, text: str) -> int:
    """Read an option's ``100MiB``, ``2.5GB`` or plain bytes; UsageError for anything else, and for nothing."""
    from flexai.checkpoints.settings import parse_size

    size = parse_size(text)
    if not isinstance(size, int) or size <= 0:
        raise UsageError(f"{option} {text!r} is no number of bytes", hint="write 100MiB, 2.5GB or plain bytes")
    return size


def node_options(function: F) -> F:
    """Give a command the options that say which of several machines this is; see ``read_node``."""
    function = click.option(
        "--nodes",
        metavar="N",
        type=int,
        help="How many machines run the command together. Taken from what started it there (Slurm, torchrun, SkyPilot,"
        " NODE_RANK), and 1 without.",
    )(function)
    return click.option(
        "--node-rank",
        metavar="R",
        type=int,
        help="Which of several machines this is, from 0. Taken from what started it there, as --nodes is.",
    )(function)


def read_node(rank: int | None, total: int | None) -> dict[str, Any]:
    """Which of several machines this is, as a request has it: as it was said, and else as the environment tells.

    Raises UsageError where only one of the two numbers is known.
    """
    from flexai.checkpoints.training.launchers import this_node

    node = this_node(rank, total, os.environ)
    return {} if node is None else {"node_rank": node.rank, "nodes": node.total}


def read_duration(option: str, text: str) -> timedelta:
    """Read an option's ``90s``, ``15m``, ``24h``, ``7d`` or ``2w``; UsageError for anything else."""
    from flexai.checkpoints.settings import parse_duration

    duration = parse_duration(text)
    if not isinstance(duration, timedelta):
        raise UsageError(f"{option} {text!r} is no duration", hint="write 90s, 15m, 24h, 7d or 2w")
    return duration


def read_time(option: str, text: str, *, hint: str = "") -> datetime:
    """Read an option's ``2026-01-31`` or ``2026-01-31T12:00``, in UTC unless it says more; UsageError for the rest."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        written = "write 2026-01-31, 2026-01-31T12:00 or 2026-01-31T12:00+01:00"
        raise UsageError(f"{option} {text!r} is no time", hint=hint or written) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def read_since(_ctx: click.Context, option: click.Parameter, text: str) -> datetime | None:
    """An option's time: as ``read_time`` reads it, or so long ago; None where nothing is said."""
    if not text:
        return None
    from flexai.checkpoints.models import now
    from flexai.checkpoints.settings import parse_duration

    # A plain number would be seconds: who writes 2026 means the year.
    if not text.isdecimal() and isinstance(ago := parse_duration(text), timedelta):
        return now() - ago
    return read_time(option.opts[0], text, hint="write 2026-01-31, 2026-01-31T12:00, or 90m, 24h, 7d for the last ones")
