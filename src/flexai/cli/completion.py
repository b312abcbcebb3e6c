"""``flexai completion``, and the completion of names."""

from __future__ import annotations

from typing import Any

import click

from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.names import printable
from flexai.cli import terminal
from flexai.cli.commands import command

SHELLS = ("bash", "zsh", "fish")


@command("completion", usage="(bash | zsh | fish)")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    It completes commands, options, and the names of checkpoints and training jobs. Load it once to try it, or from the
    shell's start-up file to keep it:

    \b
    eval "$(flexai completion bash)"                                        # in ~/.bashrc
    eval "$(flexai completion zsh)"                                         # in ~/.zshrc
    flexai completion fish > ~/.config/fish/completions/flexai.fish
    """
    from click.shell_completion import get_completion_class

    from flexai.cli.root import COMPLETE_VARIABLE, PROGRAM

    kind = get_completion_class(shell)
    assert kind is not None
    program = ctx.find_root().command
    terminal.write(kind(program, {}, PROGRAM, COMPLETE_VARIABLE).source())


def complete_checkpoint(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """The names of checkpoints; once something is typed the UUIDs of captured ones, after ``JOB/`` their paths."""
    from click.shell_completion import CompletionItem

    from flexai.checkpoints.catalog.catalog import Catalog

    try:
        with Catalog.look() as catalog:
            if "/" in incomplete:
                titles = dict.fromkeys(catalog.checkpoint_queries.captured_titles().values())
                return _fitting([CompletionItem(title) for title in titles], incomplete)
            names = [CompletionItem(name) for name in catalog.checkpoint_queries.pushed_names()]
            if incomplete:
                found = catalog.checkpoint_queries.captured_titles()
                names += [CompletionItem(one, help=printable(title, keep="")) for one, title in found.items()]
    except CheckpointError:
        return []  # a shell's line is no place for errors
    return _fitting(names, incomplete)


def complete_job(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """The names of training jobs."""
    from click.shell_completion import CompletionItem

    from flexai.checkpoints.catalog.catalog import Catalog

    try:
        with Catalog.look() as catalog:
            names = [CompletionItem(name) for name in catalog.job_queries.names()]
    except CheckpointError:
        return []
    return _fitting(names, incomplete)


def _fitting(names: list[Any], incomplete: str) -> list[Any]:
    # A shell puts them on its line as they are.
    return [item for item in names if item.value.isprintable() and item.value.lower().startswith(incomplete.lower())]


def complete_file(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """Files and folders of this machine: the shell knows them best."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def complete_directory(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[Any]:
    """Folders of this machine."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]
