"""Many processes at once on one catalog and one store."""

from __future__ import annotations

import random
import shutil

import pytest

from flexai.checkpoints.models import CheckpointStatus
from tests.chaos.conftest import NewStage
from tests.chaos.stage import ROUNDS, Stage, checkpoint_files
from tests.support.machine import check_all, check_nothing_is_left_over, check_nothing_is_torn
from tests.support.trees import read_tree


def _play_one_name(stage: Stage, rounds: int) -> None:
    sources = [checkpoint_files("one"), checkpoint_files("other")]
    folders = [stage.write(f"run-{number}", files) for number, files in enumerate(sources)]
    for number in range(rounds):
        name = f"name-{number}"
        runs = [stage.start("checkpoint", "push", name, "-f", str(folder)) for folder in folders]
        ended = [run.wait() for run in runs]
        assert sorted(one.code for one in ended) == [0, 4], [one.text for one in ended]
        (loser,) = [one for one in ended if one.code == 4]
        assert "hint: " in loser.text
        assert "being pushed by process" in loser.text or "already exists with other content" in loser.text
        winner = next(files for files, one in zip(sources, ended, strict=True) if one.code == 0)
        with stage.look() as machine:
            check_all(machine, [name], winner)
        stage.succeed("checkpoint", "delete", name)


def test_of_two_pushes_of_one_name_at_once_one_wins(new_stage: NewStage) -> None:
    _play_one_name(new_stage(), min(max(2, ROUNDS // 2), 50))


def test_of_two_pushes_of_one_name_at_once_one_wins_in_postgresql(postgresql_stage: Stage) -> None:
    _play_one_name(postgresql_stage, 2)


def _play_many_names(stage: Stage, count: int) -> None:
    sources = {f"name-{number}": checkpoint_files(number % 3) for number in range(count)}
    runs = [
        stage.start("checkpoint", "push", name, "-f", str(stage.write(name, files))) for name, files in sources.items()
    ]
    for run in runs:
        ended = run.wait()
        assert ended.code == 0, ended.text
    with stage.look() as machine:
        check_nothing_is_torn(machine)
        assert {one.name for one in machine.checkpoints(CheckpointStatus.AVAILABLE)} == sources.keys()
        for name, files in sources.items():
            assert machine.fetched(name) == files
        machine.collect()
        check_nothing_is_torn(machine)
        check_nothing_is_left_over(machine)


def test_twenty_pushes_of_different_names_at_once_all_arrive(new_stage: NewStage) -> None:
    _play_many_names(new_stage(), 20)


def test_twenty_first_pushes_at_once_make_one_catalog_and_one_store(new_stage: NewStage) -> None:
    stage = new_stage()
    shutil.rmtree(stage.root / "home")
    _play_many_names(stage, 20)


def test_pushes_of_different_names_at_once_all_arrive_in_postgresql(postgresql_stage: Stage) -> None:
    _play_many_names(postgresql_stage, 6)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_pushes_deletions_and_collections_at_once_lose_nothing(
    new_stage: NewStage, request: pytest.FixtureRequest, chance: random.Random, kind: str
) -> None:
    stage: Stage = new_stage() if kind == "sqlite" else request.getfixturevalue("postgresql_stage")
    kept = {f"kept-{number}": checkpoint_files(number) for number in range(3)}
    for name, files in kept.items():
        stage.write(name, files)
    stage.succeed("checkpoint", "push", "shared", "-f", str(stage.root / "kept-0"))
    runs = [stage.start("checkpoint", "push", name, "-f", str(stage.root / name)) for name in kept]
    runs += [stage.start("checkpoint", "delete", "shared")]
    runs += [stage.start("checkpoint", "gc", "--grace-period", "0s") for _ in range(3)]
    for number in range(3):
        run = stage.start("checkpoint", "push", f"killed-{number}", "-f", str(stage.root / f"kept-{number}"))
        runs.append(run.kill(after=chance.uniform(0, 0.2)))
    runs += [stage.start("checkpoint", "gc", "--grace-period", "0s") for _ in range(3)]
    for run in runs:
        ended = run.wait()
        assert ended.code == 0 or ended.was_killed, ended.text
    with stage.look() as machine:
        check_nothing_is_torn(machine)
        for name, files in kept.items():
            assert machine.fetched(name) == files
        machine.collect()
        check_nothing_is_torn(machine)
        check_nothing_is_left_over(machine)


def test_fetches_into_one_directory_at_once_all_end_right(new_stage: NewStage) -> None:
    stage = new_stage()
    files = checkpoint_files("fetch")
    stage.succeed("checkpoint", "push", "llama", "-f", str(stage.write("run", files)))
    for number in range(max(1, ROUNDS // 3)):
        out = stage.root / f"out-{number}"
        for run in [stage.start("checkpoint", "fetch", "llama", "-d", str(out)) for _ in range(4)]:
            ended = run.wait()
            assert ended.code == 0, ended.text
        assert read_tree(out) == files
