"""``flexai training delete``."""

from __future__ import annotations

from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import job_argument


@command("delete", usage="NAME|UUID")
@job_argument
def delete(reference: str) -> None:
    """Delete a training job that has ended.

    Its name is free at once. The checkpoints that it wrote stay, under their UUIDs.

    \b
    flexai training delete my-run
    """
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.service.training import delete_job

    with System.open() as system:
        delete_job(system, reference)
    terminal.say(f"deleted training job {reference}")
