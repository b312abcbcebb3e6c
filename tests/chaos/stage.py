"""A machine whose work is done by processes that may die at any instant."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.processes import WORKERS, Ended, Processes, Run
from tests.support.machine import PART, THRESHOLD, Machine
from tests.support.trees import Tree, noise

ROUNDS = int(os.environ.get("FLEXAI_CHAOS_ROUNDS") or 6)
"""How often each scenario is played."""

IN_FLIGHT = WORKERS * PART
"""Bytes that a killed process may have had in hand, and that move again."""


def checkpoint_files(seed: object) -> Tree:
    """A checkpoint with files of every kind; most of it differs from seed to seed."""
    return {
        "config.json": b'{"layers": 2}',
        "empty.txt": b"",
        "model/a.safetensors": noise(20 * PART + 17, f"a {seed}"),
        "model/b.safetensors": noise(6 * PART, f"b {seed}"),
        "model/c.safetensors": noise(THRESHOLD, f"c {seed}"),
    } | {f"tokens/{number:02}.bin": noise(9000, f"{number} {seed}") for number in range(12)}


@dataclass
class Stage:
    """A home folder, and processes that work on it."""

    root: Path
    processes: Processes
    database_url: str = ""
    log: Path = field(init=False)
    seconds: float = 0.3
    """How long the measured run took."""
    _calls: int = 300

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.log = self.root / "log"

    @property
    def environment(self) -> dict[str, str]:
        """What a process must know to work here."""
        return {
            "FLEXAI_HOME": str(self.root / "home"),
            "FLEXAI_DATABASE_URL": self.database_url,
            "HOME": str(self.root),
            "PREFECT_HOME": str(self.root / "prefect"),
        }

    @contextmanager
    def look(self) -> Iterator[Machine]:
        """The machine as it is now."""
        changes = {"database_url": self.database_url} if self.database_url else {}
        with Machine.start(self.root, **changes) as machine:
            yield machine

    def write(self, name: str, files: Tree) -> Path:
        """Make a folder of files."""
        from tests.support.trees import write_tree

        return write_tree(self.root / name, files)

    def start(self, *arguments: str, **options: int | None) -> Run:
        """Start a process of the program."""
        return self.processes.start(*arguments, environment=self.environment, log=self.log, **options)

    def run(self, *arguments: str, **options: int | None) -> Ended:
        """Run the program to its end."""
        return self.start(*arguments, **options).wait()

    def succeed(self, *arguments: str) -> Ended:
        """Run the program, which must do its work."""
        ended = self.run(*arguments)
        assert ended.code == 0, ended.text
        return ended

    def measure(self, *arguments: str) -> None:
        """Learn from a whole run how long it takes, and how many calls it makes."""
        self.log.unlink(missing_ok=True)
        self.seconds = self.succeed(*arguments).seconds
        self._calls = self.noted("calls")
        self.log.unlink()

    def run_and_kill(self, chance: random.Random, *arguments: str) -> Ended:
        """Run the program and kill it, at a random instant or before a random call."""
        if chance.random() < 0.5:
            number = chance.randint(1, self._calls)
            print(f"to be killed before call {number} of {self._calls}")
            ended = self.run(*arguments, kill_at=number)
        else:
            delay = chance.uniform(0, self.seconds)
            print(f"to be killed after {delay:.4f} of {self.seconds:.4f} s")
            ended = self.start(*arguments).kill(after=delay).wait()
        assert ended.was_killed or ended.code == 0, ended.text
        return ended

    def noted(self, kind: str, *, below: Path | None = None) -> int:
        """Bytes (or calls) that the processes noted, of a kind and below a folder."""
        total = 0
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            noted, size, what = line.split("\t")
            if noted == kind and (below is None or what.startswith(f"{below}/")):
                total += int(size)
        return total
