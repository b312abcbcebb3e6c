"""Checkpoints as trainers lay them out, to be written to real directories."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flexai.checkpoints.models import TrainingFacts
from flexai.checkpoints.training.completeness.by_format import Completeness, completeness
from flexai.checkpoints.training.formats.facts import read_facts
from tests.support.folders import local_folder

TORCH_SAVE = Path(__file__).parent / "data" / "torch-save.pt"
CONFIG = {"architectures": ["LlamaForCausalLM"], "transformers_version": "4.57.6"}
ROW = {"epoch": 1.0, "step": 500}
STATE = {"global_step": 500, "epoch": 1.0, "log_history": [{"loss": 0.5} | ROW, {"eval_loss": 0.6} | ROW]}


def safetensors(**tensors: int) -> bytes:
    header, end = {}, 0
    for name, length in tensors.items():
        header[name] = {"dtype": "F32", "shape": [length], "data_offsets": [end, end + 4 * length]}
        end += 4 * length
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + np.arange(end // 4, dtype="<f4").tobytes()


def index(**weight_map: str) -> bytes:
    return json.dumps({"metadata": {"total_size": 8}, "weight_map": weight_map}).encode()


def torch_save() -> bytes:
    return TORCH_SAVE.read_bytes()


Content = bytes | str | dict[str, Any] | Callable[[], bytes]

# Name, files in the order in which their writer writes them, the rule that recognises the whole.
LAYOUTS: dict[str, tuple[str, dict[str, Content], str]] = {
    "Trainer": (
        "checkpoint-500",
        {
            "config.json": CONFIG,
            "model.safetensors": safetensors(w=4),
            "training_args.bin": torch_save,
            "optimizer.pt": torch_save,
            "scheduler.pt": torch_save,
            "rng_state.pth": torch_save,
            "trainer_state.json": STATE,
        },
        "transformers",
    ),
    "Trainer with sharded weights": (
        "checkpoint-500",
        {
            "config.json": CONFIG,
            "model-00001-of-00002.safetensors": safetensors(a=4),
            "model-00002-of-00002.safetensors": safetensors(b=2),
            "model.safetensors.index.json": index(
                a="model-00001-of-00002.safetensors", b="model-00002-of-00002.safetensors"
            ),
            "optimizer.pt": torch_save,
            "trainer_state.json": STATE,
        },
        "transformers",
    ),
    "Trainer with a pytorch_model.bin": (
        "checkpoint-500",
        {
            "config.json": CONFIG,
            "pytorch_model.bin": torch_save,
            "optimizer.pt": torch_save,
            "trainer_state.json": STATE,
        },
        "transformers",
    ),
    "Trainer with DeepSpeed": (
        "checkpoint-500",
        {
            "config.json": CONFIG,
            "global_step500/zero_pp_rank_0_mp_rank_00_model_states.pt": torch_save,
            "global_step500/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt": torch_save,
            "latest": "global_step500",
            "zero_to_fp32.py": "print()",
            "rng_state_0.pth": torch_save,
            "trainer_state.json": STATE,
        },
        "transformers",
    ),
    "Trainer with an adapter": (
        "checkpoint-500",
        {
            "README.md": "An adapter.",
            "adapter_model.safetensors": safetensors(lora_a=4),
            "adapter_config.json": {"base_model_name_or_path": "meta-llama/Llama-2-7b-hf"},
            "optimizer.pt": torch_save,
            "trainer_state.json": STATE,
        },
        "transformers",
    ),
    "Trainer's final model": (
        "",
        {
            "config.json": CONFIG,
            "model.safetensors": safetensors(w=4),
            "tokenizer.json": {},
            "training_args.bin": torch_save,
        },
        "transformers",
    ),
    "accelerate": (
        "step_500",
        {
            "model.safetensors": safetensors(w=4),
            "optimizer.bin": torch_save,
            "scheduler.bin": torch_save,
            "random_states_0.pkl": torch_save,
        },
        "accelerate",
    ),
    "accelerate with FSDP": (
        "checkpoint-500",
        {
            "pytorch_model_fsdp_0/__0_0.distcp": b"shard",
            "pytorch_model_fsdp_0/.metadata": b"metadata",
            "optimizer_0/__0_0.distcp": b"shard",
            "optimizer_0/.metadata": b"metadata",
            "random_states_0.pkl": torch_save,
        },
        "accelerate",
    ),
    "DeepSpeed": (
        "my-run",
        {
            "global_step500/mp_rank_00_model_states.pt": torch_save,
            "global_step500/zero_pp_rank_0_mp_rank_00_optim_states.pt": torch_save,
            "global_step500/zero_pp_rank_1_mp_rank_00_optim_states.pt": torch_save,
            "latest": "global_step500\n",
        },
        "deepspeed",
    ),
    "PyTorch DCP": (
        "step-500",
        {"__0_0.distcp": b"shard", "__1_0.distcp": b"shard", "__2_0.distcp": b"", ".metadata": b"metadata"},
        "dcp",
    ),
    "sharded safetensors": (
        "final",
        {
            "config.json": CONFIG,
            "model-00001-of-00002.safetensors": safetensors(a=4),
            "model-00002-of-00002.safetensors": safetensors(b=2),
            "model.safetensors.index.json": index(
                a="model-00001-of-00002.safetensors", b="model-00002-of-00002.safetensors"
            ),
        },
        "safetensors-index",
    ),
    "sharded torch weights": (
        "final",
        {
            "config.json": CONFIG,
            "pytorch_model-00001-of-00001.bin": torch_save,
            "pytorch_model.bin.index.json": index(a="pytorch_model-00001-of-00001.bin"),
        },
        "torch-index",
    ),
    "adapter": (
        "lora",
        {
            "adapter_model.safetensors": safetensors(lora_a=4),
            "adapter_config.json": {"base_model_name_or_path": "meta-llama/Llama-2-7b-hf"},
        },
        "adapter",
    ),
    "single safetensors file": ("final", {"model.safetensors": safetensors(w=4)}, "safetensors"),
    "single torch file": ("step_500", {"ckpt.pt": torch_save}, "torch"),
}

# Formats whose last file proves that the writer has finished.
CONCLUSIVE = {"transformers", "deepspeed", "dcp"}


def content_of(content: Content) -> bytes:
    if callable(content):
        return content()
    if isinstance(content, dict):
        return json.dumps(content).encode()
    return content.encode() if isinstance(content, str) else content


def write(folder: Path, files: Mapping[str, Content]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content_of(content))
    return folder


def judge(folder: Path, name: str | None = None) -> Completeness:
    return completeness(local_folder(folder, name))


def facts(folder: Path, name: str | None = None) -> TrainingFacts:
    return read_facts(local_folder(folder, name))
