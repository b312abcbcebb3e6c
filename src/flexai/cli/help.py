"""``flexai help``: the help of a command, and of what concerns all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.names import did_you_mean
from flexai.cli import terminal
from flexai.cli.commands import LazyGroup, command

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

TOPICS = {
    "names": """\
A name has 3 to 63 letters, digits, '-' or '_', and begins and ends with a
letter or digit. Names are compared without regard to case. Every command that
takes a checkpoint takes one of these:

  mistral-500            the name that it was pushed under
  my-run/checkpoint-500  the training job that wrote it, and its path there
  my-run/.               what lies in the job's output directory itself
  90c8f215-e131-4f9c-936c-12fe1fe9a6f1
                         its UUID
  90c8f215               the first eight digits of its UUID, or more, where no
                         other one begins so

For a job its name or its UUID stands in all of these places. 'latest' and
'best' choose among a job's checkpoints:

  flexai training run my-run --checkpoint latest -- python train.py""",
    "sizes": """\
Sizes for people count by 1,024: 1 KiB is 1,024 bytes, 1 MiB is 1,024 KiB. The
fields "size" of JSON and YAML are written as FlexAI writes them: 343.79 MB
there are 343.79 MiB. "sizeBytes" stands beside them.

Options and settings take 64MiB, which counts by 1,024, 64MB, which counts by
1,000, and a plain number of bytes. Durations are written 90s, 15m, 24h, 7d or
2w; times 2026-01-31 or 2026-01-31T12:00, in UTC.""",
    "resuming": """\
A push, fetch or export that was interrupted goes on where it stopped when the
same command is run again. No part that has arrived moves twice. Ctrl-C ends a
command tidily, a second one ends it at once; both are safe.

A training job goes on by the same command with --checkpoint latest. With
--if-not-exists a push that is done already succeeds. --dry-run tells what a
command would do, and does nothing.""",
    "output": """\
Results go to standard output, everything else to standard error.

  --json      prints one document, with times in ISO 8601 and sizes in bytes
  --progress  chooses a bar, lines, JSON events or nothing
  -v          says more: which catalog and store are used, each request that
              is tried again, and how long the work took
  --debug     shows the traceback of an error, and all that is logged
  NO_COLOR    turns colours off
  COLUMNS     sets the width of tables

On a terminal a table shows the columns that fit; in a file or a pipe it has
all of them, whole.""",
}
"""Topics, each with its text."""


def _complete(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    group: click.Command | None = ctx.find_root().command
    for word in ctx.params.get("words") or ():
        group = group.get_command(ctx, word) if isinstance(group, LazyGroup) else group
    known = list(group.lazy) if isinstance(group, LazyGroup) else []
    topics = [] if ctx.params.get("words") else list(TOPICS)
    return [CompletionItem(name) for name in (*known, *topics) if name.startswith(incomplete)]


@command("help", usage="[COMMAND… | TOPIC]")
@click.argument("words", metavar="[COMMAND... | TOPIC]", nargs=-1, shell_complete=_complete)
@click.pass_context
def help_(ctx: click.Context, words: Sequence[str]) -> None:
    """Show the help of a command, or of a topic.

    Topics: names, sizes, resuming, output.

    \b
    flexai help checkpoint push
    flexai help push
    flexai help names
    """
    if len(words) == 1 and words[0].lower() in TOPICS:
        terminal.write(TOPICS[words[0].lower()])
        return
    root = ctx.find_root()
    found, context = root.command, root
    for number, word in enumerate(words):
        group = found
        assert isinstance(group, LazyGroup)
        for name in (group.meant(context, word) or word).split():
            known = found.get_command(context, name) if isinstance(found, LazyGroup) else None
            if known is None:
                raise _unknown(words[: number + 1], group)
            found, context = known, click.Context(known, parent=context, info_name=name)
        if not isinstance(found, LazyGroup):
            break
    terminal.write(found.get_help(context))


def _unknown(words: Sequence[str], group: LazyGroup) -> NotFoundError:
    asked = did_you_mean(words[-1], [*group.lazy, *TOPICS])
    hint = f"{asked} The topics are {', '.join(TOPICS)}; flexai --help shows the commands".lstrip()
    return NotFoundError(f"there is no help on {' '.join(words)!r}", hint=hint)
