"""What the pages show is typed as it stands there, from the first command of a page to its last.

A comment in a page says what the reader does not see:

    <!-- before: COMMAND -->    is run at its place: what the reader is expected to have
    <!-- until: COMMAND -->     the next block's last command has no end: it is stopped when this one succeeds
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import click
import pytest

from flexai.cli.commands import LazyGroup
from flexai.cli.root import cli
from tests.cli.program import PROGRAM, Program
from tests.docs.test_pages import ROOT, pages
from tests.servers.fixtures import S3Server
from tests.servers.postgresql import PostgreSQL

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_STEP = re.compile(r"^<!-- (before|until): (.*?) -->$|^```(\w*)\n(.*?)^```$", re.M | re.S)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_AGE = re.compile(r"\b\d+[smhd]\b")
_RULE = re.compile(r"-{3,}")
_END = "-- end of a command --"
SHELL = {"console", "bash", "sh"}

NOT_RUN = {
    "aws": "it is AWS's own program, and asks its cloud; rclone copies instead of it",
    "docker": "it asks a Docker daemon",
    "kubectl": "it asks a cluster",
    "srun": "it is Slurm's, for which the tests of the scripts have a stand-in",
    "uv": "it asks an index of packages",
    "pip install": "it asks an index of packages",
    "make bench": "it races for hours",
    "make demo": "it installs the package into the clone",
    "make test": "it would run itself",
    "prefect worker start --pool flexai-docker": "this kind of worker comes from an index of packages",
}
"""How the commands begin that no test can run, and why. All others are run."""

SLOW = {"orchestration", "retention", "scaling", "scripting", "storage", "team", "workers", "observability"}
"""Pages that need a server or more than ten seconds of a core."""


@dataclass(frozen=True)
class Typed:
    """A command with the lines of output that the page shows."""

    command: str
    shown: list[str] = field(default_factory=list)
    until: str = ""
    """The command that succeeds when this one has done what it is run for; empty where it ends by itself."""


def typed(page: Path) -> Iterator[Typed]:
    """The commands of a page that are run, in order."""
    return (one for one in written(page) if not any(_begins(one.command, begin) for begin in NOT_RUN))


def _begins(command: str, words: str) -> bool:
    return f"{command} ".startswith(f"{words} ")


def written(page: Path) -> Iterator[Typed]:
    """All commands of a page, in order, with those that the reader does not see."""
    until = ""
    for comment, words, language, block in _STEP.findall(page.read_text(encoding="utf-8")):
        words = " ".join(words.split())
        if comment == "before":
            yield Typed(words)
        elif comment == "until":
            until = words
        elif language in SHELL:
            *first, last = in_block(language, block) or [Typed("true")]
            yield from first
            yield Typed(last.command, last.shown, until)
            until = ""


def in_block(language: str, block: str) -> list[Typed]:
    """A block's commands: after a dollar each, or a line each."""
    block = re.sub(r"\\\n", "", block)
    if language != "console":
        return [Typed(line) for line in block.splitlines() if line and not line.startswith("#")]
    entries = [entry.rstrip().splitlines() for entry in re.split(r"^\$ ", block, flags=re.M)[1:]]
    return [Typed(command, shown) for command, *shown in entries]


class World:
    """Where a page's commands are typed: the places that a page names, each as the one that is meant by it here.

    What a page does not name is not started.
    """

    def __init__(self, program: Program, request: pytest.FixtureRequest) -> None:
        self.program = program
        self._request = request
        self._made: dict[str, str] = {}
        self.environment = {
            "COLUMNS": "80",
            "CLONE": str(ROOT),
            # Where other tests keep the cores busy.
            "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "300",
        }
        self.environment["PATH"] = f"{program.folder_of_program}:{program.environment['PATH']}"

    def here(self, text: str) -> str:
        """A text of a page with this world's places."""
        for name in _PLACES:
            if name in text:
                text = text.replace(name, self.place(name))
        return text

    def place(self, name: str) -> str:
        """What stands here for a place; made when it is first asked for."""
        if name not in self._made:
            self._made[name] = _PLACES[name](self)
        return self._made[name]

    def s3(self) -> S3Server:
        """The server of buckets, with its keys in the environment."""
        server: S3Server = self._request.getfixturevalue("seaweedfs")
        self.environment |= {
            "AWS_ENDPOINT_URL_S3": server.url,
            "AWS_REGION": server.region,
            "AWS_ACCESS_KEY_ID": server.access_key_id,
            "AWS_SECRET_ACCESS_KEY": server.secret_access_key,
        }
        return server

    def database(self) -> str:
        """The URL of a new database."""
        server: PostgreSQL = self._request.getfixturevalue("postgresql")
        return server.url(server.create_database())

    def folder(self) -> str:
        """A new folder."""
        path = self.program.home.parent / str(uuid4())
        path.mkdir()
        return str(path)


def _port(_world: World) -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return str(free.getsockname()[1])


_PLACES: dict[str, Callable[[World], str]] = {
    # A longer name stands before one that begins it.
    "/home/me/.flexai": lambda world: str(world.program.home),
    "lab:/home/ada/.flexai": lambda world: f"{socket.gethostname()}:{world.program.home}",
    "/srv/flexai": lambda world: f"{world.folder()}/flexai",
    "/backups": World.folder,
    "-g ml ": lambda _: f"-g {os.getgid()} ",
    "https://minio.example.com:9000": lambda world: world.s3().url,
    "--access-key-id lab ": lambda world: f"--access-key-id {world.s3().access_key_id} ",
    "my-bucket/": lambda world: f"{world.s3().bucket}/{uuid4()}/",
    "postgresql+asyncpg://user:password@host/prefect": lambda world: shlex.quote(
        world.database().replace("postgresql:", "postgresql+asyncpg:")
    ),
    "postgresql://owner@db.example.com/flexai": lambda world: shlex.quote(world.database()),
    "postgresql://alice@db.example.com/flexai": lambda world: shlex.quote(world.database()),
    "8786": _port,
    "dask scheduler ": lambda world: f"dask scheduler --host 127.0.0.1 --port {world.place('8786')} --no-dashboard ",
    "tcp://scheduler:": lambda _: "tcp://127.0.0.1:",
}


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """A world of one's own; the server that a page has brought up goes down with the test."""
    program = Program(tmp_path)
    yield World(program, request)
    if (program.home / "prefect").exists():
        program.run("down", "--grace", "5")


def masked(text: str) -> str:
    """A text without what differs from run to run: ids, ages, sizes, losses, the width of columns."""
    text = _RULE.sub("---", text)
    return " ".join(_NUMBER.sub("N", _AGE.sub("AGE", _UUID.sub("ID", text))).split())


def _script(steps: list[Typed]) -> Iterator[str]:
    yield "set -e -o pipefail; exec 2>&1; trap 'kill $(jobs -p) 2>/dev/null || true' EXIT"
    for one in steps:
        if one.until:
            yield f"{one.command} & endless=$!"
            yield f"until {one.until}; do kill -0 $endless; sleep 0.2; done"
            yield "kill -TERM $endless; wait $endless"
        elif any(line.startswith("error: ") for line in one.shown):
            yield f"if {one.command}; then echo 'it does not fail'; exit 99; fi"
        else:
            yield one.command
        yield f"echo '{_END}'"


def _slow_or_not(page: Path) -> Any:
    return pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW else [])


@pytest.mark.parametrize("page", [_slow_or_not(page) for page in pages() if any(typed(page))])
def test_a_page_s_commands_do_what_it_shows(page: Path, world: World) -> None:
    steps = [
        Typed(world.here(one.command), [world.here(line) for line in one.shown], world.here(one.until))
        for one in typed(page)
    ]
    done = subprocess.run(
        ["bash", "-c", "\n".join(_script(steps))],
        cwd=world.program.cwd,
        env=world.program.environment | world.environment,
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


def test_what_is_not_run_is_on_a_page_and_cannot_be_run() -> None:
    commands = [one.command for page in pages() for one in written(page)]
    assert [begin for begin in NOT_RUN if not any(_begins(line, begin) for line in commands)] == []
    # A whole program is left out only where the environment of the tests does not have it.
    assert [begin for begin in NOT_RUN if " " not in begin and (PROGRAM.parent / begin).exists()] == []
    assert [begin for begin in NOT_RUN if begin.startswith("flexai")] == []


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


def test_the_terminal_of_the_readme_shows_the_readme_s_commands() -> None:
    picture = (ROOT / "docs" / "images" / "terminal.svg").read_text(encoding="utf-8").replace("&#160;", " ")
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Resume after a kill")[2].partition("##")[0]
    commands = [line.removeprefix("$ ").removesuffix(" || true") for line in section.splitlines() if line[:2] == "$ "]
    assert len(commands) == 2
    assert [command for command in commands if command not in picture] == []
    assert re.findall(r"url\((?!#)|https?://(?!www\.w3\.org|www\.textualize\.io)", picture) == []
