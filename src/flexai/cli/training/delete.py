"""``flexai training delete``."""

from __future__ import annotations

import click

from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import job_argument
from flexai.cli.tracking import load_connection


@command("delete", usage="NAME|UUID [--keep-checkpoints]")
@job_argument
@click.option("--keep-checkpoints", is_flag=True, help="Keep the checkpoints that it wrote, under their UUIDs.")
def delete(reference: str, keep_checkpoints: bool) -> None:
    """Delete a training job that has ended.

    With its log and the checkpoints that it wrote. Its name is free at once; the checkpoints can be brought
    back by their UUIDs until gc has taken their bytes.

    \b
    flexai checkpoint push my-best-run --from-checkpoint 90c8f215-e131-4f9c-936c-12fe1fe9a6f1
    flexai training delete my-run
    flexai training delete my-run --keep-checkpoints
    """
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.service.training import delete_job
    from flexai.cli.progress import Notes

    with System.open(connect=load_connection) as system:
        job = delete_job(system, reference, keep_checkpoints=keep_checkpoints, progress=Notes())
    terminal.say(f"deleted training job {job.name!r}" + (", but not its checkpoints" if keep_checkpoints else ""))
