"""Which checkpoint is the latest and which is the best: decided here for commands, retention, flows and charts.

The functions take checkpoints of any shape in the order of their capture, and a function that gives what one of them
tells. Steps are compared within one training job only. Pushed checkpoints may come from many jobs, so they are ordered
by their creation alone: ``step`` gives None for them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import NamedTuple, Protocol, TypeVar

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.names import is_metric_name, some

T = TypeVar("T")


class Told(Protocol):
    """What a checkpoint tells of itself, as far as the best one is chosen by it."""

    @property
    def train_loss(self) -> float | None:
        """See ``models.TrainingFacts``."""

    @property
    def eval_loss(self) -> float | None:
        """See ``models.TrainingFacts``."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """See ``models.TrainingFacts``."""

    @property
    def best_by(self) -> str:
        """See ``models.TrainingFacts``."""


class Metric(NamedTuple):
    """What the best checkpoint has least of, or most of."""

    name: str
    """As commands and forms write it: ``eval-loss``, ``eval_accuracy``."""
    higher_is_better: bool = False

    @property
    def words(self) -> str:
        """As a sentence has it: ``eval loss``."""
        return self.name.replace("-", " ")

    def of(self, told: Told) -> float | None:
        """What a checkpoint tells of it."""
        if self.name == EVAL_LOSS.name:
            return told.eval_loss
        if self.name == TRAIN_LOSS.name:
            return told.train_loss
        return told.metrics.get(self.name)


class Choice(NamedTuple):
    """One of a training job's checkpoints, chosen and not named."""

    is_best: bool
    """The best one; else the latest."""
    metric: str = ""
    """``NAME[:min|max]`` of what it is the best by."""

    @classmethod
    def read(cls, text: str) -> Choice | None:
        """What ``latest``, ``best`` or ``best:NAME[:min|max]`` chooses; None for a text that names a checkpoint.

        Raises UsageError for a metric that can be none.
        """
        word, colon, metric = text.partition(":")
        if text.casefold() == "latest":
            return cls(is_best=False)
        if word.casefold() != "best":
            return None
        if colon and not metric:
            raise UsageError(f"{text!r} names no metric", hint="write best, or best:NAME[:min|max]")
        return cls(is_best=True, metric=check_metric(metric))


EVAL_LOSS = Metric("eval-loss")
TRAIN_LOSS = Metric("train-loss")

_EVAL_LOSSES = ("eval_loss", "val_loss", "valid_loss", "validation_loss", "eval/loss", "val/loss", "validation/loss")
_TRAIN_LOSSES = ("loss", "train_loss", "training_loss", "train/loss", "training/loss")
_LOSSES = (EVAL_LOSS.name, TRAIN_LOSS.name)
# Texts, which are compiled where they are first used: every command imports this module.
_EVALUATED = r"(?i)(eval|val|valid|validation|test)[^a-z]"
_HIGHER = (
    r"(?i)(.*[^a-z])?(acc|acc\d|top\d|accuracy|f1|f_?beta|bleu|sacrebleu|chrf|rouge\w*|meteor|auc|auroc|auprc|roc_auc|ap"
    r"|map\d*|miou|iou|dice|jaccard|precision|recall|sensitivity|specificity|ndcg|mrr|hits?|pass|exact_match|em"
    r"|matthews_correlation|mcc|pearson\w*|spearman\w*|kappa|r2|psnr|ssim|clip_?score|inception_score|score|reward"
    r"|rewards?|returns?|success|success_rate|win_?rate|elo|likelihood|cosine\w*)([^a-z].*)?"
)
"""Names of what is better when there is more of it."""


def losses_of(metrics: Mapping[str, float]) -> tuple[float | None, float | None]:
    """The train loss and the eval loss among metrics, by the names that trainers give them."""
    train, evaluation = (
        next((metrics[name] for name in names if name in metrics), None) for names in (_TRAIN_LOSSES, _EVAL_LOSSES)
    )
    return train, evaluation


def check_metric(text: str) -> str:
    """The text of ``NAME[:min|max]``, or an empty one, which leaves the choice to the trainer.

    Raises UsageError for a text that names no metric.
    """
    name, _ = _name_and_direction(text)
    if text and not is_metric_name(name):
        raise UsageError(f"{text!r} is no metric", hint="write NAME, NAME:min or NAME:max, such as eval_accuracy:max")
    return text


def metric_for(text: str, checkpoints: Iterable[Told]) -> Metric | None:
    """The metric that ``NAME[:min|max]`` means where checkpoints, in the order of their capture, tell what they do.

    Without a name it is the one that the trainer chooses by, as the last one that names one says, else the eval loss.
    Which way is better is what the text says, else what the trainer says, else what the metric's name says, and less is
    better where none of them does. None where no checkpoint tells such a metric.
    """
    every = list(checkpoints)
    chosen, chosen_direction = _name_and_direction(next((one.best_by for one in reversed(every) if one.best_by), ""))
    trainers = _known_name(chosen, every)
    name, direction = _name_and_direction(text)
    known = _known_name(name, every) if text else trainers
    if known is None:
        return EVAL_LOSS if not text and _is_told(EVAL_LOSS, every) else None
    if direction is None and known == trainers:
        direction = chosen_direction
    return Metric(known, re.fullmatch(_HIGHER, known) is not None if direction is None else direction)


def metric_of_all(checkpoints: Iterable[Told]) -> Metric:
    """What ``metric_for`` gives without a name; the train loss where it gives none: a bad measure, but one for all."""
    return metric_for("", checkpoints) or TRAIN_LOSS


def is_known(text: str, checkpoints: Iterable[Told]) -> bool:
    """Whether a metric is a loss, which is known also where none tells it, or one that some checkpoint tells."""
    name, _ = _name_and_direction(text)
    return _dashed(name) in _LOSSES or _known_name(name, list(checkpoints)) is not None


def check_is_told(text: str, checkpoints: Iterable[Told]) -> None:
    """Raise UsageError, which lists what there is, for a metric that is not known."""
    every = list(checkpoints)
    if text and not is_known(text, every):
        name, _ = _name_and_direction(text)
        raise UsageError(f"no checkpoint tells its {name!r}", hint=_what_there_is(every))


def metric_names(checkpoints: Iterable[Told]) -> list[str]:
    """Every metric that checkpoints tell, the losses first, in the order in which the trainer tells them."""
    every = list(checkpoints)
    losses = [metric.name for metric in (EVAL_LOSS, TRAIN_LOSS) if _is_told(metric, every)]
    return [*losses, *dict.fromkeys(name for one in every for name in one.metrics)]


def shown_as(metric: Metric) -> Metric:
    """The loss that a table shows a metric as, such as a trainer's ``val_loss``; every other metric as it is."""
    losses = (EVAL_LOSS, _EVAL_LOSSES), (TRAIN_LOSS, _TRAIN_LOSSES)
    return next((loss for loss, names in losses if metric.name in names), metric)


def metric_columns(checkpoints: Iterable[Told]) -> list[str]:
    """The metrics that are no losses: first what the trainer chooses by, then what was evaluated."""
    every = list(checkpoints)
    chosen = metric_for("", every)
    names = [name for name in metric_names(every) if name not in {*_EVAL_LOSSES, *_TRAIN_LOSSES, *_LOSSES}]
    return sorted(names, key=lambda name: (chosen is None or name != chosen.name, not re.match(_EVALUATED, name)))


def _name_and_direction(text: str) -> tuple[str, bool | None]:
    name, colon, direction = text.rpartition(":")
    return (name, direction == "max") if colon and direction in {"min", "max"} else (text, None)


def _known_name(name: str, every: Sequence[Told]) -> str | None:
    """What the checkpoints call a metric: trainers take ``accuracy`` for ``eval_accuracy``."""
    names = metric_names(every)
    wanted = (_dashed(name), name, name.replace("-", "_"), f"eval_{name}") if name else ()
    return next((one for one in wanted if one in names), None)


def _dashed(name: str) -> str:
    """The losses' names as commands have always written them; every other name as it is."""
    dashed = name.replace("_", "-")
    return dashed if dashed in _LOSSES else name


def _is_told(metric: Metric, every: Iterable[Told]) -> bool:
    return any((value := metric.of(one)) is not None and math.isfinite(value) for one in every)


def _what_there_is(every: Sequence[Told]) -> str:
    names = metric_names(every)
    return f"there is {some(names, 20)}" if names else "they tell no metric"


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


def ranked(checkpoints: Iterable[T], metric: Metric | None, told: Callable[[T], Told]) -> list[T]:
    """Those that tell a finite value of a metric, the best first; of equals the one that was captured earlier.

    None tells the metric None.
    """
    if metric is None:
        return []
    values = [(metric.of(told(one)), one) for one in checkpoints]
    finite = [(value, one) for value, one in values if value is not None and math.isfinite(value)]
    # The sort keeps equals in their order, in reverse as well.
    return [one for _, one in sorted(finite, key=lambda pair: pair[0], reverse=metric.higher_is_better)]


def best(checkpoints: Iterable[T], metric: Metric | None, told: Callable[[T], Told]) -> T | None:
    """The first one of ``ranked``; None where none tells the metric."""
    return next(iter(ranked(checkpoints, metric, told)), None)
