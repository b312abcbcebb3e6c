"""Accelerate's ``save_state``, which reports what it saves.

from flexai.integrations.accelerate import save_state

with Run("my-run", output_dir="out") as run:
    if run.resume_path():
        accelerator.load_state(run.resume_path())
    ...
    save_state(accelerator, run, f"out/step_{step}", step=step, metrics={"eval_loss": 0.4})
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from accelerate import Accelerator

from flexai.training import Run

__all__ = ["save_state"]


def save_state(
    accelerator: Accelerator,
    run: Run,
    output_dir: str | os.PathLike[str] | None = None,
    *,
    step: int | None = None,
    metrics: Mapping[str, float] | None = None,
    **options: Any,
) -> str:
    """Save the state as ``accelerator.save_state`` does, report it, and return its folder.

    Every process calls it; one of each machine reports, after all have written.

    Args:
        accelerator: What saves.
        run: What is reported to.
        output_dir: The folder to save to; left out where accelerate names it (``automatic_checkpoint_naming``).
        step: The training's step.
        metrics: What was measured at that step, by name.
        options: What ``accelerator.save_state`` takes besides.
    """
    folder: str = accelerator.save_state(None if output_dir is None else os.fspath(output_dir), **options)
    accelerator.wait_for_everyone()
    if accelerator.is_local_main_process:
        run.saved(folder, step=step, metrics=metrics)
    return folder
