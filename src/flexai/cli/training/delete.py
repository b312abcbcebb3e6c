"""``flexai training delete``."""

from __future__ import annotations

import click

from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import job_argument, track_option
from flexai.cli.tracking import load_connection, run_tracked, tracking_api


@command("delete", usage="NAME|UUID [--keep-checkpoints] [OPTIONS]")
@job_argument
@click.option("--keep-checkpoints", is_flag=True, help="Keep the checkpoints that it wrote, under their UUIDs.")
@track_option
def delete(reference: str, keep_checkpoints: bool, track: bool | None) -> None:
    """Delete a training job that has ended.

    With its log and the checkpoints that it wrote. Its name is free at once; the checkpoints can be brought
    back by their UUIDs until gc has taken their bytes.

    \b
    flexai checkpoint push my-best-run --from-checkpoint 90c8f215-e131-4f9c-936c-12fe1fe9a6f1
    flexai training delete my-run
    flexai training delete my-run --keep-checkpoints
    """
    api = tracking_api(track)
    if api is not None:
        name = run_tracked(api, "delete_training_job", reference, keep_checkpoints=keep_checkpoints, only_notes=True)[
            "name"
        ]
    else:
        from flexai.checkpoints.service.system import System
        from flexai.checkpoints.service.training import delete_job
        from flexai.cli.progress_display import Notes

        with System.open(connect=load_connection) as system:
            name = delete_job(system, reference, keep_checkpoints=keep_checkpoints, progress=Notes()).name
    terminal.say(f"deleted training job {name!r}" + (", but not its checkpoints" if keep_checkpoints else ""))
