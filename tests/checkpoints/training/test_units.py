"""What of an output directory is a unit, by names: each layout as its trainer writes it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.checkpoints.storage.beneath import Beneath
from flexai.checkpoints.training.output_dir import OutputTree
from flexai.checkpoints.training.units import Unit, Units, find_units, has_number

TRAINER = ("config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
HUGGING_FACE = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "vocab.txt")
ORBAX = (
    "_CHECKPOINT_METADATA",
    "default/_METADATA",
    "default/manifest.ocdbt",
    "default/d/0a1b",
    "default/ocdbt.process_0/d/3c",
)
EVENTS = "events.out.tfevents.1700000000.host.1.0"


def found(output: Path, files: Iterable[str] | Mapping[str, bytes]) -> Units:
    """The units of an output directory with these files."""
    contents = files if isinstance(files, Mapping) else dict.fromkeys(files, b"content")
    for path, content in contents.items():
        (output / path).parent.mkdir(parents=True, exist_ok=True)
        (output / path).write_bytes(content)
    return units_in(output)


def units_in(output: Path) -> Units:
    tree = OutputTree(Beneath(output))
    tree.refresh()
    return find_units(tree, lambda path, size: (output / path).read_bytes()[:size])


def below(folder: str, files: Iterable[str]) -> list[str]:
    return [f"{folder}/{path}" for path in files]


LAYOUTS: dict[str, tuple[list[str], list[str]]] = {
    "the Trainer's folders": (
        [*below("checkpoint-5", TRAINER), *below("checkpoint-10", TRAINER)],
        ["checkpoint-10", "checkpoint-5"],
    ),
    "a folder below": (below("exp/checkpoint-500", TRAINER), ["exp/checkpoint-500"]),
    "a search's runs": (below("run-3/checkpoint-500", TRAINER), ["run-3/checkpoint-500"]),
    "a final model beside checkpoints": (
        [
            *HUGGING_FACE,
            "all_results.json",
            "train_results.json",
            f"runs/Nov29/{EVENTS}",
            *below("checkpoint-5", TRAINER),
        ],
        ["", "checkpoint-5"],
    ),
    "a final model in a folder": (
        [*below("final", HUGGING_FACE), *below("checkpoint-5", TRAINER)],
        ["checkpoint-5", "final"],
    ),
    "Lightning's files": (
        ["epoch=0-step=100.ckpt", "epoch=1-step=200.ckpt", "hparams.yaml"],
        ["epoch=0-step=100.ckpt", "epoch=1-step=200.ckpt"],
    ),
    "Lightning's own folders": (
        [
            "lightning_logs/version_0/checkpoints/epoch=0-step=100.ckpt",
            "lightning_logs/version_0/metrics.csv",
            "lightning_logs/version_0/hparams.yaml",
            f"lightning_logs/version_0/{EVENTS}",
        ],
        ["lightning_logs/version_0/checkpoints/epoch=0-step=100.ckpt"],
    ),
    "Lightning's folder of shards": (
        ["epoch=0-step=10.ckpt/.metadata", "epoch=0-step=10.ckpt/__0_0.distcp", "epoch=0-step=10.ckpt/meta.pt"],
        ["epoch=0-step=10.ckpt"],
    ),
    "accelerate's folders": (
        [
            f"checkpoints/checkpoint_{step}/{name}"
            for step in (3, 4)
            for name in ("model.safetensors", "optimizer.bin", "random_states_0.pkl")
        ],
        ["checkpoints/checkpoint_3", "checkpoints/checkpoint_4"],
    ),
    "several models of accelerate": (
        ["state/model.safetensors", "state/model_1.safetensors", "state/optimizer.bin", "state/optimizer_1.bin"],
        ["state"],
    ),
    "DCP": (["step_10/.metadata", "step_10/__0_0.distcp"], ["step_10"]),
    "DCP in the root": ([".metadata", "__0_0.distcp", "__1_0.distcp"], [""]),
    "DCP without collectives": (["last/__0.metadata", "last/__0_0.distcp"], ["last"]),
    "torchtitan": (["checkpoint/step-100/.metadata", "checkpoint/step-100/__0_0.distcp"], ["checkpoint/step-100"]),
    "Orbax": ([*below("100", ORBAX), *below("200", ORBAX)], ["100", "200"]),
    "Orbax under a name": (
        below("params", ("_METADATA", "manifest.ocdbt", "d/0a1b", "_CHECKPOINT_METADATA")),
        ["params"],
    ),
    "Orbax while it writes": (below("300.orbax-checkpoint-tmp-17", ORBAX), []),
    "DeepSpeed": (
        [
            "global_step100/mp_rank_00_model_states.pt",
            "global_step100/zero_pp_rank_0_mp_rank_00_optim_states.pt",
            "latest",
            "zero_to_fp32.py",
        ],
        ["global_step100"],
    ),
    "DeepSpeed with a tag of the user's": (["exp/best/mp_rank_00_model_states.pt", "exp/latest"], ["exp/best"]),
    "DeepSpeed in the Trainer's folder": (
        [
            *below("checkpoint-5", TRAINER),
            "checkpoint-5/global_step5/mp_rank_00_model_states.pt",
            "checkpoint-5/latest",
        ],
        ["checkpoint-5"],
    ),
    "Megatron": (["iter_0000100/mp_rank_00/model_optim_rng.pt", "latest_checkpointed_iteration.txt"], ["iter_0000100"]),
    "Megatron's distributed checkpoint": (
        ["iter_0000100/common.pt", "iter_0000100/metadata.json", "iter_0000100/.metadata", "iter_0000100/__0_0.distcp"],
        ["iter_0000100"],
    ),
    "NeMo 1": (["results/model.nemo", "results/step=100.ckpt"], ["results/model.nemo", "results/step=100.ckpt"]),
    "NeMo 2": (
        [
            "ckpts/model--val_loss=0.4-epoch=1/weights/.metadata",
            "ckpts/model--val_loss=0.4-epoch=1/weights/__0_0.distcp",
            "ckpts/model--val_loss=0.4-epoch=1/context/model.yaml",
        ],
        ["ckpts/model--val_loss=0.4-epoch=1"],
    ),
    "Composer": (["ep0-ba50-rank0.pt", "ep0-ba100-rank0.pt"], ["ep0-ba100-rank0.pt", "ep0-ba50-rank0.pt"]),
    "fairseq": (
        ["checkpoint1.pt", "checkpoint_1_500.pt", "checkpoint_best.pt"],
        ["checkpoint1.pt", "checkpoint_1_500.pt", "checkpoint_best.pt"],
    ),
    "timm": (
        [
            "20251129-101010-resnet50-224/checkpoint-1.pth.tar",
            "20251129-101010-resnet50-224/args.yaml",
            "20251129-101010-resnet50-224/summary.csv",
        ],
        ["20251129-101010-resnet50-224/checkpoint-1.pth.tar"],
    ),
    "nanoGPT": (["ckpt.pt"], ["ckpt.pt"]),
    "Stable Baselines": (
        ["rl_model_1000_steps.zip", "rl_model_2000_steps.zip", "monitor.csv"],
        ["rl_model_1000_steps.zip", "rl_model_2000_steps.zip"],
    ),
    "YOLO": (
        [
            "runs/train/exp/weights/best.pt",
            "runs/train/exp/weights/last.pt",
            "runs/train/exp/results.csv",
            "runs/train/exp/labels.jpg",
        ],
        ["runs/train/exp/weights/best.pt", "runs/train/exp/weights/last.pt"],
    ),
    "MLX": (
        ["adapter_config.json", "adapters.safetensors", "0000100_adapters.safetensors"],
        ["", "0000100_adapters.safetensors"],
    ),
    "diffusers": (
        [
            "pipe/model_index.json",
            "pipe/unet/config.json",
            "pipe/unet/diffusion_pytorch_model.safetensors",
            "pipe/vae/config.json",
            "pipe/vae/diffusion_pytorch_model.safetensors",
        ],
        ["pipe"],
    ),
    "sentence-transformers": (
        [
            "modules.json",
            "config.json",
            "model.safetensors",
            "1_Pooling/config.json",
            *below("checkpoint-5", ["modules.json", "1_Pooling/config.json", *TRAINER]),
        ],
        ["", "checkpoint-5"],
    ),
    "PEFT": (["adapter_config.json", "adapter_model.safetensors", "README.md"], [""]),
    "Keras": (
        ["model.01.keras", "model.02.keras", "last.weights.h5"],
        ["last.weights.h5", "model.01.keras", "model.02.keras"],
    ),
    "a SavedModel": (
        ["export/saved_model.pb", "export/variables/variables.index", "export/variables/variables.data-00000-of-00001"],
        ["export"],
    ),
    "TensorFlow": (
        ["ckpt-1.index", "ckpt-1.data-00000-of-00001", "ckpt-2.index", "ckpt-2.data-00000-of-00001", "checkpoint"],
        ["ckpt-1", "ckpt-2"],
    ),
    "flax": (["checkpoint_100", "params.msgpack"], ["checkpoint_100", "params.msgpack"]),
    "scikit-learn": (["model.joblib", "model.pkl"], ["model.joblib", "model.pkl"]),
    "a folder of parts": (["state/model.pt", "state/optimizer.pt"], ["state"]),
    "steps without a layout": (["step_10/state.json", "step_10/weights.dat"], ["step_10"]),
    "an epoch's folder of steps": (
        ["epoch_3/step_100/weights.dat", "epoch_3/step_200/weights.dat"],
        ["epoch_3/step_100", "epoch_3/step_200"],
    ),
    "a run's folder with a number for a name": (["17/ckpt_1.pt", "17/ckpt_2.pt"], ["17/ckpt_1.pt", "17/ckpt_2.pt"]),
    "a layout that is not known": (["mine/weights.xyz", "mine/nested/moments.xyz"], ["mine"]),
    "logs alone": (
        [
            "train.log",
            "metrics.csv",
            "out.jsonl",
            f"runs/{EVENTS}",
            "wandb/run-1/files/model.h5",
            "mlruns/0/model.pkl",
            ".hydra/config.yaml",
            "code/train.py",
            "slurm-12.out",
            "hparams.yaml",
            "notes.txt",
            "results.json",
            "samples/1.png",
        ],
        [],
    ),
    "temporary names": (
        ["tmp-checkpoint-5/model.safetensors", "ckpt-5.pt.tmp", ".hidden/ckpt-5.pt", "ckpt-6.pt.partial/x.pt"],
        [],
    ),
}


@pytest.mark.parametrize(("files", "names"), LAYOUTS.values(), ids=LAYOUTS)
def test_the_units_of_a_layout(tmp_path: Path, files: list[str], names: list[str]) -> None:
    assert sorted(found(tmp_path, files).units) == names


@pytest.mark.parametrize(("files", "names"), LAYOUTS.values(), ids=LAYOUTS)
def test_a_layout_is_the_same_at_whatever_depth(tmp_path: Path, files: list[str], names: list[str]) -> None:
    assert sorted(found(tmp_path, below("exp/a", files)).units) == [f"exp/a/{name}".rstrip("/") for name in names]


def test_a_folder_unit_is_named_from_its_own_folder_and_a_file_unit_from_the_folder_it_lies_in(tmp_path: Path) -> None:
    units = found(
        tmp_path, ["exp/checkpoint-5/config.json", "exp/checkpoint-5/model.safetensors", "exp/ckpt-1.pt"]
    ).units
    assert units["exp/checkpoint-5"] == Unit(
        "exp/checkpoint-5", "exp/checkpoint-5", ("config.json", "model.safetensors")
    )
    assert units["exp/ckpt-1.pt"] == Unit("exp/ckpt-1.pt", "exp", ("ckpt-1.pt",))


def test_deepspeeds_folder_comes_with_the_file_that_names_it(tmp_path: Path) -> None:
    states = "mp_rank_00_model_states.pt"
    units = found(
        tmp_path, {f"global_step100/{states}": b"1", f"global_step200/{states}": b"2", "latest": b"global_step100"}
    )
    assert units.units["global_step100"] == Unit(
        "global_step100", "", (f"global_step100/{states}",), {"latest": b"global_step100"}
    )
    assert units.units["global_step200"].texts == {}, "latest does not name it yet"
    assert units.pointers == {"latest": "global_step100"}
    (tmp_path / "latest").write_text("global_step200")
    later = units_in(tmp_path).units
    assert [unit.texts for unit in later.values()] == [{"latest": b"global_step100"}, {"latest": b"global_step200"}]


def test_megatrons_folder_comes_with_the_file_that_names_it(tmp_path: Path) -> None:
    files = {"iter_0000100/mp_rank_00/model_optim_rng.pt": b"1", "latest_checkpointed_iteration.txt": b"100\n"}
    units = found(tmp_path, files)
    assert units.units["iter_0000100"].texts == {"latest_checkpointed_iteration.txt": b"100"}
    assert units.pointers == {"latest_checkpointed_iteration.txt": "iter_0000100"}


def test_links_are_pointers_at_the_units_they_lead_to(tmp_path: Path) -> None:
    found(tmp_path, ["a/epoch=0-step=1.ckpt", *below("checkpoint-5", TRAINER)])
    (tmp_path / "a" / "last.ckpt").symlink_to("epoch=0-step=1.ckpt")
    (tmp_path / "latest").symlink_to("checkpoint-5")
    (tmp_path / "newest").symlink_to(tmp_path / "latest")
    (tmp_path / "nowhere").symlink_to("gone")
    (tmp_path / "elsewhere").symlink_to("/etc")
    (tmp_path / "a" / "above").symlink_to("../../etc")
    units = units_in(tmp_path)
    assert units.pointers == {
        "a/last.ckpt": "a/epoch=0-step=1.ckpt",
        "latest": "checkpoint-5",
        "newest": "checkpoint-5",
    }
    assert sorted(units.units) == ["a/epoch=0-step=1.ckpt", "checkpoint-5"]
    assert sorted(units.notes) == ["a/above", "elsewhere"]


def test_what_no_checkpoint_can_hold_is_left_out_with_a_note(tmp_path: Path) -> None:
    found(tmp_path, below("checkpoint-5", TRAINER))
    os.mkfifo(tmp_path / "checkpoint-5" / "pipe")
    (tmp_path / "checkpoint-5" / "outside").symlink_to("/etc/passwd")
    (tmp_path / "checkpoint-5" / "a:b.pt").write_bytes(b"odd")
    units = units_in(tmp_path)
    assert sorted(units.units["checkpoint-5"].files) == sorted(TRAINER)
    assert sorted(units.notes) == ["checkpoint-5/a:b.pt", "checkpoint-5/outside", "checkpoint-5/pipe"]


def test_boosters_models_are_told_from_other_documents(tmp_path: Path) -> None:
    units = found(
        tmp_path,
        {
            "model_1.json": b'{"learner": {',
            "model.txt": b"tree\nversion=v4\n",
            "notes.txt": b"hi",
            "other_2.json": b"{}",
        },
    )
    assert sorted(units.units) == ["model.txt", "model_1.json"]


@pytest.mark.parametrize(
    "name", ["ckpt-1.pt", "model_10.pt", "epoch=3.ckpt", "0000100_adapters.safetensors", "cp.2.h5"]
)
def test_names_with_a_step_or_an_epoch_have_a_number(name: str) -> None:
    assert has_number(name)


@pytest.mark.parametrize(
    "name", ["last.ckpt", "model.fp16.pt", "llama-7b.pt", "net_v2.pt", "state-rank0.pt", "weights.h5"]
)
def test_numbers_that_tell_no_step_do_not_count(name: str) -> None:
    assert not has_number(name)


_NAMES = st.sampled_from(
    ["checkpoint-5", "step_1", "200", "exp", "wandb", "latest", "config.json", "model.pt", "ckpt-1.pt", "a.xyz",
     "x.log", "optimizer.pt", "model.safetensors", ".metadata", "iter_0000001", "m.index", "m.data-00000-of-00001",
     ".tmp-a"]
)  # fmt: skip


@given(files=st.sets(st.lists(_NAMES, min_size=1, max_size=4).map("/".join), max_size=12))
def test_no_file_is_in_two_units_and_every_unit_has_files(
    tmp_path_factory: pytest.TempPathFactory, files: set[str]
) -> None:
    output = tmp_path_factory.mktemp("output")
    kept = [path for path in files if not any(other.startswith(f"{path}/") for other in files)]
    units = found(output, kept).units
    owned = [f"{unit.place}/{path}".lstrip("/") for unit in units.values() for path in unit.files]
    assert len(owned) == len(set(owned))
    assert set(owned) <= set(kept)
    assert all(unit.files for unit in units.values())


def test_the_empty_folders_of_a_unit_are_its_own(tmp_path: Path) -> None:
    for folder in (
        "run/empty",
        "run/a/b",
        "run/logs",
        "run/checkpoint-5/global_x",
        "run/checkpoint-6",
        "tmp-9",
        "beside",
    ):
        (tmp_path / folder).mkdir(parents=True)
    units = found(tmp_path, [*below("run", HUGGING_FACE), *below("run/checkpoint-5", TRAINER)]).units
    assert units["run"].folders == ("a/b", "empty")
    assert units["run/checkpoint-5"].folders == ("global_x",)
    assert set(units) == {"run", "run/checkpoint-5"}
