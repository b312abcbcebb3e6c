"""``flexai training logs``."""

from __future__ import annotations

import click

from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import job_argument
from flexai.cli.tracking import load_connection


@command("logs", usage="NAME|UUID [--follow]")
@job_argument
@click.option("-f", "--follow", is_flag=True, help="Go on showing what it prints until the job ends.")
def logs(reference: str, follow: bool) -> None:
    """Show what a training job printed.

    \b
    flexai training logs my-run
    flexai training logs my-run --follow
    """
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.service.training import job_log

    # Following sees what changes; else nothing has to be opened for more than a look.
    with System.open(connect=load_connection, read_only=not follow) as system:
        for text in job_log(system, reference, follow=follow):
            terminal.write(text, newline=False)
