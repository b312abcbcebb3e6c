"""Which checkpoint is the latest, and which the best, whatever they tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations, pairwise
from typing import NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flexai.checkpoints.choosing import (
    EVAL_LOSS,
    TRAIN_LOSS,
    Choice,
    Metric,
    anchor_of,
    best,
    check_is_told,
    check_metric,
    in_order,
    latest,
    losses_of,
    metric_for,
    metric_of_all,
    ranked,
    shown_as,
)
from flexai.checkpoints.errors import UsageError

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


class Measured(NamedTuple):
    """What a checkpoint tells; a database could hold numbers that are none."""

    metrics: Mapping[str, float] = {}
    eval_loss: float | None = None
    train_loss: float | None = None
    best_by: str = ""


def told_of(pair: tuple[int, float | None]) -> Measured:
    return Measured({} if pair[1] is None else {"accuracy": pair[1]})


def itself(told: Measured) -> Measured:
    return told


@pytest.mark.parametrize("higher_is_better", [False, True])
@given(values=VALUES)
def test_the_best_is_never_worse_than_another_and_of_equals_the_earlier(
    higher_is_better: bool, values: list[float | None]
) -> None:
    metric = Metric("accuracy", higher_is_better=higher_is_better)
    found = list(enumerate(values))
    ordered = ranked(found, metric, told_of)
    assert {number for number, _ in ordered} == {
        number for number, value in found if value is not None and math.isfinite(value)
    }
    for (number, value), (next_number, next_value) in pairwise(ordered):
        assert value is not None and next_value is not None
        assert value != next_value or number < next_number
        assert value >= next_value if higher_is_better else value <= next_value
    assert best(found, metric, told_of) == (ordered[0] if ordered else None)


def test_where_none_tells_an_eval_loss_the_train_loss_decides() -> None:
    told = [Measured(train_loss=0.1), Measured(train_loss=0.3, eval_loss=0.5), Measured(eval_loss=math.nan)]
    assert metric_of_all(told) == metric_for("", told) == EVAL_LOSS
    assert metric_of_all(told[:1]) == metric_of_all([told[0], told[2]]) == TRAIN_LOSS
    assert metric_for("", told[:1]) is metric_for("", told[2:]) is None
    assert best(told, None, itself) is None


TRAINED = [
    Measured({"eval_accuracy": 0.5, "eval_loss": 1.0, "grad/norm": 2.0}, eval_loss=1.0, best_by="eval_accuracy:min"),
    Measured({"eval_accuracy": 0.6, "val/f1": 0.3}, best_by="accuracy"),
    Measured({"eval_wer": 0.6}, eval_loss=2.0),
]


@pytest.mark.parametrize(
    ("text", "metric"),
    [
        ("", Metric("eval_accuracy", higher_is_better=True)),
        ("accuracy", Metric("eval_accuracy", higher_is_better=True)),
        ("eval-accuracy:min", Metric("eval_accuracy")),
        ("eval_loss", EVAL_LOSS),
        ("eval-loss", EVAL_LOSS),
        ("eval-loss:max", Metric("eval-loss", higher_is_better=True)),
        ("val/f1", Metric("val/f1", higher_is_better=True)),
        ("wer", Metric("eval_wer")),
        ("grad/norm", Metric("grad/norm")),
        ("train-loss", None),
        ("bleu", None),
    ],
)
def test_a_metric_is_what_the_caller_the_trainer_and_its_name_say(text: str, metric: Metric | None) -> None:
    assert metric_for(text, TRAINED) == metric


def test_the_trainer_says_which_way_is_better_where_the_caller_does_not() -> None:
    assert metric_for("", TRAINED[:1]) == Metric("eval_accuracy")
    assert metric_for("accuracy", TRAINED[:1]) == Metric("eval_accuracy")
    assert metric_for("accuracy:max", TRAINED[:1]) == Metric("eval_accuracy", higher_is_better=True)


@pytest.mark.parametrize("name", ["accuracy", "eval/top1", "eval_rougeL", "val_auc", "reward_mean", "BLEU", "mAP50"])
def test_more_of_what_is_known_to_be_good_is_better(name: str) -> None:
    assert metric_for(name, [Measured({name: 1.0})]) == Metric(name, higher_is_better=True)


@pytest.mark.parametrize("name", ["loss", "eval_perplexity", "wer", "mse", "fid", "grad_norm", "heap", "mapping"])
def test_less_of_anything_else_is_better(name: str) -> None:
    assert metric_for(name, [Measured({name: 1.0})]) == Metric(name)


def test_a_metric_that_no_checkpoint_tells_is_refused_with_what_there_is() -> None:
    with pytest.raises(UsageError, match="no checkpoint tells its 'bleu'") as caught:
        check_is_told("bleu:max", TRAINED)
    assert caught.value.hint == "there is eval-loss, eval_accuracy, eval_loss, grad/norm, val/f1, eval_wer"
    with pytest.raises(UsageError, match="bleu") as caught:
        check_is_told("bleu", [Measured()])
    assert caught.value.hint == "they tell no metric"
    for known in ("", "eval-loss", "train_loss:min", "accuracy", "val/f1:max"):
        check_is_told(known, TRAINED)


@pytest.mark.parametrize("text", [":max", "a\nb", "a" * 101])
def test_a_text_that_can_be_no_metric_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no metric") as caught:
        check_metric(text)
    assert "NAME:max" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("latest", Choice(is_best=False)),
        ("Best", Choice(is_best=True)),
        ("best:Val/Acc:max", Choice(is_best=True, metric="Val/Acc:max")),
        ("best-model", None),
        ("latest:loss", None),
        ("", None),
    ],
)
def test_a_choice_is_told_from_a_name(text: str, choice: Choice | None) -> None:
    assert Choice.read(text) == choice


def test_a_choice_without_the_metric_that_it_announces_is_refused() -> None:
    with pytest.raises(UsageError, match="names no metric"):
        Choice.read("best:")


def test_the_losses_are_found_by_the_names_that_trainers_give_them() -> None:
    assert losses_of({"loss": 1.0, "eval_loss": 2.0, "acc": 3.0}) == (1.0, 2.0)
    assert losses_of({"train/loss": 1.0, "val_loss": 2.0}) == (1.0, 2.0)
    assert losses_of({"accuracy": 1.0}) == (None, None)


@pytest.mark.parametrize(
    ("name", "column"),
    [("val_loss", EVAL_LOSS), ("eval-loss", EVAL_LOSS), ("train/loss", TRAIN_LOSS), ("val_f1", Metric("val_f1"))],
)
def test_a_loss_has_one_column_by_whatever_name_a_trainer_chooses(name: str, column: Metric) -> None:
    assert shown_as(Metric(name)) == column
