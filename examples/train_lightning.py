"""Fit a line with Lightning, as a training job: the script knows nothing of flexai but two folders.

    flexai training run lightning --checkpoint latest -- python examples/train_lightning.py

The same command, run again, goes on from the latest checkpoint.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset


class Line(LightningModule):
    """Learns a slope and an offset."""

    def __init__(self) -> None:
        """Begin with any line."""
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def training_step(self, batch: list[torch.Tensor], _number: int) -> torch.Tensor:
        """Tell the loss."""
        return torch.nn.functional.mse_loss(self.line(batch[0]), batch[1])

    def validation_step(self, batch: list[torch.Tensor], number: int) -> None:
        """Log what the best checkpoint is chosen by."""
        self.log("val_loss", self.training_step(batch, number))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Go down the slope."""
        return torch.optim.SGD(self.parameters(), lr=0.02)


seed_everything(0)
places = torch.linspace(-1, 1, 256).unsqueeze(1)
points = DataLoader(TensorDataset(places, 2 * places + 1 + 0.1 * torch.randn_like(places)), batch_size=8)

output = os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"]
saves = Path(os.environ.get("FLEXAI_INPUT_CHECKPOINT_DIR", "nothing")).glob("*.ckpt")
trainer = Trainer(
    max_epochs=4,
    callbacks=[ModelCheckpoint(output, monitor="val_loss")],  # keeps the best one, and deletes the others
    logger=False,
    accelerator="cpu",
    enable_progress_bar=False,
)
trainer.fit(Line(), points, points, ckpt_path=next(saves, None))
