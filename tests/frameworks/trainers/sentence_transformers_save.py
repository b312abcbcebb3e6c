"""Sentence-transformers' ``save``: a folder of modules."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from sentence_transformers import SentenceTransformer, models
from transformers import BertConfig, BertModel, BertTokenizerFast
from truth import OUT, keep, saves

with TemporaryDirectory() as base:
    words = Path(base) / "words.txt"
    words.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "hello", "world"]))
    sizes = dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings"), 16)
    BertModel(BertConfig(num_hidden_layers=1, num_attention_heads=1, **sizes)).save_pretrained(base)
    BertTokenizerFast(vocab_file=str(words)).save_pretrained(base)
    transformer = models.Transformer(base)
    model = SentenceTransformer(modules=[transformer, models.Pooling(16)])
for number in saves():
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(number)
    folder = OUT / f"epoch-{number}"
    model.save(str(folder), create_model_card=False)
    keep(folder, number)
