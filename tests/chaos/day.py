"""A day of a team in a minute: pushes, deletions, gc, retention, a mirror, scrubs and fetches at once, for long.

Each command is a process of its own, and none may fail, also where the database goes away and comes back.
"""

from __future__ import annotations

import contextlib
import queue
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from flexai.checkpoints.models import CheckpointStatus
from tests.chaos.plays import GC, check_end, push_of
from tests.chaos.stage import ROUNDS, Stage
from tests.support.trees import Tree, read_tree

PUSHERS = min(20, max(4, ROUNDS // 10))
DELETERS = min(5, max(2, ROUNDS // 40))
PUSHES = max(3, ROUNDS // 8)
"""Of each pusher."""
NIGHTS = 2
"""Checkpoints that retention keeps."""


@dataclass
class Day:
    """What has happened so far."""

    stage: Stage
    seed: int
    pushed: dict[str, Tree] = field(default_factory=dict)
    to_be_deleted: queue.SimpleQueue[str | None] = field(default_factory=queue.SimpleQueue)
    failures: list[str] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)

    def run(self, *arguments: str) -> bool:
        """Run a command, which must not fail; returns whether it did its work."""
        ended = self.stage.run(*arguments)
        if ended.code:
            self.failures.append(f"{' '.join(arguments)}: {ended.code}: {ended.text}")
        return ended.code == 0

    def push(self, number: int) -> None:
        """Push one checkpoint after the other; others share most of the content of each."""
        chance = random.Random(self.seed + number)
        for turn in range(PUSHES):
            name = f"{('kept', 'deleted', 'nightly')[turn % 3]}-{number}-{turn}"
            files = self.stage.files(chance.randrange(4)) | {"own.txt": name.encode()}
            folder = self.stage.write(f"run-{number}", files)
            if self.run(*push_of(name, folder)):
                self.pushed[name] = files
                if name.startswith("deleted"):
                    self.to_be_deleted.put(name)
            shutil.rmtree(folder)

    def delete(self) -> None:
        """Delete what is to be deleted, until there is no more."""
        while (name := self.to_be_deleted.get()) is not None:
            self.run("checkpoint", "delete", name)

    def fetch(self) -> None:
        """Fetch checkpoints that stay, and compare them."""
        out = self.stage.root / "fetched"
        chance = random.Random(self.seed)
        while not self.is_over.is_set():
            if kept := [name for name in list(self.pushed) if name.startswith("kept")]:
                name = chance.choice(kept)
                if self.run("checkpoint", "fetch", name, "-d", str(out)) and read_tree(out) != self.pushed[name]:
                    self.failures.append(f"{name} was fetched with other content")
                shutil.rmtree(out, ignore_errors=True)

    def repeat(self, *arguments: str) -> None:
        """Run one command again and again."""
        while not self.is_over.is_set():
            self.run(*arguments)


def play_day(stage: Stage, chance: random.Random, while_it_lasts: Callable[[threading.Event], None]) -> None:
    """All at once; ``while_it_lasts`` is called with what tells that the last push has ended."""
    day = Day(stage, chance.getrandbits(32))
    stage.succeed(*GC)  # makes the catalog
    place = stage.provider
    mirror = ("mirror", f"{place.bucket}/mirror", place.place)
    prune = ("checkpoint", "prune", "--pushed", "nightly-*", "--keep-last", str(NIGHTS), "--no-keep-exported")
    others = [
        lambda: day.repeat(*GC),
        lambda: day.repeat(*prune, "--apply"),
        lambda: day.repeat(*mirror),
        lambda: day.repeat("scrub", place.place),
        day.fetch,
    ]
    with ThreadPoolExecutor(PUSHERS + DELETERS + len(others) + 1) as pool:
        rest = [pool.submit(other) for other in others]
        deleters = [pool.submit(day.delete) for _ in range(DELETERS)]
        pushers = [pool.submit(day.push, number) for number in range(PUSHERS)]
        with _told_of_the_end(pool, pushers) as has_ended:
            while_it_lasts(has_ended)
        for _ in deleters:
            day.to_be_deleted.put(None)
        for deleter in deleters:
            deleter.result()
        day.is_over.set()
        for one in rest:
            one.result()
    assert not day.failures, f"{len(day.failures)} commands failed, such as {day.failures[:3]}"
    for command in ((*prune, "--apply"), mirror, GC):
        stage.succeed(*command)
    with stage.look() as machine:
        left = {one.name for one in machine.checkpoints(CheckpointStatus.AVAILABLE)}
        assert {name for name in left if not name.startswith("nightly")} == {
            name for name in day.pushed if name.startswith("kept")
        }
        assert sum(name.startswith("nightly") for name in left) == NIGHTS
        for name in left:
            assert machine.fetched(name) == day.pushed[name], name
    check_end(stage)


@contextlib.contextmanager
def _told_of_the_end(pool: ThreadPoolExecutor, pushers: list[Future[None]]) -> Iterator[threading.Event]:
    """What is set when the last pusher has ended, which the end of the block waits for."""
    has_ended = threading.Event()

    def wait() -> None:
        for pusher in pushers:
            pusher.exception()
        has_ended.set()

    waiter = pool.submit(wait)
    yield has_ended
    waiter.result()
    for pusher in pushers:
        pusher.result()
