"""``flexai checkpoint protect`` and ``flexai checkpoint unprotect``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from flexai.checkpoints.service.change_requests import ProtectRequest
from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.completion import complete_checkpoint
from flexai.cli.parameters import force_option, insisting, json_option, track_option
from flexai.cli.tracking import run_operation

if TYPE_CHECKING:
    from flexai.checkpoints.documents import Document
    from flexai.checkpoints.progress import Progress
    from flexai.checkpoints.service.system import System

F = TypeVar("F", bound=Callable[..., Any])


def _options(function: F) -> F:
    references = click.argument(
        "references", metavar="NAME|UUID...", nargs=-1, required=True, shell_complete=complete_checkpoint
    )
    return references(force_option(track_option(json_option(function))))


@command("protect", usage="NAME|UUID… [OPTIONS]")
@_options
def protect(track: bool | None, as_json: bool, **options: Any) -> None:
    """Keep checkpoints from being deleted.

    A protected checkpoint is refused by delete and by training delete, and kept by prune, whatever its rules say,
    until it is unprotected. Either all that are named become protected or none. What another user made is
    protected once you have said yes, or with --force.

    \b
    flexai checkpoint protect mistral-500-checkpoint
    flexai checkpoint protect mistral-500-checkpoint 90c8f215-e131-4f9c-936c-12fe1fe9a6f1
    """
    _set(ProtectRequest(**options), track, as_json=as_json)


@command("unprotect", usage="NAME|UUID… [OPTIONS]")
@_options
def unprotect(track: bool | None, as_json: bool, **options: Any) -> None:
    """Let protected checkpoints be deleted again.

    Deletes nothing by itself. What another user made asks, or needs --force, as protect does.

    \b
    flexai checkpoint unprotect mistral-500-checkpoint
    """
    _set(ProtectRequest(**options, protected=False), track, as_json=as_json)


def _set(request: ProtectRequest, track: bool | None, *, as_json: bool) -> None:
    def run(force: bool) -> Document:
        asked = replace(request, force=force)
        return run_operation(track, "protect_checkpoints", asked, partial(_protect, asked))

    question = "protect it?" if request.protected else "take its protection away?"
    done = insisting(run, force=request.force, question=question)
    for reference in request.references:
        terminal.say(f"checkpoint {reference} is {'protected' if request.protected else 'not protected any more'}")
    if as_json:
        terminal.write_document(done, as_json=True)


def _protect(request: ProtectRequest, system: System, _: Progress) -> Document:
    from flexai.checkpoints.documents import protected_document
    from flexai.checkpoints.service.delete import protect as protect_checkpoints

    return {"checkpoints": [protected_document(one) for one in protect_checkpoints(system, request)]}
