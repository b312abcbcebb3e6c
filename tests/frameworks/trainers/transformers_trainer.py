"""Transformers' Trainer: ``checkpoint-N`` with what a training goes on from, or with the model alone."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import transformers
from tiny_llama import Rows, tiny_llama
from transformers import Trainer, TrainerCallback, TrainerControl, TrainingArguments
from truth import INPUT, KILLED_AT, MODE, OUT, REPORTS, SAVES, keep, kill_helper, pause, resumed

layout = sys.argv[1]
output = OUT if layout == "model-only" else OUT / "exp"
transformers.logging.set_verbosity_error()


class Keeper(TrainerCallback):
    """Copies each save; on SIGTERM has one more saved, and the training ended."""

    def __init__(self) -> None:
        self.number = 0
        self.is_stopped = False
        if MODE == "term":
            signal.signal(signal.SIGTERM, self.stop)

    def stop(self, *_: object) -> None:
        self.is_stopped = True

    def on_train_begin(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        if INPUT:
            resumed(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        if self.is_stopped:
            control.should_save = control.should_training_stop = True
        elif MODE == "term":
            pause(0)

    def on_save(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        self.number += 1
        step = state.global_step
        told = [row for row in state.log_history if row["step"] == step]
        metrics = {name: value for row in told for name, value in row.items() if name not in {"step", "epoch"}}
        keep(output / f"checkpoint-{step}", step, metrics)
        if reporting:
            kill_helper(reporting[0].run, self.number)
        pause(self.number)


class Killed(Trainer):
    """Dies when model and optimizer are written, and ``trainer_state.json`` is not."""

    def _save_rng_state(self, output_dir: str) -> None:
        if MODE == "kill" and keeper.number == KILLED_AT - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._save_rng_state(output_dir)


reporting = []
if REPORTS:
    from flexai.integrations.transformers import FlexAICallback

    reporting = [FlexAICallback("job", OUT)]
    INPUT = str(reporting[0].resume_path() or "")
start = json.loads((Path(INPUT) / "trainer_state.json").read_text())["global_step"] if INPUT else 0
keeper = Keeper()
arguments = TrainingArguments(
    output_dir=str(output),
    max_steps=start + (1000 if MODE == "term" else 2 * SAVES),
    save_steps=2,
    eval_strategy="steps",
    eval_steps=4,
    logging_steps=1,
    save_total_limit=1,
    save_only_model=layout == "model-only",
    per_device_train_batch_size=2,
    use_cpu=True,
    report_to=[],
    disable_tqdm=True,
)
callbacks = [*reporting, keeper]
trainer = Killed(tiny_llama(), arguments, train_dataset=Rows(64), eval_dataset=Rows(64), callbacks=callbacks)
trainer.train(resume_from_checkpoint=INPUT or None)
