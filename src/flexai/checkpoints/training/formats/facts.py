"""What a checkpoint says about itself: step, losses, model, and what it is good for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from flexai.checkpoints.models import TrainingFacts
from flexai.checkpoints.training.completeness.by_format import TRAINER_STATE, FileRole, Survey, deepspeed_tag
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.json_object import finite, is_number, read_object, whole_number
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError, shown

WEIGHTS_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where Transformers looks for weights, in its order (`modeling_utils.py`, `from_pretrained`)."""

_STEP_IN_NAME = (
    re.compile(r"(?<![a-z])(?:global[-_]?)?(?:step|steps|iter|iteration)[-_=]?(\d{1,18})(?!\d|\.\d)"),
    re.compile(r"(?<![a-z])(?:checkpoint|ckpt)[-_=]?(\d{1,18})(?!\d|\.\d)"),
)


def read_facts(folder: CheckpointFolder) -> TrainingFacts:
    """Read the folder's documents and headers: floats are finite, texts printable.

    A flaw in them is never raised: what it hides is not told, and what it makes of no use has a sentence for each
    reason.
    """
    survey = Survey(folder)
    state = _document(survey, TRAINER_STATE)
    config = _document(survey, "config.json")
    architectures = _architectures(config)
    version = config.get("transformers_version")
    inference_missing = _inference_missing(survey, config, architectures)
    resumable_missing = _resumable_missing(survey)
    return TrainingFacts(
        step=_step(survey, state),
        train_loss=_loss(state, ("loss", "train_loss")),
        eval_loss=_loss(state, ("eval_loss",)),
        model=shown(", ".join(architectures), 200),
        version=shown(version) if isinstance(version, str) else "",
        inference_ready=not inference_missing,
        inference_missing=_sentences(inference_missing),
        resumable=not resumable_missing,
        resumable_missing=_sentences(resumable_missing),
    )


def step_in_name(name: str) -> int | None:
    """The step that a name tells: 500 for `checkpoint-500`, `step_500`, `global_step500`; None for `epoch_3`."""
    for pattern in _STEP_IN_NAME:
        if found := pattern.search(name.lower()):
            return whole_number(int(found[1]))
    return None


def _document(survey: Survey, path: str) -> Mapping[str, Any]:
    if path not in survey.files:
        return {}
    try:
        return read_object(survey.folder, path)
    except (NotWholeError, CannotTellError):
        return {}


def _step(survey: Survey, state: Mapping[str, Any]) -> int | None:
    told = whole_number(state.get("global_step"))
    if told is None:
        logged = (whole_number(entry.get("step")) for entry in _log_backwards(state))
        told = next((step for step in logged if step is not None), None)
    if told is None:
        told = step_in_name(survey.folder.name)
    if told is None and (tag := deepspeed_tag(survey)):
        told = step_in_name(tag)
    if told is None and len(weights := survey.of(FileRole.WEIGHTS)) == 1:
        told = step_in_name(weights[0].rpartition("/")[2])  # Lightning's `epoch=3-step=500.ckpt`
    return told


def _log_backwards(state: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    history = state.get("log_history")
    return (entry for entry in reversed(history if isinstance(history, list) else []) if isinstance(entry, dict))


def _loss(state: Mapping[str, Any], keys: tuple[str, ...]) -> float | None:
    """The last value of the first of `keys` that was ever logged; training, evaluation and summary rows alternate."""
    for key in keys:
        for entry in _log_backwards(state):
            if is_number(value := entry.get(key)):
                return finite(value)
    return None


def _architectures(config: Mapping[str, Any]) -> list[str]:
    named = config.get("architectures")
    return [name for name in named if isinstance(name, str) and name] if isinstance(named, list) else []


def _inference_missing(survey: Survey, config: Mapping[str, Any], architectures: list[str]) -> list[str]:
    weights = next((path for path in WEIGHTS_NAMES if path in survey.files), None)
    if weights is None and "adapter_config.json" in survey.files:
        return [_adapter_reason(survey)]
    reasons = []
    if "config.json" not in survey.files:
        reasons.append("config.json, which names the model's architecture, is missing")
    elif not config:
        reasons.append(survey.verdict("config.json").reason or "config.json is empty")
    elif not architectures:
        reasons.append("config.json names no architecture")
    if weights is None:
        reasons.append(_no_weights_reason(survey))
    elif not (verdict := survey.verdict(weights)).whole:
        reasons.append(verdict.reason)
    return reasons


def _adapter_reason(survey: Survey) -> str:
    base = _document(survey, "adapter_config.json").get("base_model_name_or_path")
    if isinstance(base, str) and base:
        return f"it is an adapter and needs its base model, {shown(base)}"
    return "it is an adapter and needs its base model, which adapter_config.json does not name"


def _no_weights_reason(survey: Survey) -> str:
    if survey.of(FileRole.DEEPSPEED_MODEL):
        return "the weights are in DeepSpeed's sharded states only; zero_to_fp32.py makes model weights of them"
    if survey.of(FileRole.DCP_SHARD):
        return "the weights are in PyTorch's distributed form only; they must be merged into one model first"
    return (
        f"no weights are there under a name that inference looks for ({', '.join(WEIGHTS_NAMES[:3:2])} or their index)"
    )


def _resumable_missing(survey: Survey) -> list[str]:
    models, optimizers = _dcp_roles(survey)
    weights = survey.of(FileRole.WEIGHTS, FileRole.DEEPSPEED_MODEL)
    optimizer = survey.of(FileRole.OPTIMIZER, FileRole.DEEPSPEED_OPTIMIZER)
    unjudged = (survey.verdict(path).reason for path in weights + optimizer)
    reasons = [*survey.torn, *filter(None, unjudged)]
    if not weights + models:
        reasons.append("no weights of a known format are there")
    if not optimizer + optimizers:
        reasons.append(_no_optimizer_reason(survey))
    return reasons


def _dcp_roles(survey: Survey) -> tuple[list[str], list[str]]:
    """DCP folders with weights, and those with optimizer state.

    Accelerate's FSDP writes them apart (`pytorch_model_fsdp_0`, `optimizer_0`); any other folder is taken to
    hold both, because its `.metadata`, which would tell, is a pickle.
    """
    models, optimizers = [], []
    for folder in survey.dcp_folders:
        name = folder.rpartition("/")[2]
        if not name.startswith("optim"):
            models.append(folder)
        if not name.startswith(("pytorch_model", "model")) or name.startswith("model_and_optim"):
            optimizers.append(folder)
    return models, optimizers


def _no_optimizer_reason(survey: Survey) -> str:
    files = survey.of(FileRole.WEIGHTS)
    if len(files) == 1 and files[0].endswith((".pt", ".pth", ".ckpt")):
        return f"whether {shown(files[0])} holds optimizer state as well cannot be told without unpickling it"
    return "no optimizer state is there"


def _sentences(reasons: list[str], most: int = 10) -> tuple[str, ...]:
    """The first `most` distinct reasons as sentences, and one that counts those left out."""
    distinct = list(dict.fromkeys(reasons))
    left_out = len(distinct) - most
    kept = distinct[:most] + ([f"there are {left_out} more reasons"] if left_out > 0 else [])
    return tuple(f"{_capitalised(reason)}." for reason in kept)


def _capitalised(reason: str) -> str:
    """The reason with a capital, unless it begins with what looks like a file's name."""
    first = reason.partition(" ")[0]
    return reason[0].upper() + reason[1:] if first.isalpha() and first != "latest" else reason
