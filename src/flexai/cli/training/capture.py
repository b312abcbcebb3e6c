"""``flexai training capture``."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from flexai.checkpoints.service.training_requests import CaptureJobRequest
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_directory
from flexai.cli.parameters import (
    capture_exclude_option,
    job_argument,
    json_option,
    node_options,
    read_node,
    track_option,
)
from flexai.cli.tracking import run_operation

if TYPE_CHECKING:
    from flexai.checkpoints.documents import Document
    from flexai.checkpoints.models import Checkpoint
    from flexai.checkpoints.progress import Progress
    from flexai.checkpoints.service.system import System


@command("capture", usage="NAME|UUID [--watch DIRECTORY] [OPTIONS]", resumable=True)
@job_argument
@click.option(
    "--watch",
    metavar="DIRECTORY",
    default="",
    shell_complete=complete_directory,
    help="Capture a directory that another program writes to, until TERM or INT (Ctrl-C), as the job NAME.",
)
@click.option("--trainer", is_flag=True, hidden=True)  # given by `flexai.training.Run`, which starts this command
@capture_exclude_option
@node_options
@track_option
@json_option
def capture(
    track: bool | None,
    *,
    as_json: bool,
    trainer: bool,
    node_rank: int | None,
    nodes: int | None,
    **options: Any,
) -> None:
    """Store what a training job's attempts have left on this machine, or capture a directory.

    A checkpoint is left where it could not be stored: the disk was full, the store or the catalog was away until
    after the end of the training, or flexai itself was killed. The job's next run stores it as well. Exits
    with 1 while something is left; where nothing is, nothing happens.

    With --watch it captures what another program writes, such as a notebook or the container beside this one,
    as the job of that name, which is made where there is none. A later call goes on where this one ended.

    \b
    flexai training capture my-run
    flexai training capture my-run --json
    flexai training capture my-notebook --watch ./checkpoints
    """
    node = read_node(node_rank, nodes) if options["watch"] else {}
    request = CaptureJobRequest(**node, **options)
    if trainer:
        # What the training itself needs goes first. Where it wants every core, this has still a tenth of one (Linux
        # gives priority 10 a tenth of what 0 gets): at 19 it would store next to nothing until a machine is gone.
        os.nice(10)
        run_operation(False, "capture_training_job", request, partial(_follow, request), only_notes=True)
        return
    if request.watch:
        done = run_operation(track, "capture_training_job", request, partial(_watch, request), only_notes=True)
        terminal.say(f"training job {request.reference!r} is no longer watched")
        terminal.hint(f"flexai training checkpoints {request.reference} lists what was captured")
        if as_json:
            terminal.write_document(done, as_json=True)
        return
    done = run_operation(track, "capture_training_job", request, partial(_capture, request), only_notes=True)
    stored = "1 checkpoint" if done["stored"] == 1 else f"{done['stored']} checkpoints"
    terminal.say(f"stored {stored} of training job {done['name']!r}")
    if as_json:
        terminal.write_document(done, as_json=True)
    terminal.say_each(done["left"], terminal.warn)
    if done["left"]:
        terminal.hint("the same command tries again")
        raise click.exceptions.Exit(1)
    terminal.say("nothing is left of it on this machine")


def _watch(request: CaptureJobRequest, system: System, progress: Progress) -> Document:
    from flexai.checkpoints.service.training import Captured, captured_document, watch_directory

    stored = 0

    def tell(_: Checkpoint) -> None:
        nonlocal stored
        stored += 1

    job = watch_directory(system, request, on_captured=tell, progress=progress)
    return captured_document(Captured(job, stored, ()))


def _follow(request: CaptureJobRequest, system: System, progress: Progress) -> Document:
    from flexai.checkpoints.documents import job_document
    from flexai.checkpoints.service.training import watch_directory
    from flexai.checkpoints.training.reporting_trainer import ReportingTrainer

    grace = system.settings.grace.total_seconds()
    trainer = ReportingTrainer(sys.stdin.fileno(), sys.stdout.fileno(), grace=grace)
    return job_document(watch_directory(system, request, writer=trainer, progress=progress))


def _capture(request: CaptureJobRequest, system: System, progress: Progress) -> Document:
    from flexai.checkpoints.service.training import capture_left, captured_document

    return captured_document(capture_left(system, request, progress=progress))
