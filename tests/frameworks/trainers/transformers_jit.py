"""Trainer, told to end by SIGTERM: it saves once more without an event, and deletes that save before its last event."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainerControl, TrainingArguments
from truth import OUT, keep

from flexai.integrations.transformers import FlexAICallback

transformers.logging.set_verbosity_error()


class Rows(torch.utils.data.Dataset):  # type: ignore
    def __len__(self) -> int:
        return 8

    def __getitem__(self, number: int) -> dict[str, Any]:
        ids = torch.arange(8) % 32
        return {"input_ids": ids, "labels": ids}


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
config = LlamaConfig(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    vocab_size=32,
    max_position_embeddings=16,
)
callbacks = [Keeper(), FlexAICallback("job")]
trainer = Trainer(LlamaForCausalLM(config), arguments, train_dataset=Rows(), eval_dataset=Rows(), callbacks=callbacks)
trainer.train()
