"""``flexai checkpoint verify``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from flexai.checkpoints.documents import human_size
from flexai.checkpoints.service.store_requests import VerifyRequest
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_checkpoint
from flexai.cli.parameters import track_option
from flexai.cli.tracking import run_operation
from flexai.cli.transfer_options import progress_option, transfer_json_option

if TYPE_CHECKING:
    from flexai.checkpoints.documents import Document
    from flexai.checkpoints.progress import Progress
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.service.verify import VerifyReport


@command("verify", usage="[NAME|UUID…] [OPTIONS]")
@click.argument("references", metavar="[NAME|UUID]...", nargs=-1, shell_complete=complete_checkpoint)
@click.option("--repair", is_flag=True, help="Put content of an export in the place of what is damaged.")
@track_option
@progress_option
@transfer_json_option
def verify(track: bool | None, as_json: bool, **options: Any) -> None:
    """Read checkpoints and compare their digests.

    All of them, where none is named. Names every damaged file and the checkpoints that need it; exits with 6
    where there is one. With --repair, sound content is read from an export of a checkpoint that has it, for all
    checkpoints that need it; what cannot be repaired is named, and only that exits with 6.
    With --json it is the result, which has all damage in damaged, also where it exits with 6; on standard error some
    of it is named.

    \b
    flexai checkpoint verify
    flexai checkpoint verify mistral-500-checkpoint base-llama2-pretrained-custom
    flexai checkpoint verify --repair
    """
    request = VerifyRequest(**options)
    show = partial(_show, as_json)
    done = run_operation(track, "verify_checkpoints", request, partial(_verify, request, show), on_verified=show)
    contents, size, damaged = done["checkedContents"], done["checkedBytes"], done["damagedContents"]
    outcome = "no damage" if not damaged else f"{damaged} damaged, all of it repaired"
    terminal.say(f"verified {terminal.count(contents, 'file')}, {human_size(size)}: {outcome}")


def _verify(
    request: VerifyRequest, show: Callable[[VerifyReport], None], system: System, progress: Progress
) -> Document:
    from flexai.checkpoints.service.verify import verify as verify_checkpoints

    report = verify_checkpoints(system, request, progress=progress)
    show(report)
    report.raise_if_damaged()
    return report.to_dict()


def _show(as_json: bool, report: VerifyReport) -> None:
    """Show what was found, before the error that damage is."""
    damaged: list[str] = []
    for damage in report.damaged:
        damaged += [f"{checkpoint}: {path}: {damage.problem}" for checkpoint, path in damage.users]
        if not damage.users:
            damaged.append(f"blob {damage.blob_id}, which no checkpoint needs: {damage.problem}")
    if as_json:
        terminal.write_document(report.to_dict(), as_json=True)
        terminal.say_each(damaged)
    else:
        for line in damaged:
            terminal.write(line)
    terminal.say_each(
        [
            f"{checkpoint}: {path}: repaired from {done.source}"
            for done in report.repair.repaired
            for checkpoint, path in done.users
        ]
    )
