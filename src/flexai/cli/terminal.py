"""Writing: data to standard output, everything else to standard error; and the door that all of it goes through.

Names, reasons and logs come from other people. Whatever this process prints, by our code or by a library's, spells out
the characters that would command a terminal: see :func:`guarded`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO, cast

import click

from flexai.checkpoints.names import count as count
from flexai.checkpoints.names import printable

AUTO = "auto"
MOST_LINES = 20
"""How many things of one kind have a line of their own; the others are counted."""


class Verbosity:
    """How much the user wants to read, and in which form."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what an earlier command of this process was told."""
        self.verbose = self.debug = False
        self.progress = AUTO
        """How progress is shown: the value of ``--progress``."""
        self.for_program = False
        """Whether the result is JSON."""


verbosity = Verbosity()


class OutputClosedError(Exception):
    """The reader of standard output has closed it."""


def verbosity_options(*, hidden: bool = False) -> list[click.Parameter]:
    """The options that every command takes."""
    return [
        click.Option(
            ["-v", "--verbose"],
            is_flag=True,
            expose_value=False,
            hidden=hidden,
            callback=_set_verbose,
            help="Say more about what is done.",
        ),
        click.Option(
            ["--debug"],
            is_flag=True,
            expose_value=False,
            hidden=hidden,
            callback=_set_debug,
            help="Show the whole traceback of an error.",
        ),
    ]


def _set_verbose(_ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not verbosity.verbose:
        verbosity.verbose = True
        _log("INFO")


def _set_debug(_ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value and not verbosity.debug:
        verbosity.debug = True
        _log("DEBUG")


def _log(level: str) -> None:
    import logging

    logging.basicConfig(stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    # Ours alone: cloud SDKs log signed requests.
    logging.getLogger("flexai").setLevel(level)


@contextmanager
def guarded() -> Iterator[None]:
    """While the block works, standard output and error spell out what could command a terminal, whichever code writes.

    Our own colours, progress bars and what the user asked for as it is go :func:`behind` the door.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Door(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class _Door:
    """A stream that writes what is :func:`printable` of a text, and else is the stream behind it."""

    def __init__(self, behind: TextIO) -> None:
        self.behind = behind

    def write(self, text: str) -> int:
        self.behind.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


def behind(stream: TextIO) -> TextIO:
    """The stream behind the door, for what is written as it is."""
    return cast(TextIO, getattr(stream, "behind", stream))


def write(text: str, *, newline: bool = True, raw: bool = False) -> None:
    """Write data to standard output, by default a whole line; ``raw`` as it is.

    Raises OutputClosedError where its reader has gone.
    """
    stream = behind(sys.stdout) if raw else sys.stdout
    try:
        stream.write(text + "\n" if newline else text)
        stream.flush()
    except BrokenPipeError:
        raise OutputClosedError from None


def write_document(document: Any, *, as_json: bool) -> None:
    """Write a document as JSON, or as YAML."""
    if as_json:
        from flexai.cli.json import to_json

        write(to_json(document))
    else:
        from flexai.cli.yaml import to_yaml

        write(to_yaml(document).rstrip("\n"))


def say(text: str, *, label: str = "", colour: str = "") -> None:
    """Write a line to standard error, behind a coloured label.

    A text of more lines is indented from the second on: what it quotes cannot pass for a line of ours.
    """
    shown = f"{label}: " if label else ""
    if shown and colour and has_colours(sys.stderr):
        shown = click.style(shown, fg=colour, bold=True)
    text = text.replace("\n", "\n  ")
    try:
        behind(sys.stderr).write(f"{shown}{printable(text)}\n")
        sys.stderr.flush()
    except BrokenPipeError:
        # The work matters more than what is said about it.
        _discard(sys.stderr)


def hint(text: str) -> None:
    """Say what to try next."""
    say(text, label="hint", colour="cyan")


def warn(text: str) -> None:
    """Say what is not as it should be."""
    say(text, label="warning", colour="yellow")


def say_each(texts: Sequence[str], tell: Callable[[str], None] = say, *, rest: str = "which --json shows") -> None:
    """Say each of what may be many in a line of its own; of all after ``MOST_LINES`` only how many there are.

    ``rest`` says where those are.
    """
    for text in texts[:MOST_LINES]:
        tell(text)
    if (left_out := len(texts) - MOST_LINES) > 0:
        tell(and_more(left_out, rest))


def and_more(number: int, rest: str = "which --json shows") -> str:
    """What stands in the place of what is left out: ``… and 5 more, which --json shows``."""
    return f"… and {number} more, {rest}"


def detail(text: str) -> None:
    """Say something that only those who asked for more want to know."""
    if verbosity.verbose or verbosity.debug:
        say(text)


def agrees(question: str) -> bool:
    """Ask the user, where one sits at a terminal, and say whether the answer is yes."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    behind(sys.stderr).write(f"{printable(question)} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def has_colours(stream: TextIO) -> bool:
    """Whether to colour what is written: on terminals, unless NO_COLOR is set (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and has_cursor()


def has_cursor() -> bool:
    """Whether a terminal can draw over what it has shown."""
    return os.environ.get("TERM") != "dumb"


def close_output() -> None:
    """Stop writing to standard output, whose reader has gone."""
    _discard(sys.stdout)


def _discard(stream: TextIO) -> None:
    # Python writes what is left in its buffers when it exits, and would complain.
    try:
        descriptor = stream.fileno()
    except OSError:
        return  # not a real file: nothing to be flushed into
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def count_of_part(moved: int, kept: int, left_out: int) -> str:
    """How many files moved, and of how many where a part of a checkpoint was asked for: ``2 of 5 files``."""
    return f"{moved} of {count(moved + kept + left_out, 'file')}" if left_out else count(moved, "file")
