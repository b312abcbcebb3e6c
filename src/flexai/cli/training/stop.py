"""``flexai training stop``."""

from __future__ import annotations

from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import job_argument
from flexai.cli.tracking import load_connection


@command("stop", usage="NAME|UUID")
@job_argument
def stop(reference: str) -> None:
    """Stop a running training job.

    The command gets TERM, and may save within the grace of its run; what it has written by then is captured.

    \b
    flexai training stop my-run
    """
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.service.training import stop_job

    with System.open(connect=load_connection) as system:
        job = stop_job(system, reference)
    terminal.say(f"training job {job.name!r} is {job.status}")
