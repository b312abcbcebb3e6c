"""Groups that import a command only when it is asked for, and commands that say how they are used.

``flexai --help`` has to appear at once, so a group knows its commands' short texts without importing them; a test
compares the two.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

import click

from flexai.checkpoints.errors import InterruptedByUserError, StorageUnavailableError
from flexai.cli import terminal

ARGUMENTS = "flexai.arguments"
"""Where the root context keeps what the user typed."""

# What users of other programs type.
_SYNONYMS = {
    "add": "create",
    "cancel": "stop",
    "download": "fetch",
    "get": "fetch",
    "info": "inspect",
    "log": "logs",
    "ls": "list",
    "pin": "protect",
    "pull": "fetch",
    "remove": "delete",
    "restore": "undelete",
    "rm": "delete",
    "show": "inspect",
    "start": "run",
    "unpin": "unprotect",
    "upload": "push",
}


class LazyGroup(click.Group):
    """A group of commands, each in a module of its own that is imported when the command is needed."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        """``lazy`` has, by command name, where it is (``package.module:attribute``) and its short help text."""
        super().__init__(*args, **kwargs)
        self.lazy = dict(lazy)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of their table."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in self.lazy:
            return None
        module, _, attribute = self.lazy[cmd_name][0].partition(":")
        found: click.Command = getattr(importlib.import_module(module), attribute)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Show the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments begin with; a wrong one gets a suggestion."""
        if args[0] in self.lazy or args[0].startswith("-") or ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        raise click.UsageError(f"no such command: {ctx.command_path} {args[0]}{self._suggestion(args[0])}", ctx)

    def _suggestion(self, name: str) -> str:
        from difflib import get_close_matches

        synonym = _SYNONYMS.get(name.lower())
        close = [synonym] if synonym in self.lazy else get_close_matches(name.lower(), self.lazy, n=1)
        return f" (did you mean {close[0]!r}?)" if close else ""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Complete a command's name without importing the commands."""
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=text) for name, (_, text) in self.lazy.items() if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """What follows the group's name in its usage line."""
        return ["COMMAND …"]


class Command(click.Command):
    """A command that spells out its arguments and options in its usage line, and how to go on when interrupted."""

    def __init__(self, *args: Any, usage: str = "", resumable: bool = False, **kwargs: Any) -> None:
        """``usage`` is what follows the command's name; a ``resumable`` command goes on where it stopped."""
        super().__init__(*args, **kwargs)
        self.usage = usage
        self.resumable = resumable
        # Also after the command's name, where most people add them.
        self.params += terminal.verbosity_options(hidden=True)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the usage line, broken between words only: options have hyphens."""
        import textwrap

        prefix = "Usage: "
        wrapper = textwrap.TextWrapper(
            formatter.width, subsequent_indent=" " * len(prefix), break_on_hyphens=False, break_long_words=False
        )
        formatter.write(wrapper.fill(f"{prefix}{self.form(ctx)}") + "\n")

    def form(self, ctx: click.Context) -> str:
        """The whole command as it is typed, in one line."""
        return f"{ctx.command_path} {self.usage}".rstrip()

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an interruption says how to go on."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, InterruptedByUserError) as error:
            message = error.message if isinstance(error, InterruptedByUserError) else "interrupted"
            raise InterruptedByUserError(message, hint=self._way_on(ctx, error)) from error
        except BrokenPipeError as error:
            # Not our own output, which says so itself: a BrokenPipeError that leaves a command would be taken for it.
            raise StorageUnavailableError("a connection was closed by its other end") from error

    def _way_on(self, ctx: click.Context, error: BaseException) -> str:
        if not self.resumable:
            return error.hint if isinstance(error, InterruptedByUserError) else ""
        import shlex

        typed = shlex.join(["flexai", *ctx.find_root().meta.get(ARGUMENTS, ())])
        return f"the same command again goes on where it stopped: {typed}"


def command(name: str, *, usage: str = "", resumable: bool = False) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command; ``usage`` is what follows its name in the usage line."""
    return click.command(name, cls=Command, usage=usage, resumable=resumable)
