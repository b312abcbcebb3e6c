"""Races: the order, what counts, and what a contestant's process is charged with."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from benchmarks.measure import Cost, FailedError, run
from benchmarks.race import Contestant, WrongError, race
from benchmarks.servers import Load
from benchmarks.sources import compare, digest_tree, write_shards

COST = Cost(wall=1, cpu=1, peak=1)


def test_contestants_run_by_turns_and_each_round_begins_with_another_one() -> None:
    order: list[str] = []

    def contestant(name: str) -> Contestant:
        def perform() -> Cost:
            order.append(name)
            return COST

        return Contestant(perform)

    runs, wrong = race({"one": contestant("one"), "two": contestant("two")}, rounds=2)
    assert order == ["one", "two", "two", "one", "one", "two"]
    assert {name: len(some) for name, some in runs.items()} == {"one": 2, "two": 2}
    assert not wrong


def test_a_run_whose_content_is_wrong_does_not_count(tmp_path: Path) -> None:
    source = write_shards(tmp_path / "source", 2, 1000)
    expected = digest_tree(source)
    arrived = write_shards(tmp_path / "arrived", 2, 1000)
    compare(expected, digest_tree(arrived))
    next(arrived.iterdir()).write_bytes(b"something else")
    hasty = Contestant(lambda: COST, examine=lambda: compare(expected, digest_tree(arrived)))
    runs, wrong = race({"hasty": hasty, "careful": Contestant(lambda: COST)}, rounds=3)
    assert list(runs) == ["careful"]
    assert wrong == {"hasty": ["0 files are missing, 0 are not expected, 1 differ"]}


@dataclass
class Counting:
    """A server that counts how often it was asked to begin."""

    name: str
    url: str = ""
    begun: int = 0

    def reset(self) -> None:
        self.begun += 1

    def load(self) -> Load:
        return Load(cpu=None, requests=self.begun)


def test_a_contestant_with_a_server_of_its_own_is_told_what_that_one_counted() -> None:
    common, own = Counting("common"), Counting("own", begun=10)
    contestants = {"one": Contestant(lambda: COST), "two": Contestant(lambda: COST, server=own)}
    runs, _ = race(contestants, rounds=1, server=common, warm_up=False)
    assert {name: [run.requests for run in some] for name, some in runs.items()} == {"one": [1], "two": [11]}


def test_a_missing_file_is_wrong() -> None:
    with pytest.raises(WrongError, match="1 files are missing"):
        compare({"there": "a", "missing": "b"}, {"there": "a"})


def test_a_command_is_charged_with_its_childrens_memory_and_says_what_it_took_itself() -> None:
    program = (
        "import os, pathlib, subprocess, sys;"
        "subprocess.run([sys.executable, '-c', 'b = bytearray(128 << 20)']);"
        "pathlib.Path(os.environ['FLEXAI_BENCH_INNER']).write_text('0.5')"
    )
    cost = run([sys.executable, "-c", program], {})
    assert cost.peak > 128 << 20
    assert cost.inner == 0.5


def test_a_command_that_fails_tells_the_end_of_its_output() -> None:
    with pytest.raises(FailedError, match=r"ended with 3: too bad"):
        run([sys.executable, "-c", "print('too bad'); raise SystemExit(3)"], {})
