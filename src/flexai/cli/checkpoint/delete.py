"""``flexai checkpoint delete``."""

from __future__ import annotations

from flexai.checkpoints.names import parse_reference
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.dry_run import check_untracked, dry_run_option, show
from flexai.cli.parameters import checkpoint_argument, json_option, track_option
from flexai.cli.tracking import load_connection, run_tracked, tracking_api


@command("delete", usage="NAME|UUID [OPTIONS]")
@checkpoint_argument
@dry_run_option
@track_option
@json_option
def delete(reference: str, dry_run: bool, track: bool | None, as_json: bool) -> None:
    """Delete a checkpoint.

    Its name is free at once. Its bytes go when nothing else uses them, with the first gc after the grace
    period; until then the checkpoint can be brought back.

    \b
    flexai checkpoint delete mistral-500-checkpoint
    flexai checkpoint delete mistral-500-checkpoint --dry-run
    """
    parse_reference(reference)
    if dry_run:
        check_untracked(track)
        _preview(reference, as_json)
        return
    api = tracking_api(track)
    if api is not None:
        deleted = run_tracked(api, "delete_checkpoint", reference)
    else:
        from flexai.checkpoints.service.delete import delete as delete_checkpoint
        from flexai.checkpoints.service.result_documents import identity
        from flexai.checkpoints.service.system import System

        with System.open(connect=load_connection) as system:
            deleted = identity(delete_checkpoint(system, reference))
    terminal.say(f"deleted checkpoint {reference}")
    terminal.hint(f"flexai checkpoint undelete {deleted['id']} brings it back, until gc has taken its bytes")
    if as_json:
        terminal.write_document(deleted, as_json=True)


def _preview(reference: str, as_json: bool) -> None:
    from flexai.checkpoints.service.preview import preview_delete
    from flexai.checkpoints.service.system import System

    with System.open(connect=load_connection, read_only=True) as system:
        preview = preview_delete(system, reference)
    show(preview, as_json=as_json)
