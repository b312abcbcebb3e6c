"""Train a tiny language model with transformers' Trainer, store each checkpoint, and go on where an earlier run ended.

    python examples/callbacks/train_transformers.py

Stop it, and start it again. `flexai training checkpoints transformers-demo` lists what is stored.
"""

from __future__ import annotations

import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from flexai.integrations.transformers import FlexAICallback

rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 64
config = LlamaConfig(
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=2,
    vocab_size=32,
)
arguments = TrainingArguments(
    output_dir=sys.argv[1] if len(sys.argv) > 1 else "out-transformers",
    max_steps=60,
    save_steps=10,
    save_total_limit=1,
    logging_steps=5,
    eval_strategy="steps",
    eval_steps=10,
    enable_jit_checkpoint=True,
    report_to=[],
)
callback = FlexAICallback("transformers-demo")
trainer = Trainer(LlamaForCausalLM(config), arguments, train_dataset=rows, eval_dataset=rows, callbacks=[callback])
trainer.train(resume_from_checkpoint=callback.resume_path())
