"""SIGKILL of trainers and of those who watch them."""

from __future__ import annotations

import random

import pytest

from tests.chaos.conftest import NewStage
from tests.chaos.stage import ROUNDS
from tests.chaos.training_plays import play_training

pytestmark = pytest.mark.slow


def test_trainings_that_are_killed_at_any_instant(new_stage: NewStage, chance: random.Random) -> None:
    play_training(new_stage(), chance, ROUNDS)
