"""SIGKILL at any instant: nothing torn is ever available, a rerun finishes, nothing moves twice, nothing is left."""

from __future__ import annotations

import random

import pytest

from tests.chaos.conftest import NewStage
from tests.chaos.plays import (
    play_collection,
    play_export,
    play_fetch,
    play_installed_program,
    play_push,
    play_push_from_provider,
    play_recovery,
    play_repair,
)
from tests.chaos.stage import ROUNDS, Stage

pytestmark = pytest.mark.slow


def test_a_push_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    play_push(new_stage(), chance, ROUNDS)


def test_a_push_that_is_killed_with_its_catalog_in_postgresql(postgresql_stage: Stage, chance: random.Random) -> None:
    play_push(postgresql_stage, chance, max(2, ROUNDS // 4))


def test_a_push_from_a_provider_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    play_push_from_provider(new_stage(), chance, max(2, ROUNDS // 2))


def test_a_fetch_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    play_fetch(new_stage(), chance, ROUNDS)


def test_an_export_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    play_export(new_stage(), chance, ROUNDS)


def test_a_collection_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    play_collection(new_stage(), chance, ROUNDS)


def test_a_repair_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    play_repair(new_stage(), chance, ROUNDS)


def test_a_recovery_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    play_recovery(new_stage(), chance, ROUNDS // 2 + 1)


def test_the_installed_program_that_is_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    play_installed_program(new_stage(), chance, max(1, ROUNDS // 6))
