"""``flexai checkpoint verify``."""

from __future__ import annotations

import click

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.names import parse_reference
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_checkpoint
from flexai.cli.tracking import load_connection


@command("verify", usage="[NAME|UUID…]")
@click.argument("references", metavar="[NAME|UUID]...", nargs=-1, shell_complete=complete_checkpoint)
def verify(references: tuple[str, ...]) -> None:
    """Read checkpoints and compare their digests.

    All of them, where none is named. Names every damaged file and the checkpoints that need it; exits with 6
    where there is one.

    \b
    flexai checkpoint verify
    flexai checkpoint verify mistral-500-checkpoint base-llama2-pretrained-custom
    """
    for reference in references:
        parse_reference(reference)
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.service.verify import verify as verify_checkpoints
    from flexai.cli.progress import shown_progress

    with System.open(connect=load_connection) as system, shown_progress() as progress:
        report = verify_checkpoints(system, references, progress=progress)
    for damage in report.damaged:
        for checkpoint, path in damage.users:
            terminal.write(f"{checkpoint}: {path}: {damage.problem}")
        if not damage.users:
            terminal.write(f"blob {damage.blob_id}, which no checkpoint needs: {damage.problem}")
    report.raise_if_damaged()
    checked = terminal.count(report.checked_contents, "file")
    terminal.say(f"verified {checked}, {human_size(report.checked_bytes)}: no damage")
