"""Many processes at once on one catalog and one store."""

from __future__ import annotations

import random
import shutil

import pytest

from tests.chaos.conftest import NewStage
from tests.chaos.plays import play_all_at_once, play_fetches_at_once, play_many_names, play_one_name
from tests.chaos.stage import ROUNDS, Stage

pytestmark = pytest.mark.slow


def test_of_two_pushes_of_one_name_at_once_one_wins(new_stage: NewStage) -> None:
    play_one_name(new_stage(), min(max(2, ROUNDS // 2), 50))


def test_of_two_pushes_of_one_name_at_once_one_wins_in_postgresql(postgresql_stage: Stage) -> None:
    play_one_name(postgresql_stage, 2)


def test_twenty_pushes_of_different_names_at_once_all_arrive(new_stage: NewStage) -> None:
    play_many_names(new_stage(), 20)


def test_twenty_first_pushes_at_once_make_one_catalog_and_one_store(new_stage: NewStage) -> None:
    stage = new_stage()
    shutil.rmtree(stage.root / "home")
    play_many_names(stage, 20)


def test_pushes_of_different_names_at_once_all_arrive_in_postgresql(postgresql_stage: Stage) -> None:
    play_many_names(postgresql_stage, 6)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_pushes_deletions_and_collections_at_once_lose_nothing(
    new_stage: NewStage, request: pytest.FixtureRequest, chance: random.Random, kind: str
) -> None:
    play_all_at_once(new_stage() if kind == "sqlite" else request.getfixturevalue("postgresql_stage"), chance)


def test_fetches_into_one_directory_at_once_all_end_right(new_stage: NewStage) -> None:
    play_fetches_at_once(new_stage(), max(1, ROUNDS // 3))
