"""Completeness and facts of checkpoint folders, on real directories with real files in them."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexai.checkpoints.training.completeness.by_format import Completeness, completeness
from flexai.checkpoints.training.formats.facts import Facts, read_facts, step_in_name
from flexai.checkpoints.training.formats.folder import LocalFolder
from flexai.checkpoints.training.formats.survey import Survey
from flexai.checkpoints.training.formats.verdict import Outcome

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
    return completeness(LocalFolder(folder, name))


def facts(folder: Path, name: str | None = None) -> Facts:
    return read_facts(LocalFolder(folder, name))


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> tuple[str, dict[str, Content], str]:
    return LAYOUTS[request.param]


def test_a_folder_with_all_its_files_is_whole(tmp_path: Path, layout: tuple[str, dict[str, Content], str]) -> None:
    name, files, rule = layout
    verdict = judge(write(tmp_path / "c", files), name)
    assert verdict == Completeness(Outcome.WHOLE, rule, conclusive=rule in CONCLUSIVE)
    assert facts(tmp_path / "c", name).formats[0] == rule


def test_a_folder_is_not_conclusively_whole_before_its_last_file(
    tmp_path: Path, layout: tuple[str, dict[str, Content], str]
) -> None:
    name, files, _ = layout
    written: dict[str, Content] = {}
    for path, content in files.items():
        verdict = judge(write(tmp_path / "c", written), name)
        assert not verdict.conclusive, f"whole before {path} is written"
        assert verdict.outcome is Outcome.WHOLE or verdict.reason
        written[path] = content


def test_no_torn_file_is_overlooked(tmp_path: Path, layout: tuple[str, dict[str, Content], str]) -> None:
    name, files, _ = layout
    free_form = (".md", ".py", ".distcp", "latest", ".metadata", "tokenizer.json")
    for path, content in files.items():
        if path.endswith(free_form):
            continue
        whole = content_of(content)
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            folder = write(tmp_path / "c", files)
            (folder / path).write_bytes(whole[:length])
            verdict = judge(folder, name)
            assert verdict.outcome is Outcome.PARTIAL, f"{path} cut to {length} of {len(whole)} bytes"
            assert path.rpartition("/")[2] in verdict.reason
            assert not facts(folder, name).resumable
            shutil.rmtree(folder)


def test_an_empty_folder_is_partial(tmp_path: Path) -> None:
    assert judge(tmp_path).outcome is Outcome.PARTIAL


@pytest.mark.parametrize("name", ["weights.gguf", "variables.index", "model.h5", "state.pkl", "notes.txt"])
def test_a_folder_of_no_known_format_is_left_to_time(tmp_path: Path, name: str) -> None:
    verdict = judge(write(tmp_path / "c", {name: b"content"}))
    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.reason


def test_a_torch_file_in_the_old_format_is_left_to_time(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"ckpt.pt": b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."})
    assert judge(folder).outcome is Outcome.UNKNOWN
    assert "not a zip archive" in judge(folder).reason


def test_a_file_that_no_rule_knows_leaves_a_folder_without_a_last_file_to_time(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"model.safetensors": safetensors(w=1), "optimizer.pkl": b"..."})
    assert judge(folder).outcome is Outcome.UNKNOWN
    assert "optimizer.pkl" in judge(folder).reason


def test_a_file_that_no_rule_knows_does_not_delay_a_folder_whose_last_file_is_there(tmp_path: Path) -> None:
    files = LAYOUTS["Trainer"][1] | {"extra.dat": b"..."}
    assert judge(write(tmp_path / "checkpoint-500", files)).outcome is Outcome.WHOLE


def test_a_temporary_file_leaves_a_folder_to_time(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"model.safetensors": safetensors(w=1), "optimizer.safetensors.tmp": b""})
    assert judge(folder).outcome is Outcome.UNKNOWN


def test_a_trainer_folder_without_its_state_is_left_to_time(tmp_path: Path) -> None:
    files: dict[str, Content] = {"config.json": CONFIG, "model.safetensors": safetensors(w=1)}
    assert judge(write(tmp_path / "checkpoint-500", files)).outcome is Outcome.UNKNOWN
    assert judge(write(tmp_path / "final", files)).outcome is Outcome.WHOLE


def test_a_folder_of_another_program_may_be_named_as_trainer_names_its_own(tmp_path: Path) -> None:
    assert judge(write(tmp_path / "checkpoint-500", {"ckpt.pt": torch_save})).rule == "torch"


def test_weights_in_a_folder_within_are_judged_too(tmp_path: Path) -> None:
    files: dict[str, Content] = {"model_index.json": {}, "unet/diffusion_pytorch_model.safetensors": safetensors(w=8)}
    folder = write(tmp_path / "c", files)
    assert judge(folder).outcome is Outcome.WHOLE
    write(folder, {"vae/diffusion_pytorch_model.safetensors": safetensors(w=8)[:-1]})
    assert judge(folder).outcome is Outcome.PARTIAL


def test_a_missing_shard_is_counted(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", LAYOUTS["sharded safetensors"][1])
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "1 of 2 shards" in judge(folder).reason
    assert "missing" in " ".join(facts(folder).inference_missing)


def test_a_shard_without_a_tensor_that_its_index_promises_is_a_reason(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"config.json": CONFIG, "s.safetensors": safetensors(a=1)})
    write(folder, {"model.safetensors.index.json": index(a="s.safetensors", b="s.safetensors")})
    assert "lacks the tensor b" in judge(folder).reason
    assert not facts(folder).inference_ready


def test_an_index_over_files_that_are_no_weights_is_a_reason(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"config.json": CONFIG, "model.safetensors.index.json": index(a="config.json")})
    assert "not a weights file" in judge(folder).reason


@pytest.mark.parametrize("missing", ["zero_pp_rank_1_mp_rank_00_optim_states.pt", "mp_rank_00_model_states.pt"])
def test_a_deepspeed_folder_that_lacks_a_rank_or_the_model_is_not_whole(tmp_path: Path, missing: str) -> None:
    files = dict(LAYOUTS["DeepSpeed"][1])
    files["global_step500/zero_pp_rank_2_mp_rank_00_optim_states.pt"] = torch_save
    folder = write(tmp_path / "c", files)
    (folder / "global_step500" / missing).unlink()
    assert judge(folder).outcome is not Outcome.WHOLE


def test_a_deepspeed_tag_folder_of_its_own_is_whole_without_latest(tmp_path: Path) -> None:
    files = {Path(path).name: content for path, content in LAYOUTS["DeepSpeed"][1].items() if "/" in path}
    folder = write(tmp_path / "global_step500", files)
    assert judge(folder) == Completeness(Outcome.WHOLE, "deepspeed")
    assert facts(folder).resumable
    assert facts(folder).step == 500


@pytest.mark.parametrize("tag", ["../global_step500", "/etc", "", "global_step\0", "x" * 5000, "global_step600"])
def test_a_deepspeed_latest_that_names_no_folder_here_is_not_whole(tmp_path: Path, tag: str) -> None:
    folder = write(tmp_path / "c", LAYOUTS["DeepSpeed"][1] | {"latest": tag})
    assert judge(folder).outcome is not Outcome.WHOLE


def test_dcp_metadata_counts_by_its_size_alone(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"__0_0.distcp": b"shard", ".metadata": b"", ".metadata.tmp": b"almost"})
    assert judge(folder).outcome is Outcome.PARTIAL
    (folder / ".metadata").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")  # were it unpickled, it would run a command
    assert judge(folder).outcome is Outcome.WHOLE


def test_the_facts_of_a_trainer_folder(tmp_path: Path) -> None:
    assert facts(write(tmp_path / "checkpoint-500", LAYOUTS["Trainer"][1])) == Facts(
        step=500,
        train_loss=0.5,
        eval_loss=0.6,
        model="LlamaForCausalLM",
        version="4.57.6",
        inference_ready=True,
        resumable=True,
        formats=("transformers", "safetensors"),
    )


@pytest.mark.parametrize(
    ("history", "train", "evaluation"),
    [
        ([], None, None),
        ([{"loss": 0.9}, {"loss": 0.5}, {"eval_loss": 0.6}], 0.5, 0.6),
        ([{"eval_loss": 0.6}, {"loss": 0.5}], 0.5, 0.6),
        ([{"loss": 0.5}, {"eval_loss": 0.6}, {"train_loss": 0.7, "train_runtime": 9}], 0.5, 0.6),
        ([{"eval_loss": 0.6}, {"train_loss": 0.7}], 0.7, 0.6),
        ([{"loss": 1}], 1.0, None),
        ([{"loss": 0.5}, {"loss": None}, {"loss": "0.1"}, {"loss": True}, {"loss": [0.1]}], 0.5, None),
        ([5, None, "loss", ["loss"], {"loss": 0.5}, 7], 0.5, None),
        ([{"loss": 0.5}, {"loss": math.nan}], None, None),
        ([{"loss": math.inf}, {"eval_loss": -math.inf}], None, None),
        ([{"loss": 10**400}], None, None),
        ({"loss": 0.5}, None, None),
        ("loss", None, None),
        (None, None, None),
    ],
)
def test_losses_are_the_last_that_were_logged(
    tmp_path: Path, history: Any, train: float | None, evaluation: float | None
) -> None:
    told = facts(write(tmp_path / "c", {"trainer_state.json": {"global_step": 1, "log_history": history}}))
    assert (told.train_loss, told.eval_loss, told.step) == (train, evaluation, 1)


def test_a_loss_that_is_no_number_is_noted(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"trainer_state.json": '{"global_step": 1, "log_history": [{"loss": NaN}]}'})
    assert facts(folder).train_loss is None
    assert facts(folder).notes == ("The last loss in trainer_state.json is not a finite number.",)


@pytest.mark.parametrize(
    ("state", "step"),
    [
        ({"global_step": 7}, 7),
        ({"global_step": 7.0}, 7),
        ({"log_history": [{"step": 3}, {"step": 5, "loss": 1}, {"loss": 2}]}, 5),
        ({"global_step": True}, 500),
        ({"global_step": -1}, 500),
        ({"global_step": 2**63}, 500),
        ({"global_step": math.nan}, 500),
        ({"global_step": "7"}, 500),
        ({"global_step": None, "log_history": [{"step": "5"}]}, 500),
    ],
)
def test_the_step_is_the_states_own_or_else_the_names(tmp_path: Path, state: dict[str, Any], step: int) -> None:
    assert facts(write(tmp_path / "c", {"trainer_state.json": state}), "checkpoint-500").step == step


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("checkpoint-500", 500),
        ("checkpoint-50-epoch-0", 50),
        ("step_500", 500),
        ("step-500", 500),
        ("step=500", 500),
        ("STEP500", 500),
        ("global_step500", 500),
        ("iter_0000500", 500),
        ("epoch_3-step_500", 500),
        ("epoch=3-step=500.ckpt", 500),
        ("checkpoint_3_step_500", 500),
        ("ckpt-500", 500),
        ("epoch_3", None),
        ("checkpoint-epoch-3", None),
        ("checkpoint-best", None),
        ("checkpoint-1.5", None),
        ("footstep5", None),
        ("llama-3", None),
        ("500", None),
        ("", None),
        ("checkpoint-" + "9" * 40, None),
    ],
)
def test_a_step_is_read_from_a_name(name: str, step: int | None) -> None:
    assert step_in_name(name) == step


def test_a_step_is_read_from_deepspeeds_tag_or_from_the_only_weights_file(tmp_path: Path) -> None:
    assert facts(write(tmp_path / "deep", LAYOUTS["DeepSpeed"][1])).step == 500
    assert facts(write(tmp_path / "light", {"epoch=3-step=70.ckpt": torch_save})).step == 70


@pytest.mark.parametrize(
    ("config", "model", "version"),
    [
        (CONFIG, "LlamaForCausalLM", "4.57.6"),
        ({"architectures": ["A", "B"]}, "A, B", None),
        ({"architectures": []}, None, None),
        ({"architectures": None, "transformers_version": 5}, None, None),
        ({"architectures": "LlamaForCausalLM"}, None, None),
        ({"architectures": [1, None, "", "A"]}, "A", None),
        ({"architectures": ["\x1b[31mred\n\ud800"]}, "?[31mred??", None),
        ({}, None, None),
    ],
)
def test_model_and_version_come_from_the_config(
    tmp_path: Path, config: dict[str, Any], model: str | None, version: str | None
) -> None:
    folder = write(tmp_path / "c", {"config.json": config, "model.safetensors": safetensors(w=1)})
    told = facts(folder)
    assert (told.model, told.version, told.inference_ready) == (model, version, model is not None)


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"model.safetensors": safetensors(w=1)}, "config.json, which names the model's architecture, is missing"),
        ({"config.json": {}, "model.safetensors": safetensors(w=1)}, "config.json is empty"),
        ({"config.json": "{", "model.safetensors": safetensors(w=1)}, "config.json is not valid JSON"),
        ({"config.json": {"model_type": "x"}, "model.safetensors": safetensors(w=1)}, "names no architecture"),
        ({"config.json": CONFIG}, "No weights are there"),
        ({"config.json": CONFIG, "model.safetensors": safetensors(w=1)[:-1]}, "model.safetensors ends inside tensor w"),
        ({"config.json": CONFIG, "pytorch_model.bin": b"\x80\x02}q\x00."}, "pytorch_model.bin is not a zip archive"),
        ({"config.json": CONFIG, "model.safetensors.index.json": index(a="../x")}, "not a bare file name"),
        (LAYOUTS["adapter"][1], "needs its base model, meta-llama/Llama-2-7b-hf"),
        (LAYOUTS["adapter"][1] | {"config.json": CONFIG}, "needs its base model, meta-llama/Llama-2-7b-hf"),
        ({"adapter_config.json": {}, "adapter_model.bin": torch_save}, "which adapter_config.json does not name"),
        (LAYOUTS["Trainer with DeepSpeed"][1], "zero_to_fp32.py"),
        (LAYOUTS["PyTorch DCP"][1] | {"config.json": CONFIG}, "distributed form"),
    ],
)
def test_what_inference_lacks_is_said(tmp_path: Path, files: dict[str, Content], reason: str) -> None:
    told = facts(write(tmp_path / "c", files))
    assert not told.inference_ready
    assert len(told.inference_missing) == 1
    assert reason in told.inference_missing[0]
    assert told.inference_missing[0].endswith(".")


def test_a_torn_optimizer_does_not_keep_a_model_from_inference(tmp_path: Path) -> None:
    told = facts(write(tmp_path / "c", LAYOUTS["Trainer"][1] | {"optimizer.pt": b"PK"}))
    assert told.inference_ready
    assert told.resumable_missing == ("optimizer.pt has no end record, so it is cut off.",)


@pytest.mark.parametrize("name", ["optimizer.pt", "optimizer.bin", "optimizer.npz", "optimizer.safetensors"])
def test_optimizer_state_beside_weights_makes_a_checkpoint_resumable(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "c", {"model.safetensors": safetensors(w=1), name: b""})
    if name.endswith(".npz"):
        np.savez(folder / name, mean=np.zeros(3))
    else:
        (folder / name).write_bytes(safetensors(m=1) if name.endswith(".safetensors") else torch_save())
    assert facts(folder).resumable
    (folder / "model.safetensors").unlink()
    assert facts(folder).resumable_missing == ("No weights of a known format are there.",)


@pytest.mark.parametrize(
    ("layout_name", "resumable"),
    [
        ("Trainer", True),
        ("Trainer with DeepSpeed", True),
        ("Trainer with an adapter", True),
        ("Trainer's final model", False),
        ("accelerate", True),
        ("accelerate with FSDP", True),
        ("DeepSpeed", True),
        ("PyTorch DCP", True),
        ("sharded safetensors", False),
        ("single torch file", False),
    ],
)
def test_a_checkpoint_is_resumable_when_it_holds_optimizer_state(
    tmp_path: Path, layout_name: str, resumable: bool
) -> None:
    told = facts(write(tmp_path / "c", LAYOUTS[layout_name][1]))
    assert told.resumable is resumable
    assert bool(told.resumable_missing) is not resumable


def test_fsdp_weights_without_their_optimizer_are_not_resumable(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", LAYOUTS["accelerate with FSDP"][1])
    shutil.rmtree(folder / "optimizer_0")
    assert facts(folder).resumable_missing == ("No optimizer state is there.",)


def test_a_huge_document_is_left_unread_and_said_to_be(tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint-500", LAYOUTS["Trainer"][1])
    os.truncate(folder / "trainer_state.json", 64 * 1024 * 1024 + 1)
    assert judge(folder).outcome is Outcome.UNKNOWN
    told = facts(folder)
    assert told.step == 500
    assert told.notes == ("trainer_state.json is longer than 64 MiB and was not read.",)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", '"x"', "[" * 200_000, '{"a":' * 100_000, "9" * 6000, "\0"]
)
@pytest.mark.parametrize("name", ["trainer_state.json", "config.json", "adapter_config.json"])
def test_a_document_that_cannot_be_read_is_a_reason_and_no_error(tmp_path: Path, name: str, text: str) -> None:
    folder = write(tmp_path / "c", LAYOUTS["Trainer"][1] | {name: text})
    assert judge(folder).outcome is Outcome.PARTIAL
    assert name in judge(folder).reason
    assert not facts(folder).resumable


def test_a_survey_serves_both_questions(tmp_path: Path) -> None:
    survey = Survey(LocalFolder(write(tmp_path / "checkpoint-500", LAYOUTS["Trainer"][1])))
    assert completeness(survey).outcome is Outcome.WHOLE
    assert read_facts(survey).step == 500


def test_a_folder_lists_regular_files_only_and_follows_no_link(tmp_path: Path) -> None:
    secret = write(tmp_path / "outside", {"secret": b"secret"})
    folder = write(tmp_path / "c", {"a": b"1", "sub/b": b"22"})
    os.mkfifo(folder / "pipe")
    (folder / "link").symlink_to(secret / "secret")
    (folder / "linked").symlink_to(secret, target_is_directory=True)
    assert LocalFolder(folder).files == {"a": 1, "sub/b": 2}
    assert LocalFolder(folder, "", nested=False).files == {"a": 1}


@pytest.mark.parametrize("path", ["../outside/secret", "link", "missing", "/etc/hostname"])
def test_a_folder_reads_nothing_that_it_did_not_list(tmp_path: Path, path: str) -> None:
    secret = write(tmp_path / "outside", {"secret": b"secret"})
    folder = write(tmp_path / "c", {"a": b"1"})
    (folder / "link").symlink_to(secret / "secret")
    with pytest.raises(FileNotFoundError):
        LocalFolder(folder).read(path, 0, 1)


def test_a_file_swapped_for_a_link_or_a_pipe_after_the_listing_is_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"config.json": CONFIG, "model.safetensors": safetensors(w=1)})
    listed = LocalFolder(folder)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/etc/hostname")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert completeness(listed).outcome is Outcome.PARTIAL
    assert not read_facts(listed).inference_ready


def test_a_folder_that_goes_while_it_is_looked_at_is_partial(tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint-500", LAYOUTS["Trainer"][1])
    listed = LocalFolder(folder)
    shutil.rmtree(folder)
    assert completeness(listed).outcome is Outcome.PARTIAL
    assert "has gone" in completeness(listed).reason
    assert read_facts(listed).step == 500


def test_a_file_that_shrank_since_the_listing_is_partial(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"model.safetensors": safetensors(w=9)})
    listed = LocalFolder(folder)
    os.truncate(folder / "model.safetensors", 20)
    assert "shorter than when it was listed" in completeness(listed).reason


def test_the_names_of_files_never_reach_a_reason_unprintable(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    for name in (b"\xff\xfe.safetensors", b"\x1b[2J.pt", b"new\nline.bin", "\u202egnp.ckpt".encode()):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(b"PK")
    assert judge(folder).reason.isprintable()
    assert all(reason.isprintable() for reason in facts(folder).resumable_missing)


def test_reading_formats_needs_the_standard_library_alone() -> None:
    program = "import sys; import flexai.checkpoints.training.formats; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"numpy", "pydantic", "sqlalchemy", "prefect", "boto3", "pickle", "torch"}
    assert heavy.isdisjoint(loaded)


# Hostile folders: known names, arbitrary content.

NAMES = [
    *(
        "config.json",
        "trainer_state.json",
        "adapter_config.json",
        "model.safetensors.index.json",
        "latest",
        ".metadata",
    ),
    *("model.safetensors", "pytorch_model.bin", "optimizer.pt", "optimizer.npz", "adapter_model.safetensors", "x.ckpt"),
    *(
        "__0_0.distcp",
        "global_step5/mp_rank_00_model_states.pt",
        "global_step5/zero_pp_rank_3_mp_rank_00_optim_states.pt",
    ),
    *("random_states_0.pkl", "model-00001-of-00002.safetensors", "sub/model-00002-of-00001.bin", "notes", "a/b/c.tmp"),
]
KEYS = [
    "architectures",
    "transformers_version",
    "global_step",
    "log_history",
    "step",
    "loss",
    "train_loss",
    "eval_loss",
]
KEYS += ["weight_map", "base_model_name_or_path", "__metadata__", "dtype", "shape", "data_offsets", "w"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(NAMES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


def header_of(value: Any) -> bytes:
    text = json.dumps(value).encode()
    return len(text).to_bytes(8, "little") + text + b"12345678"


CONTENTS = st.one_of(
    st.binary(max_size=40),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6).map(lambda value: json.dumps(value).encode()),
    VALUES.map(header_of),
    st.sampled_from([TORCH_SAVE.read_bytes(), safetensors(w=1), b"global_step5", TORCH_SAVE.read_bytes()[:-3]]),
)


class Memory:
    """A folder in memory."""

    def __init__(self, name: str, contents: dict[str, bytes]) -> None:
        self.name = name
        self.contents = contents
        self.files = {path: len(content) for path, content in contents.items()}

    def read(self, path: str, start: int, length: int) -> bytes:
        return self.contents[path][start : start + length]


@settings(max_examples=300)
@given(st.sampled_from(["", "checkpoint-5", "c"]), st.dictionaries(st.sampled_from(NAMES), CONTENTS, max_size=6))
def test_no_content_raises_and_every_answer_fits_json(name: str, contents: dict[str, bytes]) -> None:
    folder = Memory(name, contents)
    verdict, told = completeness(folder), read_facts(folder)
    assert verdict.reason.isprintable()
    assert (verdict.outcome is Outcome.WHOLE) is (verdict.reason == "")
    assert told.inference_ready is (told.inference_missing == ())
    assert told.resumable is (told.resumable_missing == ())
    json.dumps(dataclasses.asdict(told), allow_nan=False, ensure_ascii=False).encode("utf-8")


class Unreadable(Memory):
    """A folder whose disk fails."""

    def read(self, path: str, start: int, length: int) -> bytes:
        raise OSError(5, "Input/output error")


def test_a_disk_that_fails_is_a_reason() -> None:
    contents = {path: content_of(content) for path, content in LAYOUTS["Trainer"][1].items()}
    folder = Unreadable("checkpoint-500", contents)
    assert completeness(folder).outcome is Outcome.PARTIAL
    assert "could not be read (Input/output error)" in completeness(folder).reason
    assert not read_facts(folder).inference_ready


def test_the_torch_file_of_these_tests_is_what_torch_writes() -> None:
    with zipfile.ZipFile(TORCH_SAVE) as archive:
        assert "torch-save/data.pkl" in archive.namelist()
