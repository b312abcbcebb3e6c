"""flexai as a contestant: its real command, in a home folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Cost, FailedError, flexai, run
from benchmarks.servers import BUCKET, S3Server
from benchmarks.sources import compare, delete_below, digest_tree, empty

STORE_PREFIX = "flexai/"
_OPERATIONS = Path(__file__).parent / "programs" / "own_operations.py"


@dataclass
class Own:
    """A home folder and the managed store that it uses."""

    home: Path
    server: S3Server | None = None
    """Where the managed store is; the home folder without one."""
    extra: Mapping[str, str] = field(default_factory=dict)
    """More of the environment."""

    @property
    def environment(self) -> dict[str, str]:
        """What the command finds around it."""
        variables = {"FLEXAI_HOME": str(self.home), "PREFECT_API_URL": "", "HOME": str(self.home.parent)}
        if self.server:
            variables |= self.server.environment | {"FLEXAI_STORE": f"s3://{BUCKET}/{STORE_PREFIX}"}
        return variables | dict(self.extra)

    def begin_anew(self) -> None:
        """Forget everything that was stored; a catalog and a store are there, as the peers' bucket is."""
        empty(self.home)
        if self.server:
            delete_below(self.server.client(), BUCKET, STORE_PREFIX)
        self.push("warm-up", Path(__file__))

    def checkpoint(self, *arguments: str) -> Cost:
        """Run ``flexai checkpoint`` and measure it."""
        return run([flexai(), "checkpoint", *arguments], self.environment)

    def push(self, name: str, source: Path, *options: str) -> Cost:
        """Push a folder or a file under a name, without Prefect."""
        return self.checkpoint("push", name, "--file", str(source), "--no-track", *options)

    def fetch(self, name: str, destination: Path) -> Cost:
        """Fetch a checkpoint, without Prefect."""
        return self.checkpoint("fetch", name, "--destination", str(destination), "--no-track")

    def examine(self, name: str, expected: Mapping[str, str], folder: Path) -> None:
        """Fetch what was pushed and compare it; WrongError where it differs."""
        try:
            self.fetch(name, empty(folder))
            compare(expected, digest_tree(folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def ask(self, arguments: Sequence[str]) -> Any:
        """The JSON that a command prints; FailedError where it fails."""
        done = subprocess.run(
            [flexai(), *arguments], env={**os.environ, **self.environment}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise FailedError(f"flexai {arguments[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        return json.loads(done.stdout)


def own_operation(own: Own, *arguments: str) -> Cost:
    """Run an operation inside a program that is started for it, and says what the operation alone took."""
    return run([sys.executable, str(_OPERATIONS), *arguments], own.environment)
