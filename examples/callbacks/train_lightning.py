"""Train a tiny model with Lightning, store each checkpoint, and go on where an earlier run ended.

    python examples/callbacks/train_lightning.py

Stop it, and start it again. `flexai training checkpoints lightning-demo` lists what is stored.
"""

from __future__ import annotations

import sys

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from flexai.integrations.lightning import FlexAICallback

out = sys.argv[1] if len(sys.argv) > 1 else "out-lightning"
callback = FlexAICallback("lightning-demo", output_dir=out)
keep_one = ModelCheckpoint(dirpath=out, every_n_train_steps=10, save_top_k=1)
trainer = Trainer(max_steps=60, callbacks=[callback, keep_one], logger=False)
trainer.fit(BoringModel(), ckpt_path=callback.resume_path())
