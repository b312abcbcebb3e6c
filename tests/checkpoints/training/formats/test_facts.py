"""What a checkpoint says about itself, read from real files."""

from __future__ import annotations

import math
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexai.checkpoints.models import TrainingFacts
from flexai.checkpoints.training.formats.facts import step_in_name
from flexai.checkpoints.training.formats.verdict import Outcome
from tests.checkpoints.training.layouts import (
    CONFIG,
    LAYOUTS,
    TORCH_SAVE,
    Content,
    facts,
    index,
    judge,
    safetensors,
    tensorflow_index,
    torch_save,
    write,
)
from tests.hostile.pickles import archive


def test_the_facts_of_a_trainer_folder(tmp_path: Path) -> None:
    assert facts(write(tmp_path / "checkpoint-500", LAYOUTS["Trainer"][1])) == TrainingFacts(
        step=500,
        train_loss=0.5,
        eval_loss=0.6,
        model="LlamaForCausalLM",
        version="4.57.6",
        inference_ready=True,
        resumable=True,
        metrics={"loss": 0.5, "eval_loss": 0.6},
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


def test_a_loss_that_is_no_number_is_not_told(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"trainer_state.json": '{"global_step": 1, "log_history": [{"loss": NaN}]}'})
    assert facts(folder).train_loss is None


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
        ("500", 500),
        ("exp/checkpoint-500", 500),
        ("exp/epoch=0-step=500.ckpt", 500),
        ("lightning_logs/version_0/checkpoints/epoch=0-step=500.ckpt", 500),
        ("lightning_logs/version_0/checkpoints/last.ckpt", None),
        ("checkpoints/checkpoint_4", 4),
        ("orbax/500", 500),
        ("2024/final", None),
        ("iter_0000500/mp_rank_00", 500),
        ("ep1-ba500-rank0.pt", 500),
        ("rl_model_500_steps.zip", 500),
        ("0000500_adapters.safetensors", 500),
        ("model_10.pt", 10),
        ("500.pth", 500),
        ("chkpnt30000.pth", 30000),
        ("checkpoint_3_500.pt", 500),
        ("state_step500.pth.tar", 500),
        ("model.ckpt-500", 500),
        ("model_epoch_3.pt", None),
        ("v2", None),
        ("llama-7b", None),
        ("checkpoint-7b", None),
        ("llama-3.pt", None),
        ("resnet_50.pt", None),
        ("model-00001-of-00002.safetensors", None),
        ("checkpoint-00001-of-00002", None),
        ("fp16", None),
        ("model.fp16.safetensors", None),
        ("rank0", None),
        ("latest-rank0.pt", None),
        ("model.h5", None),
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
        ({"architectures": ["A", "B"]}, "A, B", ""),
        ({"architectures": []}, "", ""),
        ({"architectures": None, "transformers_version": 5}, "", ""),
        ({"architectures": "LlamaForCausalLM"}, "", ""),
        ({"architectures": [1, None, "", "A"]}, "A", ""),
        ({"architectures": ["\x1b[31mred\n\ud800"]}, "?[31mred??", ""),
        ({}, "", ""),
    ],
)
def test_model_and_version_come_from_the_config(
    tmp_path: Path, config: dict[str, Any], model: str, version: str
) -> None:
    folder = write(tmp_path / "c", {"config.json": config, "model.safetensors": safetensors(w=1)})
    told = facts(folder)
    assert (told.model, told.version, told.inference_ready) == (model, version, bool(model))


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"model.safetensors": safetensors(w=1)}, "config.json, which names the model's architecture, is missing"),
        ({"config.json": {}, "model.safetensors": safetensors(w=1)}, "config.json is empty"),
        ({"config.json": "{", "model.safetensors": safetensors(w=1)}, "config.json is not valid JSON"),
        ({"config.json": {"model_type": "x"}, "model.safetensors": safetensors(w=1)}, "names no architecture"),
        ({"config.json": CONFIG}, "No weights are there"),
        ({"config.json": CONFIG, "model.safetensors": safetensors(w=1)[:-1]}, "model.safetensors ends inside tensor w"),
        ({"config.json": CONFIG, "pytorch_model.bin": b"weights of my own"}, "pytorch_model.bin is of no known format"),
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


def test_a_huge_document_is_left_unread(tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint-500", LAYOUTS["Trainer"][1])
    os.truncate(folder / "trainer_state.json", 64 * 1024 * 1024 + 1)
    assert judge(folder).outcome is Outcome.UNKNOWN
    assert "is longer than 64 MiB and was not read" in judge(folder).reason
    assert facts(folder).step == 500


def rows(*values: dict[str, Any]) -> dict[str, Any]:
    return {"global_step": 200, "log_history": list(values)}


@pytest.mark.parametrize(
    ("history", "metrics"),
    [
        ([{"step": 100, "eval_loss": 0.4}, {"step": 200, "loss": 0.5, "epoch": 1.0}], {"loss": 0.5}),
        ([{"step": 200, "loss": 0.5}, {"step": 200, "eval_f1": 0.9}], {"loss": 0.5, "eval_f1": 0.9}),
        ([{"step": 200, "loss": 0.5}, {"step": 200, "loss": 0.4}], {"loss": 0.4}),
        ([{"step": 190, "loss": 0.5}], {}),
        ([{"step": 200, "a": math.nan, "b": math.inf, "c": "1", "d": True, "e\n": 1.0, "": 1.0}], {}),
    ],
)
def test_a_checkpoint_has_the_metrics_of_its_own_step(
    tmp_path: Path, history: list[dict[str, Any]], metrics: dict[str, float]
) -> None:
    told = facts(write(tmp_path / "c", {"trainer_state.json": rows(*history)}))
    assert told.metrics == metrics
    assert (told.train_loss, told.eval_loss) == (metrics.get("loss"), metrics.get("eval_loss"))


def test_more_metrics_than_a_checkpoint_can_have_are_cut(tmp_path: Path) -> None:
    row = {"step": 200} | {f"metric_{number}": number for number in range(1000)}
    assert len(facts(write(tmp_path / "c", {"trainer_state.json": rows(row)})).metrics) == 200


EVALUATED = [{"step": 100, "eval_f1": 0.8, "eval_loss": 0.4}, {"step": 200, "eval_f1": 0.7, "eval_loss": 0.3}]


@pytest.mark.parametrize(
    ("state", "best_by"),
    [
        ({"metric_for_best_model": "f1", "greater_is_better": True}, "f1:max"),
        ({"metric_for_best_model": "loss", "greater_is_better": False}, "loss:min"),
        ({"metric_for_best_model": "f1"}, "f1"),
        ({"best_metric": 0.8, "best_global_step": 100}, "eval_f1:max"),
        ({"best_metric": 0.3}, "eval_loss:min"),
        ({"best_metric": 0.5}, ""),
        ({"metric_for_best_model": 5, "best_metric": "0.8"}, ""),
        ({}, ""),
    ],
)
def test_the_trainer_says_what_it_chooses_by(tmp_path: Path, state: dict[str, Any], best_by: str) -> None:
    folder = write(tmp_path / "c", {"trainer_state.json": rows(*EVALUATED) | state})
    assert facts(folder).best_by == best_by


def test_a_metric_whose_only_value_was_the_best_is_named_without_a_direction(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"trainer_state.json": rows(EVALUATED[0]) | {"best_metric": 0.8}})
    assert facts(folder).best_by == "eval_f1"


class Arguments:
    """As transformers' ``TrainingArguments`` are pickled: an object with its attributes."""

    metric_for_best_model: str
    greater_is_better: bool


def test_the_trainers_arguments_say_what_it_chooses_by(tmp_path: Path) -> None:
    arguments = Arguments()
    arguments.metric_for_best_model, arguments.greater_is_better = "accuracy", True
    files: dict[str, Content] = {"trainer_state.json": rows(*EVALUATED), "training_args.bin": saved(arguments)}
    assert facts(write(tmp_path / "c", files)).best_by == "accuracy:max"


@pytest.mark.parametrize(
    ("name", "file", "state", "step"),
    [
        ("exp/epoch=0-step=100.ckpt", "epoch=0-step=100.ckpt", {"global_step": 100}, 100),
        ("ckpt.pt", "ckpt.pt", {"iter_num": 7}, 7),
        ("model_10.pt", "model_10.pt", {"epoch": 10, "global_step": 5000}, 5000),
        ("model_10.pt", "model_10.pt", {"epoch": 3}, 10),
        ("last.pth.tar", "last.pth.tar", {"epoch": 3}, 3),
        ("global_step200", "global_step200/mp_rank_00_model_states.pt", {"global_steps": 9}, 200),
        ("step_5", "model.pt", {"step": 9}, 5),
        ("final", "model.pt", {"step": 9}, 9),
    ],
)
def test_a_file_tells_its_step_before_its_name_and_a_folders_name_before_its_files(
    tmp_path: Path, name: str, file: str, state: dict[str, Any], step: int
) -> None:
    assert facts(write(tmp_path / "c", {file: saved(state)}), name).step == step


def read_training() -> bytes:
    return (TORCH_SAVE.parent / "training.pt").read_bytes()


@pytest.mark.parametrize(
    ("files", "resumable", "reason"),
    [
        ({"ckpt.pt": read_training}, True, ""),
        ({"model_10.pt": torch_save}, False, "No optimizer state is there."),
        ({"old.pt": b"\x80\x02}q\x00."}, None, "cannot be told"),
        ({"a.joblib": b"joblib"}, None, "Whether a.joblib holds what a training goes on from cannot be told."),
        ({"notes": b"x", "weights.dat": b"y"}, None, "Whether one of 2 files holds what"),
        ({"0000100_adapters.safetensors": safetensors(a=1)}, True, ""),
        ({"model.safetensors": safetensors(a=1)}, False, "No optimizer state is there."),
        ({"a.ubj": b"x"}, True, ""),
        ({"model.json": '{"learner": {}}'}, True, ""),
        ({"model.txt": "tree\nversion=v4\n"}, True, ""),
        ({"default/_METADATA": "{}", "default/manifest.ocdbt": "m", "_CHECKPOINT_METADATA": "{}"}, True, ""),
        ({"iter_0000100/mp_rank_00/model_optim_rng.pt": read_training}, True, ""),
        ({"ckpt-1.index": tensorflow_index("optimizer/_iterations"), "ckpt-1.data-00000-of-00001": b"x"}, True, ""),
        (
            {"ckpt-1.index": tensorflow_index("layer/kernel"), "ckpt-1.data-00000-of-00001": b"x"},
            None,
            "cannot be told",
        ),
        ({"model.safetensors": safetensors(a=1), "state.safetensors": safetensors(**{"optimizer.a": 1})}, True, ""),
    ],
)
def test_whether_a_training_can_go_on_is_yes_no_or_cannot_be_told(
    tmp_path: Path, files: dict[str, Content], resumable: bool | None, reason: str
) -> None:
    told = facts(write(tmp_path / "c", files))
    assert (told.resumable, bool(told.resumable_missing)) == (resumable, bool(reason))
    assert reason in " ".join(told.resumable_missing)


def test_the_metadata_of_dcp_says_whether_optimizer_state_is_there(tmp_path: Path) -> None:
    metadata = (TORCH_SAVE.parent / "dcp.metadata").read_bytes()
    folder = write(tmp_path / "weights", {"__0_0.distcp": bytes(100_000), ".metadata": metadata})
    assert facts(folder).resumable is True
    (folder / ".metadata").write_bytes(metadata.replace(b"optimizer.", b"schedules.").replace(b"exp_avg", b"average"))
    assert facts(folder).resumable_missing == ("No optimizer state is there.",)


def saved(state: object) -> bytes:
    return archive({"ckpt/data.pkl": pickle.dumps(state, 2), "ckpt/version": b"3\n"})


@pytest.mark.parametrize(
    "files",
    [
        {"model.fp16.safetensors": safetensors(w=1)},
        {"pytorch_model.fp16.bin": torch_save},
        {
            "model.fp16-00001-of-00001.safetensors": safetensors(w=1),
            "model.safetensors.index.fp16.json": index(w="model.fp16-00001-of-00001.safetensors"),
        },
    ],
)
def test_a_variant_of_a_model_is_ready_for_inference(tmp_path: Path, files: dict[str, Content]) -> None:
    folder = write(tmp_path / "c", files | {"config.json": CONFIG})
    assert facts(folder).inference_ready
    (folder / "config.json").unlink()
    assert not facts(folder).inference_ready


def test_a_pipeline_of_diffusers_is_ready_for_inference_where_its_parts_are_whole(tmp_path: Path) -> None:
    index_of_parts = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.35.0",
        "vae": ["diffusers", "V"],
    }
    vae: dict[str, Content] = {"vae/config.json": "{}", "vae/diffusion_pytorch_model.safetensors": safetensors(w=4)}
    folder = write(tmp_path / "c", {"model_index.json": index_of_parts, **vae})
    told = facts(folder)
    assert (told.model, told.version, told.inference_ready) == ("StableDiffusionPipeline", "0.35.0", True)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(safetensors(w=4)[:-1])
    assert not facts(folder).inference_ready
