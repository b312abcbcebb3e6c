"""``flexai training inspect``."""

from __future__ import annotations

from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import job_argument, json_option


@command("inspect", usage="NAME|UUID [--json]")
@job_argument
@json_option
def inspect(reference: str, as_json: bool) -> None:
    """Show everything about a training job.

    Its command, the checkpoint it started from, and its status at .runtime.status: in progress, stop in
    progress, succeeded, failed, stopped or interrupted. As YAML, unless --json is given.

    \b
    flexai training inspect my-run
    flexai training inspect my-run --json | jq -r .runtime.status
    """
    from flexai.checkpoints.service.inspect import inspect_training
    from flexai.cli.looking import look

    with look() as catalog:
        document = inspect_training(catalog, reference)
    terminal.write_document(document, as_json=as_json)
