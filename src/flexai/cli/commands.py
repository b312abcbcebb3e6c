"""Groups that import a command only when it is asked for, and commands that say how they are used.

``flexai --help`` has to appear at once, so a group knows its commands' short texts without importing them; a test
compares the two.
"""

from __future__ import annotations

import importlib
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from flexai.checkpoints.errors import (
    CheckpointError,
    InterruptedByUserError,
    RequestError,
    StorageUnavailableError,
    UsageError,
)
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


def _typed(ctx: click.Context, meant: str, rest: Sequence[str]) -> str:
    """The command that is meant with the arguments that were typed, but for those that may be secret."""
    import shlex

    words = [] if may_be_secret(rest) else [shlex.join(rest)]
    return " ".join(filter(None, [ctx.command_path, meant, *words]))


def may_be_secret(arguments: Sequence[str]) -> bool:
    """Whether arguments have what a training job gets, which may be a secret, and is not repeated."""
    return "--" in arguments or any(argument.startswith(("-E", "--env")) for argument in arguments)


def filled_in(text: str, ctx: click.Context) -> str:
    """A form of a command, or a hint, with what the user has typed in the place of words such as NAME."""
    known = {}
    for param in ctx.command.params:
        value, metavar = ctx.params.get(param.name or ""), param.metavar
        if not metavar or not isinstance(value, str) or not value:
            continue
        before = "" if isinstance(param, click.Argument) else max(param.opts, key=len)
        for word in (metavar, *metavar.split("|")):
            known[before, word] = value
        if before == "--storage-provider" or (not before and " storage " in ctx.command_path):
            known["", "CONNECTION"] = value
    return re.sub(_PLACEHOLDER, lambda found: _known_value(known, found), text)


_PLACEHOLDER = r"(?:(?<=[ (])(--[a-z-]+) )?(?<=[ (])([A-Z][A-Z|/-]+)(?=[ ;,)]|$)"
"""A word such as NAME in a form, with the option before it."""


def _known_value(known: Mapping[tuple[str, str], str], found: re.Match[str]) -> str:
    import shlex

    option, word = found[1] or "", found[2]
    if (option, word) not in known:
        return found[0]
    return " ".join(filter(None, [option, shlex.quote(known[option, word])]))


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
        message = f"no such command: {ctx.command_path} {args[0]}"
        meant = self.meant(ctx, args[0])
        if not meant:
            raise click.UsageError(message, ctx)
        raise UsageError(f"{message} (did you mean {meant!r}?)", hint=_typed(ctx, meant, args[1:]))

    def meant(self, ctx: click.Context, name: str) -> str:
        """The command that a word means or is most like: of this group, and else of one below; empty where none is."""
        name = name.lower()
        for path, group in self._groups(ctx):
            for known in filter(None, (name, _SYNONYMS.get(name))):
                if known in group.lazy:
                    return f"{path}{known}"
        from difflib import get_close_matches

        close = get_close_matches(name, self.lazy, n=1)
        return close[0] if close else ""

    def _groups(self, ctx: click.Context) -> Iterator[tuple[str, LazyGroup]]:
        yield "", self
        for name, (place, _) in self.lazy.items():
            # Commands are not imported for this.
            if place == f"flexai.cli.{name}:{name}" and isinstance(group := self.get_command(ctx, name), LazyGroup):
                yield f"{name} ", group

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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read what was typed. Raises UsageError for an option that is given an empty text.

        That is nearly always a variable of a script that is not set, and would count as the option left out.
        """
        typed = list(args)
        rest = super().parse_args(ctx, args)
        if ctx.resilient_parsing:
            return rest
        # As it was typed: callbacks have made something else of it by now.
        values = self.make_parser(ctx).parse_args(typed)[0]
        for param in self.params:
            value = values.get(str(param.name))
            if isinstance(param, click.Option) and (value == "" or (isinstance(value, list) and "" in value)):
                flag = max(param.opts, key=len)
                raise UsageError(f"{flag} is empty", hint=f"give a value, or leave {flag} out")
        return rest

    def form(self, ctx: click.Context) -> str:
        """The whole command as it is typed, in one line."""
        return f"{ctx.command_path} {self.usage}".rstrip()

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an interruption says how to go on."""
        begun = time.monotonic()
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, InterruptedByUserError) as error:
            message = error.message if isinstance(error, InterruptedByUserError) else "interrupted"
            raise InterruptedByUserError(message, hint=self._way_on(ctx, error)) from error
        except BrokenPipeError as error:
            # Not our own output, which says so itself: a BrokenPipeError that leaves a command would be taken for it.
            raise StorageUnavailableError("a connection was closed by its other end") from error
        except RequestError as error:
            worded = in_flags(error, ctx)
            worded.hint = filled_in(worded.hint, ctx)
            raise worded from None
        except CheckpointError as error:
            error.hint = filled_in(error.hint, ctx)
            raise
        finally:
            waited = time.monotonic() - begun
            terminal.detail(f"took {waited:.2f} s, with {time.process_time():.2f} s of processor time since the start")

    def _way_on(self, ctx: click.Context, error: BaseException) -> str:
        if not self.resumable:
            return error.hint if isinstance(error, InterruptedByUserError) else ""
        import shlex

        typed = shlex.join(["flexai", *ctx.find_root().meta.get(ARGUMENTS, ())])
        return f"the same command again goes on where it stopped: {typed}"


def in_flags(error: RequestError, ctx: click.Context, *, hint: str | None = None) -> UsageError:
    """The error in the words of the command that is running: its flags in the place of the request's fields."""
    params = {param.name: param for param in ctx.command.params}

    def flag(field: str) -> str:
        param = params.get(field)
        if param is None or isinstance(param, click.Argument):
            return str(param.metavar) if param else field
        is_off = param.secondary_opts and ctx.params.get(field) is False
        return max(param.secondary_opts if is_off else param.opts, key=len)

    return error.worded(flag, hint=hint)


def command(name: str, *, usage: str = "", resumable: bool = False) -> Callable[[Callable[..., Any]], Command]:
    """Make a function a command; ``usage`` is what follows its name in the usage line."""
    return click.command(name, cls=Command, usage=usage, resumable=resumable)
