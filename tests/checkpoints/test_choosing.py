"""Which checkpoint is the latest, and which the best, whatever they tell."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flexai.checkpoints.choosing import (
    EVAL_LOSS,
    TRAIN_LOSS,
    Metric,
    anchor_of,
    best,
    best_by_any_metric,
    in_order,
    latest,
    ranked,
)
from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.models import TrainingFacts

Capture = tuple[int, int | None]
"""The order of a checkpoint's capture, and its step."""


def captures(*steps: int | None) -> list[Capture]:
    return list(enumerate(steps))


def step_of(capture: Capture) -> int | None:
    return capture[1]


def is_earlier(one: Capture, other: Capture) -> bool:
    """The rule of two."""
    if one[1] is not None and other[1] is not None and one[1] != other[1]:
        return one[1] < other[1]
    return one[0] < other[0]


STEPS = st.lists(st.none() | st.integers(-3, 6), max_size=8)
VALUES = st.lists(st.none() | st.floats() | st.integers(-2, 2).map(float), max_size=8)


@pytest.mark.parametrize(
    ("steps", "last"),
    [
        ((10, 20, 30), 2),
        ((10, 30, 20), 1),
        ((10, 10), 1),
        ((None, None), 1),
        ((10, None), 1),
        ((None, 10), 1),
        ((10, None, 5), 1),
        ((10, None, 10), 2),
        ((10, None, 20), 2),
    ],
)
def test_the_latest_has_the_highest_step_or_was_captured_last(steps: tuple[int | None, ...], last: int) -> None:
    assert latest(captures(*steps), step_of) == (last, steps[last])


def test_of_nothing_there_is_no_latest() -> None:
    assert latest([], step_of) is None


@given(STEPS)
def test_every_checkpoint_has_one_place_and_steps_never_fall(steps: list[int | None]) -> None:
    ordered = in_order(captures(*steps), step_of)
    assert sorted(ordered) == captures(*steps)
    told = [step for _, step in ordered if step is not None]
    assert told == sorted(told)


@given(st.none() | st.integers(), st.none() | st.integers())
def test_two_are_ordered_by_the_rule_of_two(first: int | None, second: int | None) -> None:
    one, other = captures(first, second)
    assert in_order([one, other], step_of) == ([one, other] if is_earlier(one, other) else [other, one])


@given(STEPS)
def test_each_two_of_a_set_are_ordered_by_the_rule_of_two_where_it_contradicts_itself_nowhere(
    steps: list[int | None],
) -> None:
    found = captures(*steps)
    for one, other, third in combinations(found, 3):
        # It does where a step falls across a checkpoint without one.
        assume(not (other[1] is None and one[1] is not None and third[1] is not None and third[1] < one[1]))
    ordered = in_order(found, step_of)
    assert all(is_earlier(one, other) for one, other in combinations(ordered, 2))


@given(STEPS, st.data())
def test_what_is_latest_stays_the_latest_while_what_gives_it_its_place_is_there(
    steps: list[int | None], data: st.DataObject
) -> None:
    found = captures(*steps)
    last = latest(found, step_of)
    assume(last is not None)
    assert last is not None
    anchor = anchor_of(last, found, step_of)
    gone = data.draw(st.sets(st.sampled_from(found))) - {last, anchor}
    assert latest([one for one in found if one not in gone], step_of) == last


def value_of(pair: tuple[int, float | None], _metric: Metric) -> float | None:
    return pair[1]


@pytest.mark.parametrize("higher_is_better", [False, True])
@given(values=VALUES)
def test_the_best_is_never_worse_than_another_and_of_equals_the_earlier(
    higher_is_better: bool, values: list[float | None]
) -> None:
    metric = Metric("accuracy", higher_is_better=higher_is_better)
    found = list(enumerate(values))
    ordered = ranked(found, metric, value_of)
    assert {number for number, _ in ordered} == {
        number for number, value in found if value is not None and math.isfinite(value)
    }
    for (number, value), (next_number, next_value) in pairwise(ordered):
        assert value is not None and next_value is not None
        assert value != next_value or number < next_number
        assert value >= next_value if higher_is_better else value <= next_value
    assert best(found, metric, value_of) == (ordered[0] if ordered else None)


def test_where_none_tells_an_eval_loss_the_train_loss_decides() -> None:
    told = [TrainingFacts(train_loss=0.1), TrainingFacts(train_loss=0.3, eval_loss=0.5)]
    assert best_by_any_metric(told, lambda facts, metric: metric.of(facts)) is told[1]
    assert best_by_any_metric(told[:1], lambda facts, metric: metric.of(facts)) is told[0]
    assert best_by_any_metric([TrainingFacts()], lambda facts, metric: metric.of(facts)) is None


def test_a_metric_is_known_by_its_name() -> None:
    assert (Metric.named("eval-loss"), Metric.named("train-loss")) == (EVAL_LOSS, TRAIN_LOSS)
    assert EVAL_LOSS.words == "eval loss"
    with pytest.raises(UsageError, match="'accuracy' is no metric") as caught:
        Metric.named("accuracy")
    assert caught.value.hint == "name eval-loss or train-loss"
