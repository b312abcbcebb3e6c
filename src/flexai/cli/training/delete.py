"""``flexai training delete``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from flexai.checkpoints.documents import deleted_job_document
from flexai.checkpoints.service.training_requests import DeleteJobRequest
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import force_option, insisting, job_argument, json_option, track_option
from flexai.cli.tracking import run_operation

if TYPE_CHECKING:
    from flexai.checkpoints.documents import Document
    from flexai.checkpoints.models import Checkpoint
    from flexai.checkpoints.progress import Progress
    from flexai.checkpoints.service.system import System


@command("delete", usage="NAME|UUID [--keep-checkpoints] [--discard] [--force] [OPTIONS]")
@job_argument
@click.option("--keep-checkpoints", is_flag=True, help="Keep the checkpoints that it wrote, under their UUIDs.")
@click.option(
    "--discard",
    is_flag=True,
    help="Do not store first what is whole and could not be stored so far: delete it as well.",
)
@force_option
@track_option
@json_option
def delete(track: bool | None, as_json: bool, **options: Any) -> None:
    """Delete a training job that has ended.

    With its log and the checkpoints that it wrote. Its name is free at once; the checkpoints can be brought
    back by their UUIDs until gc has taken their bytes. What could not be stored so far is stored first. What another
    user made is deleted once you have said yes, or with --force.

    \b
    flexai checkpoint push my-best-run --from-checkpoint 90c8f215-e131-4f9c-936c-12fe1fe9a6f1
    flexai training delete my-run
    flexai training delete my-run --keep-checkpoints
    """
    request = DeleteJobRequest(**options)

    def run(force: bool) -> Document:
        asked = replace(request, force=force)
        return run_operation(track, "delete_training_job", asked, partial(_delete, asked), only_notes=True)

    done = insisting(run, force=request.force, question="delete it?")
    kept = ", but not its checkpoints" if request.keep_checkpoints else ""
    terminal.say(f"deleted training job {done['name']!r}{kept}")
    if as_json:
        terminal.write_document(done, as_json=True)


def _delete(request: DeleteJobRequest, system: System, progress: Progress) -> Document:
    from flexai.checkpoints.service.training import delete_job

    gone: list[Checkpoint] = []
    job = delete_job(system, request, on_deleted=gone.append, progress=progress)
    return deleted_job_document(job, len(gone))
