"""Completeness and facts of checkpoint folders, on real directories with real files in them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flexai.checkpoints.models import plain
from flexai.checkpoints.training.completeness.by_format import (
    Completeness,
    FileRole,
    completeness,
    is_temporary_folder,
    is_unfinished,
    role_of,
)
from flexai.checkpoints.training.formats.facts import read_facts
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.verdict import Outcome
from tests.checkpoints.training.layouts import (
    CONFIG,
    FILES,
    LAYOUTS,
    NOT_LAST,
    TORCH_SAVE,
    WRITTEN_LAST,
    Content,
    content_of,
    facts,
    index,
    judge,
    safetensors,
    torch_save,
    write,
)
from tests.support.folders import local_folder


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


def test_a_folder_with_all_its_files_is_whole(tmp_path: Path, layout: str) -> None:
    name, files, rule = LAYOUTS[layout]
    verdict = judge(write(tmp_path / "c", files), name)
    assert verdict == Completeness(Outcome.WHOLE, rule, conclusive=layout in WRITTEN_LAST)


def test_a_folder_is_not_conclusively_whole_before_its_last_file(tmp_path: Path, layout: str) -> None:
    name, files, _ = LAYOUTS[layout]
    written: dict[str, Content] = {}
    for path, content in files.items():
        if path in NOT_LAST:
            break
        verdict = judge(write(tmp_path / "c", written), name)
        assert not verdict.conclusive, f"whole before {path} is written"
        assert verdict.outcome is Outcome.WHOLE or verdict.reason
        written[path] = content


# What its loader needs is asked for; what a loader can do without is not.
_NEEDED = {
    "Trainer": {"trainer_state.json"},
    "Trainer with DeepSpeed": {"trainer_state.json"},
    "accelerate": {"random_states_0.pkl"},
    "accelerate with FSDP": {"pytorch_model_fsdp_0/.metadata", "optimizer_0/.metadata", "random_states_0.pkl"},
    "accelerate with DeepSpeed": {"random_states_0.pkl"},
    "DeepSpeed": {"latest", "global_step500/mp_rank_00_model_states.pt"},
    "PyTorch DCP": {".metadata"},
    "PyTorch DCP as it is": {".metadata", "__0_0.distcp"},
    "PyTorch DCP without collectives": {"__0.metadata", "__1.metadata"},
    "Lightning with FSDP": {".metadata", "meta.pt"},
    "NeMo 2": {"weights/.metadata", "weights/metadata.json"},
    "sharded safetensors": {"model-00001-of-00002.safetensors", "model.safetensors.index.json"},
    "sharded torch weights": {"pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json"},
    "shards of a variant": {"model.fp16-00002-of-00002.safetensors", "model.safetensors.index.fp16.json"},
    "DCP's Hugging Face writer, consolidated": {"model-00001-of-00001.safetensors", "model.safetensors.index.json"},
    "adapter": {"adapter_config.json"},
    "Megatron": {"latest_checkpointed_iteration.txt", "iter_0000200/mp_rank_01/model_optim_rng.pt"},
    "Megatron's distributed format": {"latest_checkpointed_iteration.txt", "iter_0000200/metadata.json"},
    "Orbax": {"_CHECKPOINT_METADATA", "default/_METADATA", "default/manifest.ocdbt", "default/d/0a1b2c"},
    "Orbax's newer versions": {"_CHECKPOINT_METADATA", "_METADATA", "manifest.ocdbt", "ocdbt.process_0/d/0a1b2c"},
    "TensorFlow": {"ckpt-1.index", "ckpt-1.data-00000-of-00001"},
    "SavedModel": {"saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"},
    "diffusers": {"model_index.json", "scheduler/scheduler_config.json"},
}


@pytest.mark.parametrize(
    ("layout", "missing"), [(layout, path) for layout, paths in _NEEDED.items() for path in sorted(paths)]
)
def test_a_folder_that_lacks_what_its_loader_needs_is_partial_for_ever(
    tmp_path: Path, layout: str, missing: str
) -> None:
    name, files, _ = LAYOUTS[layout]
    folder = write(tmp_path / "c", {path: content for path, content in files.items() if path != missing})
    assert judge(folder, name).outcome is Outcome.PARTIAL


def test_a_folder_without_one_of_its_files_is_never_conclusively_whole_where_that_is_weights(
    tmp_path: Path, layout: str
) -> None:
    name, files, _ = LAYOUTS[layout]
    weights = [path for path in files if role_of(path) in (FileRole.WEIGHTS, FileRole.DEEPSPEED_MODEL)]
    if FileRole.DCP_SHARD in map(role_of, files):
        return  # the shards are the weights, and the metadata tells of them
    for missing in weights if len(weights) == 1 else ():
        folder = write(tmp_path / "c", {path: content for path, content in files.items() if path != missing})
        assert not judge(folder, name).conclusive, missing


_FREE_FORM = (
    *(".md", ".py", ".yaml", "latest", "tokenizer.json", "checkpoint", "fingerprint.pb", "0a1b2c"),
    *("commit_success.txt", "metadata.json", "io.json"),
)


def test_no_torn_file_is_overlooked(tmp_path: Path, layout: str) -> None:
    name, files, rule = LAYOUTS[layout]
    for path, content in files.items():
        whole = content_of(content)
        if path.endswith(_FREE_FORM) or whole in (b"shard", b"metadata", b"m", b""):
            continue
        for length in (0, 1, len(whole) // 2, len(whole) - 1):
            folder = write(tmp_path / "c", files)
            (folder / path).write_bytes(whole[:length])
            verdict = judge(folder, name)
            assert verdict.outcome is Outcome.PARTIAL, f"{path} cut to {length} of {len(whole)} bytes"
            if rule not in ("megatron", "orbax"):
                assert path.rpartition("/")[2] in verdict.reason or ".metadata" in verdict.reason
                assert not facts(folder, name).resumable
            shutil.rmtree(folder)


@given(st.sampled_from(sorted(LAYOUTS)), st.data())
@settings(max_examples=400, deadline=None)
def test_a_folder_with_a_file_cut_off_anywhere_is_torn(layout: str, data: st.DataObject) -> None:
    name, files, _ = LAYOUTS[layout]
    contents = {path: content_of(content) for path, content in files.items()}
    judged = [
        path
        for path, whole in contents.items()
        if not path.endswith(_FREE_FORM) and whole not in (b"shard", b"metadata", b"m", b"")
    ]
    assume(judged)
    path = data.draw(st.sampled_from(judged))
    contents[path] = contents[path][: data.draw(st.integers(0, len(contents[path]) - 1))]
    assert completeness(Memory(name, contents)).outcome is Outcome.PARTIAL


# Files that are units by themselves.


def judge_file(name: str, content: bytes) -> Completeness:
    return completeness(Memory(f"runs/{name}", {name: content}))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_its_format_calls_complete_is_whole_at_once(name: str) -> None:
    make, format_name = FILES[name]
    assert judge_file(name, make()) == Completeness(Outcome.WHOLE, format_name, conclusive=True)


@pytest.mark.parametrize("name", FILES)
@given(st.data())
@settings(max_examples=30)
def test_a_file_that_is_cut_off_anywhere_is_not_whole(name: str, data: st.DataObject) -> None:
    whole = FILES[name][0]()
    length = data.draw(st.integers(0, len(whole) - 1))
    verdict = judge_file(name, whole[:length])
    if name == "two.pkl" and length == len(pickle.dumps({"w": [1.0]})):
        return  # nothing tells that a second pickle was to come
    assert verdict.outcome is not Outcome.WHOLE
    # A tar archive's end may be padded, and LightGBM's last line comes by a second write.
    assert verdict.outcome is Outcome.PARTIAL or name == "model.txt"


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_zeros_is_torn(name: str) -> None:
    assert judge_file(name, bytes(2000)).outcome is Outcome.PARTIAL


@pytest.mark.parametrize("name", FILES)
def test_an_empty_file_is_torn(name: str) -> None:
    assert judge_file(name, b"").outcome is Outcome.PARTIAL


@pytest.mark.parametrize("name", ["weights.gguf", "model.bin", "state.pkl", "model.h5", "model.ckpt", "model.index"])
def test_a_file_of_no_known_format_is_left_to_time(name: str) -> None:
    verdict = judge_file(name, b"content of another kind, of some length")
    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.reason


def test_a_file_that_goes_on_behind_its_end_is_not_whole() -> None:
    for name in ("flax_model.msgpack", "model.ubj", "old.pth", "model.pkl", "weights.npy", "model.weights.h5"):
        assert judge_file(name, FILES[name][0]() + b"more").outcome is not Outcome.WHOLE, name


def test_a_file_in_a_folder_of_another_name_waits_for_more() -> None:
    assert not completeness(Memory("step_500", {"ckpt.pt": torch_save()})).conclusive


# Names that are to be changed.


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors.tmp", ".tmpAb12Cd", "tmp.pth.tar", "tmpab12cd3_", "tmpab12cd34.pt", "checkpoint_tmp"),
        *("checkpoint.tmp0123456789abcdef", "ckpt-1.index.tempstate1234567", "ckpt-1_temp", "last.ckpt.part", "a.pt~"),
        *("model.bin.incomplete", "100.orbax-checkpoint-tmp-17", "tmp-checkpoint-500", "ckpt.pt.tmp.4711", "a.partial"),
        *("last-unfinished", "model.pt.tmp-4711", "model.pt.crdownload"),
    ],
)
def test_a_name_that_its_writer_will_change_is_unfinished(name: str) -> None:
    assert is_unfinished(name)
    assert is_temporary_folder(name)


@pytest.mark.parametrize(
    "name",
    [
        *("model.safetensors", ".metadata", "chat.tmpl", "temperature-0.5", "low_temp", "template.json", "part-1.pt"),
        *("model.part1", "best.ckpt", "model.temperature", "checkpoint-500", "attempt.pt", "tmpfs.md"),
    ],
)
def test_a_final_name_is_not_unfinished(name: str) -> None:
    assert not is_unfinished(name)


def test_a_hidden_folder_is_temporary_and_a_hidden_file_is_not() -> None:
    assert is_temporary_folder(".cache")
    assert not is_unfinished(".cache")


# Folders.


def test_a_save_on_a_signal_that_was_cut_off_is_partial_whatever_else_is_there(tmp_path: Path) -> None:
    files = LAYOUTS["Trainer"][1] | {"checkpoint-is-incomplete.txt": "Checkpoint started at step 500"}
    folder = write(tmp_path / "checkpoint-500", files)
    assert judge(folder).outcome is Outcome.PARTIAL
    (folder / "checkpoint-is-incomplete.txt").unlink()
    assert judge(folder).conclusive


@pytest.mark.parametrize("state", ["training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_3.pth"])
def test_a_trainer_that_died_before_its_state_was_written_has_left_no_checkpoint(tmp_path: Path, state: str) -> None:
    files: dict[str, Content] = {"config.json": CONFIG, "model.safetensors": safetensors(w=1), state: torch_save}
    assert judge(write(tmp_path / "checkpoint-500", files), "exp/checkpoint-500").outcome is Outcome.PARTIAL


@pytest.mark.parametrize("text", ["{", "[1]", "", "not JSON"])
def test_a_document_deep_inside_may_hold_anything(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path / "checkpoint-500", LAYOUTS["Trainer"][1] | {"runs/1/config.json": text})
    assert judge(folder).conclusive
    assert judge(write(tmp_path / "c", {"model.safetensors": safetensors(w=1), "a/config.json": text})).outcome is (
        Outcome.WHOLE
    )


def test_a_document_of_a_pipelines_component_is_judged(tmp_path: Path) -> None:
    folder = write(tmp_path / "final", LAYOUTS["diffusers"][1] | {"unet/config.json": "{"})
    assert judge(folder).outcome is Outcome.PARTIAL


def test_an_empty_bin_is_torn_only_where_it_must_hold_weights(tmp_path: Path) -> None:
    whole = write(tmp_path / "checkpoint-500", LAYOUTS["Trainer"][1] | {"data/tokens.bin": b""})
    assert judge(whole).conclusive
    other = write(tmp_path / "a", {"model.safetensors": safetensors(w=1), "tokens.bin": b""})
    assert judge(other).outcome is Outcome.UNKNOWN
    for name in ("tokens.bin", "pytorch_model.bin"):
        assert judge(write(tmp_path / name, {name: b""})).outcome is Outcome.PARTIAL
    both = write(tmp_path / "checkpoint-7", LAYOUTS["Trainer"][1] | {"pytorch_model.bin": b""})
    assert judge(both).conclusive
    shard = write(tmp_path / "d", LAYOUTS["sharded safetensors"][1] | {"pytorch_model-00001-of-00001.bin": b""})
    assert judge(shard).outcome is Outcome.PARTIAL
    promised = write(tmp_path / "b", {"w.bin": b"", "model.safetensors": safetensors(w=1)})
    write(promised, {"pytorch_model.bin.index.json": index(a="w.bin")})
    assert judge(promised).outcome is Outcome.PARTIAL


def test_a_rank_of_dcp_without_metadata_of_its_own_is_still_being_written(tmp_path: Path) -> None:
    folder = write(tmp_path / "step-5", {"__0_0.distcp": b"s", "__1_0.distcp": b"s", "__0.metadata": b"m"})
    assert judge(folder).outcome is Outcome.PARTIAL
    write(folder, {"__1.metadata": b"m"})
    assert judge(folder).outcome is Outcome.WHOLE


@pytest.mark.parametrize(
    "path", ["exp/epoch=0-step=100.ckpt", "step-500"], ids=["as Lightning names it", "as others name it"]
)
def test_dcp_in_a_folder_that_lightning_names_waits_for_lightnings_own_file(tmp_path: Path, path: str) -> None:
    folder = write(tmp_path / "c", {"__0_0.distcp": b"shard", ".metadata": b"metadata"})
    assert judge(folder, path).conclusive is (path == "step-500")


def test_an_item_of_orbax_may_be_committed_before_its_step_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "200", LAYOUTS["Orbax"][1] | {"default/commit_success.txt": "…"})
    assert judge(folder).outcome is Outcome.PARTIAL
    write(folder, {"commit_success.txt": "…"})
    assert judge(folder).conclusive


@pytest.mark.parametrize("text", ["100", "", "x", "9" * 30, "release", "../200"])
def test_a_text_of_megatron_that_names_no_folder_here_is_not_whole(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path / "c", LAYOUTS["Megatron"][1] | {"latest_checkpointed_iteration.txt": text})
    assert judge(folder).outcome is Outcome.PARTIAL


def test_models_that_a_script_saves_side_by_side_are_no_torn_pipeline(tmp_path: Path) -> None:
    files: dict[str, Content] = {f"{part}/model.safetensors": safetensors(w=1) for part in ("unet", "text_encoder")}
    folder = write(tmp_path / "final", files)
    assert judge(folder).outcome is Outcome.WHOLE
    write(folder, {"scheduler/scheduler_config.json": {}})
    assert judge(folder).outcome is Outcome.PARTIAL


def test_an_empty_folder_is_partial(tmp_path: Path) -> None:
    assert judge(tmp_path).outcome is Outcome.PARTIAL


@pytest.mark.parametrize("name", ["weights.gguf", "variables.index", "model.h5", "state.pkl", "notes.txt"])
def test_a_folder_of_no_known_format_is_left_to_time(tmp_path: Path, name: str) -> None:
    verdict = judge(write(tmp_path / "c", {name: b"content"}))
    assert verdict.outcome is Outcome.UNKNOWN
    assert verdict.reason


def test_a_file_that_no_rule_knows_leaves_a_folder_without_a_last_file_to_time(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"model.safetensors": safetensors(w=1), "optimizer.dat": b"..."})
    assert judge(folder).outcome is Outcome.UNKNOWN
    assert "optimizer.dat" in judge(folder).reason


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


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_a_trainer_that_died_before_its_weights_were_written_has_left_no_checkpoint(tmp_path: Path, name: str) -> None:
    files: dict[str, Content] = {name: CONFIG, "generation_config.json": {}, "README.md": b"A model."}
    folder = write(tmp_path / "checkpoint-500", files)
    assert judge(folder, "exp/checkpoint-500").outcome is Outcome.PARTIAL
    write(folder, {"weights.of-its-own": b"\x01"})
    assert judge(folder, "exp/checkpoint-500").outcome is Outcome.UNKNOWN


def test_a_folder_of_another_program_may_be_named_as_trainer_names_its_own(tmp_path: Path) -> None:
    assert judge(write(tmp_path / "checkpoint-500", {"ckpt.pt": torch_save})).rule == "zip"


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


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", '"x"', "[" * 200_000, '{"a":' * 100_000, "9" * 6000, "\0"]
)
@pytest.mark.parametrize("name", ["trainer_state.json", "config.json", "adapter_config.json"])
def test_a_document_that_cannot_be_read_is_a_reason_and_no_error(tmp_path: Path, name: str, text: str) -> None:
    folder = write(tmp_path / "c", LAYOUTS["Trainer"][1] | {name: text})
    assert judge(folder).outcome is Outcome.PARTIAL
    assert name in judge(folder).reason
    assert not facts(folder).resumable


def test_a_file_swapped_for_a_link_or_a_pipe_after_the_listing_is_not_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"config.json": CONFIG, "model.safetensors": safetensors(w=1)})
    listed = local_folder(folder)
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("/etc/hostname")
    (folder / "model.safetensors").unlink()
    os.mkfifo(folder / "model.safetensors")
    assert completeness(listed).outcome is Outcome.PARTIAL
    assert not read_facts(listed).inference_ready


def test_a_folder_that_goes_while_it_is_looked_at_is_partial(tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint-500", LAYOUTS["Trainer"][1])
    listed = local_folder(folder)
    shutil.rmtree(folder)
    assert completeness(listed).outcome is Outcome.PARTIAL
    assert "has gone" in completeness(listed).reason
    assert read_facts(listed).step == 500


def test_a_file_that_shrank_since_the_listing_is_partial(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", {"model.safetensors": safetensors(w=9)})
    listed = local_folder(folder)
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
    program = "import sys; import flexai.checkpoints.training.formats.facts; print(*sys.modules)"
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


class Memory(CheckpointFolder):
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
    assert (told.resumable is True) is (told.resumable_missing == ())
    json.dumps(plain(told), allow_nan=False, ensure_ascii=False).encode("utf-8")


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
