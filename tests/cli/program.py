"""The real program, run as a process of its own with a home of its own."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexai.prefect_server.credential import read_credential

PROGRAM = Path(sys.executable).with_name("flexai")


@dataclass(frozen=True)
class Done:
    """What a run of the program left."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The sentence after ``error:``; empty where there is none."""
        return self._labelled("error")

    @property
    def hint(self) -> str:
        """The sentence after the last ``hint:``; empty where there is none."""
        return self._labelled("hint")

    def _labelled(self, label: str) -> str:
        lines = [line.removeprefix(f"{label}: ") for line in self.err.splitlines() if line.startswith(f"{label}: ")]
        return lines[-1] if lines else ""


class Program:
    """``flexai`` with a home folder and a working directory of its own, and no Prefect API."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.folder_of_program = PROGRAM.parent
        self.cwd = folder / "cwd"
        self.cwd.mkdir(parents=True)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FLEXAI_", "PREFECT_"))}
        self.environment = kept | {
            "FLEXAI_HOME": str(self.home),
            "HOME": str(folder),
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "TERM": "xterm",
        }

    @property
    def credential(self) -> str:
        """The password of the server that ``flexai up`` has started."""
        return read_credential(self.home)

    def start(self, *arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
        """Start the program and do not wait for it."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(
            [PROGRAM, *arguments],
            cwd=self.cwd,
            env=self.environment | dict(env or {}),
            text=True,
            **(pipes | options),
        )

    def run(self, *arguments: str, env: Mapping[str, str] | None = None, input: str = "", umask: int = -1) -> Done:
        """Run the program to its end."""
        done = subprocess.run(
            [PROGRAM, *arguments],
            cwd=self.cwd,
            env=self.environment | dict(env or {}),
            input=input,
            capture_output=True,
            text=True,
            check=False,
            umask=umask,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def on_a_terminal(self, *arguments: str, env: Mapping[str, str] | None = None, typed: str = "") -> str:
        """What the program shows on a terminal of 80 columns, standard output and error as they come."""
        environment = self.environment | dict(env or {})
        _, shown = on_a_terminal([PROGRAM, *arguments], env=environment, cwd=self.cwd, typed=typed)
        return shown

    def python(self, code: str, env: Mapping[str, str] | None = None) -> str:
        """Run Python code in the program's surroundings and return what it printed."""
        return subprocess.run(
            [sys.executable, "-c", code],
            cwd=self.cwd,
            env=self.environment | dict(env or {}),
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def file(self, path: str, content: str | bytes = "content") -> Path:
        """Write a file below the working directory."""
        target = self.cwd / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        return target


def on_a_terminal(
    command: Sequence[str | Path], *, env: Mapping[str, str], cwd: Path, typed: str = ""
) -> tuple[int, str]:
    """Run a command on a terminal of 80 columns, where a user has typed something; its exit code, and all it showed."""
    controller, terminal = pty.openpty()
    process = subprocess.Popen(
        command,
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=cwd,
        env=dict(env) | {"COLUMNS": "80", "LINES": "24"},
    )
    os.close(terminal)
    os.write(controller, typed.encode())
    shown = bytearray()
    while True:
        try:
            data = os.read(controller, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not data:
            break
        shown += data
    os.close(controller)
    return process.wait(), shown.decode()
