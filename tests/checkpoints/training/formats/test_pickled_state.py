"""What is read in trainers' own files, without loading them.

The files in ``data`` are of torch 2.13 and Lightning 2.6: ``training.pt`` holds a model, an AdamW and some numbers.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexai.checkpoints.training.formats.pickled_file import PickledFile, Tensor
from flexai.checkpoints.training.formats.pickled_state import PickledState, read_dcp, read_state
from tests.hostile.pickles import HOSTILE, archive

DATA = Path(__file__).parents[1] / "data"
LIGHTNING = "epoch=1-step=20.ckpt"


class Files:
    """A checkpoint in memory, which counts how often it is read."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._content = dict(files)
        self.files = {path: len(content) for path, content in files.items()}
        self.reads = 0

    def read(self, path: str, start: int, length: int) -> bytes:
        self.reads += 1
        return self._content[path][start : start + length]


def saved(state: object, *, protocol: int = 2) -> bytes:
    """As ``torch.save`` writes what holds no tensors."""
    return archive({"ckpt/data.pkl": pickle.dumps(state, protocol), "ckpt/data/0": bytes(64), "ckpt/version": b"3\n"})


def told(state: object, name: str = "ckpt.pt") -> PickledState:
    return read_state(Files({name: saved(state)}), name)


def of_file(name: str, called: str = "ckpt.pt") -> PickledState:
    return read_state(Files({called: (DATA / name).read_bytes()}), called)


def test_the_file_of_lightning_tells_its_step_its_score_and_that_a_training_can_go_on_from_it() -> None:
    state = of_file("lightning.ckpt", LIGHTNING)
    assert (state.step, state.epoch, state.has_weights, state.has_optimizer) == (20, 1, True, True)
    assert state.metrics == {"val_loss": pytest.approx(0.182938, abs=1e-6)}
    assert state.best_by == "val_loss:min"


def test_the_file_of_a_training_loop_tells_its_iteration_and_its_own_loss() -> None:
    state = of_file("training.pt")
    assert (state.step, state.has_weights, state.has_optimizer) == (7, True, True)
    # The best loss so far may be an earlier iteration's.
    assert state.metrics == {"val_loss": 0.25}


def test_the_format_before_archives_is_followed_as_well() -> None:
    state = of_file("torch-save-legacy.pt")
    assert (state.step, state.has_weights, state.has_optimizer) == (7, True, True)


def test_tensors_are_told_with_their_dtypes_and_shapes() -> None:
    tensors = dict(PickledFile(Files({"a.pt": (DATA / "training.pt").read_bytes()}), "a.pt").tensors())
    assert tensors["model.0.weight"][:2] == ("float32", (8, 4))
    assert tensors["optimizer.state.0.exp_avg"][:2] == ("float32", (8, 4))
    assert tensors["best_val_loss"][:2] == ("float32", ())


def test_the_metadata_of_dcp_tells_what_its_shards_hold() -> None:
    entries = read_dcp(Files({".metadata": (DATA / "dcp.metadata").read_bytes()}), ".metadata")
    assert entries is not None
    assert entries["model.0.weight"] == Tensor("float32", (8, 4))
    assert entries["optimizer.state.3.exp_avg_sq"] == Tensor("float32", (2,))
    assert entries["optimizer.param_groups.0.lr"] is None


def test_a_large_file_is_read_twice() -> None:
    state = {"model": {}, "optimizer": {}, "iter_num": 7}
    names = {f"ckpt/data/{number}": bytes(100_000) for number in range(40)}
    content = archive({"ckpt/data.pkl": pickle.dumps(state, 2), **names, "ckpt/version": b"3\n"})
    files = Files({"ckpt.pt": content})
    assert read_state(files, "ckpt.pt").step == 7
    assert files.reads == 2


@pytest.mark.parametrize(
    ("state", "step", "epoch"),
    [
        ({"global_step": 7, "epoch": 1}, 7, 1),
        ({"step": 7.0}, 7, None),
        ({"iteration": np.int64(7)}, 7, None),
        ({"global_steps": 7, "dp_world_size": 1}, 7, None),
        ({"state": {"timestamp": {"epoch": 1, "batch": 7}}}, 7, 1),
        ({"state": {"timestamp": {"Timestamp": {"epoch": 1, "batch": 7}}}}, 7, 1),
        ({"extra_state": {"train_iterator": {"epoch": 2}}, "optimizer_history": [{"num_updates": 7}]}, 7, 2),
        ({"meta": {"epoch": 2, "iter": 7}}, 7, 2),
        ({"epoch": 3, "state_dict": {}}, None, 3),
        ({"step": -1}, None, None),
        ({"step": True}, None, None),
        ({"step": "7"}, None, None),
        ({"step": 2**70}, None, None),
        ({"optimizer": {"step": 7}}, None, None),
        ({}, None, None),
    ],
)
def test_the_step_is_where_trainers_keep_it(state: Any, step: int | None, epoch: int | None) -> None:
    found = told(state)
    assert (found.step, found.epoch) == (step, epoch)


class Custom:
    """What only its own class could open."""


@pytest.mark.parametrize(
    ("state", "has_weights", "has_optimizer"),
    [
        ({"model": {}, "optimizer": {}}, True, True),
        ({"state_dict": collections.OrderedDict(), "optimizer_states": [{"state": {}}]}, True, True),
        ({"state_dict": {}, "optimizer_states": []}, True, False),
        ({"model": {}, "last_optimizer_state": {}}, True, True),
        ({"model": {}, "optim": {}}, True, True),
        ({"params": {}, "opt_state": {}}, True, True),
        ({"state": {"model": {}, "optimizers": {"Adam": {}}}}, True, True),
        ({"model": {}, "optimizer": None}, True, False),
        ({"model": {}, "optimizer": "adamw"}, True, False),
        ({"model": {}, "optimizer_name": {"x": 1}, "lr_scheduler": {}}, True, False),
        ({"model": {}, "optimizer_history": [{"num_updates": 1}]}, True, False),
        ({"model": {"w.exp_avg": {}}}, True, False),
        ({"state": {0: {"exp_avg": 1}}, "param_groups": []}, False, True),
        ({"model": {}, "trainer": Custom()}, True, None),
        ({"callbacks": {}, "epoch": 3}, False, False),
        (Custom(), None, None),
        ([1, 2], None, None),
        ({}, None, None),
    ],
)
def test_weights_and_optimizer_state_are_there_are_not_or_cannot_be_told(
    state: object, has_weights: bool | None, has_optimizer: bool | None
) -> None:
    found = told(state)
    assert (found.has_weights, found.has_optimizer) == (has_weights, has_optimizer)


def test_a_model_alone_has_no_optimizer_state() -> None:
    file = Files({"model.pt": (DATA / "torch-save.pt").read_bytes()})
    state = read_state(file, "model.pt")
    assert (state.has_weights, state.has_optimizer) == (True, False)


@pytest.mark.parametrize(
    ("state", "metrics"),
    [
        (
            {"val_loss": 0.5, "eval/accuracy": 0.25, "acc1": 71.0, "lr": 0.1},
            [("val_loss", 0.5), ("eval/accuracy", 0.25)],
        ),
        ({"metric": 71.5, "best_acc1": 72.0, "val_loss_best": 0.1}, [("metric", 71.5)]),
        ({"metrics": {"custom": 1, "loss": 0.5}}, [("custom", 1.0), ("loss", 0.5)]),
        ({"extra_state": {"val_loss": 3.5, "best": 3.0}}, [("val_loss", 3.5)]),
        ({"val_loss": np.float32(0.5)}, [("val_loss", 0.5)]),
        ({"val_loss": float("nan"), "accuracy": float("inf")}, []),
        ({"loss": "0.5", "scores": 3, "accuracy\n": 0.5}, []),
        ({"mapping": 1.0, "flossy": 1.0}, []),
    ],
)
def test_metrics_are_those_of_the_file_itself(state: object, metrics: list[tuple[str, float]]) -> None:
    found = list(told(state).metrics.items())
    assert found[: len(metrics)] == metrics
    assert len(found) <= len(metrics) + 1


def checkpointing(**state: Any) -> dict[str, Any]:
    key = "ModelCheckpoint{'monitor': 'val/acc', 'mode': 'max', 'every_n_train_steps': 0}"
    return {"global_step": 200, "callbacks": {key: {"monitor": "val/acc", **state}}}


@pytest.mark.parametrize(
    ("name", "callback", "score"),
    [
        (
            "epoch=0-step=200.ckpt",
            {"best_k_models": {"/x/epoch=0-step=100.ckpt": 0.5, "/x/epoch=0-step=200.ckpt": 0.75}},
            0.75,
        ),
        ("last.ckpt", {"best_k_models": {"/x/epoch=0-step=200.ckpt": 0.75}, "current_score": 0.5}, 0.75),
        ("last.ckpt", {"best_k_models": {"/x/epoch=0-step=100.ckpt": 0.75}, "current_score": 0.75}, None),
        ("my.ckpt", {"best_k_models": {"/x/my.ckpt": 0.75}}, 0.75),
        ("last.ckpt", {"current_score": 0.75, "best_model_score": 0.9}, 0.75),
        ("last.ckpt", {"current_score": None}, None),
    ],
)
def test_the_score_that_a_callback_gives_a_file_is_that_of_its_own_step(
    name: str, callback: dict[str, Any], score: float | None
) -> None:
    state = told(checkpointing(**callback), name)
    assert state.metrics == ({} if score is None else {"val/acc": score})
    assert state.best_by == "val/acc:max"


def test_an_archive_of_stable_baselines_tells_its_timesteps_and_its_optimizer() -> None:
    members = {
        "data": b'{"num_timesteps": 1000}',
        "policy.pth": b"",
        "policy.optimizer.pth": b"",
        "system_info.txt": b"",
    }
    state = read_state(Files({"rl_model.zip": archive(members)}), "rl_model.zip")
    assert (state.step, state.has_weights, state.has_optimizer) == (1000, True, True)
    del members["policy.optimizer.pth"]
    assert read_state(Files({"rl_model.zip": archive(members)}), "rl_model.zip").has_optimizer is False


def test_an_archive_in_an_archive_does_not_speak_for_it() -> None:
    inner = saved({"state": {}, "param_groups": [], "step": 5})
    members = {"data": b'{"num_timesteps": 1000}', "policy.pth": saved({}), "policy.optimizer.pth": inner}
    state = read_state(Files({"rl_model.zip": archive(members)}), "rl_model.zip")
    assert (state.step, state.has_weights, state.has_optimizer) == (1000, True, True)


def packed(**values: bytes) -> bytes:
    """A map of MessagePack."""
    items = (bytes((0xA0 | len(key),)) + key.encode() + value for key, value in values.items())
    return bytes((0x80 | len(values),)) + b"".join(items)


@pytest.mark.parametrize(
    ("content", "step", "has_optimizer"),
    [
        (packed(step=b"\x07", params=packed(w=b"\xc4\x03abc"), opt_state=packed(mu=b"\x01")), 7, True),
        (packed(opt_state=b"\x92\x01\xa1x", step=b"\xcd\x01\x00"), 256, True),
        (packed(params=b"\x80"), None, None),
        (packed(step=b"\xcb" + bytes(8)), None, None),
        (packed(step=b"\xcd\x01"), None, None),
        (packed(step=b"\x07")[:-1] + b"\xc1", None, None),
        (b"\xdf\xff\xff\xff\xff\xa1a\x01", None, None),
        (b"\x81\x01\x01", None, None),
    ],
)
def test_a_state_of_flax_tells_its_step_and_its_optimizer(
    content: bytes, step: int | None, has_optimizer: bool | None
) -> None:
    state = read_state(Files({"a.msgpack": content}), "a.msgpack")
    assert (state.step, state.has_optimizer) == (step, has_optimizer)


@pytest.mark.parametrize(("names", "has_optimizer"), [(b"model_weights\0optimizer_weights", True), (b"model", None)])
def test_a_file_of_hdf5_names_its_optimizer_at_its_start(names: bytes, has_optimizer: bool | None) -> None:
    content = b"\x89HDF\r\n\x1a\n" + bytes(100) + names
    assert read_state(Files({"a.h5": content}), "a.h5").has_optimizer is has_optimizer


@pytest.mark.parametrize(("compiled", "has_optimizer"), [(b'{"optimizer": {}}', True), (b"null", False)])
def test_a_file_of_keras_holds_its_optimizer_where_the_model_was_compiled(compiled: bytes, has_optimizer: bool) -> None:
    members = {"metadata.json": b"{}", "config.json": b'{"compile_config": %s}' % compiled, "model.weights.h5": b""}
    assert read_state(Files({"a.keras": archive(members)}), "a.keras").has_optimizer is has_optimizer


def test_arrays_with_the_names_of_an_optimizer_are_one() -> None:
    def arrays(*names: str) -> PickledState:
        file = io.BytesIO()
        content: dict[str, Any] = dict.fromkeys(names, np.zeros(2))
        np.savez(file, **content)
        return read_state(Files({"a.npz": file.getvalue()}), "a.npz")

    assert arrays("params", "opt_state").has_optimizer is True
    assert arrays("params").has_optimizer is None


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_told_nothing_of_and_raises_nothing(name: str) -> None:
    for called in (name, "ckpt.pt"):
        state = read_state(Files({called: HOSTILE[name]()}), called)
        assert (state.step, dict(state.metrics)) == (None, {})


@pytest.mark.parametrize("length", [0, 1, 100, 1000, 3000])
def test_a_torn_file_is_told_nothing_of(length: int) -> None:
    content = (DATA / "lightning.ckpt").read_bytes()[:length]
    assert read_state(Files({LIGHTNING: content}), LIGHTNING) == PickledState()
