"""``flexai training stop``."""

from __future__ import annotations

from flexai.checkpoints.documents import job_document
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import job_argument, json_option
from flexai.cli.tracking import load_connection


@command("stop", usage="NAME|UUID [--json]")
@job_argument
@json_option
def stop(reference: str, as_json: bool) -> None:
    """Stop a running training job.

    The command gets TERM, and may save within the grace of its run; what it has written by then is captured.
    With --json it is what training inspect prints.

    \b
    flexai training stop my-run
    flexai training stop my-run --json | jq -r .runtime.status
    """
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.service.training import stop_job

    with System.open(connect=load_connection) as system:
        job = stop_job(system, reference)
    terminal.say(f"training job {job.name!r} is {job.status}")
    if as_json:
        terminal.write_document(job_document(job), as_json=True)
