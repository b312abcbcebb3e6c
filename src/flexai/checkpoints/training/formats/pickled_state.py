"""What a trainer's own file says: its step, its metrics, and whether it holds weights and optimizer state.

Keys are those that PyTorch Lightning, nanoGPT, DeepSpeed, Megatron, fairseq, timm, Composer, mmengine, litgpt and
Stable-Baselines3 write, and the words that people take for them. Values are read by `pickled_file.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from flexai.checkpoints.foreign_json import parse_json
from flexai.checkpoints.models import MOST_METRICS
from flexai.checkpoints.names import is_metric_name
from flexai.checkpoints.training.formats.folder import RangedFiles
from flexai.checkpoints.training.formats.harmless_globals import HARMLESS
from flexai.checkpoints.training.formats.json_object import finite, whole_number
from flexai.checkpoints.training.formats.logged import INNER, STEPS
from flexai.checkpoints.training.formats.packed_values import read_msgpack_keys
from flexai.checkpoints.training.formats.pickle_values import UNKNOWN, Global, Made, Table
from flexai.checkpoints.training.formats.pickled_file import (
    PickledFile,
    Tensor,
    dtype_of,
    get,
    items_of,
    sizes,
    tensor_of,
)
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError

_STEPS = (*STEPS, "batch")
_EPOCHS = ("epoch", "current_epoch", "epochs_run", "last_epoch")
_PLACES = (
    (),
    ("state", "timestamp"),  # Composer
    ("state", "timestamp", "Timestamp"),
    ("extra_state",),  # fairseq
    ("extra_state", "train_iterator"),
    ("meta",),  # mmengine
    ("trainer_state",),
    ("train_state",),
    ("training_state",),
    ("trainer",),
    ("progress",),
    ("state",),
)
"""Where a step and an epoch are looked for, by the keys that lead there."""
_METRIC = re.compile(
    r"(?!best)(?!.*[_/ ]best)(.*[^a-z])?(loss|acc|acc1|acc5|top1|top5|accuracy|metric|f1|bleu|rouge\w*|auc|auroc|map"
    r"|miou|iou|dice|perplexity|ppl|wer|cer|mse|mae|rmse|psnr|ssim|fid|reward|score|precision|recall)([^a-z].*)?",
    re.IGNORECASE,
)
_OPTIMIZER = re.compile(r"(.*[^a-z])?(optim|optims|optimizer|optimizers|opt|opt_state)([^a-z].*)?", re.IGNORECASE)
_NO_OPTIMIZER = re.compile(r".*(_history|_name|_type|_class|_config|_cfg|_args|_kwargs|_params_count)", re.IGNORECASE)
_MOMENTS = re.compile(r"(.*\.)?(exp_avg|exp_avg_sq|momentum_buffer|max_exp_avg_sq|square_avg)(\..*)?")
_BESIDE_WEIGHTS = re.compile(
    r"(.*[^a-z])?(lr_)?(scheduler|schedulers|scaler|rng|random|args|cfg|config|hparams|hyper_parameters|loops|callbacks"
    r"|meta|metrics|sampler|dataloader|iterator|extra_state)s?([^a-z].*)?",
    re.IGNORECASE,
)

_PACKED_MAPS = frozenset(bytes((code,)) for code in (*range(0x81, 0x90), 0xDE, 0xDF))
"""How MessagePack begins a map with something in it."""


@dataclass(frozen=True, slots=True)
class PickledState:
    """What was told. None stands for what cannot be told."""

    step: int | None = None
    epoch: int | None = None
    has_weights: bool | None = None
    has_optimizer: bool | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    best_by: str = ""
    """The metric that the trainer chooses by: ``val_loss:min``."""


def read_state(folder: RangedFiles, path: str) -> PickledState:
    """What the file `path` says; all unknown where it is damaged, or of another kind. Raises nothing."""
    try:
        file = PickledFile(folder, path)
        if isinstance(file.value, Table):
            return _of_dict(file, file.value, path.rpartition("/")[2])
        return _of_archive(file)
    except (NotWholeError, CannotTellError):
        return PickledState()


def read_choice(folder: RangedFiles, path: str) -> str:
    """The metric that `training_args.bin` chooses the best checkpoint by: ``accuracy:max``; empty where it has none."""
    try:
        arguments = PickledFile(folder, path).value
    except NotWholeError:
        return ""
    return chosen_by(get(arguments, "metric_for_best_model"), get(arguments, "greater_is_better"))


def chosen_by(name: object, is_higher_better: object = None) -> str:
    """A metric and its direction as commands write them; empty for what is no metric's name."""
    if not isinstance(name, str) or not is_metric_name(name):
        return ""
    direction = {True: ":max", False: ":min"}.get(is_higher_better, "") if isinstance(is_higher_better, bool) else ""
    return name + direction


def read_dcp(folder: RangedFiles, path: str) -> dict[str, Tensor | None] | None:
    """The entries that DCP's `.metadata` names, with their tensors; None where it cannot be followed.

    (`torch/distributed/checkpoint/metadata.py`.)
    """
    try:
        entries = get(PickledFile(folder, path).value, "state_dict_metadata")
    except NotWholeError:
        return None
    if not isinstance(entries, Table):
        return None
    return {name: _dcp_tensor(entry) for name, entry in entries.pairs if isinstance(name, str)}


def is_optimizer_name(name: str) -> bool:
    """Whether an entry of a state dict is one of an optimizer's state."""
    first = name.partition(".")[0]
    return _OPTIMIZER.fullmatch(first) is not None or _MOMENTS.fullmatch(name) is not None


def _dcp_tensor(entry: object) -> Tensor | None:
    shape = sizes(get(entry, "size"))
    if shape is None:
        return None
    properties = get(entry, "properties")
    state = properties.state if isinstance(properties, Made) else properties
    values = state if isinstance(state, tuple) else [value for _, value in items_of(state)]
    return Tensor(next(filter(None, map(dtype_of, values)), ""), shape)


def _of_dict(file: PickledFile, state: Table, name: str) -> PickledState:
    step, epoch = _progress(file, state)
    metrics = dict(_metrics(file, state))
    scores, best_by = _lightning_scores(file, state, name, step)
    has_weights, has_optimizer = _contents(file, state)
    return PickledState(
        step=step,
        epoch=epoch,
        has_weights=has_weights,
        has_optimizer=has_optimizer,
        metrics=dict(list((metrics | scores).items())[:MOST_METRICS]),
        best_by=best_by,
    )


def _progress(file: PickledFile, state: Table) -> tuple[int | None, int | None]:
    found: dict[tuple[str, ...], int | None] = {}
    places = [place for keys in _PLACES if isinstance(place := get(state, *keys), Table | Made)]
    history = get(state, "optimizer_history")
    if isinstance(history, list) and history:
        places.insert(0, history[-1])  # fairseq
    for names in (_STEPS, _EPOCHS):
        told = (whole_number(file.number(get(place, name))) for place in places for name in names)
        found[names] = next((number for number in told if number is not None), None)
    return found[_STEPS], found[_EPOCHS]


def _metrics(file: PickledFile, state: Table) -> Iterator[tuple[str, float]]:
    """What the file says of its own step: what is the best so far may be another one's."""
    for place in (state, get(state, "extra_state"), get(state, "meta")):
        for name, value in items_of(place):
            is_float = isinstance(value, float) or tensor_of(value) is not None or _is_scalar(value)
            if isinstance(name, str) and is_float and _METRIC.fullmatch(name) and is_metric_name(name):
                yield from _told(file, name, value)
    for place in INNER:
        for name, value in items_of(get(state, place))[:MOST_METRICS]:
            if isinstance(name, str) and is_metric_name(name):
                yield from _told(file, name, value)


def _told(file: PickledFile, name: str, value: object) -> Iterator[tuple[str, float]]:
    if (number := finite(file.number(value))) is not None:
        yield name, number


def _is_scalar(value: object) -> bool:
    return isinstance(value, Made) and getattr(value.callable, "name", "") == "scalar"


def _lightning_scores(file: PickledFile, state: Table, name: str, step: int | None) -> tuple[dict[str, float], str]:
    """What Lightning's `ModelCheckpoint`s say of this file, and what the first of them chooses by.

    Each has the scores of the files that it keeps. Its `current_score` is that of the file that it wrote last, which
    may be another one.
    """
    scores: dict[str, float] = {}
    best_by = ""
    for key, callback in items_of(get(state, "callbacks")):
        monitor = get(callback, "monitor")
        if not isinstance(monitor, str) or not is_metric_name(monitor):
            continue
        mode = re.search(r"'mode': '(min|max)'", key[:1000]) if isinstance(key, str) else None
        best_by = best_by or (f"{monitor}:{mode[1]}" if mode else monitor)
        kept = items_of(get(callback, "best_k_models"))
        own = [value for path, value in kept if isinstance(path, str) and _is_of(path.rpartition("/")[2], name, step)]
        value = own[-1] if own else get(callback, "current_score")
        if own or not kept:
            scores |= _told(file, monitor, value)
    return scores, best_by


def _is_of(kept: str, name: str, step: int | None) -> bool:
    """Whether a file that a callback keeps is this one, or has its step: `last.ckpt` is written beside it."""
    told = re.search(r"step=(\d{1,18})(?!\d)", kept)
    return kept == name or (told is not None and step == int(told[1]))


def _contents(file: PickledFile, state: Table) -> tuple[bool | None, bool | None]:
    """Whether weights and optimizer state are in it."""
    keys = {key: value for key, value in state.pairs if isinstance(key, str)}
    if "param_groups" in keys and "state" in keys:
        return False, True  # an optimizer's own state dict
    has_optimizer = False
    is_opaque = not keys
    has_weights = False
    for key, value in [*keys.items(), *items_of(keys.get("state"))]:
        holds = _holds(value) or tensor_of(value) is not None
        if holds and isinstance(key, str) and _OPTIMIZER.fullmatch(key) and not _NO_OPTIMIZER.fullmatch(key):
            has_optimizer |= value != []
        elif not _BESIDE_WEIGHTS.fullmatch(str(key)):
            has_weights |= holds
            is_opaque |= _is_opaque(value)
    if not has_optimizer:
        has_optimizer = any(_MOMENTS.fullmatch(name) for name, _ in file.tensors())
    return has_weights or (None if is_opaque else False), has_optimizer or (None if is_opaque else False)


def _is_opaque(value: object) -> bool:
    """Whether a value is one that only its own class could open."""
    if not isinstance(value, Made):
        return value is UNKNOWN
    kind = value.callable
    return not (isinstance(kind, Global) and (kind.module, kind.name) in HARMLESS)


def _holds(value: object) -> bool:
    """Whether something lies in a value: a dict, a list, or an object with a state."""
    return isinstance(value, Table | list) or (isinstance(value, Made) and isinstance(value.state, Table))


def _of_archive(file: PickledFile) -> PickledState:
    """What other files say: archives of Keras, Stable-Baselines3 and numpy, HDF5, and MessagePack of flax."""
    names = file.members
    if "config.json" in names and "metadata.json" in names:
        compiled = _document(file, "config.json").get("compile_config")
        has_optimizer = isinstance(compiled, dict) and compiled.get("optimizer") is not None
        return PickledState(has_weights=True, has_optimizer=has_optimizer)
    if "data" in names and any(name.endswith(".pth") for name in names):
        has_optimizer = any(is_optimizer_name(name.removesuffix(".pth").rpartition(".")[2]) for name in names)
        step = whole_number(_document(file, "data").get("num_timesteps"))
        return PickledState(step=step, has_weights=True, has_optimizer=has_optimizer)
    arrays = [name.removesuffix(".npy") for name in names if name.endswith(".npy")]
    if arrays:
        # Arrays without an optimizer's name may be one's all the same.
        return PickledState(has_weights=True, has_optimizer=any(map(is_optimizer_name, arrays)) or None)
    if (head := file.head).startswith(b"\x89HDF\r\n\x1a\n"):
        # Keras names the groups of the file at its start (`legacy/saving/legacy_h5_format.py`, `saving_lib.py`).
        return PickledState(has_weights=True, has_optimizer=b"optimizer" in head or None)
    if not names and head[:1] in _PACKED_MAPS:
        return _of_keys(read_msgpack_keys(file.content, ""))
    return PickledState()


def _of_keys(keys: Mapping[str, int | None]) -> PickledState:
    """What the keys of a state of flax say (`flax/training/train_state.py`)."""
    step = next((number for name in STEPS if (number := whole_number(keys.get(name))) is not None), None)
    has_optimizer = any(map(is_optimizer_name, keys))
    return PickledState(step=step, has_weights=bool(keys) or None, has_optimizer=has_optimizer or None)


def _document(file: PickledFile, name: str) -> dict[str, object]:
    try:
        document = parse_json(file.member(name, limit=2**24) or b"", lenient=True)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}
