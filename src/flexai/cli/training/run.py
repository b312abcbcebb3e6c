"""``flexai training run``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flexai.checkpoints.errors import JobFailedError, UsageError
from flexai.checkpoints.names import RESERVED_NAMES, is_variable, parse_name, parse_reference
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_checkpoint, complete_directory
from flexai.cli.parameters import track_option
from flexai.cli.tracking import load_connection, run_tracked, tracking_api

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flexai.cli.prefect_api import PrefectAPI


@command("run", usage="NAME [OPTIONS] -- COMMAND [ARGUMENT…]")
@click.argument("name", metavar="NAME")
@click.argument("words", metavar="COMMAND [ARGUMENT]...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "-C",
    "--checkpoint",
    metavar="NAME|UUID",
    default="",
    shell_complete=complete_checkpoint,
    help="The checkpoint to start from; its files are in FLEXAI_INPUT_CHECKPOINT_DIR."
    " 'latest' and 'best' mean those that earlier attempts of this job have captured.",
)
@click.option(
    "-E",
    "--env",
    "pairs",
    metavar="KEY=VALUE",
    multiple=True,
    help="A variable of the command's environment. Can be given several times.",
)
@click.option(
    "--output-dir",
    metavar="DIRECTORY",
    default="",
    shell_complete=complete_directory,
    help="Where the command writes its checkpoints; a folder in the home folder by default.",
)
@track_option
def run(
    name: str,
    words: tuple[str, ...],
    checkpoint: str,
    pairs: tuple[str, ...],
    output_dir: str,
    track: bool | None,
) -> None:
    """Run a training command and capture its checkpoints.

    The command writes its checkpoints into FLEXAI_OUTPUT_CHECKPOINT_DIR: each folder in it is one checkpoint,
    named after the folder, and files in the directory itself are one more. They are stored while the command
    runs, each as soon as it is whole. Exits with the command's exit code.

    \b
    flexai training run my-run -- python train.py --epochs 3
    flexai training run my-run-2 --checkpoint mistral-500 --env WANDB_MODE=offline -- python train.py
    flexai training run my-run --checkpoint latest -- python train.py --epochs 3
    flexai training checkpoints my-run
    """
    parse_name(name, what="training job name")
    if checkpoint and checkpoint.casefold() not in RESERVED_NAMES:
        parse_reference(checkpoint)
    env = _parse_env(pairs)
    api = tracking_api(track)
    if api is not None:
        status, exit_code, reason = _run_tracked(api, name, words, checkpoint, env, output_dir)
    else:
        status, exit_code, reason = _run_directly(name, words, checkpoint, env, output_dir)
    # What comes after the first reason has been said while the command ran.
    first_reason = reason.partition("; ")[0]
    terminal.say(f"training job {name!r} {status}" + (f": {first_reason}" if first_reason else ""))
    terminal.hint(f"flexai training checkpoints {name} lists what it wrote")
    # A job can fail although its command did not: when it was ended first, or a checkpoint could not be stored.
    raise click.exceptions.Exit(exit_code or int(status != "succeeded"))


def _run_directly(
    name: str, words: Sequence[str], checkpoint: str, env: Mapping[str, str], output_dir: str
) -> tuple[str, int | None, str]:
    from pathlib import Path

    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.service.training import run_training
    from flexai.cli.progress_display import Notes

    with System.open(connect=load_connection) as system:
        job = run_training(
            system,
            name,
            words,
            checkpoint=checkpoint,
            env=env,
            output_dir=Path(output_dir).expanduser() if output_dir else None,
            progress=Notes(),
        )
    return job.status.value, job.exit_code, job.reason


def _run_tracked(
    api: PrefectAPI, name: str, words: Sequence[str], checkpoint: str, env: Mapping[str, str], output_dir: str
) -> tuple[str, int | None, str]:
    from flexai.checkpoints.catalog.catalog import Catalog
    from flexai.checkpoints.catalog.jobs import parse_job_reference
    from flexai.checkpoints.training.runner import pass_through

    failure = None
    try:
        run_tracked(
            api,
            "run_training",
            name,
            list(words),
            checkpoint=checkpoint,
            env=env,
            output_dir=output_dir,
            only_notes=True,
            on_output=pass_through,
        )
    except JobFailedError as error:
        # For the task run that is a failure; here the command's own exit code says it.
        failure = error
    with Catalog.look() as catalog:
        job = catalog.jobs.get(parse_job_reference(name))
    if failure is not None and job.exit_code is None:
        raise failure
    return job.status, job.exit_code, job.reason


def _parse_env(pairs: Sequence[str]) -> dict[str, str]:
    """Read ``KEY=VALUE`` pairs. Errors never repeat a value: it may be a secret."""
    env: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise UsageError("--env needs KEY=VALUE", hint="flexai training run NAME --env KEY=VALUE -- COMMAND")
        if not is_variable(key):
            raise UsageError(
                f"--env: {key!r} is no name of a variable",
                hint="use letters, digits, '_', '-' and '.', and begin with no digit",
            )
        if key in env:
            raise UsageError(f"--env {key} is given twice", hint="give each variable once")
        env[key] = value
    return env
