"""SIGKILL at any instant with the store in a bucket, and many processes at once on it.

Missing rights to files and a full disk are left out by design: a bucket has neither, and what a service answers in
their place is tested with the storage.
"""

from __future__ import annotations

import random
import shutil

import pytest

from tests.chaos.plays import (
    play_all_at_once,
    play_collection,
    play_export,
    play_fetch,
    play_fetches_at_once,
    play_installed_program,
    play_many_names,
    play_one_name,
    play_push,
    play_push_from_provider,
    play_recovery,
    play_repair,
    play_vanishing_source,
)
from tests.chaos.stage import BUCKET_ROUNDS, Stage

pytestmark = pytest.mark.slow


@pytest.fixture(params=["s3", "gcs"])
def stage(request: pytest.FixtureRequest) -> Stage:
    """A stage whose store lies in a bucket of either kind."""
    stage: Stage = request.getfixturevalue(f"{request.param}_stage")
    return stage


def test_a_push_into_a_bucket_that_is_killed_at_any_instant(stage: Stage, chance: random.Random) -> None:
    play_push(stage, chance, BUCKET_ROUNDS)


def test_a_push_into_a_bucket_that_is_killed_with_its_catalog_in_postgresql(
    s3_and_postgresql_stage: Stage, chance: random.Random
) -> None:
    play_push(s3_and_postgresql_stage, chance, max(1, BUCKET_ROUNDS // 4))


def test_a_push_from_the_stores_own_service_that_is_killed_at_any_instant(stage: Stage, chance: random.Random) -> None:
    play_push_from_provider(stage, chance, BUCKET_ROUNDS)


def test_a_fetch_from_a_bucket_that_is_killed_at_any_instant(stage: Stage, chance: random.Random) -> None:
    play_fetch(stage, chance, BUCKET_ROUNDS)


def test_an_export_between_buckets_that_is_killed_at_any_instant(stage: Stage, chance: random.Random) -> None:
    play_export(stage, chance, BUCKET_ROUNDS)


def test_a_collection_in_a_bucket_that_is_killed_at_any_instant(stage: Stage, chance: random.Random) -> None:
    play_collection(stage, chance, BUCKET_ROUNDS)


def test_a_repair_in_a_bucket_that_is_killed_at_any_instant(stage: Stage, chance: random.Random) -> None:
    play_repair(stage, chance, BUCKET_ROUNDS)


def test_a_recovery_from_a_bucket_that_is_killed_at_any_instant(stage: Stage, chance: random.Random) -> None:
    play_recovery(stage, chance, max(1, BUCKET_ROUNDS // 2))


def test_the_installed_program_on_a_bucket_that_is_killed_at_any_instant(stage: Stage, chance: random.Random) -> None:
    play_installed_program(stage, chance, max(1, BUCKET_ROUNDS // 6))


def test_a_source_that_vanishes_on_its_way_to_a_bucket_is_never_half_a_checkpoint(
    s3_stage: Stage, chance: random.Random
) -> None:
    play_vanishing_source(s3_stage, chance, BUCKET_ROUNDS)


def test_of_two_pushes_of_one_name_into_a_bucket_at_once_one_wins(s3_stage: Stage) -> None:
    play_one_name(s3_stage, min(BUCKET_ROUNDS, 50))


def test_six_first_pushes_into_an_empty_bucket_at_once_make_one_catalog_and_one_store(s3_stage: Stage) -> None:
    shutil.rmtree(s3_stage.root / "home")
    play_many_names(s3_stage, 6)


def test_fetches_from_a_bucket_into_one_directory_at_once_all_end_right(stage: Stage) -> None:
    play_fetches_at_once(stage, max(1, BUCKET_ROUNDS // 3))


def test_pushes_deletions_and_collections_at_once_in_a_bucket_lose_nothing(
    s3_and_postgresql_stage: Stage, chance: random.Random
) -> None:
    play_all_at_once(s3_and_postgresql_stage, chance)
