"""A machine whose work is done by processes that may die at any instant, its store in a folder or in a bucket."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.protocol import BytesBody, ObjectStorage
from tests.chaos.processes import WORKERS, Ended, Processes, Run
from tests.support.machine import PART, THRESHOLD, Machine
from tests.support.trees import Tree, noise

_WANTED = int(os.environ.get("FLEXAI_CHAOS_ROUNDS") or 0)

ROUNDS = _WANTED or 4
"""How often each scenario is played."""

BUCKET_ROUNDS = _WANTED or 2
"""How often each scenario is played with the store in a bucket, where one takes longer."""


def checkpoint_files(seed: object, *, part: int = PART, parts: tuple[int, int] = (20, 6)) -> Tree:
    """A checkpoint with files of every kind; most of it differs from seed to seed.

    The two large files have so many parts of ``part`` bytes, the first a few bytes more.
    """
    first, second = parts
    return {
        "config.json": b'{"layers": 2}',
        "empty.txt": b"",
        "model/a.safetensors": noise(first * part + 17, f"a {seed}"),
        "model/b.safetensors": noise(second * part, f"b {seed}"),
        "model/c.safetensors": noise(THRESHOLD, f"c {seed}"),
    } | {f"tokens/{number:02}.bin": noise(9000, f"{number} {seed}") for number in range(12)}


@dataclass(frozen=True)
class Bucket:
    """A bucket of a real server, for a store and for exports; the environment says how to reach it."""

    scheme: str
    """``s3`` or ``gs``."""
    storage: ObjectStorage
    name: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Provider:
    """Where exports go."""

    storage: ObjectStorage
    bucket: str
    place: str
    """What a process opens it by."""

    def tree(self, prefix: str) -> Tree:
        """What lies below a prefix, unfinished uploads left out."""
        return {
            info.key.removeprefix(prefix): b"".join(bytes(block) for block in self.storage.get(info.key))
            for info in self.storage.list(prefix)
        }


@dataclass
class Stage:
    """A home folder, and processes that work on it."""

    root: Path
    processes: Processes
    database_url: str = ""
    bucket: Bucket | None = None
    """Where the store is, if not in the home folder."""
    log: Path = field(init=False)
    seconds: float = 0.3
    """How long the measured run took."""
    _calls: int = 300

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.log = self.root / "log"

    @property
    def store(self) -> str:
        """The setting that says where the store is; empty for the home folder."""
        return "" if self.bucket is None else f"{self.bucket.scheme}://{self.bucket.name}/{self.root.name}"

    @property
    def blobs(self) -> str:
        """What the noted places of blobs begin with."""
        if self.bucket is None:
            return f"{self.root}/home/store/blobs"
        return f"{self.bucket.storage.location}/{self.root.name}/blobs"

    @property
    def part(self) -> int:
        """Bytes of a part."""
        return PART if self.bucket is None else max(PART, self.bucket.storage.min_part_size)

    @property
    def in_flight(self) -> int:
        """Bytes that a killed process may have had in hand, and that move again."""
        return WORKERS * self.part

    @property
    def provider(self) -> Provider:
        """Where exports go: beside the store's bucket, or into a folder."""
        if self.bucket is None:
            buckets = self.root / "buckets"
            return Provider(LocalStorage(buckets / "bucket"), "bucket", str(buckets))
        return Provider(self.bucket.storage, self.bucket.name, self.bucket.scheme)

    @property
    def environment(self) -> dict[str, str]:
        """What a process must know to work here."""
        return {
            "FLEXAI_HOME": str(self.root / "home"),
            "FLEXAI_STORE": self.store,
            "FLEXAI_DATABASE_URL": self.database_url,
            "HOME": str(self.root),
            "PREFECT_HOME": str(self.root / "prefect"),
            **(self.bucket.environment if self.bucket else {}),
        }

    def files(self, seed: object) -> Tree:
        """A checkpoint with files of every kind; most of it differs from seed to seed."""
        if self.part == PART:
            return checkpoint_files(seed)
        return checkpoint_files(seed, part=self.part, parts=(3, 1))

    @contextmanager
    def look(self) -> Iterator[Machine]:
        """The machine as it is now."""
        changes = {"database_url": self.database_url, "store": self.store}
        with Machine.start(self.root, **{name: value for name, value in changes.items() if value}) as machine:
            yield machine
            if self.bucket is not None:
                machine.storage.inner.service.close()  # type: ignore[attr-defined]

    def write(self, name: str, files: Tree) -> Path:
        """Make a folder of files."""
        from tests.support.trees import write_tree

        return write_tree(self.root / name, files)

    def put_at_provider(self, prefix: str, files: Tree) -> None:
        """Make objects for a push to find."""
        for path, content in files.items():
            self.provider.storage.put(prefix + path, BytesBody(content))

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

    def noted(self, kind: str, *, below: str = "") -> int:
        """Bytes (or calls) that the processes noted, of a kind and below a place."""
        total = 0
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            noted, size, what = line.split("\t")
            if noted == kind and f"{what}/".startswith(f"{below}/" if below else ""):
                total += int(size)
        return total
