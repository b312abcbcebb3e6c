"""What a checkpoint's file is for, by its path alone.

Trainers put several into one file (``model_optim_rng.pt``, Lightning's ``.ckpt``): such a file counts as weights.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple


class Role(enum.StrEnum):
    """What a file is for."""

    WEIGHTS = "weights"
    """The model, with the index of its shards; also a file that holds more than the model."""
    OPTIMIZER = "optimizer"
    TOKENIZER = "tokenizer"
    """What turns inputs into numbers: tokenizers and processors of images and sound."""
    CONFIG = "config"
    """The model's description, and the code that it brings."""
    STATE = "state"
    """What a trainer needs besides to go on: scheduler, random generators, steps, arguments."""


ROLES = tuple(role.value for role in Role)

_TENSORS = r"(pt|pth|bin|pkl|safetensors|npz|npy|h0|msgpack|distcp|json)"


class RoleRule(NamedTuple):
    """Which names have a role."""

    role: Role
    words: tuple[str, ...]
    """One of these is in each such name: patterns take a while to compile, and most names need none of them."""
    pattern: str

    def matches(self, name: str) -> bool:
        lowered = name.casefold()
        return any(word in lowered for word in self.words) and bool(re.fullmatch(self.pattern, name, re.IGNORECASE))


# Every digit of a name is read as 0. The first pattern that matches a file's base name decides; then the folders that
# it is in do, and then its suffix.
# Sources: transformers `trainer.py`, `tokenization_utils_base.py`, `processing_utils.py`; accelerate
# `utils/constants.py`; DeepSpeed `runtime/engine.py`; Megatron `training/checkpointing.py`; diffusers' pipelines;
# PyTorch `distributed/checkpoint/filesystem.py`; nanotron `serialize`; Stable-Baselines3; Paddle; Orbax.
BY_NAME = (
    RoleRule(Role.WEIGHTS, ("optim",), r".*model_optim_rng\.\w+|.*model_and_optim.*"),
    RoleRule(
        Role.TOKENIZER,
        (
            *("token", "vocab", "merges", "encoder", "spiece", "sentencepiece", "spm", "source", "target", "tekken"),
            *("normalizer", "chat_template", "process", "feature_extractor"),
        ),
        r"tokenizer([-_.].*)?|tokenization_.*\.py|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt|bpe)"
        r"|merges\.txt|encoder\.json|(spiece|sentencepiece(\.bpe)?|spm|source|target)\.(model|spm)|.*\.tiktoken"
        r"|tiktoken\.model|tekken\.json|normalizer\.json|chat_template\..*"
        r"|(pre|video_pre|image_|feature_)?process(or|ing)(_.*)?\.(json|py)|feature_extractor(_.*)?\.json"
        r"|(pre|video_pre)processor_config\.json",
    ),
    RoleRule(
        Role.OPTIMIZER,
        ("opt",),
        rf"(.*[-_.])?(distrib_)?(optim|optims|optimizer|optimizers|opt)([-_.][\w-]+)*\.{_TENSORS}|.*\.pdopt"
        rf"|(.*[-_.])?opt_state([-_.][\w-]+)*\.{_TENSORS}",
    ),
    RoleRule(
        Role.CONFIG,
        ("config", "modeling", "model_index", "modules", "params", "args", "metadata"),
        r"(.*[-_.])?config(uration)?([-_.][\w-]+)*\.(json|ya?ml|toml|py|pkl)|(configuration|modeling)_.*\.py"
        r"|(model_index|modules|params|model_args|args|metadata|hparams|hyper_?params)\.(json|ya?ml)",
    ),
    RoleRule(
        Role.STATE,
        ("scheduler", "scaler", "sampler", "loader", "state", "args", "rng", "checkpoint", "latest"),
        r"(.*[-_.])?((lr_)?schedulers?|scaler|sampler|dataloader|dl_state_dict|training_args|trainer_state|train_state"
        rf"|rng|rng_states?|random_states|custom_checkpoint)([-_.][\w-]+)*\.{_TENSORS}"
        r"|latest|latest_checkpointed_iteration\.txt|checkpoint",
    ),
)
BY_FOLDER = (
    RoleRule(Role.OPTIMIZER, ("opt",), r"(distrib_)?(optim|optims|optimizer|optimizers|opt_state)([-_.]\w+)*"),
    RoleRule(
        Role.TOKENIZER,
        ("tokenizer", "feature_extractor", "image_processor"),
        r"tokenizer(_\d+)?|feature_extractor|image_processor",
    ),
    RoleRule(Role.STATE, ("scheduler", "random", "rng", "dataloader"), r"(lr_)?scheduler|random|rng|dataloader"),
)
_WEIGHTS_SUFFIXES = {
    *("safetensors", "pt", "pth", "ckpt", "bin", "npz", "npy", "tar", "tgz", "keras", "h0", "hdf0", "msgpack"),
    *("joblib", "pkl", "pickle", "ubj", "nemo", "zip", "cbm", "index", "distcp", "gguf", "ggml", "onnx", "onnx_data"),
    *("pdparams", "pdiparams", "pb", "tflite", "eqx", "model", "weights", "ot", "mlmodel", "engine"),
    "data-00000-of-00000",
}
_WEIGHTS_NAMES = (
    r".*\.(safetensors|bin|h0|msgpack)\.index(\.[\w-]+)?\.json|.*\.tar\.gz|(__0+)?\.metadata"
    r"|manifest\.ocdbt|_METADATA|_CHECKPOINT_METADATA|_sharding|commit_success\.txt"
)
_OCDBT = r"(.*/)?(ocdbt\.process_\d+/)?d/[0-9a-f]{32}|(.*/)?array_metadatas/[^/]+"
"""Where Orbax keeps its arrays (tensorstore's ``ocdbt`` driver)."""


_DIGITS = dict.fromkeys(map(ord, "123456789"), "0")


def role_of_path(path: str) -> Role | None:
    """What a file of a checkpoint is for; None for what is none of it, such as a README or a log."""
    # A checkpoint of many files has few names but for their numbers, and each is looked at once.
    return _role(path.translate(_DIGITS))


@lru_cache(maxsize=4096)
def _role(path: str) -> Role | None:
    *folders, name = path.split("/")
    for rules, names in ((BY_NAME, [name]), (BY_FOLDER, folders[::-1])):
        for one in names:
            for rule in rules:
                if rule.matches(one):
                    return rule.role
    _, dot, suffix = name.rpartition(".")
    is_weights = (dot and suffix.casefold() in _WEIGHTS_SUFFIXES) or re.fullmatch(_WEIGHTS_NAMES, name, re.IGNORECASE)
    return Role.WEIGHTS if is_weights or re.fullmatch(_OCDBT, path) else None


def sizes_by_role(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """The bytes that each role has, of files' paths and sizes; ``other`` are those of no role."""
    found: dict[str, int] = {}
    for path, size in sizes:
        role = role_of_path(path) or "other"
        found[role] = found.get(role, 0) + size
    return {role: found[role] for role in (*ROLES, "other") if role in found}
