"""``flexai store adopt``."""

from __future__ import annotations

import click

from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import json_option
from flexai.cli.tracking import load_connection


@command("adopt", usage="[--force] [--json]")
@click.option("--force", is_flag=True, help="Take the store over from a catalog that has used it within the last hour.")
@json_option
def adopt(force: bool, as_json: bool) -> None:
    """Let the managed store belong to this catalog.

    For a store whose catalog is gone and not to be rebuilt: this catalog does not learn what the store holds, and gc
    keeps it. Where the catalog was lost, flexai checkpoint recover is what brings it back. The catalog that the store
    belonged to so far is refused from here on by everything that writes there or collects.

    \b
    flexai store adopt
    """
    from flexai.checkpoints.service.store_owner import catalog_document, described, take_over
    from flexai.checkpoints.service.system import System

    with System.open(connect=load_connection) as system:
        former = take_over(system, force=force)
        place = system.store.location
    if as_json:
        terminal.write_document({"store": place, "takenFrom": catalog_document(former)}, as_json=True)
    elif former is None:
        terminal.write(f"the store {place} belongs to this catalog")
    else:
        terminal.write(f"the store {place} belongs to this catalog now, and no longer to that {described(former)}")
