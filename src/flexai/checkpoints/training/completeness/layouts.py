"""The rules of layouts: which file each writer writes last, and what else its loader needs.

A rule says nothing of a folder of another layout. Where it says WHOLE, it does so conclusively if the file that is
written last is there. Where that is missing and the layout is certain, it says PARTIAL, however long the folder has
been still: its writer has died, or is gathering the rest. Torn files and gaps are not a rule's matter (`Survey.torn`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from flexai.checkpoints.training.completeness.survey import (
    MODEL_INDEX,
    TRAINER_STATE,
    FileRole,
    Survey,
    base_name,
    beside,
    deepspeed_tag,
    has_weights,
    read_tag,
    role_of,
)
from flexai.checkpoints.training.formats.folder import read_exactly
from flexai.checkpoints.training.formats.json_object import read_object
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError, Outcome, shown

_TRAINER_FOLDER = re.compile(r"checkpoint-\d+")  # transformers' PREFIX_CHECKPOINT_DIR
_TRAINER_STATES = re.compile(r"training_args\.bin|(optimizer|scheduler|scaler)\.pt|rng_state(_\d+)?\.pth")
_TRAINER_WEIGHTS = re.compile(
    r"config\.json|adapter_(config\.json|model\..*)|model(-.*)?\.safetensors(\.index\.json)?"
    r"|pytorch_model(-.*)?\.bin(\.index\.json)?"
)
_ACCELERATE_STATES = re.compile(r"(optimizer|scheduler|sampler)(_\d+)?\.bin|dl_state_dict(_\d+)?\.bin")
_MEGATRON_LATEST = "latest_checkpointed_iteration.txt"
_MEGATRON_FOLDER = re.compile(r"iter_\d{7,}|release")
_MEGATRON_RANK = re.compile(r"(.*/)?mp_rank_\d+(_\d+)*")
_ORBAX_METADATA = "_CHECKPOINT_METADATA"
_ORBAX_COMMIT = "commit_success.txt"
_OCDBT_DATA = re.compile(r"((?:.*?/)??)(?:ocdbt\.process_[^/]+/)?d/[^/]+")
_OCDBT_MAGIC = b"\x0c\xdb\x3a\x2a"
_PIPELINE_FROZEN = re.compile(r"vae|scheduler|safety_checker|feature_extractor|image_processor")
_PIPELINE_PARTS = re.compile(
    _PIPELINE_FROZEN.pattern + r"|unet|transformer|prior|(text|image)_encoder(_\d)?|tokenizer(_\d)?"
)


@dataclass(frozen=True, slots=True)
class Completeness:
    """The answer about a unit.

    `rule` names the format whose layout was recognised (empty when none was). `reason` says in one sentence
    what is missing or what stands in the way (empty when WHOLE). `conclusive` is true when the file that the
    format's writer writes last is there: nothing more will come. A WHOLE that is not conclusive says that
    every file is whole and that none is known to be missing; a writer might still add one, so it is wise to
    look twice before trusting it.
    """

    outcome: Outcome
    rule: str = ""
    reason: str = ""
    conclusive: bool = False


def _torn(rule: str, reason: str) -> Completeness:
    return Completeness(Outcome.PARTIAL, rule, reason)


def _root(survey: Survey) -> list[str]:
    return [path for path in survey.files if "/" not in path]


def _file(survey: Survey) -> Completeness | None:
    """A unit of one file that has the unit's name: its format tells where it ends."""
    name = base_name(survey.folder.name)
    if list(survey.files) != [name]:
        return None
    verdict = survey.verdict(name)
    return Completeness(verdict.outcome, survey.format_of(name), verdict.reason, conclusive=verdict.whole)


def _tensorflow(survey: Survey) -> Completeness | None:
    """A checkpoint of TensorFlow by its prefix: its data files, then their index, which says how long they are."""
    index = f"{base_name(survey.folder.name)}.index"
    if index in survey.files and survey.of(FileRole.TENSORFLOW_DATA):
        verdict = survey.verdict(index)
        return Completeness(verdict.outcome, "tensorflow", verdict.reason, conclusive=verdict.whole)
    return None


def _transformers(survey: Survey) -> Completeness | None:
    """Trainer: weights, `training_args.bin`, optimizer, random states, `trainer_state.json`; a final model ends with
    `training_args.bin` (`trainer.py`, `_save_checkpoint` and `_save`).
    """
    if TRAINER_STATE in survey.files:
        if not (state := survey.verdict(TRAINER_STATE)).whole:
            return Completeness(state.outcome, "transformers", state.reason)
        if has_weights(survey):
            return Completeness(Outcome.WHOLE, "transformers", conclusive=True)
        reason = f"{TRAINER_STATE} is there, but no weights of a known format"
        return Completeness(Outcome.UNKNOWN, "transformers", reason)
    root = _root(survey)
    if any(path.startswith("random_states_") for path in root):
        return None  # accelerate's, which diffusers' scripts also save into `checkpoint-N`
    if _TRAINER_FOLDER.fullmatch(base_name(survey.folder.name)):
        reason = f"{TRAINER_STATE}, which Trainer writes last, is not there yet"
        if any(_TRAINER_STATES.fullmatch(path) for path in root):
            return _torn("transformers", reason)
        if any(_TRAINER_WEIGHTS.fullmatch(path) for path in root):
            if len(survey.of(FileRole.DOCUMENT, FileRole.HARMLESS)) == len(survey.files):
                return _torn("transformers", reason)  # documents alone are written before the weights
            # So far a program of one's own, which saves a model under such a name, looks the same.
            return Completeness(Outcome.UNKNOWN, "transformers", reason)
    if "training_args.bin" in survey.files and has_weights(survey):
        return Completeness(Outcome.WHOLE, "transformers", conclusive=True)
    return None


def _accelerate(survey: Survey) -> Completeness | None:
    """`save_state`: models, optimizers, schedulers, then `random_states_RANK.pkl`; custom objects may follow
    (`accelerator.py`, `save_state`).
    """
    if any(path.startswith("random_states_") for path in survey.of(FileRole.STATE)):
        if has_weights(survey) or survey.of(FileRole.OPTIMIZER):
            return Completeness(Outcome.WHOLE, "accelerate")
        return Completeness(Outcome.UNKNOWN, "accelerate", "random states are there, but no weights of a known format")
    is_fsdp = any(base_name(folder).startswith("pytorch_model_fsdp_") for folder in survey.dcp_folders)
    is_deepspeed = any(path.startswith("pytorch_model/") for path in survey.of(FileRole.DEEPSPEED_MODEL))
    if is_fsdp or is_deepspeed or any(_ACCELERATE_STATES.fullmatch(path) for path in _root(survey)):
        return _torn("accelerate", "random_states_0.pkl, which accelerate writes after the rest, is not there yet")
    return None


def _megatron(survey: Survey) -> Completeness | None:
    """Every rank writes into the iteration's folder; then rank 0 writes `latest_checkpointed_iteration.txt` beside it
    (`training/checkpointing.py`, `save_checkpoint`). Its loader reads that file first.
    """
    tops = {path.partition("/")[0] for path in survey.files if "/" in path}
    tags = sorted(top for top in tops if _MEGATRON_FOLDER.fullmatch(top))
    if not tags:
        return None
    latest = read_tag(survey, _MEGATRON_LATEST)
    if latest is None:
        return _torn("megatron", f"{_MEGATRON_LATEST}, which Megatron writes last, names no iteration yet")
    tag = f"iter_{int(latest):07d}" if latest.isdecimal() and len(latest) < 19 else latest
    if tag not in tags:
        return _torn("megatron", f"{_MEGATRON_LATEST} names {shown(latest)}, which has no folder here")
    ranks = {path.rpartition("/")[0] for path in survey.files}
    for folder in sorted(folder for folder in ranks if _MEGATRON_RANK.fullmatch(folder)):
        names = (f"{folder}/model_optim_rng.pt", f"{folder}/model_rng.pt")
        if not any(name in survey.files for name in names):
            return _torn("megatron", f"{shown(names[0])} is missing")
    if not has_weights(survey):
        return Completeness(Outcome.UNKNOWN, "megatron", "no weights of a known format are there")
    return Completeness(Outcome.WHOLE, "megatron", conclusive=True)


def _deepspeed(survey: Survey) -> Completeness | None:
    """Every rank writes its states into the tag's folder; then rank 0 writes `latest` beside that folder
    (`runtime/engine.py`, `save_checkpoint`).
    """
    states = survey.of(FileRole.DEEPSPEED_MODEL, FileRole.DEEPSPEED_OPTIMIZER)
    if not states:
        return None
    if not survey.of(FileRole.DEEPSPEED_MODEL):
        return _torn("deepspeed", "DeepSpeed's model states are not there")
    if any("/" not in path for path in states):  # this is the tag's folder itself: `latest` lies above it
        return Completeness(Outcome.WHOLE, "deepspeed")
    tag = deepspeed_tag(survey)
    if tag is None:
        return _torn("deepspeed", "DeepSpeed's latest, written last, names no folder yet")
    if not any(path.startswith(f"{tag}/") for path in states):
        return _torn("deepspeed", f"latest names {shown(tag)}, which has no states here")
    return Completeness(Outcome.WHOLE, "deepspeed", conclusive=True)


def _orbax(survey: Survey) -> Completeness | None:
    """Orbax: items with `_METADATA` and data, `_CHECKPOINT_METADATA`, `commit_success.txt`; then the folder is renamed
    (`_src/path/atomicity.py`). The last of these files is newer than the others, and only on some file systems the mark
    of a whole checkpoint.
    """
    items = [path for path in survey.files if base_name(path) in ("_METADATA", "manifest.ocdbt")]
    items = [path for path in items if "ocdbt.process_" not in path]
    if not items and _ORBAX_METADATA not in survey.files:
        return None
    if _ORBAX_METADATA not in survey.files:
        return _torn("orbax", f"{_ORBAX_METADATA}, which Orbax writes after the rest, is not there yet")
    if _ORBAX_COMMIT not in survey.files and any(base_name(path) == _ORBAX_COMMIT for path in survey.files):
        return _torn("orbax", f"{_ORBAX_COMMIT}, which Orbax writes last, is not there yet")
    filled: dict[str, int] = {}
    for path, size in survey.files.items():
        if data := _OCDBT_DATA.fullmatch(path):
            filled[data[1]] = min(size, filled.get(data[1], size))
    for folder in dict.fromkeys(path[: -len(base_name(path))] for path in items):
        if flaw := _item_flaw(survey, folder, filled.get(folder)):
            return _torn("orbax", flaw)
    return Completeness(Outcome.WHOLE, "orbax", conclusive=True)


def _item_flaw(survey: Survey, folder: str, least: int | None) -> str:
    """What an item of Orbax lacks; empty where nothing is known to. `least` is the size of its smallest data file."""
    manifest, metadata = f"{folder}manifest.ocdbt", f"{folder}_METADATA"
    if metadata not in survey.files:
        return f"{shown(metadata)} is missing"
    try:
        told = read_object(survey.folder, metadata).get("use_ocdbt")
        if manifest not in survey.files:
            return f"{shown(manifest)} is missing" if least is not None or told is True else ""
        head = read_exactly(survey.folder, manifest, 0, min(12, survey.files[manifest]))
    except (NotWholeError, CannotTellError) as flaw:
        return str(flaw)
    # TensorStore, `kvstore/ocdbt/format/manifest.cc`: a magic number, and the length of the whole file
    is_manifest = _OCDBT_MAGIC.startswith(head[:4])
    if is_manifest and int.from_bytes(head[4:], "little") != survey.files[manifest]:
        return f"{shown(manifest)} is not as long as it says"
    return "" if head and least else f"{shown(manifest)} has no data"


def _dcp(survey: Survey) -> Completeness | None:
    """PyTorch DCP: every rank's `__R_S.distcp`, then `.metadata`, renamed into place by the coordinator
    (`distributed/checkpoint/filesystem.py`, `finish`). Lightning adds `meta.pt` (`fabric/strategies/fsdp.py`), NeMo 2
    keeps it in `weights` beside `context`.
    """
    if not survey.dcp_folders:
        return None
    folders = set(survey.dcp_folders)
    if folders == {""} and base_name(survey.folder.name).endswith(".ckpt") and "meta.pt" not in survey.files:
        return _torn("dcp", "meta.pt, which Lightning writes last, is not there yet")
    has_one_end = folders == {""} and ".metadata" in survey.files  # not one of each rank
    is_nemo = folders == {"weights"} and any(path.startswith("context/") for path in survey.files)
    return Completeness(Outcome.WHOLE, "dcp", conclusive=has_one_end or is_nemo)


def _saved_model(survey: Survey) -> Completeness | None:
    """TensorFlow's SavedModel: variables, `saved_model.pb`, and in newer versions `fingerprint.pb`
    (`python/saved_model/save.py`, `save_and_return_nodes`).
    """
    variables = any(path.startswith("variables/variables.") for path in survey.files)
    if "saved_model.pb" not in survey.files:
        if variables:
            return _torn("saved-model", "saved_model.pb, which is written after the variables, is not there yet")
        return None
    if "fingerprint.pb" in survey.files and "variables/variables.index" not in survey.files:
        return _torn("saved-model", "variables/variables.index is missing")
    return Completeness(Outcome.WHOLE, "saved-model", conclusive="fingerprint.pb" in survey.files)


def _diffusers(survey: Survey) -> Completeness | None:
    """A pipeline: a folder for each component, then `model_index.json`, which names them
    (`pipelines/pipeline_utils.py`, `save_pretrained`).
    """
    folders = {path.partition("/")[0] for path in survey.files if "/" in path}
    if MODEL_INDEX not in survey.files:
        parts = {folder for folder in folders if _PIPELINE_PARTS.fullmatch(folder)}
        # A training script may save one or two models of its own so; what is not trained only a pipeline saves.
        if len(parts) > 1 and any(_PIPELINE_FROZEN.fullmatch(folder) for folder in parts):
            return _torn("diffusers", f"{MODEL_INDEX}, which a pipeline is saved with last, is not there yet")
        return None
    try:
        index = read_object(survey.folder, MODEL_INDEX)
    except (NotWholeError, CannotTellError):
        return None  # the survey tells of it
    for name, kind in index.items():
        if isinstance(kind, list) and len(kind) == 2 and all(isinstance(part, str) for part in kind):
            if name not in folders:
                return _torn("diffusers", f"{MODEL_INDEX} names {shown(name)}, which is not there")
            roles = {file: role_of(file) for file in survey.folders.get(name, ())}
            if "config.json" not in roles and FileRole.WEIGHTS in roles.values():
                return _torn("diffusers", f"{shown(name)}/config.json is missing")
            if "config.json" in roles and set(roles.values()) <= {FileRole.DOCUMENT, FileRole.HARMLESS}:
                return _torn("diffusers", f"{shown(name)} holds no weights")
    return Completeness(Outcome.WHOLE, "diffusers", conclusive=True)


def _adapter(survey: Survey) -> Completeness | None:
    """PEFT: for each adapter `adapter_model.safetensors` (or `.bin`), then its `adapter_config.json`
    (`peft_model.py`, `save_pretrained`).
    """
    weights = [path for path in survey.files if base_name(path) in ("adapter_model.safetensors", "adapter_model.bin")]
    for path in weights:
        if (config := beside(path, "adapter_config.json")) not in survey.files:
            return _torn("adapter", f"{shown(config)}, written last, is not there yet")
    filled = {path.rpartition("/")[0] for path in survey.of(FileRole.WEIGHTS)}
    for path in survey.files:
        if base_name(path) == "adapter_config.json" and path.rpartition("/")[0] not in filled:
            return Completeness(Outcome.UNKNOWN, "adapter", f"no adapter_model is beside {shown(path)}")
    return Completeness(Outcome.WHOLE, "adapter") if weights else None


def _index(survey: Survey) -> Completeness | None:
    """Sharded weights: the shards, then an index over them."""
    indexes = survey.of(FileRole.INDEX)
    if any(".safetensors.index." in path for path in indexes):
        return Completeness(Outcome.WHOLE, "safetensors-index")
    return Completeness(Outcome.WHOLE, "torch-index") if indexes else None


def _weights(survey: Survey) -> Completeness | None:
    """Files each of which tells its own end; more of them may come."""
    formats = [survey.format_of(path) for path in survey.of(FileRole.WEIGHTS)]
    found = next(filter(None, formats), "")
    return Completeness(Outcome.WHOLE, found) if found else None


LAYOUT_RULES: tuple[Callable[[Survey], Completeness | None], ...] = (
    _file,
    _tensorflow,
    _transformers,
    _accelerate,
    _megatron,
    _deepspeed,
    _orbax,
    _dcp,
    _saved_model,
    _diffusers,
    _adapter,
    _index,
    _weights,
)
"""From the most to the least specific: the first that knows the layout speaks."""
