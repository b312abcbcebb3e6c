"""What the pages show is typed as it stands there, from the first command of a page to its last.

A comment in a page says what the reader does not see:

    <!-- before: COMMAND -->        is run at its place: what the reader is expected to have
    <!-- not run: REASON -->        the next block is only looked over, because it needs what no test has
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest

from flexai.cli import cli
from flexai.cli.commands import LazyGroup
from tests.cli.conftest import program
from tests.cli.program import Program
from tests.docs.test_pages import ROOT, pages

__all__ = ["program"]

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_STEP = re.compile(r"^<!-- (before|not run): (.*?) -->$|^```(\w*)\n(.*?)^```$", re.M | re.S)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_END = "-- end of a command --"
SHELL = {"console", "bash", "sh"}


@dataclass(frozen=True)
class Typed:
    """A command with the lines of output that the page shows."""

    command: str
    shown: list[str] = field(default_factory=list)


def typed(page: Path) -> Iterator[Typed]:
    """What is run of a page, in order."""
    is_run = True
    for comment, words, language, block in _STEP.findall(page.read_text(encoding="utf-8")):
        if comment == "before":
            yield Typed(" ".join(words.split()))
        elif comment:
            is_run = False
        else:
            if is_run and language in SHELL:
                yield from in_block(language, block)
            is_run = True


def in_block(language: str, block: str) -> Iterator[Typed]:
    """A block's commands: after a dollar each, or the whole block, which a shell reads."""
    if language != "console":
        yield Typed(block)
        return
    for entry in re.split(r"^\$ ", block, flags=re.M)[1:]:
        command, *shown = re.sub(r"\\\n", "", entry).rstrip().splitlines()
        yield Typed(command, shown)


TYPED = ("README.md", "costs.md", "frameworks.md", "kubernetes.md", "recovery.md", "slurm.md", "trackers.md")
"""Pages whose commands are typed. Those of the others need a server, a bucket, other users or an index of packages;
they are parsed.
"""
PAGES = [page for page in pages() if page.name in TYPED]


def masked(text: str) -> str:
    """A text without what differs from run to run: ids, sizes, losses, spaces."""
    return " ".join(_NUMBER.sub("N", _UUID.sub("ID", text)).split())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_s_commands_do_what_it_shows(page: Path, program: Program) -> None:
    steps = list(typed(page))
    script = "\n".join(["set -e", "exec 2>&1", *(f"{one.command}\necho '{_END}'" for one in steps)])
    path = f"{program.folder_of_program}:{program.environment['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=program.cwd,
        env=program.environment | {"PATH": path, "COLUMNS": "80", "CLONE": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for step, output in zip(steps, done.stdout.split(_END), strict=False):
        for line in step.shown:
            before, _, _ = line.partition("…")
            assert masked(before) in masked(output), f"{step.command}\n{output}"


def named(page: Path) -> set[str]:
    """The commands of flexai that a page names, in blocks and in lines."""
    text = page.read_text(encoding="utf-8")
    lines = [line for language, block in _FENCED.findall(text) if language in SHELL for line in _unfolded(block)]
    in_lines = re.findall(r"`(flexai [^`]*)`", _FENCED.sub("", text))
    found = [match[1] for line in lines if (match := re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*(flexai .*)", line))]
    return {" ".join(line.partition(" | ")[0].partition(" -- ")[0].split()) for line in [*found, *in_lines]}


def _unfolded(block: str) -> list[str]:
    return re.sub(r"\\\n", "", block).splitlines()


@pytest.mark.parametrize("page", [page for page in pages() if page.name != "CHANGELOG.md"], ids=lambda page: page.stem)
def test_every_command_and_option_that_a_page_names_is_there(page: Path) -> None:
    unknown = [line for line in sorted(named(page)) if not _is_known(line)]
    assert unknown == []


def _is_known(line: str) -> bool:
    words = [word for word in shlex.split(line, comments=True)[1:] if word not in {"…", "...", "&"}]
    try:
        found, rest = _command(words)
    except click.UsageError:
        return False
    known = {name for one in found.params for name in (*one.opts, *one.secondary_opts)} | {"--help", "-h", "--version"}
    return {re.split("[=…]", word)[0] for word in rest if re.match(r"--?[a-z]", word)} <= known


def _command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words lead to, and what it is given."""
    found: click.Command = cli
    while isinstance(found, LazyGroup) and words and not words[0].startswith("-"):
        name, *words = words
        command = found.get_command(click.Context(found), name)
        if command is None:
            raise click.UsageError(f"there is no command {name}")
        found = command
    return found, words


def _typed_as_one(page: Path) -> Iterator[str]:
    """The commands of flexai in a page's blocks, without what a shell does with them."""
    for language, block in _FENCED.findall(page.read_text(encoding="utf-8")):
        for line in _unfolded(block) if language in SHELL | {"text"} else ():
            # An example of the reference begins its line, in a page a dollar, a setting or srun may stand before it.
            if match := re.match(r"\s*(?:\$ )?(?:[A-Z_]+=\S+ |srun )*flexai (?!.*…)(.*)", line):
                yield re.split(r" (?:\||\|\||&&|>|2>)(?: |$)", match[1])[0]


@pytest.mark.parametrize("page", [page for page in pages() if any(_typed_as_one(page))], ids=lambda page: page.stem)
def test_the_program_takes_every_command_of_a_page(page: Path) -> None:
    refused = []
    for line in _typed_as_one(page):
        try:
            command, words = _command(shlex.split(line, comments=True))
            # A command keeps the names of its help option from the first context, so it is that of the program.
            command.make_context(command.name, words, parent=click.Context(cli, **cli.context_settings))
        except (click.UsageError, ValueError) as error:
            refused.append(f"flexai {line}: {error}")
        except click.exceptions.Exit:  # such as --version
            pass
    assert refused == []


def test_every_block_that_is_not_run_says_why() -> None:
    for page in pages():
        for comment, words, _, _ in _STEP.findall(page.read_text(encoding="utf-8")):
            assert comment != "not run" or len(words.split()) >= 3, f"{page.name}: {words}"


def test_the_terminal_of_the_readme_shows_the_readme_s_commands() -> None:
    picture = (ROOT / "docs" / "images" / "terminal.svg").read_text(encoding="utf-8").replace("&#160;", " ")
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Resume after a kill")[2].partition("##")[0]
    commands = [line.removeprefix("$ ").removesuffix(" || true") for line in section.splitlines() if line[:2] == "$ "]
    assert len(commands) == 2
    assert [command for command in commands if command not in picture] == []
    assert re.findall(r"url\((?!#)|https?://(?!www\.w3\.org|www\.textualize\.io)", picture) == []
