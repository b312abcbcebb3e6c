"""Lightning's ModelCheckpoint: flat with a copy of the last, with a link to it, and below ``lightning_logs``."""

from __future__ import annotations

import io
import os
import signal
import sys
import warnings
from typing import Any

import lightning
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from truth import INPUT, KILLED_AT, MODE, OUT, RANKS, REPORTS, SAVES, keep, kill_helper, pause, resumed

layout = sys.argv[1]
warnings.simplefilter("ignore", UserWarning)


class Model(BoringModel):
    def __init__(self) -> None:
        super().__init__()
        self.is_stopped = False

    def training_step(self, batch: Any, number: int) -> Any:
        loss = super().training_step(batch, number)["loss"]
        self.log("train_loss", loss, on_step=True)
        self.log("score", float(self.global_step + 1))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters())

    def on_train_start(self) -> None:
        if INPUT:
            resumed(self.global_step)

    def on_train_batch_end(self, *_: Any) -> None:
        if self.is_stopped:
            self.trainer.save_checkpoint(OUT / f"stopped-step={self.global_step}.ckpt")
            keep(OUT / f"stopped-step={self.global_step}.ckpt", self.global_step)
            self.trainer.should_stop = True
        elif MODE == "term":
            pause(0)


class Keeper(ModelCheckpoint):
    """Copies each save but those of the file ``last``, which are the same once more."""

    number = 0

    def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        if "last" not in os.path.basename(filepath):
            monitored = {"score": float(trainer.global_step)} if layout != "copy" else {}
            keep(filepath, trainer.global_step, monitored)

    def _save_last_checkpoint(self, trainer: Any, candidates: Any) -> None:
        super()._save_last_checkpoint(trainer, candidates)
        Keeper.number += 1
        if reporting:
            kill_helper(reporting[0].run, Keeper.number)
        pause(Keeper.number)


class Killed(TorchCheckpointIO):
    """Dies amid the writing of a file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if MODE == "kill" and Keeper.number == KILLED_AT - 1:
            memory = io.BytesIO()
            torch.save(checkpoint, memory)
            with open(path, "wb") as file:
                file.write(memory.getvalue()[: len(memory.getvalue()) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        super().save_checkpoint(checkpoint, path, storage_options)


reporting = []
if REPORTS:
    from flexai.integrations.lightning import FlexAICallback

    reporting = [FlexAICallback("job", OUT)]
    INPUT = str(reporting[0].resume_path() or "")
start = torch.load(INPUT, weights_only=False)["global_step"] if INPUT else 0
keeper = Keeper(
    dirpath=None if layout == "default" else str(OUT),
    save_top_k=1,
    monitor="score" if layout == "link" else None,
    mode="max",
    save_last={"copy": True, "link": "link", "default": None}[layout],
    every_n_train_steps=5,
    save_on_train_epoch_end=False,
)
model = Model()
if MODE == "term":
    signal.signal(signal.SIGTERM, lambda *_: setattr(model, "is_stopped", True))
trainer = lightning.Trainer(
    max_steps=start + (1000 if MODE == "term" else 5 * SAVES),
    limit_val_batches=0,
    default_root_dir=str(OUT),
    logger=CSVLogger(str(OUT), flush_logs_every_n_steps=1) if layout == "default" else False,
    log_every_n_steps=1,
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[*reporting, keeper],
    plugins=[Killed()],
    accelerator="cpu",
    devices=RANKS,
    strategy="ddp" if RANKS > 1 else "auto",
)
trainer.fit(model, ckpt_path=INPUT or None, weights_only=False)
