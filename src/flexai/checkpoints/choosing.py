"""Which checkpoint is the latest and which is the best: decided here for commands, retention, flows and charts.

The functions take checkpoints of any shape in the order of their capture, and a function that gives what one of them
tells. Steps are compared within one training job only. Pushed checkpoints may come from many jobs, so they are ordered
by their creation alone: ``step`` gives None for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Literal, NamedTuple, TypeAlias, TypeVar, get_args

from flexai.checkpoints.errors import UsageError

T = TypeVar("T")

MetricName: TypeAlias = Literal["eval-loss", "train-loss"]
"""What commands and forms call a metric."""


class Metric(NamedTuple):
    """What the best checkpoint has least of, or most of."""

    name: str
    """As commands and forms write it: ``eval-loss``."""
    higher_is_better: bool = False

    @classmethod
    def named(cls, name: str) -> Metric:
        """The metric that a command or a form names. Raises UsageError for one that is not known."""
        for metric in METRICS:
            if metric.name == name:
                return metric
        known = " or ".join(metric.name for metric in METRICS)
        raise UsageError(f"{name!r} is no metric", hint=f"name {known}")

    @property
    def words(self) -> str:
        """As a sentence has it: ``eval loss``."""
        return self.name.replace("-", " ")

    def of(self, told: object) -> float | None:
        """What a checkpoint tells of it, from an object with a field of its name (``eval_loss``)."""
        value: float | None = getattr(told, self.name.replace("-", "_"))
        return value


METRICS = EVAL_LOSS, TRAIN_LOSS = tuple(Metric(name) for name in get_args(MetricName))
"""Where no metric is named, the first one that any of the checkpoints tells decides."""


def in_order(checkpoints: Iterable[T], step: Callable[[T], int | None]) -> list[T]:
    """Order checkpoints from the earliest to the latest.

    Of two that tell their steps, the one with the higher step is later; of equal steps, and where one of the two tells
    no step, the one that was captured later. Among three these rules can contradict each other (step 10, then no step,
    then step 5). So one that tells no step counts as being at the highest step that was captured before it, which
    orders any set, and each two as said wherever the rules agree. Its place may change when that one is deleted
    (``anchor_of``).
    """
    highest = -math.inf
    places: list[tuple[float, int, T]] = []
    for number, checkpoint in enumerate(checkpoints):
        told = step(checkpoint)
        highest = highest if told is None else max(highest, told)
        places.append((highest if told is None else told, number, checkpoint))
    return [checkpoint for *_, checkpoint in sorted(places, key=lambda place: place[:2])]


def latest(checkpoints: Iterable[T], step: Callable[[T], int | None]) -> T | None:
    """The last one of ``in_order``; None where there is none."""
    ordered = in_order(checkpoints, step)
    return ordered[-1] if ordered else None


def anchor_of(one: T, checkpoints: Iterable[T], step: Callable[[T], int | None]) -> T | None:
    """The checkpoint whose step is the place of one that tells none; None where it has its place by itself."""
    if step(one) is not None:
        return None
    before = [
        (told, other)
        for other in takewhile(lambda other: other is not one, checkpoints)
        if (told := step(other)) is not None
    ]
    return max(before, key=lambda pair: pair[0])[1] if before else None


def ranked(checkpoints: Iterable[T], metric: Metric, value: Callable[[T, Metric], float | None]) -> list[T]:
    """Those that tell a finite value of a metric, the best first; of equals the one that was captured earlier."""
    told = [(found, one) for one in checkpoints if (found := value(one, metric)) is not None and math.isfinite(found)]
    # The sort keeps equals in their order, in reverse as well.
    return [one for _, one in sorted(told, key=lambda pair: pair[0], reverse=metric.higher_is_better)]


def best(checkpoints: Iterable[T], metric: Metric, value: Callable[[T, Metric], float | None]) -> T | None:
    """The first one of ``ranked``; None where none tells the metric."""
    return next(iter(ranked(checkpoints, metric, value)), None)


def best_by_any_metric(checkpoints: Iterable[T], value: Callable[[T, Metric], float | None]) -> T | None:
    """The best by the first of ``METRICS`` that any of them tells; None where none tells one."""
    every = list(checkpoints)
    found = (best(every, metric, value) for metric in METRICS)
    return next((one for one in found if one is not None), None)
