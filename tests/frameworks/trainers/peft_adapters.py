"""PEFT's ``save_pretrained``: an adapter without its base model."""

from __future__ import annotations

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from truth import OUT, keep, saves

sizes = dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings"), 16)
heads = dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 1)
model = get_peft_model(LlamaForCausalLM(LlamaConfig(**sizes, **heads)), LoraConfig(r=2, target_modules=["q_proj"]))
for number in saves():
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(number)
    folder = OUT / f"adapter-step-{10 * number}"
    model.save_pretrained(folder)
    keep(folder, 10 * number)
