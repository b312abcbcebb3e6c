"""What a checkpoint says about itself: step, metrics, model, and what it is good for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from flexai.checkpoints.choosing import losses_of
from flexai.checkpoints.models import MOST_METRICS, TrainingFacts
from flexai.checkpoints.training.completeness.survey import (
    MODEL_INDEX,
    TRAINER_STATE,
    FileRole,
    Survey,
    deepspeed_tag,
    role_of,
)
from flexai.checkpoints.training.formats.folder import CheckpointFolder, read_exactly
from flexai.checkpoints.training.formats.json_object import finite, is_number, read_object, whole_number
from flexai.checkpoints.training.formats.logged import measured, metrics_by_step
from flexai.checkpoints.training.formats.pickled_state import (
    PickledState,
    chosen_by,
    is_optimizer_name,
    read_choice,
    read_dcp,
    read_state,
)
from flexai.checkpoints.training.formats.safetensors import read_tensor_names
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError, shown

WEIGHTS_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Where Transformers looks for weights, in its order (`modeling_utils.py`, `from_pretrained`)."""
_VARIANT = re.compile(r"(model|pytorch_model)(\.\w+)?\.(safetensors|bin)(\.index(\.\w+)?\.json)?")
"""The same with a variant in the name, which its loader is told (`from_pretrained(variant="fp16")`)."""

_MOST_LOOKED_INTO = 8
"""Files of one checkpoint that are looked into for what no name tells."""

_CODE_SUFFIX = re.compile(r"\.(pth\.tar|pt\.tar|tar\.gz|[a-z][a-z0-9]*)$")
_NUMBER = r"(\d{1,18})(?!\d|\.\d|[-_]of[-_]\d|[a-z]*b(?![a-z]))"
_STEP_IN_NAME = tuple(
    re.compile(pattern)
    for pattern in (
        rf"(?<![a-z])(?:global[-_]?)?(?:steps?|iters?|iterations?|updates?)[-_=]?{_NUMBER}",
        rf"(?<![a-z])ba{_NUMBER}",  # Composer's batches
        r"(?<![\d.])(\d{1,18})[-_]?(?:steps?|iters?|iterations?|updates?)(?![a-z])",  # Stable-Baselines3
        rf"(?<![a-z])checkpoint_\d{{1,9}}_{_NUMBER}(?![^.])",  # fairseq: epoch and update
        rf"(?<![a-z])(?:checkpoint|ckpt|chkpnt|chkpt)[-_=]?{_NUMBER}",
    )
)
_STEP_AS_NAME = re.compile(r"(\d{1,18})")  # Orbax
_STEP_OF_FILE = re.compile(
    r"(?:.*[^a-z])?(?:models?|net|network|weights|state|snapshot|policy|agent|params|adapters?)[-_](\d{1,18})"
    r"|(\d{1,18})(?:[-_](?:adapters?|model|weights|state|policy))?"  # MLX: `0000100_adapters.safetensors`
)
_CONTINUED = re.compile(r".*\.(ubj|cbm|xgb|lgb)|.*\d_adapters\.safetensors", re.IGNORECASE)
"""Models that their trainers go on from without more: XGBoost's, CatBoost's, LightGBM's, and adapters of MLX."""
_BOOSTER = re.compile(rb'\{\s*"learner"|\{L.{8}learner|tree\nversion=|CBM1', re.DOTALL)
_ORBAX = frozenset({"_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "commit_success.txt"})
_TENSORFLOW_OPTIMIZER = re.compile(rb"OPTIMIZER_SLOT|optimizer|/Adam|/Momentum")
_ONLY_WEIGHTS = re.compile(r"(pytorch_model|model|adapter_model)([-_.].*)?\.(bin|safetensors)")


def read_facts(folder: CheckpointFolder) -> TrainingFacts:
    """Read the folder's documents and headers: floats are finite, texts printable.

    A flaw in them is never raised: what it hides is not told, and what it makes of no use has a sentence for each
    reason.
    """
    survey = Survey(folder)
    states = _States(survey)
    state = _document(survey, TRAINER_STATE)
    config = _document(survey, "config.json")
    architectures = _architectures(config)
    pipeline = _document(survey, MODEL_INDEX)
    if isinstance(name := pipeline.get("_class_name"), str):
        architectures = [name]
    version = config.get("transformers_version", pipeline.get("_diffusers_version"))
    inference_missing = _inference_missing(survey, config, architectures)
    resumable, resumable_missing = _fitness(survey, states)
    step = _step(survey, state, states)
    logged = {} if step is None else metrics_by_step(folder).get(step, {})
    metrics = dict(list((logged | (_metrics(state, step) or states.metrics())).items())[-MOST_METRICS:])
    train_loss, eval_loss = losses_of(metrics)
    return TrainingFacts(
        step=step,
        train_loss=train_loss,
        eval_loss=eval_loss,
        model=shown(", ".join(architectures), 200),
        version=shown(version) if isinstance(version, str) else "",
        inference_ready=not inference_missing,
        inference_missing=_sentences(inference_missing),
        resumable=resumable,
        resumable_missing=_sentences(resumable_missing),
        metrics=metrics,
        best_by=_choice(survey, state, states),
    )


def step_in_name(name: str) -> int | None:
    """The step that a checkpoint's path tells, the last part that tells one.

    500 for `checkpoint-500`, `step_500`, `global_step500` and `exp/model_500.pt`; None for `epoch_3` and `llama-3`.
    """
    parts = [part.lower() for part in name.split("/")]
    for part in reversed(parts):
        if (found := _step_in_part(part, is_last=part is parts[-1])) is not None:
            return found
    return None


def _step_in_part(part: str, *, is_last: bool) -> int | None:
    stem = _CODE_SUFFIX.sub("", part)
    for pattern in _STEP_IN_NAME:
        if found := pattern.search(stem):
            return int(found[1])
    if is_last and (found := (_STEP_AS_NAME if stem == part else _STEP_OF_FILE).fullmatch(stem)):
        return int(found[found.lastindex or 1])
    return None


class _States:
    """What the files say that trainers write in forms of their own; each is looked into once, when first asked for."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey

    @cached_property
    def all(self) -> dict[str, PickledState]:
        """By path, of the files that may hold the training's state; nothing is known of those beyond the first few."""
        survey = self._survey
        # A name that says nothing says even less where it is that of the whole checkpoint.
        roles = {FileRole.WEIGHTS, FileRole.OTHER} | ({FileRole.HARMLESS} if len(survey.files) == 1 else set())
        names = ((path, path.rpartition("/")[2]) for path in survey.files if role_of(path) in roles)
        wanted = [path for path, name in names if not _ONLY_WEIGHTS.fullmatch(name)]
        unknown = dict.fromkeys(wanted[_MOST_LOOKED_INTO:], PickledState())
        return {path: self._state(path) for path in wanted[:_MOST_LOOKED_INTO]} | unknown

    @cached_property
    def dcp(self) -> dict[str, tuple[bool, bool]]:
        """DCP folders, and whether weights and optimizer state are in each."""
        return {folder: self._dcp(folder) for folder in self._survey.dcp_folders}

    def first(self, name: str) -> Any:
        """What the first file tells that tells it: `step`, `epoch` or `best_by`."""
        return next((found for state in self.all.values() if (found := getattr(state, name)) not in {None, ""}), None)

    def metrics(self) -> dict[str, float]:
        """Those of the first file that tells any."""
        return next((dict(state.metrics) for state in self.all.values() if state.metrics), {})

    def _state(self, path: str) -> PickledState:
        survey = self._survey
        if path.endswith(".safetensors"):
            try:
                names = read_tensor_names(survey.folder, path)
            except (NotWholeError, CannotTellError):
                return PickledState()
            has_optimizer = any(map(is_optimizer_name, names))
            return PickledState(has_weights=True, has_optimizer=has_optimizer)
        if path.endswith(".index"):  # TensorFlow's table of names
            found = _read_start(survey, path, 16 * 1024**2)
            return PickledState(has_weights=True, has_optimizer=bool(_TENSORFLOW_OPTIMIZER.search(found)) or None)
        return read_state(survey.folder, path)

    def _dcp(self, folder: str) -> tuple[bool, bool]:
        paths = [f"{folder}/{name}".lstrip("/") for name in (".metadata", "__0.metadata")]
        path = next((path for path in paths if path in self._survey.files), None)
        names = None if path is None else read_dcp(self._survey.folder, path)
        if names:
            optimizer = {name for name in names if is_optimizer_name(name)}
            return any(names[name] is not None for name in names.keys() - optimizer), bool(optimizer)
        # Of a folder that cannot be looked into the name is believed: Accelerate's FSDP writes weights and optimizer
        # state apart (`pytorch_model_fsdp_0`, `optimizer_0`).
        name = folder.rpartition("/")[2]
        both = name.startswith("model_and_optim")
        return not name.startswith("optim"), both or not name.startswith(("pytorch_model", "model"))


def _read_start(survey: Survey, path: str, length: int) -> bytes:
    try:
        return read_exactly(survey.folder, path, 0, min(length, survey.files[path]))
    except NotWholeError:
        return b""


def _document(survey: Survey, path: str) -> Mapping[str, Any]:
    if path not in survey.files:
        return {}
    try:
        return read_object(survey.folder, path)
    except (NotWholeError, CannotTellError):
        return {}


def _step(survey: Survey, state: Mapping[str, Any], states: _States) -> int | None:
    """What the trainer's own record says, or its file, or the names that it gave.

    A folder's name is believed before the files in it, which may count something else. The epoch of a file that tells
    nothing else is the only measure of how far it is.
    """
    told = whole_number(state.get("global_step"))
    if told is None:
        logged = (whole_number(entry.get("step")) for entry in _log_backwards(state))
        told = next((step for step in logged if step is not None), None)
    name = survey.folder.name
    is_file = list(survey.files) == [name.rpartition("/")[2]]
    if told is None and is_file:
        told = states.first("step")
    if told is None:
        told = step_in_name(name)
    if told is None and (tag := deepspeed_tag(survey)):
        told = step_in_name(tag)
    if told is None:
        told = states.first("step")
    if told is None and len(weights := survey.of(FileRole.WEIGHTS)) == 1:
        told = step_in_name(weights[0].rpartition("/")[2])  # Lightning's `epoch=3-step=500.ckpt`
    return states.first("epoch") if told is None else told


def _log_backwards(state: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    history = state.get("log_history")
    return (entry for entry in reversed(history if isinstance(history, list) else []) if isinstance(entry, dict))


def _metrics(state: Mapping[str, Any], step: int | None) -> dict[str, float]:
    """What was logged at the step itself: a log goes on from the steps before it.

    Of a row that tells no step, a log without any, all that can be said is that it is the last.
    """
    found: dict[str, float] = {}
    seen: set[str] = set()
    for entry in _log_backwards(state):
        if "step" in entry and whole_number(entry["step"]) != step:
            continue
        told = dict(measured(entry))
        found |= {name: value for name, value in told.items() if name not in seen}
        seen |= {name for name, value in entry.items() if is_number(value)}  # what was NaN last is not told
    return dict(list(reversed(found.items()))[:MOST_METRICS])


def _choice(survey: Survey, state: Mapping[str, Any], states: _States) -> str:
    """The metric that the trainer chooses its best checkpoint by, and which way."""
    if told := chosen_by(state.get("metric_for_best_model"), state.get("greater_is_better")):
        return told
    if state and "training_args.bin" in survey.files and (told := read_choice(survey.folder, "training_args.bin")):
        return told
    return _choice_by_value(state) or states.first("best_by") or ""


def _choice_by_value(state: Mapping[str, Any]) -> str:
    """The one metric that had the value which the trainer calls the best, and which way it is the best of its log."""
    best = finite(state.get("best_metric"))
    if best is None:
        return ""
    rows = [(whole_number(entry.get("step")), dict(measured(entry))) for entry in _log_backwards(state)]
    at = whole_number(state.get("best_global_step"))
    names = {
        name
        for step, row in rows
        for name, value in row.items()
        if name.startswith("eval_") and value == best and at in {None, step}
    }
    if len(names) != 1:
        return ""
    name = names.pop()
    values = [row[name] for _, row in rows if name in row]
    is_most, is_least = all(value <= best for value in values), all(value >= best for value in values)
    return chosen_by(name, None if is_most is is_least else is_most)


def _architectures(config: Mapping[str, Any]) -> list[str]:
    named = config.get("architectures")
    return [name for name in named if isinstance(name, str) and name] if isinstance(named, list) else []


def _inference_missing(survey: Survey, config: Mapping[str, Any], architectures: list[str]) -> list[str]:
    if MODEL_INDEX in survey.files:
        return survey.torn  # a pipeline of diffusers, whose parts it names
    names = [*WEIGHTS_NAMES, *filter(_VARIANT.fullmatch, survey.files)]
    weights = next((path for path in names if path in survey.files), None)
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


def _fitness(survey: Survey, states: _States) -> tuple[bool | None, list[str]]:
    """Whether a training can go on from it, None where that cannot be told, and why not."""
    if survey.torn:
        return False, survey.torn + _lacking(*_evidence(survey, states))
    if _is_continued(survey):
        return True, []
    weights, optimizer = _evidence(survey, states)
    lacking = _lacking(weights, optimizer)
    if not lacking:
        judged = survey.of(FileRole.WEIGHTS, FileRole.DEEPSPEED_MODEL, FileRole.OPTIMIZER, FileRole.DEEPSPEED_OPTIMIZER)
        unjudged = [verdict.reason for path in judged if not (verdict := survey.verdict(path)).whole]
        # What a trainer's file tells of itself was read to its end.
        unjudged = [] if any(one.has_weights and one.has_optimizer for one in states.all.values()) else unjudged
        return (None if unjudged else True), unjudged
    opaque = [path for path, state in states.all.items() if state.has_optimizer is None]
    if opaque:
        which = f"{shown(opaque[0])} holds" if len(opaque) == 1 else f"one of {len(opaque)} files holds"
        return None, [f"whether {which} what a training goes on from cannot be told"]
    return False, lacking


def _lacking(weights: bool, optimizer: bool) -> list[str]:
    lacking = [] if weights else ["no weights of a known format are there"]
    return lacking if optimizer else [*lacking, "no optimizer state is there"]


def _evidence(survey: Survey, states: _States) -> tuple[bool, bool]:
    """Whether weights, and whether optimizer state is there, as far as names and the files themselves tell."""
    dcp = states.dcp.values()
    optimizer = bool(survey.of(FileRole.OPTIMIZER, FileRole.DEEPSPEED_OPTIMIZER)) or any(has for _, has in dcp)
    if not optimizer:
        optimizer = any(state.has_optimizer for state in states.all.values())
    weights = bool(survey.of(FileRole.DEEPSPEED_MODEL)) or any(has for has, _ in dcp)
    # A file that has a weights' name is believed to hold some unless it tells otherwise.
    names = survey.of(FileRole.WEIGHTS)
    weights = weights or any(path not in states.all or states.all[path].has_weights is not False for path in names)
    return weights or any(state.has_weights for state in states.all.values()), optimizer


def _is_continued(survey: Survey) -> bool:
    """Whether it is of a layout that its trainer goes on from, whatever is in it."""
    names = {path.rpartition("/")[2] for path in survey.files}
    if names & _ORBAX:
        return True
    if len(names) != 1:
        return False
    path = next(iter(survey.files))
    return _CONTINUED.fullmatch(path) is not None or _BOOSTER.match(_read_start(survey, path, 64)) is not None


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
