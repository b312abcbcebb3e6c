"""The smallest trainer: it fits a line to noisy points in plain Python, and saves as the Transformers Trainer does.

Run by `flexai training run`, it goes on from the checkpoint in FLEXAI_INPUT_CHECKPOINT_DIR where that is set.
"""

from __future__ import annotations

import json
import os
import random
import signal
import struct
from pathlib import Path
from typing import Any

import click

STEPS = 100
SAVE_STEPS = 10
RATE = 0.1
POINTS = [(x / 50, 3 * x / 50 + 1 + random.Random(x).gauss(0, 0.1)) for x in range(50)]


def train(killed_at: int | None = None) -> None:
    """Train to the last step; after the step ``killed_at`` the process kills itself."""
    output = Path(os.environ.get("FLEXAI_OUTPUT_CHECKPOINT_DIR") or "output-checkpoint")
    start = os.environ.get("FLEXAI_INPUT_CHECKPOINT_DIR")
    slope, offset, first = 0.0, 0.0, 1
    if start:
        state = json.loads(Path(start, "trainer_state.json").read_text(encoding="utf-8"))
        (slope, offset), first = state["model"], state["global_step"] + 1
        click.echo(f"going on from step {state['global_step']}")
    for step in range(first, STEPS + 1):
        x, y = POINTS[step * 7 % len(POINTS)]
        error = slope * x + offset - y
        slope, offset = slope - RATE * error * x, offset - RATE * error
        if step % SAVE_STEPS == 0:
            loss = sum((slope * x + offset - y) ** 2 for x, y in POINTS) / len(POINTS)
            save(output / f"checkpoint-{step}", slope, offset, {"step": step, "eval_loss": round(loss, 6)})
            click.echo(f"step {step:3}  eval loss {loss:.4f}")
        if step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)


def save(folder: Path, slope: float, offset: float, scores: dict[str, Any]) -> None:
    """Write the model as safetensors, the optimizer's state, and `trainer_state.json` last."""
    folder.mkdir(parents=True, exist_ok=True)
    tensor = {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]}
    for name in ("model", "optimizer"):
        header = json.dumps({"line": tensor}).encode()
        header += b" " * (-len(header) % 8)
        body = struct.pack("<Q", len(header)) + header + struct.pack("<2d", slope, offset)
        (folder / f"{name}.safetensors").write_bytes(body)
    state = {"global_step": scores["step"], "log_history": [scores], "model": [slope, offset]}
    (folder / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
