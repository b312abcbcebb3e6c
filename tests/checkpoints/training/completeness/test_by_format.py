"""Completeness and facts of checkpoint folders, on real directories with real files in them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexai.checkpoints.models import plain
from flexai.checkpoints.training.completeness.by_format import Completeness, completeness
from flexai.checkpoints.training.formats.facts import read_facts
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.formats.verdict import Outcome
from tests.checkpoints.training.layouts import (
    CONCLUSIVE,
    CONFIG,
    LAYOUTS,
    TORCH_SAVE,
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
def layout(request: pytest.FixtureRequest) -> tuple[str, dict[str, Content], str]:
    return LAYOUTS[request.param]


def test_a_folder_with_all_its_files_is_whole(tmp_path: Path, layout: tuple[str, dict[str, Content], str]) -> None:
    name, files, rule = layout
    verdict = judge(write(tmp_path / "c", files), name)
    assert verdict == Completeness(Outcome.WHOLE, rule, conclusive=rule in CONCLUSIVE)


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
