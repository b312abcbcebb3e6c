"""What training commands do with checkpoints, for tests to run as programs of their own and to know what was written.

Imports nothing but the standard library, and little of that, so that such a program starts at once.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

Files = Mapping[str, bytes]


def weights(step: int, size: int = 64) -> bytes:
    """A safetensors file whose content depends on the step."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes((step + place) % 256 for place in range(size))


def archive(step: int) -> bytes:
    """A zip archive as ``torch.save`` writes one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        file.writestr(zipfile.ZipInfo("data.pkl"), f"state {step}")
    return buffer.getvalue()


def torch_file(step: int, state: Mapping[str, object], *, size: int = 256) -> bytes:
    """What ``torch.save`` writes of a dict: its pickle, a storage whose bytes tell the step, and the version."""
    buffer = io.BytesIO()
    members = {"data.pkl": pickle.dumps(dict(state), protocol=2), "data/0": bytes([step % 256]) * size, "version": b"3"}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    return buffer.getvalue()


def script_file(step: int) -> bytes:
    """A checkpoint of a script that saves what it goes on from."""
    return torch_file(step, {"step": step, "model": {}, "optimizer": {}})


def lightning_file(step: int) -> bytes:
    """A checkpoint of Lightning."""
    state: dict[str, object] = {"epoch": step, "global_step": step, "pytorch-lightning_version": "2.6.6"}
    return torch_file(step, state | {"state_dict": {}, "loops": {}, "optimizer_states": [{}], "lr_schedulers": []})


def trainer_files(step: int, *, eval_loss: float | None = None) -> dict[str, bytes]:
    """A checkpoint of the Transformers Trainer: its files in the order in which they are written."""
    log = [{"loss": 1 / step, "step": step}]
    if eval_loss is not None:
        log.append({"eval_loss": eval_loss, "step": step})
    return {
        "config.json": json.dumps({"architectures": ["TinyModel"], "transformers_version": "4.57.6"}).encode(),
        "model.safetensors": weights(step),
        "optimizer.pt": archive(step),
        "trainer_state.json": json.dumps({"global_step": step, "log_history": log}).encode(),
    }


def deepspeed_files(step: int) -> dict[str, bytes]:
    """What DeepSpeed writes into a step's folder."""
    return {
        "mp_rank_00_model_states.pt": torch_file(step, {"module": {}, "global_steps": step}),
        "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt": torch_file(step, {"optimizer_state_dict": {}}),
    }


def model_files(step: int) -> dict[str, bytes]:
    """A final model: no optimizer, no state of a trainer."""
    files = trainer_files(step)
    return {name: files[name] for name in ("config.json", "model.safetensors")}


def unknown_files(step: int) -> dict[str, bytes]:
    """A checkpoint of no known format."""
    return {"net.weights": f"weights {step}".encode() * 100, "nested/net.moments": f"moments {step}".encode() * 100}


def save(folder: Path, files: Files, *, pause: float = 0.0) -> None:
    """Write files one after the other, each in two halves with a pause (seconds) before and between them."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb", buffering=0) as file:
            file.write(content[: len(content) // 2])
            time.sleep(pause)
            file.write(content[len(content) // 2 :])
        time.sleep(pause)


def save_by_rename(folder: Path, files: Files, *, pause: float = 0.0) -> None:
    """Write each file beside its name and rename it over what is there."""
    for name, content in files.items():
        save(folder, {f"{name}.tmp": content}, pause=pause)
        (folder / f"{name}.tmp").replace(folder / name)


class Layout(NamedTuple):
    """How a trainer saves: what a save holds, and how it comes to be and replaces the one before."""

    files: Callable[[int], Files]
    """What a captured checkpoint of a step holds."""
    save: Callable[[Path, int], None]
    """Write it below the output directory, and delete what it deletes."""


def _save_folder(out: Path, step: int) -> None:
    save(out / f"checkpoint-{step}", trainer_files(step))
    shutil.rmtree(out / f"checkpoint-{step - 1}", ignore_errors=True)


def _save_renamed_folder(out: Path, step: int) -> None:
    save(out / "exp" / f"tmp-{step}", trainer_files(step))
    (out / "exp" / f"tmp-{step}").rename(out / "exp" / f"checkpoint-{step}")
    shutil.rmtree(out / "exp" / f"checkpoint-{step - 1}", ignore_errors=True)


def _save_file(out: Path, step: int) -> None:
    name = f"epoch={step}-step={step}.ckpt"
    save(out, {name: lightning_file(step)})
    save(out, {"last.ckpt": lightning_file(step)})
    (out / f"epoch={step - 1}-step={step - 1}.ckpt").unlink(missing_ok=True)


def _save_over(out: Path, step: int) -> None:
    save_by_rename(out, {"ckpt.pt": script_file(step)})


def _save_tagged(out: Path, step: int) -> None:
    save(out / f"global_step{step}", deepspeed_files(step))
    save(out, {"latest": f"global_step{step}".encode()})
    shutil.rmtree(out / f"global_step{step - 1}", ignore_errors=True)


def _save_shards(out: Path, step: int) -> None:
    save(out / f"step_{step}", {"__0_0.distcp": weights(step), ".metadata.tmp": b"metadata"})
    (out / f"step_{step}" / ".metadata.tmp").rename(out / f"step_{step}" / ".metadata")
    shutil.rmtree(out / f"step_{step - 1}", ignore_errors=True)


LAYOUTS = {
    "folders": Layout(trainer_files, _save_folder),
    "renamed": Layout(trainer_files, _save_renamed_folder),
    "files": Layout(lambda step: {f"epoch={step}-step={step}.ckpt": lightning_file(step)}, _save_file),
    "replaced": Layout(lambda step: {"ckpt.pt": script_file(step)}, _save_over),
    "tagged": Layout(
        lambda step: {
            **{f"global_step{step}/{name}": content for name, content in deepspeed_files(step).items()},
            "latest": f"global_step{step}".encode(),
        },
        _save_tagged,
    ),
    "shards": Layout(lambda step: {"__0_0.distcp": weights(step), ".metadata": b"metadata"}, _save_shards),
}
"""Layouts whose trainers delete each save once the next one is complete."""


def step_of(layout: str, files: Files) -> int:
    """The save of a layout that some files are, file by file. Raises ValueError where they are none."""
    for step in range(1, 1000):
        if files == LAYOUTS[layout].files(step):
            return step
    raise ValueError(f"no save of {layout} is {sorted(files)}")


def output() -> Path:
    """The output directory that the job gives."""
    return Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"])


def read_input() -> Files:
    """What the job gives to go on from; nothing where it gives none."""
    folder = Path(os.environ.get("FLEXAI_INPUT_CHECKPOINT_DIR") or os.devnull)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rotate(keep: int, saved: list[Path]) -> None:
    """Delete all but the newest checkpoints (``save_total_limit``)."""
    while len(saved) > keep:
        shutil.rmtree(saved.pop(0))


def say(text: str) -> None:
    """Print a line in one piece."""
    os.write(1, f"{text}\n".encode())


def wait_for(path: Path) -> None:
    """Wait until a file is there."""
    while not path.exists():
        time.sleep(0.01)


def wait_until_pinned(folder: Path, *, seconds: float = 5.0) -> None:
    """Wait until a file below a folder has got a second name, or has had one: that changes its time of change.

    A runner that has no turn of the processor meanwhile could not keep what is deleted soon. ``last.ckpt`` and
    ``latest`` are left out, for they get none, or keep the one of the save before.
    """
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name not in {"last.ckpt", "latest"}]
    changed = {path: path.stat().st_ctime_ns for path in paths}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if any((now := path.stat()).st_nlink > 1 or now.st_ctime_ns != changed[path] for path in paths):
            return
        time.sleep(0.005)


def program(text: str) -> list[str]:
    """The command that runs a Python program which can use all of the above."""
    lines = [
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})",
        "from trainers import *",
        "import signal, subprocess",
        "",
        text,
    ]
    return [sys.executable, "-u", "-I", "-S", "-c", "\n".join(lines)]
