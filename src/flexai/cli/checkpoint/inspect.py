"""``flexai checkpoint inspect``."""

from __future__ import annotations

from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import checkpoint_argument, json_option


@command("inspect", usage="NAME|UUID [--json]")
@checkpoint_argument
@json_option
def inspect(reference: str, as_json: bool) -> None:
    """Show everything about a checkpoint.

    When it was made and by whom, where its files came from, its status, its files, and where it was exported;
    of a captured checkpoint also its step, its losses, its model, and whether it can be resumed or served. As
    YAML, unless --json is given.

    \b
    flexai checkpoint inspect mistral-500-checkpoint
    flexai checkpoint inspect 90c8f215-e131-4f9c-936c-12fe1fe9a6f1 --json
    """
    from flexai.checkpoints.catalog.catalog import Catalog
    from flexai.checkpoints.service.inspect import inspect_checkpoint

    with Catalog.look() as catalog:
        document = inspect_checkpoint(catalog, reference)
    terminal.write_document(document, as_json=as_json)
