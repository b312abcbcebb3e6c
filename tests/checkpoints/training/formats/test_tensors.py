"""What headers say of tensors; ``data/training.pt`` was written by torch 2.13."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexai.checkpoints.training.formats.tensors import TensorInfo, may_hold_tensors, read_tensors
from flexai.checkpoints.training.formats.verdict import CannotTellError, NotWholeError

DATA = Path(__file__).parents[1] / "data"


class Sparse:
    """A file of which only the beginning is in memory, and which counts the bytes that are read."""

    def __init__(self, path: str, head: bytes, size: int) -> None:
        self.files = {path: size}
        self._head = head
        self.bytes = 0

    def read(self, path: str, start: int, length: int) -> bytes:
        length = max(0, min(length, self.files[path] - start))
        self.bytes += length
        return self._head[start : start + length].ljust(length, b"\0")


def told(path: str, content: bytes) -> list[TensorInfo]:
    return read_tensors(Sparse(path, content, len(content)), path)


def safetensors(tensors: dict[str, Any]) -> bytes:
    header = json.dumps(tensors).encode()
    return len(header).to_bytes(8, "little") + header


def test_the_tensors_of_100_gigabytes_are_told_by_the_header_alone() -> None:
    side, header = 50 * 1024**3, {}
    for number in range(2):
        offsets = [number * side, (number + 1) * side]
        header[f"layer.{number}"] = {"dtype": "BF16", "shape": [side // 4096, 2048], "data_offsets": offsets}
    head = safetensors(header)
    file = Sparse("model.safetensors", head, len(head) + 2 * side)
    shape = (side // 4096, 2048)
    assert read_tensors(file, "model.safetensors") == [
        TensorInfo("layer.0", "bfloat16", shape, side),
        TensorInfo("layer.1", "bfloat16", shape, side),
    ]
    assert file.bytes == len(head)


def test_a_type_that_pytorch_has_no_word_for_keeps_its_own() -> None:
    head = safetensors({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}})
    assert told("a.safetensors", head + bytes(4)) == [TensorInfo("a", "f8_e4m3", (4,), 4)]


def test_the_tensors_of_a_pickle_are_told_without_loading_it() -> None:
    found = told("training.pt", (DATA / "training.pt").read_bytes())
    weights = [one for one in found if one.name.startswith("model.")]
    assert weights and all(one.dtype == "float32" and one.size for one in weights)
    assert any("exp_avg" in one.name for one in found)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_the_arrays_of_numpy_are_told_by_their_headers(save: Any) -> None:
    room = io.BytesIO()
    save(room, a=np.zeros((3, 4), np.float32), flag=np.zeros((), bool))
    assert told("a.npz", room.getvalue()) == [
        TensorInfo("a", "float32", (3, 4), 48),
        TensorInfo("flag", "bool", (), 1),
    ]
    room = io.BytesIO()
    np.save(room, np.zeros(5, np.int64))
    assert told("x/step.npy", room.getvalue()) == [TensorInfo("step", "int64", (5,), 40)]


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz", "a.npy"])
def test_a_file_that_is_cut_off_is_said_to_be(name: str) -> None:
    with pytest.raises((NotWholeError, CannotTellError)):
        told(name, b"\x93NUM")


def test_only_files_of_a_kind_that_is_read_here_are_looked_into() -> None:
    paths = ["a.safetensors", "a.pt", "x/.metadata", "__0.metadata", "a.npz", "config.json", "model.gguf", "README"]
    assert [path for path in paths if may_hold_tensors(path)] == paths[:5]
