"""The files of a unit: what each is for, whether it is whole, and what should be there and is not.

Every file has a role, which its name tells (`FileRole`). What can be judged by its bytes is: `formats.whole_file`.
An index must find all its shards, whole. A gap is what other files say should be there: a shard, an index, a rank.
"""

from __future__ import annotations

import enum
import re
from functools import cached_property

from flexai.checkpoints.training.formats.folder import CheckpointFolder, read_exactly
from flexai.checkpoints.training.formats.json_object import read_object
from flexai.checkpoints.training.formats.pickle_ends import check_dcp_metadata
from flexai.checkpoints.training.formats.safetensors import read_tensor_names, read_weight_map
from flexai.checkpoints.training.formats.tensorflow import check_saved_model
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError, Outcome, Verdict, shown
from flexai.checkpoints.training.formats.whole_file import check_file

TRAINER_STATE = "trainer_state.json"
MODEL_INDEX = "model_index.json"
DOCUMENTS = (
    *("config.json", "generation_config.json", "adapter_config.json", TRAINER_STATE, MODEL_INDEX),
    *("tokenizer_config.json", "special_tokens_map.json", "preprocessor_config.json", "scheduler_config.json"),
    *("_CHECKPOINT_METADATA", "_METADATA", "_sharding"),
)
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
    TENSORFLOW_DATA = enum.auto()
    """Judged by the index beside it."""
    GRAPH = enum.auto()
    DOCUMENT = enum.auto()
    HARMLESS = enum.auto()
    """Text beside a model: nothing waits for it."""
    OTHER = enum.auto()


# The first pattern that matches a file's base name decides. Sources of the names: transformers `trainer.py` and
# `modeling_utils.py` (`_add_variant`), accelerate `utils/constants.py`, DeepSpeed `runtime/engine.py`
# (`_get_ckpt_name`, `_get_optimizer_ckpt_name`), PyTorch `distributed/checkpoint/filesystem.py`, PEFT
# `utils/constants.py`, TensorFlow `core/util/tensor_bundle/naming.cc`.
_ROLES = [
    (re.compile(pattern), role)
    for pattern, role in (
        (r".*\.(safetensors|bin|h5|msgpack)\.index(\.[\w-]+)?\.json", FileRole.INDEX),
        (r"|".join(re.escape(name) for name in DOCUMENTS), FileRole.DOCUMENT),
        (r".*_optim_states\.pt", FileRole.DEEPSPEED_OPTIMIZER),
        (r".*model_states\.pt", FileRole.DEEPSPEED_MODEL),
        (r"__\d+_\d+\.distcp", FileRole.DCP_SHARD),
        (r".*\.data-\d{5}-of-\d{5}", FileRole.TENSORFLOW_DATA),
        (r"saved_model\.pb", FileRole.GRAPH),
        (r"optimizer(_\d+)?\.(pt|bin|safetensors|npz)", FileRole.OPTIMIZER),
        (r"(scheduler|scaler|sampler|dl_state_dict|training_args|rng_state|random_states|custom_checkpoint)"
         r"([_-]\w+)?\.(pt|pth|bin|pkl|safetensors)", FileRole.STATE),
        (r".*\.(safetensors|pt|pth|ckpt|bin|npz|npy|tar|tar\.gz|tgz|keras|h5|hdf5|msgpack|joblib|pkl|pickle|ubj|nemo|zip"
         r"|cbm|index)", FileRole.WEIGHTS),
        (r".*\.(json|jsonl|txt|md|rst|yaml|yml|toml|csv|log|py|sh|jinja|model|tiktoken)", FileRole.HARMLESS),
        (r"latest|checkpoint|(__\d+)?\.metadata|README|LICENSE|NOTICE|\.git(attributes|ignore)", FileRole.HARMLESS),
        (r"events\.out\.tfevents\..*|fingerprint\.pb|keras_metadata\.pb", FileRole.HARMLESS),
    )
]  # fmt: skip

_CHECKED = (
    FileRole.INDEX,
    FileRole.DOCUMENT,
    FileRole.GRAPH,
    FileRole.WEIGHTS,
    FileRole.OPTIMIZER,
    FileRole.STATE,
    FileRole.DEEPSPEED_MODEL,
    FileRole.DEEPSPEED_OPTIMIZER,
)

# Shards that an index names. Each rank of DCP's Hugging Face writer has its own set, which none does
# (`torch/distributed/checkpoint/_hf_utils.py`, SHARDED_FILE_NAME).
_SHARD_OF = re.compile(
    r"(?P<stem>(?:.*/)?(?!shard-\d{5}-)[^/]+)-\d{5}-of-(?P<count>\d{5})"
    r"(?P<suffix>(?:\.[\w-]+)?\.(?:safetensors|bin|h5|msgpack))"
)
_RANK = re.compile(r"(?P<before>.*(?:pp_rank|dp_rank)_)(?P<rank>\d{1,9})(?P<after>_.*)")
_DCP_METADATA = re.compile(r"(?:__(?P<rank>\d{1,9}))?\.metadata")
_INCOMPLETE = "checkpoint-is-incomplete.txt"
"""Transformers keeps it in the folder while it saves on a signal (`trainer_jit_checkpoint.py`)."""
_WEIGHTS_OF_LIBRARIES = re.compile(r"(pytorch_|diffusion_pytorch_|tf_|flax_|adapter_)?model([._-].*)?\.bin")
_MAX_TAG = 4096


def role_of(path: str) -> FileRole:
    """The role of a file, by its base name."""
    name = base_name(path)
    return next((role for pattern, role in _ROLES if pattern.fullmatch(name)), FileRole.OTHER)


def base_name(path: str) -> str:
    """The last component of a path."""
    return path.rpartition("/")[2]


def beside(path: str, name: str) -> str:
    """The path of `name` in the folder of `path`."""
    return f"{path.rpartition('/')[0]}/{name}".lstrip("/")


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
        self._formats: dict[str, str] = {}
        self._indexed: set[str] = set()

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
    def folders(self) -> dict[str, dict[str, str]]:
        """Each folder that holds files, with their base names and paths."""
        found: dict[str, dict[str, str]] = {}
        for path in self.files:
            found.setdefault(path.rpartition("/")[0], {})[base_name(path)] = path
        return found

    def format_of(self, path: str) -> str:
        """The name of the format of a file that is whole; empty for any other."""
        return self._formats.get(path, "") if self.verdict(path).whole else ""

    @cached_property
    def dcp_folders(self) -> dict[str, bool]:
        """Folders with PyTorch DCP shards, and whether each has the metadata that is written last."""
        return {folder: not flaw for folder, flaw in self._dcp_flaws.items()}

    @cached_property
    def flaws(self) -> list[Verdict]:
        """Everything that is torn, missing or contradictory (PARTIAL), then what could not be judged
        (UNKNOWN).
        """
        checked = [
            self.verdict(path)
            for path in self.of(*_CHECKED)
            if self._is_read(path) and path not in self.folder.excluded
        ]
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

    @property
    def unknown(self) -> list[str]:
        """The files of no known format that are taken."""
        return [path for path in self.of(FileRole.OTHER) if path not in self.folder.excluded]

    @cached_property
    def _document_folders(self) -> set[str]:
        """Where a loader reads documents: the root, a pipeline's components, and adapters."""
        folders = {""} | {
            path.rpartition("/")[0] for path in self.files if base_name(path).startswith("adapter_model.")
        }
        if MODEL_INDEX in self.files or "modules.json" in self.files:
            folders |= {path.partition("/")[0] for path in self.files if path.count("/") == 1}
        return folders

    def _is_read(self, path: str) -> bool:
        """Whether a loader reads a file, as far as its place tells: another document may hold anything."""
        if role_of(path) is not FileRole.DOCUMENT or base_name(path).startswith("_"):
            return True
        return path.rpartition("/")[0] in self._document_folders

    def _check(self, path: str) -> None:
        role = role_of(path)
        if role is FileRole.INDEX:
            self._check_index(path)
        elif role is FileRole.DOCUMENT:
            read_object(self.folder, path)
        elif role is FileRole.GRAPH:
            check_saved_model(self.folder, path)
        elif path.endswith(".safetensors"):
            self._tensors[path] = read_tensor_names(self.folder, path)
            self._formats[path] = "safetensors"
        elif self._may_be_no_weights(path):
            raise CannotTellError(f"{shown(path)} is empty")
        elif role in _CHECKED or len(self.files) == 1:
            self._formats[path] = check_file(self.folder, path)
        else:
            raise CannotTellError(f"{shown(path)} is of no known format")

    def _may_be_no_weights(self, path: str) -> bool:
        """Whether a file is empty, has a name that anything may have, and lies beside weights that are not empty.

        One that a library gives to weights says nothing either where the same folder has them in another file.
        """
        if self.files[path] or not path.endswith(".bin") or role_of(path) is not FileRole.WEIGHTS:
            return False
        name, folder = base_name(path), path.rpartition("/")[0]
        others = self.of(FileRole.WEIGHTS, FileRole.DEEPSPEED_MODEL, FileRole.DCP_SHARD)
        if _WEIGHTS_OF_LIBRARIES.fullmatch(name):
            others = [other for other in others if other.rpartition("/")[0] == folder]
        return not _SHARD_OF.fullmatch(path) and any(self.files[other] for other in others)

    def _check_index(self, path: str) -> None:
        shards = read_weight_map(self.folder, path)
        self._indexed |= shards.keys()
        for shard, tensors in shards.items():
            if shard in self.folder.excluded:
                continue
            if self.files[shard] == 0:
                raise NotWholeError(f"{shown(shard)} is empty")
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
        """Files that others say should be there, and one that says that they are not."""
        reasons = [
            f"{shown(path)} is there, so the checkpoint is not whole"
            for path in self.files
            if base_name(path) == _INCOMPLETE
        ]
        reasons += [flaw for flaw in self._dcp_flaws.values() if flaw]
        for path in self.of(FileRole.TENSORFLOW_DATA):
            if (index := f"{path.rpartition('.data-')[0]}.index") not in self.files:
                reasons.append(f"{shown(index)}, which is written after its data, is missing")
        for path in self.files:
            if _DCP_METADATA.fullmatch(base_name(path)) and path.rpartition("/")[0] not in self._dcp_flaws:
                reasons += filter(None, [self._metadata_flaw(path)])
        return reasons + self._shard_gaps() + self._rank_gaps()

    @cached_property
    def _dcp_flaws(self) -> dict[str, str]:
        """Folders with DCP shards, and what is wrong with the metadata of each; empty where nothing is."""
        shards: dict[str, set[int]] = {}
        for path in self.of(FileRole.DCP_SHARD):
            shards.setdefault(path.rpartition("/")[0], set()).add(int(base_name(path)[2:].partition("_")[0]))
        return {folder: self._dcp_flaw(folder, ranks) for folder, ranks in sorted(shards.items())}

    def _dcp_flaw(self, folder: str, ranks: set[int]) -> str:
        """DCP: all ranks' shards, then one `.metadata`; without collectives each rank's own, `__RANK.metadata`."""
        inside = self.folders[folder]
        whole = [inside[".metadata"]] if ".metadata" in inside else []
        if not whole:
            own = {
                int(match["rank"]): path for name, path in inside.items() if (match := _DCP_METADATA.fullmatch(name))
            }
            if own and own.keys() >= ranks and own.keys() == set(range(len(own))):
                whole = list(own.values())
        if not whole or not all(self.files[path] for path in whole):
            return f"{shown(folder or 'the folder')} holds DCP shards without their .metadata, which is written last"
        if "common.pt" in inside and "metadata.json" not in inside:
            # Megatron's `core/dist_checkpointing/serialization.py`, `save`
            return f"{shown(folder or 'the folder')} has no metadata.json, which Megatron writes last"
        return next(filter(None, map(self._metadata_flaw, whole)), "")

    def _metadata_flaw(self, path: str) -> str:
        try:
            check_dcp_metadata(self.folder, path)
        except NotWholeError as flaw:
            return str(flaw)
        return ""

    def _shard_gaps(self) -> list[str]:
        found: dict[tuple[str, int, str], list[str]] = {}
        for path in self.of(FileRole.WEIGHTS):
            if shard := _SHARD_OF.fullmatch(path):
                found.setdefault((shard["stem"], int(shard["count"]), shard["suffix"]), []).append(path)
        reasons = []
        for (stem, count, _), paths in found.items():
            if len(paths) < count:
                reasons.append(f"{len(paths)} of {count} shards of {shown(stem)} are there")
            elif not self._is_indexed(paths[0]):
                reasons.append(f"the index of the shards of {shown(stem)}, which is written after them, is missing")
        return reasons

    def _is_indexed(self, shard: str) -> bool:
        """Whether an index names a shard; one that is not whole, and is a flaw itself, may do so."""
        return shard in self._indexed or shard.rpartition("/")[0] in self._with_torn_index

    @cached_property
    def _with_torn_index(self) -> set[str]:
        """Folders with an index that is not whole."""
        return {path.rpartition("/")[0] for path in self.of(FileRole.INDEX) if not self.verdict(path).whole}

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
    return read_tag(survey, "latest")


def read_tag(survey: Survey, path: str) -> str | None:
    """The bare name that a text file holds; None when there is no such file or it holds something else."""
    size = survey.files.get(path)
    if size is None or size > _MAX_TAG:
        return None
    try:
        tag = read_exactly(survey.folder, path, 0, size).decode("utf-8", "replace").strip()
    except NotWholeError:
        return None
    # Data from the writer, used for comparison only: never joined to a path that is opened.
    return tag if tag and not any(mark in tag for mark in "/\\\0") else None
