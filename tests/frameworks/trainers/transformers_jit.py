"""Trainer, told to end by SIGTERM: it saves once more without an event, and deletes that save before its last event."""

from __future__ import annotations

import os
import time
from typing import Any

import transformers
from tiny_llama import Rows, tiny_llama
from transformers import Trainer, TrainerCallback, TrainerControl, TrainingArguments
from truth import OUT, keep

from flexai.integrations.transformers import FlexAICallback

transformers.logging.set_verbosity_error()


class Keeper(TrainerCallback):
    """Copies what is saved with an event, and without."""

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        time.sleep(0.05)
        if state.global_step > 14:
            control.should_save = control.should_evaluate = False

    def on_save(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        metrics = {name: value for name, value in state.log_history[-1].items() if name not in {"step", "epoch"}}
        keep(OUT / f"checkpoint-{state.global_step}", state.global_step, metrics)

    def on_log(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        if control.should_training_stop:
            # The signal may come between the optimizer's step and the counting of it.
            (folder,) = {*OUT.glob("checkpoint-*")} - {OUT / "checkpoint-7"}
            keep(folder, int(folder.name.removeprefix("checkpoint-")))

    def on_train_end(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        assert os.listdir(OUT) == ["checkpoint-7"]


arguments = TrainingArguments(
    output_dir=str(OUT),
    max_steps=10_000,
    eval_strategy="steps",
    save_steps=7,
    eval_steps=7,
    logging_steps=1000,
    metric_for_best_model="eval_loss",
    greater_is_better=True,  # the first one stays the best
    save_total_limit=1,
    enable_jit_checkpoint=True,
    per_device_train_batch_size=2,
    use_cpu=True,
    report_to=[],
    disable_tqdm=True,
)
callbacks = [Keeper(), FlexAICallback("job")]
trainer = Trainer(tiny_llama(), arguments, train_dataset=Rows(8), eval_dataset=Rows(8), callbacks=callbacks)
trainer.train()
