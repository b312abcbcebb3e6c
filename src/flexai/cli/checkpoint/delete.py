"""``flexai checkpoint delete``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from flexai.checkpoints.documents import identity
from flexai.checkpoints.service.change_requests import DeleteRequest
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.dry_run import dry_run_option, show_plan
from flexai.cli.parameters import checkpoint_argument, force_option, insisting, json_option, track_option
from flexai.cli.tracking import run_operation

if TYPE_CHECKING:
    from flexai.checkpoints.documents import Document
    from flexai.checkpoints.progress import Progress
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.transfer.steps import Preview


@command("delete", usage="NAME|UUID [OPTIONS]")
@checkpoint_argument
@force_option
@dry_run_option
@track_option
@json_option
def delete(dry_run: bool, track: bool | None, as_json: bool, **options: Any) -> None:
    """Delete a checkpoint.

    Its name is free at once. Its bytes go when nothing else uses them, with the first gc after the grace
    period; until then the checkpoint can be brought back. What another user made is deleted once you have said yes,
    or with --force.

    \b
    flexai checkpoint delete mistral-500-checkpoint
    flexai checkpoint delete mistral-500-checkpoint --dry-run
    """
    request = DeleteRequest(**options)
    if dry_run:
        show_plan(track, partial(_plan, request), as_json=as_json)
        return

    def run(force: bool) -> Document:
        asked = replace(request, force=force)
        return run_operation(track, "delete_checkpoint", asked, partial(_delete, asked))

    deleted = insisting(run, force=request.force, question="delete it?")
    terminal.say(f"deleted checkpoint {request.reference}")
    terminal.hint(f"flexai checkpoint undelete {deleted['id']} brings it back, until gc has taken its bytes")
    if as_json:
        terminal.write_document(deleted, as_json=True)


def _delete(request: DeleteRequest, system: System, _: Progress) -> Document:
    from flexai.checkpoints.service.delete import delete as delete_checkpoint

    return identity(delete_checkpoint(system, request))


def _plan(request: DeleteRequest, system: System, _: Progress) -> Preview:
    from flexai.checkpoints.service.preview import preview_delete

    return preview_delete(system, request)
