"""``flexai checkpoint protect`` and ``flexai checkpoint unprotect``."""

from __future__ import annotations

import click

from flexai.checkpoints.names import parse_reference
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_checkpoint
from flexai.cli.tracking import load_connection

_references = click.argument(
    "references", metavar="NAME|UUID...", nargs=-1, required=True, shell_complete=complete_checkpoint
)


@command("protect", usage="NAME|UUID…")
@_references
def protect(references: tuple[str, ...]) -> None:
    """Keep checkpoints from being deleted.

    A protected checkpoint is refused by delete and by training delete, and kept by prune, whatever its rules say,
    until it is unprotected. Either all that are named become protected or none.

    \b
    flexai checkpoint protect mistral-500-checkpoint
    flexai checkpoint protect mistral-500-checkpoint 90c8f215-e131-4f9c-936c-12fe1fe9a6f1
    """
    _set(references, protected=True)


@command("unprotect", usage="NAME|UUID…")
@_references
def unprotect(references: tuple[str, ...]) -> None:
    """Let protected checkpoints be deleted again.

    Deletes nothing by itself.

    \b
    flexai checkpoint unprotect mistral-500-checkpoint
    """
    _set(references, protected=False)


def _set(references: tuple[str, ...], *, protected: bool) -> None:
    for reference in references:
        parse_reference(reference)
    from flexai.checkpoints.service import delete as service
    from flexai.checkpoints.service.system import System

    with System.open(connect=load_connection) as system:
        (service.protect if protected else service.unprotect)(system, references)
    for reference in references:
        terminal.say(f"checkpoint {reference} is {'protected' if protected else 'not protected any more'}")
