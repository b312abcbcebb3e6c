"""``flexai checkpoint undelete``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from flexai.checkpoints.documents import undelete_document
from flexai.checkpoints.service.change_requests import UndeleteRequest
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option, track_option
from flexai.cli.tracking import run_operation

if TYPE_CHECKING:
    from flexai.checkpoints.documents import Document
    from flexai.checkpoints.progress import Progress
    from flexai.checkpoints.service.system import System


@command("undelete", usage="NAME|UUID [--name NEW-NAME] [OPTIONS]")
@click.argument("reference", metavar="NAME|UUID")
@click.option("--name", "new_name", metavar="NEW-NAME", default="", help="Bring it back under another name.")
@track_option
@json_option
def undelete(track: bool | None, as_json: bool, **options: Any) -> None:
    """Bring back a deleted checkpoint.

    As long as gc has not taken its bytes. Where several deleted checkpoints had the name, the one deleted
    last comes back.

    \b
    flexai checkpoint list --deleted
    flexai checkpoint undelete mistral-500-checkpoint
    flexai checkpoint undelete 431a0ecb-cd8f-4508-8ae3-0990833a4f16 --name mistral-500-again
    """
    request = UndeleteRequest(**options)
    restored = run_operation(track, "undelete_checkpoint", request, partial(_undelete, request))
    terminal.say(f"checkpoint {restored['title']!r} is {restored['status']} again ({restored['id']})")
    if as_json:
        terminal.write_document(restored, as_json=True)


def _undelete(request: UndeleteRequest, system: System, _: Progress) -> Document:
    from flexai.checkpoints.service.delete import undelete as undelete_checkpoint

    return undelete_document(undelete_checkpoint(system, request))
