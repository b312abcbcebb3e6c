"""``flexai checkpoint undelete``."""

from __future__ import annotations

import click

from flexai.checkpoints.names import parse_name, parse_reference
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import track_option
from flexai.cli.tracking import load_connection, run_tracked, tracking_api


@command("undelete", usage="NAME|UUID [--name NEW-NAME] [OPTIONS]")
@click.argument("reference", metavar="NAME|UUID")
@click.option("--name", "new_name", metavar="NEW-NAME", default="", help="Bring it back under another name.")
@track_option
def undelete(reference: str, new_name: str, track: bool | None) -> None:
    """Bring back a deleted checkpoint.

    As long as gc has not taken its bytes. Where several deleted checkpoints had the name, the one deleted
    last comes back.

    \b
    flexai checkpoint list --deleted
    flexai checkpoint undelete mistral-500-checkpoint
    flexai checkpoint undelete 431a0ecb-cd8f-4508-8ae3-0990833a4f16 --name mistral-500-again
    """
    parse_reference(reference)
    if new_name:
        parse_name(new_name, what="checkpoint name")
    api = tracking_api(track)
    if api is not None:
        restored = run_tracked(api, "undelete_checkpoint", reference, new_name=new_name)
    else:
        from flexai.checkpoints.service.delete import undelete as undelete_checkpoint
        from flexai.checkpoints.service.result_documents import undelete_document
        from flexai.checkpoints.service.system import System

        with System.open(connect=load_connection) as system:
            restored = undelete_document(undelete_checkpoint(system, reference, new_name=new_name))
    terminal.say(f"checkpoint {restored['title']!r} is {restored['status']} again ({restored['id']})")
