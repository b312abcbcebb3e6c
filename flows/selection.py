"""Which of a job's checkpoints are meant, and what they are to be called: computed, without doing anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, TypeAlias

from flexai.checkpoints.choosing import best, check_is_told, latest, metric_for
from flexai.checkpoints.documents import finite
from flexai.checkpoints.errors import NotFoundError, UsageError
from flexai.checkpoints.models import TrainingFacts
from flexai.checkpoints.names import name_key, parse_name
from flexai.flows.templates import name_part, render
from flexai.flows.training_forms import PushSpec, Selection

CapturedDocument: TypeAlias = Mapping[str, Any]
"""A captured checkpoint as ``flexai training checkpoints --json`` prints it."""

ROOT_NAME = "final"
"""What templates call the checkpoint that a job's output directory itself is."""


def select_checkpoints(rows: Sequence[CapturedDocument], spec: PushSpec, *, job: str) -> list[CapturedDocument]:
    """Choose among a job's checkpoints, which come in the order of their capture.

    Raises NotFoundError where nothing is left to choose from, UsageError for a metric that none of them tells.
    """
    whole: dict[tuple[str, str], CapturedDocument] = {}
    for row in rows:
        if row["status"] == "available":
            key = (row["node"], row["name"])
            whole.pop(key, None)  # so that the newest also has the newest's place
            whole[key] = row
    fitting = [
        row
        for row in whole.values()
        if (row["inferenceReady"] or not spec.only_inference_ready)
        and (row["resumable"] is not False or not spec.only_resumable)
    ]
    hint = f"flexai training checkpoints {job} shows what there is"
    if not fitting:
        count = "1 checkpoint" if len(whole) == 1 else f"{len(whole)} checkpoints"
        what = f"{count}, but none as it is wanted" if whole else "no checkpoint"
        raise NotFoundError(f"training job {job!r} has {what}", hint=hint)
    if spec.select is Selection.ALL:
        return fitting
    if spec.select is Selection.LATEST:
        chosen = latest(fitting, itemgetter("step"))
    else:
        check_is_told(spec.metric, map(_told, fitting))
        chosen = best(fitting, metric_for(spec.metric, map(_told, fitting)), _told)
    if chosen is None:
        what = spec.metric.replace("-", " ") or "eval loss"
        raise NotFoundError(f"no checkpoint of training job {job!r} tells its {what}, so none is best", hint=hint)
    return [chosen]


def _told(row: CapturedDocument) -> TrainingFacts:
    """What a row tells; rows of an earlier version tell losses alone."""
    return TrainingFacts(
        train_loss=finite(row["trainLoss"]),
        eval_loss=finite(row["evalLoss"]),
        metrics=row.get("metrics", {}),
        best_by=row.get("bestBy", ""),
    )


def name_checkpoints(selected: Sequence[CapturedDocument], spec: PushSpec, *, job: str) -> dict[str, str]:
    """The name that each selected checkpoint is to be pushed under, by its UUID.

    Raises InvalidNameError for a name that breaks the naming rules, UsageError for one that two checkpoints would get.
    """
    names: dict[str, str] = {}
    taken: dict[str, str] = {}
    for row in selected:
        name = parse_name(render(spec.name_template, fields_of(row, job)), what="checkpoint name")
        if name_key(name) in taken:
            raise UsageError(
                f"{spec.name_template!r} gives two checkpoints of training job {job!r} the name {name!r}",
                hint="add {id} to the template",
            )
        taken[name_key(name)] = names[row["id"]] = name
    return names


def fields_of(row: CapturedDocument, job: str) -> dict[str, str | int]:
    """What templates may say about a captured checkpoint."""
    folder = name_part(row["name"]) or ROOT_NAME
    step = folder if row["step"] is None else int(row["step"])
    return {"job": job, "checkpoint": folder, "step": step, "id": str(row["id"])[:8]}
