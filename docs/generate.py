"""Write ``docs/reference`` from the program itself, so that it cannot say anything else.

python docs/generate.py            write the pages
python docs/generate.py --check    write nothing; fail when a page is out of date
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import click

from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.settings import CONFIG_FILE, DEFAULT_HOME, ENVIRONMENT_PREFIX, RULES, TextRule

REFERENCE = Path(__file__).resolve().parent / "reference"
MADE = "<!-- Made by `make docs` from the program itself: change the program, not this page. -->"
WIDTH = 100
"""Columns at which lines wrap, however wide the terminal is that runs this."""


def cli_page() -> str:
    """Every command: usage, help, options."""
    from flexai.cli import cli

    intro = _wrapped("What a command exits with is on the page of [errors and exit codes](errors.md).")
    return _page("The `flexai` command", intro, *_command_sections(cli, _context(cli, "flexai", None)))


def _command_sections(command: click.Command, context: click.Context) -> Iterator[str]:
    yield f"{'#' * min(context.command_path.count(' ') + 2, 4)} `{context.command_path}`"
    yield _fence(command.get_usage(context))
    yield from _prose(command.help)
    records = (param.get_help_record(context) for param in command.params)
    yield _table(("option", "meaning"), ((f"`{names}`", text) for names, text in filter(None, records) if text))
    yield from _prose(command.epilog)
    if isinstance(command, click.Group):
        children = [
            (child, _context(child, name, context))
            for name in command.list_commands(context)
            if (child := command.get_command(context, name)) is not None and not child.hidden
        ]
        rows = [(_link(below), child.get_short_help_str(limit=200)) for child, below in children]
        yield _table(("command", "what it does"), rows)
        for child, below in children:
            yield from _command_sections(child, below)


def _link(context: click.Context) -> str:
    return f"[`{context.command_path}`](#{context.command_path.replace(' ', '-')})"


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    return click.Context(command, parent, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)


def errors_page() -> str:
    """The tree of errors: exit codes, meanings, hints."""
    tree = list(_error_tree(CheckpointError))
    width = max(len(drawn) for drawn, _ in tree)
    return _page(
        "Errors and exit codes",
        _wrapped(
            "A command that has done its work exits with 0. One that has not says why in one sentence, then `hint:`"
            " and what to try next, and exits with its error's code. From Python: `flexai.checkpoints.errors` holds"
            " the classes; each error has a `message`, a `hint` and an `exit_code`."
        ),
        _fence("\n".join(f"{drawn:{width}}  {kind.exit_code:>3}" for drawn, kind in tree)),
        _table(
            ("error", "exit code", "meaning", "hint, unless the error has a closer one"),
            (
                (f"`{kind.__name__}`", str(kind.exit_code), inspect.getdoc(kind) or "", kind.default_hint)
                for _, kind in tree
            ),
        ),
    )


def _error_tree(
    kind: type[CheckpointError], branch: str = "", trunk: str = ""
) -> Iterator[tuple[str, type[CheckpointError]]]:
    yield branch + kind.__name__, kind
    children = [child for child in kind.__subclasses__() if child.__module__ == CheckpointError.__module__]
    for child in children:
        last = child is children[-1]
        elbow, below = ("└── ", "    ") if last else ("├── ", "│   ")
        yield from _error_tree(child, trunk + elbow, trunk + below)


def settings_page() -> str:
    """Every setting: variable, key, default, meaning."""
    home, config = DEFAULT_HOME, CONFIG_FILE
    return _page(
        "Settings",
        _wrapped(
            f"A setting comes from its environment variable, else from its key in `{config}` in the home folder, else"
            " it has its default. `flexai config show` prints the settings in force and where each came from."
        ),
        _table(
            ("variable", f"key in `{config}`", "default", "meaning"),
            (
                (
                    f"`{ENVIRONMENT_PREFIX}{name.upper()}`",
                    "" if name == "home" else f"`{name}`",
                    f"`{home}`" if name == "home" else _default(rule),
                    f"{rule.description}{_bounds(rule)}",
                )
                for name, rule in RULES.items()
            ),
        ),
        _wrapped(
            "Sizes are bytes, or a number with a unit: `64MiB` counts by 1024, `64MB` by 1000. Durations are seconds,"
            " or a number with a unit: `90s`, `15m`, `24h`, `7d`, `2w`."
        ),
    )


def _default(rule: TextRule) -> str:
    text = "" if rule.default is None else rule.write(rule.default)
    return f"`{text}`" if text else ""


def _bounds(rule: TextRule) -> str:
    """The limits that a value must keep to, in its own unit."""
    limits = [
        f"{word} `{rule.write(limit)}`"
        for word, attribute in (("at least", "least"), ("at most", "most"))
        if (limit := getattr(rule, attribute, None))
    ]
    return f"; {', '.join(limits)}" if limits else ""


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([MADE, f"# {title}", *filter(None, parts)]) + "\n"


def _fence(text: str) -> str:
    return f"```text\n{text}\n```"


def _prose(help_text: str | None) -> Iterator[str]:
    """Paragraphs of a help text; like click, this leaves those as they are that begin with a backspace."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(help_text or "").partition("\f")[0]):
        if paragraph.startswith("\b"):
            yield _fence(paragraph.removeprefix("\b").strip("\n"))
        else:
            yield _wrapped(paragraph)


def _wrapped(text: str) -> str:
    """A paragraph in lines as long as those of the other pages."""
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [_row(" ".join(cell.split()).replace("|", "\\|") for cell in row) for row in rows]
    titles = list(head)
    return "\n".join([_row(titles), _row("---" for _ in titles), *lines]) if lines else ""


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


PAGES: Mapping[str, Callable[[], str]] = {
    "cli.md": cli_page,
    "errors.md": errors_page,
    "settings.md": settings_page,
}


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or with ``--check`` say which are out of date; 1 if any is."""
    parser = argparse.ArgumentParser(description="Write docs/reference from the program itself.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is out of date")
    options = parser.parse_args(arguments)
    stale = []
    for name, make_page in PAGES.items():
        path, text = REFERENCE / name, make_page()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
            if not options.check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(text, encoding="utf-8")
    if stale:
        sys.stderr.write(f"{'out of date, run make docs' if options.check else 'written'}: {', '.join(stale)}\n")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
