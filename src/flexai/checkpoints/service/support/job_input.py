"""What a training job starts from: which checkpoint, why that one, and where its command finds it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from flexai.checkpoints.choosing import Choice, best, check_is_told, in_order, metric_for, ranked
from flexai.checkpoints.errors import ConflictError, NotFoundError
from flexai.checkpoints.models import Checkpoint, CheckpointKind, CheckpointStatus
from flexai.checkpoints.names import Id, some
from flexai.checkpoints.paths import is_path
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.training.units import DEEPSPEED_LATEST, MEGATRON_LATEST

_MOST_NAMED = 5
"""Checkpoints that a sentence names."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A checkpoint that was chosen, and why."""

    checkpoint: Checkpoint
    why: str
    passed_over: str
    """The later or better ones that were not taken, with their flaws; empty where there is none."""


def choose_checkpoint(
    job: str, captured: Sequence[Checkpoint], choice: Choice, flaws: Mapping[Id, str]
) -> Chosen | None:
    """The latest or the best of a job's checkpoints, which come in the order of their capture; None where it has none.

    ``flaws`` says why checkpoints are known to be unfit. What cannot be told is no flaw: a checkpoint is not given up
    because no reader knows its format. Raises ConflictError, which lists them, where checkpoints are there and none is
    fit, NotFoundError where none is the best, UsageError for a metric that none of them tells.
    """
    fit = [one for one in captured if one.id not in flaws]
    if captured and not fit:
        raise ConflictError(
            f"training job {job!r} has captured {_count(captured)}, and a training can go on from none of them:"
            f" {_listed(reversed(captured), flaws)}",
            hint=f"flexai training run {job} --checkpoint {captured[-1].id} starts from that one all the same; without"
            " --checkpoint the command starts from scratch",
        )
    if not choice.is_best:
        if not fit:
            return None
        ordered = in_order(captured, lambda one: one.facts.step)
        chosen = in_order(fit, lambda one: one.facts.step)[-1]
        later = takewhile(lambda one: one is not chosen, reversed(ordered))
        return Chosen(chosen, f"the latest of {_among(fit, captured)}{_doubt(chosen)}", _listed(later, flaws))
    told = [one.facts for one in fit]
    if told:
        check_is_told(choice.metric, told)
    metric = metric_for(choice.metric, told)
    chosen_best = best(fit, metric, lambda one: one.facts)
    if chosen_best is None or metric is None:
        what = f"that tells its {choice.metric}" if choice.metric else "with an eval loss"
        raise NotFoundError(
            f"training job {job!r} has no resumable checkpoint {what}, so none is its best",
            hint=f"flexai training checkpoints {job} shows what there is; 'latest' takes the latest",
        )
    better = takewhile(lambda one: one is not chosen_best, ranked(captured, metric, lambda one: one.facts))
    which = f"the best of {_among(fit, captured)} by its {metric.words}"
    why = f"{which}, {metric.of(chosen_best.facts):.6g}{_doubt(chosen_best)}"
    return Chosen(chosen_best, why, _listed(better, flaws))


def known_flaws(system: System, checkpoints: Iterable[Checkpoint]) -> dict[Id, str]:
    """Why a training cannot go on from checkpoints, as far as that is known: what they lack, or what is damaged."""
    flaws: dict[Id, str] = {}
    for one in checkpoints:
        if one.store_id != system.store_id:
            flaws[one.id] = "it lies in another store"
        elif one.facts.is_unfit:
            flaws[one.id] = " ".join(one.facts.resumable_missing) or "it has no state of a training"
    damaged = system.soundness.damaged()
    for users in system.blobs.users_of([content.id for content in damaged]).values():
        for checkpoint_id, path in users:
            flaws.setdefault(Id(checkpoint_id), f"its file {path!r} is damaged in the store")
    return flaws


def _count(checkpoints: Sequence[Checkpoint]) -> str:
    return "1 checkpoint" if len(checkpoints) == 1 else f"{len(checkpoints)} checkpoints"


def _among(fit: Sequence[Checkpoint], captured: Sequence[Checkpoint]) -> str:
    return _count(fit) + (" that are not known to be unfit" if len(fit) < len(captured) else "")


def _doubt(chosen: Checkpoint) -> str:
    if chosen.facts.resumable is not None:
        return ""
    why = f" ({' '.join(chosen.facts.resumable_missing).rstrip('.')})" if chosen.facts.resumable_missing else ""
    return f"; whether a training can go on from it cannot be told{why}"


def shown(checkpoint: Checkpoint) -> str:
    """A checkpoint in a sentence: what it is called and, where it tells one, its step."""
    step = "" if checkpoint.facts.step is None else f", step {checkpoint.facts.step}"
    return f"{checkpoint.title!r} ({checkpoint.id}){step}"


def _listed(checkpoints: Iterable[Checkpoint], flaws: Mapping[Id, str]) -> str:
    named = [f"{shown(one)}: {flaws[one.id].rstrip('.')}" for one in checkpoints if one.id in flaws]
    return some(named, _MOST_NAMED, between="; ")


class InputLayout(NamedTuple):
    """Where a checkpoint's files go in a job's input folder, and what of them its framework loads."""

    folder: str
    """The folder that they go to, below the input folder; empty for that itself."""
    unit: str
    """Path of what is loaded, in that folder: a file, a folder, or the prefix of several files; empty for all of it."""


def input_layout(checkpoint: Checkpoint, paths: Sequence[str]) -> InputLayout:
    """Decide it from what a checkpoint is called and the paths of its files, as its trainer wrote them.

    A folder keeps its name (``checkpoint-20``): scripts read the step from it. A file keeps its own. A folder that is
    loaded from above, together with a text file that names it, lies beside that file: DeepSpeed's ``latest`` and
    Megatron's ``latest_checkpointed_iteration.txt``. TensorFlow loads by the prefix of several files.
    """
    name = posixpath.basename(checkpoint.name) if checkpoint.kind is CheckpointKind.CAPTURED else ""
    texts = {DEEPSPEED_LATEST, MEGATRON_LATEST}
    if len(paths) == 1 and (not name or paths[0] == name):
        return InputLayout("", paths[0])
    if not name:
        return InputLayout("", "")
    if all(path.startswith(f"{name}/") or path in texts for path in paths):
        return InputLayout("", name)
    if any(path == f"{name}.index" or path.startswith(f"{name}.data-") for path in paths):
        return InputLayout("", name)
    return InputLayout(name if is_path(name) else "", "")  # else not every file system can hold it


def fetch_input(system: System, input_id: Id, place: Path, progress: Progress) -> tuple[Checkpoint, Path, Path]:
    """Fetch the checkpoint that a job starts from below a folder of the job.

    Returns it, the directory that its files are in, and the path of what a framework loads. Raises what ``fetch``
    raises.
    """
    checkpoint, files = system.available_files(input_id)
    layout = input_layout(checkpoint, [file.path for file in files])
    directory = place / layout.folder
    fetch(system, FetchRequest(input_id, str(directory)), progress=progress, private=True)
    return checkpoint, directory, directory / layout.unit


def captured_available(system: System, job_id: str) -> list[Checkpoint]:
    """The checkpoints of a job that can be used, in the order of their capture."""
    return [one for one in system.catalog.checkpoints.of_job(job_id) if one.status is CheckpointStatus.AVAILABLE]
