"""Checkpoints as trainers lay them out, to be written to real directories."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flexai.checkpoints.models import TrainingFacts
from flexai.checkpoints.training.completeness.by_format import Completeness, completeness
from flexai.checkpoints.training.formats.facts import read_facts
from tests.support.folders import local_folder

DATA = Path(__file__).parent / "data"
"""Small files that the frameworks themselves have written."""
TORCH_SAVE = DATA / "torch-save.pt"
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


def written(name: str) -> Callable[[], bytes]:
    """A file that a framework has written."""
    return (DATA / name).read_bytes


def tar() -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w") as archive:
        for name, content in (("./model_config.yaml", b"model: {}"), ("./model_weights.ckpt", torch_save())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    content = memory.getvalue().rstrip(b"\0")
    return content + bytes(-len(content) % 512 + 1024)  # without the padding behind the end


def npy(*values: float) -> bytes:
    memory = io.BytesIO()
    np.save(memory, np.array(values))
    return memory.getvalue()


def npz(*values: float) -> bytes:
    memory = io.BytesIO()
    np.savez(memory, w=np.array(values))
    return memory.getvalue()


def tensorflow_index(*names: str) -> bytes:
    """The index of a checkpoint of TensorFlow with one data file and empty tensors: a table as LevelDB lays it out."""

    def block(*entries: tuple[bytes, bytes]) -> bytes:
        body = b"".join(bytes((0, len(key), len(value))) + key + value for key, value in entries)
        return body + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")

    def handle(start: int, size: int) -> bytes:
        return b"".join(bytes((number & 0x7F | 0x80, number >> 7)) for number in (start, size))

    data = block((b"", b"\x08\x01"), *((name.encode(), b"\x08\x01") for name in sorted(names)))
    entry = block((b"~", handle(0, len(data))))
    middle = len(data) + 5
    footer = handle(middle, len(entry)) * 2
    return data + bytes(5) + entry + bytes(5) + footer.ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "epoch=0-step=100.ckpt": (torch_save, "zip"),
    "ep1-ba100-rank0.pt": (torch_save, "zip"),
    "checkpoint-5.pth.tar": (torch_save, "zip"),
    "model.keras": (torch_save, "zip"),
    "policy.zip": (torch_save, "zip"),
    "weights.npz": (lambda: npz(1, 2), "zip"),
    "weights.npy": (lambda: npy(1, 2), "numpy"),
    "old.pth": (written("torch-save-legacy.pt"), "pickle"),
    "model.pkl": (lambda: pickle.dumps({"w": [1.0, 2.0], "step": 5}), "pickle"),
    "two.pkl": (lambda: pickle.dumps({"w": [1.0]}) + pickle.dumps({"step": 5}), "pickle"),
    "model.joblib": (written("scikit-learn.joblib"), "pickle"),
    "packed.joblib": (lambda: zlib.compress(pickle.dumps({"w": [1.0, 2.0]})), "zlib"),
    "model.nemo": (tar, "tar"),
    "model.weights.h5": (written("hdf5-0.h5"), "hdf5"),
    "model.hdf5": (written("hdf5-3.h5"), "hdf5"),
    "flax_model.msgpack": (written("flax.msgpack"), "msgpack"),
    "checkpoint_4": (written("flax.msgpack"), "msgpack"),
    "model.safetensors": (lambda: safetensors(w=4), "safetensors"),
    "model.ubj": (written("xgboost.ubj"), "ubjson"),
    "model.json": (lambda: json.dumps({"learner": {"attributes": {}}}).encode(), "json"),
    "model.txt": (written("lightgbm.txt"), "lightgbm"),
    "model.cbm": (written("catboost.cbm"), "catboost"),
}
"""Files that are checkpoints by themselves, and the name of the format of each."""


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
    "single torch file": ("step_500", {"ckpt.pt": torch_save}, "zip"),
    "accelerate with DeepSpeed": (
        "step_500",
        {
            "pytorch_model/mp_rank_00_model_states.pt": torch_save,
            "pytorch_model/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt": torch_save,
            "latest": "pytorch_model",
            "scheduler.bin": torch_save,
            "random_states_0.pkl": torch_save,
        },
        "accelerate",
    ),
    "PyTorch DCP as it is": (
        "step-500",
        {"__0_0.distcp": written("dcp-small.distcp"), ".metadata": written("dcp-small.metadata")},
        "dcp",
    ),
    "PyTorch DCP without collectives": (
        "step-500",
        {
            "__0_0.distcp": b"shard",
            "__1_0.distcp": b"shard",
            "__1.metadata": b"metadata",
            "__0.metadata": b"metadata",
        },
        "dcp",
    ),
    "Lightning with FSDP": (
        "epoch=0-step=100.ckpt",
        {"__0_0.distcp": b"shard", ".metadata": b"metadata", "meta.pt": torch_save},
        "dcp",
    ),
    "NeMo 2": (
        "model--val_loss=1.00-step=9-last",
        {
            "weights/common.pt": torch_save,
            "weights/__0_0.distcp": b"shard",
            "weights/.metadata": b"metadata",
            "weights/metadata.json": {"sharded_backend": "torch_dist"},
            "context/model.yaml": "model: {}",
            "context/io.json": {},
        },
        "dcp",
    ),
    "DCP's Hugging Face writer": (
        "step-500",
        {
            "shard-00001-model-00001-of-00001.safetensors": safetensors(a=4),
            "shard-00002-model-00001-of-00001.safetensors": safetensors(a=4),
        },
        "safetensors",
    ),
    "DCP's Hugging Face writer, consolidated": (
        "step-500",
        {
            "sharded/shard-00001-model-00001-of-00001.safetensors": safetensors(a=4),
            "model-00001-of-00001.safetensors": safetensors(a=8),
            "model.safetensors.index.json": index(a="model-00001-of-00001.safetensors"),
        },
        "safetensors-index",
    ),
    "shards of a variant": (
        "checkpoint-fp16",
        {
            "config.json": CONFIG,
            "model.fp16-00001-of-00002.safetensors": safetensors(a=4),
            "model.fp16-00002-of-00002.safetensors": safetensors(b=2),
            "model.safetensors.index.fp16.json": index(
                a="model.fp16-00001-of-00002.safetensors", b="model.fp16-00002-of-00002.safetensors"
            ),
        },
        "safetensors-index",
    ),
    "Megatron": (
        "iter_0000200",
        {
            "iter_0000200/mp_rank_00/distrib_optim.pt": torch_save,
            "iter_0000200/mp_rank_00/model_optim_rng.pt": torch_save,
            "iter_0000200/mp_rank_01/distrib_optim.pt": torch_save,
            "iter_0000200/mp_rank_01/model_optim_rng.pt": torch_save,
            "latest_checkpointed_iteration.txt": "200",
        },
        "megatron",
    ),
    "Megatron's distributed format": (
        "iter_0000200",
        {
            "iter_0000200/common.pt": torch_save,
            "iter_0000200/__0_0.distcp": b"shard",
            "iter_0000200/.metadata": b"metadata",
            "iter_0000200/metadata.json": {"sharded_backend": "torch_dist"},
            "latest_checkpointed_iteration.txt": "200",
        },
        "megatron",
    ),
    "Orbax": (
        "200",
        {
            "default/_METADATA": {"use_ocdbt": True},
            "default/d/0a1b2c": b"data",
            "default/manifest.ocdbt": b"\x0c\xdb\x3a\x2a" + (16).to_bytes(8, "little") + b"rest",
            "_CHECKPOINT_METADATA": {"item_handlers": {}},
        },
        "orbax",
    ),
    "Orbax's newer versions": (
        "200",
        {
            "_METADATA": {"use_ocdbt": True},
            "ocdbt.process_0/d/0a1b2c": b"data",
            "manifest.ocdbt": b"m",
            "_CHECKPOINT_METADATA": {"item_handlers": {}},
            "commit_success.txt": "Checkpoint commit was successful",
        },
        "orbax",
    ),
    "TensorFlow": (
        "ckpt-1",
        {
            "ckpt-1.data-00000-of-00001": written("tensorflow.data"),
            "ckpt-1.index": written("tensorflow.index"),
            "checkpoint": 'model_checkpoint_path: "ckpt-1"',
        },
        "tensorflow",
    ),
    "SavedModel": (
        "export",
        {
            "variables/variables.data-00000-of-00001": written("tensorflow.data"),
            "variables/variables.index": written("tensorflow.index"),
            "saved_model.pb": b"\x08\x01\x12\x04\x0a\x02ab",
            "fingerprint.pb": b"\x08\x01",
        },
        "saved-model",
    ),
    "diffusers": (
        "final",
        {
            "vae/config.json": {"_class_name": "AutoencoderKL"},
            "vae/diffusion_pytorch_model.safetensors": safetensors(w=4),
            "unet/config.json": {"_class_name": "UNet2DConditionModel"},
            "unet/diffusion_pytorch_model.safetensors": safetensors(w=4),
            "scheduler/scheduler_config.json": {"_class_name": "PNDMScheduler"},
            "model_index.json": {
                "_class_name": "StableDiffusionPipeline",
                "vae": ["diffusers", "AutoencoderKL"],
                "unet": ["diffusers", "UNet2DConditionModel"],
                "scheduler": ["diffusers", "PNDMScheduler"],
                "safety_checker": [None, None],
            },
        },
        "diffusers",
    ),
    "flax": ("final", {"config.json": CONFIG, "flax_model.msgpack": written("flax.msgpack")}, "msgpack"),
}

WRITTEN_LAST = {
    *(name for name, (_, _, rule) in LAYOUTS.items() if rule == "transformers"),
    *("DeepSpeed", "PyTorch DCP", "PyTorch DCP as it is", "Lightning with FSDP", "NeMo 2", "Megatron"),
    *("Megatron's distributed format", "Orbax", "Orbax's newer versions", "TensorFlow", "SavedModel", "diffusers"),
}
"""Layouts whose last file proves that the writer has finished."""

NOT_LAST = {"context/io.json", "checkpoint", "commit_success.txt"}
"""Files behind the one that proves it."""


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
