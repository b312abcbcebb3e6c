"""Whether a checkpoint is whole, by its files alone: the rule of completeness, but for time (``by_time``).

1. A folder or file with a temporary name is not looked at until it is renamed (`is_temporary_folder`, `is_unfinished`).
2. A unit of one file is whole, and conclusively so, when its format says that it ends where it ends
   (`formats.whole_file`). Nothing is unpickled.
3. In a folder every file whose name promises a format is judged by its bytes, and a document where a loader reads it
   (`survey`). A file that is torn makes the folder PARTIAL whatever its layout. So does a gap: a missing shard, index
   or rank, or DCP shards without their `.metadata`.
4. Otherwise the first rule that knows the layout speaks (`layouts`). It says WHOLE, and conclusively so where the file
   is there that the layout's writer writes last; PARTIAL where that is missing and the layout is certain.
5. Where no rule knows the layout, or a file is in the way that none can judge, the answer is UNKNOWN, and only time can
   tell.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX
from flexai.checkpoints.training.completeness.layouts import LAYOUT_RULES, Completeness
from flexai.checkpoints.training.completeness.survey import TRAINER_STATE, FileRole, Survey, deepspeed_tag, role_of
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.verdict import Outcome, sentence, shown

__all__ = [
    "TRAINER_STATE",
    "Completeness",
    "FileRole",
    "JudgeFolder",
    "Survey",
    "completeness",
    "deepspeed_tag",
    "is_temporary_folder",
    "is_temporary_path",
    "is_unfinished",
    "role_of",
]

# Names that their writer will change: safetensors (`.tmpXXXXXX`), transformers before 4.39 (`tmp-checkpoint-5`), timm
# (`tmp.pth.tar`), flax (`checkpoint_tmp`), Python's tempfile (`tmp` and eight letters), Orbax
# (`5.orbax-checkpoint-tmp-17`, `_src/path/atomicity.py`), TensorFlow (`checkpoint.tmp0123456789abcdef`,
# `model.index.tempstate123`, `model-1_temp`), downloads (`.incomplete`, `.part`, `.crdownload`), NeMo (`-unfinished`).
_UNFINISHED = re.compile(
    r"\.tmp.*|(.*[-_.])?(tmp|temporary)([-_.].*)?|tmp[a-z0-9_]{8}(\..*)?|.*\.tmp(\d+|[0-9a-z_]{6,})"
    r"|.*\.tempstate\d+|.*\d_temp|.*[-_]unfinished|.*\.orbax-checkpoint-tmp.*|.*~"
    r"|.*\.(temp|partial|part|incomplete|unfinished|in[-_]?progress|download|crdownload|filepart|writing|saving|new|swp)"
    rf"|.*{re.escape(PARTIAL_SUFFIX)}",
    re.DOTALL | re.IGNORECASE,
)


def is_temporary_folder(name: str) -> bool:
    """Whether a folder is hidden, or has a name that trainers give to a checkpoint before it is whole."""
    return name.startswith(".") or is_unfinished(name)


def is_unfinished(name: str) -> bool:
    """Whether a file, or a folder within a checkpoint, has a name that it will lose once it is written."""
    return _UNFINISHED.fullmatch(name) is not None


def is_temporary_path(path: str) -> bool:
    """Whether a file has such a name, or lies in a folder that has."""
    *folders, name = path.split("/")
    return is_unfinished(name) or any(map(is_temporary_folder, folders))


JudgeFolder: TypeAlias = Callable[[CheckpointFolder], Completeness]
"""Says of a folder what ``completeness`` says of a whole checkpoint."""


def completeness(folder: CheckpointFolder) -> Completeness:
    """Judge the folder by its headers. Never raises for what the files hold."""
    survey = Survey(folder)
    if not survey.files:
        return Completeness(Outcome.PARTIAL, reason="the folder holds no file yet")
    for rule in LAYOUT_RULES:
        verdict = rule(survey)
        if verdict is None:
            continue
        if survey.torn:
            return Completeness(Outcome.PARTIAL, verdict.rule, sentence(survey.torn))
        in_the_way = survey.unjudged + [f"{shown(path)} is of no known format" for path in survey.unknown]
        if verdict.outcome is Outcome.WHOLE and not verdict.conclusive and in_the_way:
            return Completeness(Outcome.UNKNOWN, verdict.rule, sentence(in_the_way))
        return verdict
    if survey.torn:
        return Completeness(Outcome.PARTIAL, reason=sentence(survey.torn))
    return Completeness(Outcome.UNKNOWN, reason="no file is of a format with a completion rule")
