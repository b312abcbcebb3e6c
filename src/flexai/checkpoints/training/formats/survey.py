"""One look at a checkpoint folder: which file plays which part, and which of them are whole."""

from __future__ import annotations

import enum
import re
from functools import cached_property

from flexai.checkpoints.training.formats.archives import check_archive
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.json_object import read_object
from flexai.checkpoints.training.formats.safetensors import read_tensor_names, read_weight_map
from flexai.checkpoints.training.formats.verdict import (
    CannotTellError,
    NotWholeError,
    Outcome,
    Verdict,
    shown,
)

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
_PARTS = [
    (re.compile(pattern), part)
    for pattern, part in (
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


def part_of(path: str) -> FileRole:
    """The part that a file plays, by its base name."""
    name = path.rpartition("/")[2]
    return next((part for pattern, part in _PARTS if pattern.fullmatch(name)), FileRole.OTHER)


class Survey:
    """The parts of a folder and the verdict on each file; every header is read once, when first asked for."""

    def __init__(self, folder: CheckpointFolder) -> None:
        self.folder = folder
        self.files = folder.files
        self._parts: dict[FileRole, list[str]] = {part: [] for part in FileRole}
        for path in self.files:
            self._parts[part_of(path)].append(path)
        self._verdicts: dict[str, Verdict] = {}
        self._tensors: dict[str, frozenset[str]] = {}
        self._promises: dict[str, list[str]] = {}

    def of(self, *parts: FileRole) -> list[str]:
        """The paths of the files that play one of `parts`."""
        return [path for part in parts for path in self._parts[part]]

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

    def promised(self, index: str) -> list[str]:
        """The weights files that a whole index names."""
        return self._promises.get(index, []) if self.verdict(index).whole else []

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
        part = part_of(path)
        if part is FileRole.INDEX:
            self._check_index(path)
        elif part is FileRole.DOCUMENT:
            read_object(self.folder, path)
        elif path.endswith(".safetensors"):
            self._tensors[path] = read_tensor_names(self.folder, path)
        elif part in _CHECKED:
            check_archive(self.folder, path)
        else:
            raise CannotTellError(f"{shown(path)} is of no known format")

    def _check_index(self, path: str) -> None:
        shards = read_weight_map(self.folder, path)
        for shard, tensors in shards.items():
            verdict = self.verdict(shard) if part_of(shard) is FileRole.WEIGHTS else None
            if verdict is None:
                raise NotWholeError(f"{shown(path)} names {shown(shard)}, which is not a weights file")
            if verdict.outcome is Outcome.PARTIAL:
                raise NotWholeError(verdict.reason)
            if verdict.outcome is Outcome.UNKNOWN:
                raise CannotTellError(verdict.reason)
            if shard in self._tensors and (absent := tensors - self._tensors[shard]):
                raise NotWholeError(f"{shown(shard)} lacks the tensor {shown(min(absent))} that {shown(path)} promises")
        self._promises[path] = list(shards)

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


_CHECKED = (
    FileRole.INDEX,
    FileRole.DOCUMENT,
    FileRole.WEIGHTS,
    FileRole.OPTIMIZER,
    FileRole.STATE,
    FileRole.DEEPSPEED_MODEL,
    FileRole.DEEPSPEED_OPTIMIZER,
)


def as_survey(folder: CheckpointFolder | Survey) -> Survey:
    """The survey itself, or one of the folder."""
    return folder if isinstance(folder, Survey) else Survey(folder)
