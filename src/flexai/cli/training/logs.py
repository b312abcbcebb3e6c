"""``flexai training logs``."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator

import click

from flexai.cli import terminal
from flexai.cli.commands import command
from flexai.cli.parameters import job_argument
from flexai.cli.tracking import load_connection


@command("logs", usage="NAME|UUID [--follow] [--raw]")
@job_argument
@click.option("-f", "--follow", is_flag=True, help="Go on showing what it prints until the job ends.")
@click.option("--raw", is_flag=True, help="Show it as it was printed, with all that commands a terminal.")
def logs(reference: str, follow: bool, raw: bool) -> None:
    """Show what a training job printed.

    On a terminal each drawing of a progress bar is a line, colours are left out, and other characters that command a
    terminal are spelled out: what a training prints may be other people's. Files and other programs get it as it was
    printed.

    \b
    flexai training logs my-run
    flexai training logs my-run --follow
    flexai training logs my-run > log.txt
    """
    from flexai.checkpoints.service.system import System
    from flexai.checkpoints.service.training import job_log

    # Following sees what changes; else nothing has to be opened for more than a look.
    with System.open(connect=load_connection, read_only=not follow) as system:
        texts = job_log(system, reference, follow=follow)
        raw = raw or not sys.stdout.isatty()
        for text in texts if raw else readable(texts):
            terminal.write(text, newline=False, raw=raw)


_COLOURS = re.compile(r"\x1b\[[0-9;:]{0,64}m")
_LONGEST = 64 * 1024
"""Characters that are waited for until their line ends."""


def readable(texts: Iterable[str]) -> Iterator[str]:
    """A log's text in lines for a person: drawings of a bar one below the other, and no colours."""
    rest = ""
    for text in texts:
        *lines, rest = (rest + text).split("\n")
        drawn, _, last = rest.rpartition("\r")
        if last or len(rest) > _LONGEST:
            # No end of a line that is only cut in two here.
            lines, rest = lines + _drawings(drawn), last
        if len(rest) > _LONGEST:
            lines, rest = [*lines, rest], ""
        yield "".join(f"{drawing}\n" for line in lines for drawing in _drawings(line) or [""])
    yield "\n".join(_drawings(rest))


def _drawings(line: str) -> list[str]:
    """What a line showed, one after the other, before and after each return to its beginning."""
    return [shown for part in line.split("\r") if (shown := _COLOURS.sub("", part).rstrip())]
