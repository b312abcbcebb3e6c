"""Users of this machine, each with a uid and a home of its own, who call the program.

Only root can become them, and the interpreter may lie where they cannot read. So a process of root's loads the program
by calling it once, and forks for each call a process that becomes the user and calls it with what is loaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.cli.program import Done

_SERVE = """
import json, os, sys
from click.testing import CliRunner
from flexai.cli.root import cli

def call(work):
    os.setgroups(work["groups"])
    os.setgid(work["gid"])
    os.setuid(work["uid"])
    os.umask(work["umask"])
    os.environ |= work["env"]
    os.chdir(work["cwd"])
    found = CliRunner().invoke(cli, work["arguments"])
    return [found.exit_code, found.stdout, found.stderr + (repr(found.exception) if found.exit_code > 6 else "")]

for line in sys.stdin:
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        with os.fdopen(theirs, "w") as pipe:
            json.dump(call(json.loads(line)), pipe)
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as pipe:
        print(json.dumps(json.load(pipe)), flush=True)
    os.waitpid(child, 0)
"""


@dataclass(frozen=True)
class User:
    """A user of the machine."""

    name: str
    uid: int
    folder: Path
    """The user's own, which no other user may enter; the program works in it."""
    groups: tuple[int, ...] = ()
    """Beside the group of the user alone, whose number is the uid."""
    umask: int = 0o002
    environment: dict[str, str] = field(default_factory=dict)

    def make_folder(self) -> None:
        """Make the folder."""
        self.folder.mkdir(0o700)
        os.chown(self.folder, self.uid, self.uid)


class Calls:
    """Calls the program as users do."""

    def __init__(self, warm: Sequence[Sequence[str]], folder: Path) -> None:
        """``warm`` are commands that load all that the users' commands need; they are called in ``folder``."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLEXAI_", "PREFECT_"))}
        load = f"""
import os
from click.testing import CliRunner
from flexai.cli.root import cli
for arguments in {[list(one) for one in warm]!r}:
    CliRunner().invoke(cli, arguments)
"""
        self._process = subprocess.Popen(
            [sys.executable, "-c", load + _SERVE],
            cwd=folder,
            env=kept | {"FLEXAI_HOME": str(folder / "home"), "HOME": str(folder), "PREFECT_HOME": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Calls:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def __call__(self, user: User, *arguments: str, umask: int | None = None) -> Done:
        """Call the program as a user, and wait for its end."""
        own = {"FLEXAI_HOME": str(user.folder / "home"), "HOME": str(user.folder), "LOGNAME": user.name}
        work = {
            "uid": user.uid,
            "gid": user.uid,
            "groups": list(user.groups),
            "umask": user.umask if umask is None else umask,
            "env": own | {"PREFECT_HOME": str(user.folder)} | user.environment,
            "cwd": str(user.folder),
            "arguments": list(arguments),
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(work) + "\n")
        self._process.stdin.flush()
        code, out, err = json.loads(self._process.stdout.readline())
        return Done(code, out, err)
