"""Whether a checkpoint folder is whole, by its files alone: the rule of completeness, but for time (``by_time``).

1. A folder or file with a temporary name is not looked at until it is renamed (`is_temporary_folder`, `is_unfinished`).
2. Each file has a role, which its name tells (`FileRole`). Every file whose role is in `_CHECKED` is judged by its
   bytes: a JSON document must parse, a safetensors file's header must account for every byte (`formats.safetensors`),
   a zip archive, which `torch.save` and `numpy.savez` write, must end with a directory that fits it
   (`formats.archives`), and an index must find all its shards, whole. Nothing is unpickled.
3. A file that is torn makes the folder PARTIAL whatever its layout. So does a gap: a missing shard, index or rank, or
   DCP shards without their `.metadata` (`Survey.torn`).
4. Otherwise the first rule of `_RULES` that knows the layout speaks. There is one for each layout, from the most to the
   least specific. It says WHOLE, and conclusively so where the file is there that the layout's writer writes last.
5. Where no rule knows the layout, or a file is in the way that none can judge, the answer is UNKNOWN, and only time can
   tell.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX
from flexai.checkpoints.training.formats.archives import check_archive
from flexai.checkpoints.training.formats.folder import CheckpointFolder, read_exactly
from flexai.checkpoints.training.formats.json_object import read_object
from flexai.checkpoints.training.formats.safetensors import read_tensor_names, read_weight_map
from flexai.checkpoints.training.formats.verdict import (
    CannotTellError,
    NotWholeError,
    Outcome,
    Verdict,
    sentence,
    shown,
)

_TEMPORARY_BEGINNINGS = (".", "tmp-", "tmp_")
_TEMPORARY_ENDINGS = (".tmp", "-tmp", "_tmp", ".partial", ".incomplete", PARTIAL_SUFFIX)
_ORBAX_TEMPORARY = ".orbax-checkpoint-tmp"
"""Orbax appends this and a number (``orbax/checkpoint/_src/path/atomicity.py``)."""

_UNFINISHED = re.compile(
    r"\.tmp.*|.*\.(tmp|temp|part|partial|incomplete|inprogress|new|swp)([-._]?\w{1,12})?|.*~"
    r"|(.*[-_.])?(tmp|temporary|incomplete|unfinished)([-_.].*)?|tmp[a-z0-9_]{8}(\..*)?",
    re.IGNORECASE,
)
"""Names that writers give to what they will rename; the last form is that of Python's `tempfile`."""

TRAINER_STATE = "trainer_state.json"
DOCUMENTS = ("config.json", "generation_config.json", "adapter_config.json", TRAINER_STATE)
"""JSON documents that a library writes whole, so that one that does not parse is torn."""


class FileRole(enum.Enum):
    """What a file is for."""

    WEIGHTS = enum.auto()
    OPTIMIZER = enum.auto()
    INDEX = enum.auto()
    STATE = enum.auto()
    """Other state of the training loop: scheduler, random generators, arguments."""
    DEEPSPEED_MODEL = enum.auto()
    DEEPSPEED_OPTIMIZER = enum.auto()
    DCP_SHARD = enum.auto()
    DOCUMENT = enum.auto()
    HARMLESS = enum.auto()
    """Text beside a model: nothing waits for it."""
    OTHER = enum.auto()


# The first pattern that matches a file's base name decides. Sources of the names: transformers `trainer.py`, accelerate
# `utils/constants.py`, DeepSpeed `runtime/engine.py` (`_get_ckpt_name`, `_get_optimizer_ckpt_name`), PyTorch
# `distributed/checkpoint/filesystem.py`, PEFT `utils/constants.py`.
_ROLES = [
    (re.compile(pattern), role)
    for pattern, role in (
        (r".*\.index\.json", FileRole.INDEX),
        (r"|".join(re.escape(name) for name in DOCUMENTS), FileRole.DOCUMENT),
        (r".*_optim_states\.pt", FileRole.DEEPSPEED_OPTIMIZER),
        (r".*model_states\.pt", FileRole.DEEPSPEED_MODEL),
        (r"__\d+_\d+\.distcp", FileRole.DCP_SHARD),
        (r"optimizer(_\d+)?\.(pt|bin|safetensors|npz)", FileRole.OPTIMIZER),
        (r"(scheduler|scaler|sampler|dl_state_dict|training_args|rng_state|random_states|custom_checkpoint)"
         r"([_-]\w+)?\.(pt|pth|bin|pkl|safetensors)", FileRole.STATE),
        (r".*\.(safetensors|pt|pth|ckpt|bin|npz)", FileRole.WEIGHTS),
        (r".*\.(json|jsonl|txt|md|rst|yaml|yml|toml|csv|log|py|sh|jinja|model|tiktoken)", FileRole.HARMLESS),
        (r"latest|\.metadata|README|LICENSE|NOTICE|\.git(attributes|ignore)", FileRole.HARMLESS),
        (r"events\.out\.tfevents\..*", FileRole.HARMLESS),
    )
]  # fmt: skip

_SHARD_OF = re.compile(r"(?P<stem>.+)-\d{5}-of-(?P<count>\d{5})\.(?P<suffix>safetensors|bin)")
_RANK = re.compile(r"(?P<before>.*(?:pp_rank|dp_rank)_)(?P<rank>\d{1,9})(?P<after>_.*)")

_CHECKED = (
    FileRole.INDEX,
    FileRole.DOCUMENT,
    FileRole.WEIGHTS,
    FileRole.OPTIMIZER,
    FileRole.STATE,
    FileRole.DEEPSPEED_MODEL,
    FileRole.DEEPSPEED_OPTIMIZER,
)

_TRAINER_FOLDER = re.compile(r"checkpoint-\d+")  # transformers' PREFIX_CHECKPOINT_DIR
_TRAINER_FILE = re.compile(
    r"config\.json|adapter_(config\.json|model\..*)|model(-.*)?\.safetensors(\.index\.json)?"
    r"|pytorch_model(-.*)?\.bin(\.index\.json)?|optimizer\.pt|scheduler\.pt|rng_state.*\.pth"
)
_MAX_TAG = 4096


def is_temporary_folder(name: str) -> bool:
    """Whether a folder is hidden, or has a name that trainers give to a checkpoint before it is whole."""
    return name.startswith(_TEMPORARY_BEGINNINGS) or name.endswith(_TEMPORARY_ENDINGS) or _ORBAX_TEMPORARY in name


def is_unfinished(name: str) -> bool:
    """Whether a file, or a folder within a checkpoint, has a name that it will lose once it is written."""
    return bool(_UNFINISHED.fullmatch(name)) or name.endswith(PARTIAL_SUFFIX)


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


def completeness(folder: CheckpointFolder) -> Completeness:
    """Judge the folder by its headers. Never raises for what the files hold."""
    survey = Survey(folder)
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


def role_of(path: str) -> FileRole:
    """The role of a file, by its base name."""
    name = path.rpartition("/")[2]
    return next((role for pattern, role in _ROLES if pattern.fullmatch(name)), FileRole.OTHER)


class Survey:
    """The roles of a folder's files and the verdict on each; every header is read once, when first asked for."""

    def __init__(self, folder: CheckpointFolder) -> None:
        self.folder = folder
        self.files = folder.files
        self._files_of: dict[FileRole, list[str]] = {role: [] for role in FileRole}
        for path in self.files:
            self._files_of[role_of(path)].append(path)
        self._verdicts: dict[str, Verdict] = {}
        self._tensors: dict[str, frozenset[str]] = {}

    def of(self, *roles: FileRole) -> list[str]:
        """The paths of the files that have one of `roles`."""
        return [path for role in roles for path in self._files_of[role]]

    def verdict(self, path: str) -> Verdict:
        """Whether the file `path` is whole; for an index, whether all that it promises is there, whole."""
        if path not in self._verdicts:
            try:
                self._check(path)
                self._verdicts[path] = Verdict(Outcome.WHOLE)
            except NotWholeError as flaw:
                self._verdicts[path] = Verdict(Outcome.PARTIAL, str(flaw))
            except CannotTellError as flaw:
                self._verdicts[path] = Verdict(Outcome.UNKNOWN, str(flaw))
        return self._verdicts[path]

    @cached_property
    def dcp_folders(self) -> dict[str, bool]:
        """Folders with PyTorch DCP shards, and whether each has the `.metadata` that its coordinator writes
        last.

        `.metadata` is a pickle: that it is there and not empty is all that is asked of it.
        """
        folders = {path.rpartition("/")[0] for path in self.of(FileRole.DCP_SHARD)}
        return {folder: self.files.get(f"{folder}/.metadata".lstrip("/"), 0) > 0 for folder in sorted(folders)}

    @cached_property
    def flaws(self) -> list[Verdict]:
        """Everything that is torn, missing or contradictory (PARTIAL), then what could not be judged
        (UNKNOWN).
        """
        checked = [self.verdict(path) for path in self.of(*_CHECKED)]
        checked += [Verdict(Outcome.PARTIAL, reason) for reason in self._gaps()]
        order = (Outcome.PARTIAL, Outcome.UNKNOWN)
        return [verdict for outcome in order for verdict in dict.fromkeys(checked) if verdict.outcome is outcome]

    @property
    def torn(self) -> list[str]:
        """The reasons why the folder is not whole, as it stands."""
        return [verdict.reason for verdict in self.flaws if verdict.outcome is Outcome.PARTIAL]

    @property
    def unjudged(self) -> list[str]:
        """The reasons why a file could be neither vouched for nor faulted."""
        return [verdict.reason for verdict in self.flaws if verdict.outcome is Outcome.UNKNOWN]

    def _check(self, path: str) -> None:
        role = role_of(path)
        if role is FileRole.INDEX:
            self._check_index(path)
        elif role is FileRole.DOCUMENT:
            read_object(self.folder, path)
        elif path.endswith(".safetensors"):
            self._tensors[path] = read_tensor_names(self.folder, path)
        elif role in _CHECKED:
            check_archive(self.folder, path)
        else:
            raise CannotTellError(f"{shown(path)} is of no known format")

    def _check_index(self, path: str) -> None:
        shards = read_weight_map(self.folder, path)
        for shard, tensors in shards.items():
            verdict = self.verdict(shard) if role_of(shard) is FileRole.WEIGHTS else None
            if verdict is None:
                raise NotWholeError(f"{shown(path)} names {shown(shard)}, which is not a weights file")
            if verdict.outcome is Outcome.PARTIAL:
                raise NotWholeError(verdict.reason)
            if verdict.outcome is Outcome.UNKNOWN:
                raise CannotTellError(verdict.reason)
            if shard in self._tensors and (absent := tensors - self._tensors[shard]):
                raise NotWholeError(f"{shown(shard)} lacks the tensor {shown(min(absent))} that {shown(path)} promises")

    def _gaps(self) -> list[str]:
        """Files that others say should be there: shards, the index over them, ranks, DCP's metadata."""
        reasons = [
            f"{shown(folder or 'the folder')} holds DCP shards without their .metadata, which is written last"
            for folder, ended in self.dcp_folders.items()
            if not ended
        ]
        return reasons + self._shard_gaps() + self._rank_gaps()

    def _shard_gaps(self) -> list[str]:
        found: dict[tuple[str, int, str], int] = {}
        for path in self.of(FileRole.WEIGHTS):
            if shard := _SHARD_OF.fullmatch(path):
                key = (shard["stem"], int(shard["count"]), shard["suffix"])
                found[key] = found.get(key, 0) + 1
        reasons = []
        for (stem, count, suffix), have in found.items():
            if have < count:
                reasons.append(f"{have} of {count} shards of {shown(stem)} are there")
            elif f"{stem}.{suffix}.index.json" not in self.files:
                reasons.append(f"{shown(stem)}.{suffix}.index.json, which is written after its shards, is missing")
        return reasons

    def _rank_gaps(self) -> list[str]:
        """A rank missing between two others. Ranks before or after may lie on another node's disk."""
        ranks: dict[tuple[str, str], set[int]] = {}
        for path in self.of(FileRole.DEEPSPEED_MODEL, FileRole.DEEPSPEED_OPTIMIZER):
            if match := _RANK.fullmatch(path):
                ranks.setdefault((match["before"], match["after"]), set()).add(int(match["rank"]))
        return [
            f"the file of a rank between {min(have)} and {max(have)} is missing: {shown(before)}…{shown(after)}"
            for (before, after), have in ranks.items()
            if len(have) != max(have) - min(have) + 1
        ]


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
