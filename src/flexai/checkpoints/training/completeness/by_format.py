"""Whether a checkpoint folder is whole: one rule per format, tried from the most to the least specific.

A file that is torn makes the folder PARTIAL whatever its format. Otherwise the first rule that knows the
layout speaks. Where no rule knows it, or a file is in the way that none can judge, the answer is UNKNOWN, and
only time can tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from flexai.checkpoints.training.formats.folder import CheckpointFolder, read_exactly
from flexai.checkpoints.training.formats.survey import TRAINER_STATE, FileRole, Survey, as_survey
from flexai.checkpoints.training.formats.verdict import NotWholeError, Outcome, sentence, shown

_TRAINER_FOLDER = re.compile(r"checkpoint-\d+")  # transformers' PREFIX_CHECKPOINT_DIR
_TRAINER_FILE = re.compile(
    r"config\.json|adapter_(config\.json|model\..*)|model(-.*)?\.safetensors(\.index\.json)?"
    r"|pytorch_model(-.*)?\.bin(\.index\.json)?|optimizer\.pt|scheduler\.pt|rng_state.*\.pth"
)
_MAX_TAG = 4096


@dataclass(frozen=True, slots=True)
class Completeness:
    """The answer about a folder.

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


def completeness(folder: CheckpointFolder | Survey) -> Completeness:
    """Judge the folder by its headers. Never raises for what the files hold."""
    survey = as_survey(folder)
    if not survey.files:
        return Completeness(Outcome.PARTIAL, reason="the folder holds no file yet")
    for rule in _RULES:
        verdict = rule(survey)
        if verdict is None:
            continue
        if survey.torn:
            return Completeness(Outcome.PARTIAL, verdict.rule, sentence(survey.torn))
        in_the_way = survey.unjudged + [f"{shown(path)} is of no known format" for path in survey.of(FileRole.OTHER)]
        if verdict.outcome is Outcome.WHOLE and not verdict.conclusive and in_the_way:
            return Completeness(Outcome.UNKNOWN, verdict.rule, sentence(in_the_way))
        return verdict
    if survey.torn:
        return Completeness(Outcome.PARTIAL, reason=sentence(survey.torn))
    return Completeness(Outcome.UNKNOWN, reason="no file is of a format with a completion rule")


def format_names(folder: CheckpointFolder | Survey) -> tuple[str, ...]:
    """The names of all formats whose layout the folder shows, whole or not, the most specific first."""
    survey = as_survey(folder)
    return tuple(verdict.rule for rule in _RULES if (verdict := rule(survey)) is not None and verdict.rule)


def has_weights(survey: Survey) -> bool:
    """Whether model weights are there in any known form."""
    return bool(survey.of(FileRole.WEIGHTS, FileRole.DEEPSPEED_MODEL, FileRole.DCP_SHARD))


def deepspeed_tag(survey: Survey) -> str | None:
    """The folder that DeepSpeed's `latest` names; None when there is no `latest` or it holds no bare name."""
    size = survey.files.get("latest")
    if size is None or size > _MAX_TAG:
        return None
    try:
        tag = read_exactly(survey.folder, "latest", 0, size).decode("utf-8", "replace").strip()
    except NotWholeError:
        return None
    # Data from the writer, used for comparison only: never joined to a path that is opened.
    return tag if tag and not any(mark in tag for mark in "/\\\0") else None


def _transformers(survey: Survey) -> Completeness | None:
    """Trainer: weights, optimizer, random states, `trainer_state.json`; a final model ends with `training_args.bin`."""
    if TRAINER_STATE in survey.files:
        if not (state := survey.verdict(TRAINER_STATE)).whole:
            return Completeness(state.outcome, "transformers", state.reason)
        if has_weights(survey):
            return Completeness(Outcome.WHOLE, "transformers", conclusive=True)
        reason = f"{TRAINER_STATE} is there, but no weights of a known format"
        return Completeness(Outcome.UNKNOWN, "transformers", reason)
    root = [path for path in survey.files if "/" not in path]
    if any(path.startswith("random_states_") for path in root):
        return None  # accelerate's, which diffusers' scripts also save into `checkpoint-N`
    if _TRAINER_FOLDER.fullmatch(survey.folder.name) and any(_TRAINER_FILE.fullmatch(path) for path in root):
        reason = f"{TRAINER_STATE}, which Trainer writes last, is not there yet"
        return Completeness(Outcome.UNKNOWN, "transformers", reason)
    if "training_args.bin" in survey.files and has_weights(survey):
        return Completeness(Outcome.WHOLE, "transformers", conclusive=True)
    return None


def _accelerate(survey: Survey) -> Completeness | None:
    """`save_state`: models, optimizers, schedulers, then `random_states_RANK.pkl`; custom objects may follow."""
    if not any(path.startswith("random_states_") for path in survey.of(FileRole.STATE)):
        return None
    if has_weights(survey) or survey.of(FileRole.OPTIMIZER):
        return Completeness(Outcome.WHOLE, "accelerate")
    return Completeness(Outcome.UNKNOWN, "accelerate", "random states are there, but no weights of a known format")


def _deepspeed(survey: Survey) -> Completeness | None:
    """Every rank writes its states into the tag's folder; then rank 0 writes `latest` beside that folder."""
    states = survey.of(FileRole.DEEPSPEED_MODEL, FileRole.DEEPSPEED_OPTIMIZER)
    if not states:
        return None
    if not survey.of(FileRole.DEEPSPEED_MODEL):
        return Completeness(Outcome.UNKNOWN, "deepspeed", "DeepSpeed's model states are not there")
    if any("/" not in path for path in states):  # this is the tag's folder itself: `latest` lies above it
        return Completeness(Outcome.WHOLE, "deepspeed")
    tag = deepspeed_tag(survey)
    if tag is None:
        return Completeness(Outcome.UNKNOWN, "deepspeed", "DeepSpeed's latest, written last, names no folder yet")
    if not any(path.startswith(f"{tag}/") for path in states):
        return Completeness(Outcome.PARTIAL, "deepspeed", f"latest names {shown(tag)}, which has no states here")
    return Completeness(Outcome.WHOLE, "deepspeed", conclusive=True)


def _dcp(survey: Survey) -> Completeness | None:
    """PyTorch DCP: every rank's `__R_S.distcp`, then `.metadata`, renamed into place by the coordinator."""
    if not survey.dcp_folders:
        return None
    return Completeness(Outcome.WHOLE, "dcp", conclusive=set(survey.dcp_folders) == {""})


def _adapter(survey: Survey) -> Completeness | None:
    """PEFT: `adapter_model.safetensors` (or `.bin`), then `adapter_config.json`."""
    weights = any(path in survey.files for path in ("adapter_model.safetensors", "adapter_model.bin"))
    config = "adapter_config.json" in survey.files
    if weights and config:
        return Completeness(Outcome.WHOLE, "adapter")
    if weights:
        return Completeness(Outcome.UNKNOWN, "adapter", "adapter_config.json, written last, is not there yet")
    return Completeness(Outcome.UNKNOWN, "adapter", "no adapter_model is there") if config else None


def _index(survey: Survey) -> Completeness | None:
    """Sharded weights: the shards, then `*.index.json` over them."""
    suffixes = {path.removesuffix(".index.json").rpartition(".")[2] for path in survey.of(FileRole.INDEX)}
    if "safetensors" in suffixes:
        return Completeness(Outcome.WHOLE, "safetensors-index")
    return Completeness(Outcome.WHOLE, "torch-index") if "bin" in suffixes else None


def _safetensors(survey: Survey) -> Completeness | None:
    """Single safetensors files, whose header accounts for every byte."""
    found = any(path.endswith(".safetensors") for path in survey.of(FileRole.WEIGHTS))
    return Completeness(Outcome.WHOLE, "safetensors") if found else None


def _torch(survey: Survey) -> Completeness | None:
    """What `torch.save` wrote: a zip archive, whole when its directory is."""
    found = any(path.endswith((".pt", ".pth", ".ckpt", ".bin")) for path in survey.of(FileRole.WEIGHTS))
    return Completeness(Outcome.WHOLE, "torch") if found else None


def _npz(survey: Survey) -> Completeness | None:
    """What `numpy.savez` wrote: a zip archive as well."""
    found = any(path.endswith(".npz") for path in survey.of(FileRole.WEIGHTS))
    return Completeness(Outcome.WHOLE, "npz") if found else None


_RULES: tuple[Callable[[Survey], Completeness | None], ...] = (
    _transformers,
    _accelerate,
    _deepspeed,
    _dcp,
    _adapter,
    _index,
    _safetensors,
    _torch,
    _npz,
)
