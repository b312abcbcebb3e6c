"""``flexai training run``."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from flexai.checkpoints.documents import job_document, lost_versions
from flexai.checkpoints.errors import InterruptedByUserError, JobFailedError, UsageError
from flexai.checkpoints.names import is_variable
from flexai.checkpoints.service.training_requests import TrainingRequest
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_checkpoint, complete_directory
from flexai.cli.parameters import capture_exclude_option, node_options, read_duration, read_node, track_option
from flexai.cli.tracking import run_operation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flexai.checkpoints.documents import Document
    from flexai.checkpoints.progress import Progress
    from flexai.checkpoints.service.system import System

_PREEMPTED = "preempted "
"""Begins the reason of a job that was told that its machine goes away."""


@command("run", usage="NAME [OPTIONS] -- COMMAND [ARGUMENT…]")
@click.argument("name", metavar="NAME")
@click.argument("command", metavar="COMMAND [ARGUMENT]...", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option(
    "-C",
    "--checkpoint",
    metavar="NAME|UUID",
    default="",
    shell_complete=complete_checkpoint,
    help="The checkpoint to start from: its files are in FLEXAI_INPUT_CHECKPOINT_DIR, and FLEXAI_INPUT_CHECKPOINT is"
    " the path of what a framework loads of them. 'latest', 'best' and 'best:NAME[:min|max]' mean those that earlier"
    " attempts of this job have captured and that are not known to be unfit.",
)
@click.option(
    "-E",
    "--env",
    metavar="KEY[=VALUE]",
    multiple=True,
    help="A variable of the command's environment. Without VALUE it is taken from flexai's environment: right for a"
    " secret, as every user of the machine sees what is typed here (ps). Can be given several times.",
)
@click.option(
    "--output-dir",
    metavar="DIRECTORY",
    default="",
    shell_complete=complete_directory,
    help="Where the command writes its checkpoints: a directory that is empty, or that of the job's last attempt."
    " A folder in the home folder by default.",
)
@click.option(
    "--grace",
    metavar="DURATION",
    default="",
    help="How long the command may take to save and end after TERM, INT or a stop: 90s, 2m. After TERM also how long"
    " what it saves may take to be stored. The setting grace by default, or the end of Slurm's job where that is near.",
)
@click.option(
    "--preempt-signal",
    metavar="NAME",
    default="",
    help="A signal that says, as TERM does, that this machine goes away: USR1. The command gets it as it is, and the"
    " grace begins.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Exit with 1 where the command succeeded, but a version of a checkpoint was lost or could not be stored.",
)
@click.option(
    "--preempted-exit-code",
    metavar="CODE",
    type=click.IntRange(1, 255),
    help="Exit with CODE where TERM stopped the job, whatever the command's own exit code: a scheduler takes a 0 for"
    " the end of the training, and this for a run to start again.",
)
@capture_exclude_option
@node_options
@track_option
def run(
    track: bool | None,
    env: tuple[str, ...],
    grace: str,
    preempted_exit_code: int | None,
    node_rank: int | None,
    nodes: int | None,
    **options: Any,
) -> None:
    """Run a training command and capture its checkpoints.

    The command writes its checkpoints below FLEXAI_OUTPUT_CHECKPOINT_DIR. What a framework can load is one
    checkpoint, named after its path there: a folder such as checkpoint-500, or a file such as
    epoch=3-step=500.ckpt. Each is stored while the command runs, as soon as it is whole. Exits with the
    command's exit code.

    On several machines each runs this command with its number: they join one job, and each stores what its own
    disk has of a checkpoint, which becomes available when all parts are there.

    \b
    flexai training run my-run -- python train.py --epochs 3
    flexai training run my-run-2 --checkpoint mistral-500 --env WANDB_MODE=offline -- python train.py
    flexai training run my-run-3 --env HF_TOKEN -- python train.py
    flexai training run my-run --checkpoint latest -- python train.py --epochs 3
    flexai training run my-run --exclude 'samples/' --exclude '*.mp4' -- python train.py
    srun flexai training run my-run -- torchrun --nnodes 4 train.py
    flexai training checkpoints my-run
    """
    request = TrainingRequest(
        env=_parse_env(env),
        grace=read_duration("--grace", grace) if grace else None,
        **read_node(node_rank, nodes),
        **options,
    )
    from flexai.checkpoints.training.runner import pass_through

    run_it = partial(_run, request)
    try:
        document = run_operation(track, "run_training", request, run_it, only_notes=True, on_output=pass_through)
    except InterruptedByUserError as error:
        if preempted_exit_code is None or not error.message.startswith(_PREEMPTED):
            raise
        terminal.say(f"training job {request.name!r} stopped: {error.message}")
        raise click.exceptions.Exit(preempted_exit_code) from None
    except JobFailedError as error:
        # For the task run that is a failure; here the command's own exit code says it.
        if error.job is None:
            raise
        document = job_document(error.job)
    except KeyboardInterrupt:
        # So a task run tells Prefect of a job that was stopped by Ctrl-C.
        document = _recorded(request.name)
        if document["runtime"]["exitCode"] is None:
            raise
    runtime, lost = document["runtime"], document["status"]["lost"]
    status, exit_code = runtime["status"], runtime["exitCode"]
    # What comes after the first reason has been said while the command ran.
    said = [runtime["reason"].partition("; ")[0]]
    if lost and "lost" not in said[0]:
        said.append(lost_versions(lost))
    terminal.say(": ".join(filter(None, [f"training job {request.name!r} {status}", "; ".join(filter(None, said))])))
    has_failed = int(status != "succeeded")
    if has_failed:
        terminal.hint(f"flexai training logs {request.name} shows what it printed")
    if runtime["checkpointsCount"] or not has_failed:
        terminal.hint(f"flexai training checkpoints {request.name} lists what it wrote")
    # The command's own, also after a stop that it has answered by saving, and where a checkpoint could not be stored.
    code = has_failed if exit_code is None else exit_code
    if preempted_exit_code is not None and status == "stopped" and said[0].startswith(_PREEMPTED):
        code = preempted_exit_code
    raise click.exceptions.Exit(code or has_failed if request.strict and status != "stopped" else code)


def _recorded(name: str) -> Document:
    from flexai.checkpoints.service.inspect import inspect_training
    from flexai.cli.looking import look

    with look() as catalog:
        return inspect_training(catalog, name)


def _run(request: TrainingRequest, system: System, progress: Progress) -> Document:
    from flexai.checkpoints.service.training import run_training

    return job_document(run_training(system, request, progress=progress))


def _parse_env(pairs: Sequence[str]) -> dict[str, str]:
    """Read ``KEY=VALUE`` pairs; what has no value is taken from the environment.

    Errors never repeat a value: it may be a secret.
    """
    env: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator and pair not in os.environ:
            # Not named either: it may be a value whose key was forgotten.
            raise UsageError(
                "--env without '=' takes a variable from the environment, and there is none of that name",
                hint="export it, or flexai training run NAME --env KEY=VALUE -- COMMAND",
            )
        if not is_variable(key):
            raise UsageError(
                f"--env: {key!r} is no name of a variable",
                hint="use letters, digits, '_', '-' and '.', and begin with no digit",
            )
        if key in env:
            raise UsageError(f"--env {key} is given twice", hint="give each variable once")
        env[key] = value if separator else os.environ[key]
    return env
