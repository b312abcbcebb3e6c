"""``flexai checkpoint delete``."""

from __future__ import annotations

from flexai.checkpoints.names import parse_reference
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import checkpoint_argument
from flexai.cli.tracking import load_connection


@command("delete", usage="NAME|UUID")
@checkpoint_argument
def delete(reference: str) -> None:
    """Delete a checkpoint.

    Its name is free at once. Its bytes go when nothing else uses them, with the first gc after the grace
    period; until then the checkpoint can be brought back.

    \b
    flexai checkpoint delete mistral-500-checkpoint
    """
    parse_reference(reference)
    from flexai.checkpoints.service.delete import delete as delete_checkpoint
    from flexai.checkpoints.service.system import System

    with System.open(connect=load_connection) as system:
        deleted = delete_checkpoint(system, reference)
    terminal.say(f"deleted checkpoint {reference}")
    terminal.hint(f"flexai checkpoint undelete {deleted.id} brings it back, until gc has taken its bytes")
