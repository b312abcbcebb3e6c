"""A training that saves all the time and is killed: ``killed.py FRAMEWORK FOLDER TRUTH``.

With ``fork`` before that it is a process that has imported the framework, which takes seconds. It forks a training for
each line that it reads, and writes the training's process; for a line with a process it writes how that one ended.

It writes ``saved N`` to TRUTH once its framework has completed the save of step N, before flexai hears of it, and goes
on from what flexai gives it. At SIGTERM it saves what it has, writes ``left at N`` and ends; where TRUTH with ``.end``
behind it is there, it ends after its next save.
"""

from __future__ import annotations

import importlib
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_KEPT = 2
"""Saves that the training keeps; it deletes older ones, as trainings do."""
_PAUSE = 0.05


class Truth:
    """What was completed, as the training knows it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)
        self._end = path.with_name(f"{path.name}.end")
        self.was_told = False
        signal.signal(signal.SIGTERM, self._tell)
        self._file.write(f"runs {os.getpid()}\n")

    @property
    def is_over(self) -> bool:
        """Whether the training is to end."""
        return self.was_told or self._end.exists()

    def saved(self, step: int) -> None:
        """Note a completed save."""
        self._file.write(f"saved {step}\n")

    def left(self, step: int) -> None:
        """Note the step at which a training ended that was told to."""
        if self.was_told:
            self._file.write(f"left at {step}\n")

    def _tell(self, _number: int, _frame: object) -> None:
        self.was_told = True


def step_in(path: Path | None) -> int:
    """The step of a save, which its name ends with; 0 where there is none."""
    return int(re.findall(r"\d+", path.name)[-1]) if path else 0


def loop(suffix: str, write: Callable[[Path, int], None]) -> Callable[[Path, Truth], None]:
    """A training by a loop of its own, which writes a file for each save."""

    def train(folder: Path, truth: Truth) -> None:
        from flexai.training import Run

        run = Run.current() or Run("killed", output_dir=folder)
        folder = run.output_dir
        step = step_in(run.resume_path())
        while True:
            step += 1
            path = folder / f"step-{step}{suffix}"
            write(path, step)
            truth.saved(step)
            run.saved(path, step=step)
            if truth.is_over:
                break
            for old in sorted(folder.glob(f"step-*{suffix}"), key=step_in)[:-_KEPT]:
                old.unlink()
            time.sleep(_PAUSE)
        truth.left(step)
        run.close()

    return train


def _numpy(path: Path, step: int) -> None:
    import numpy as np

    np.savez(path, step=step, weights=np.full(100_000, step, np.float32))


def _torch(path: Path, step: int) -> None:
    import torch

    torch.save({"step": step, "model": {"weights": torch.full((100_000,), float(step))}, "optimizer": {}}, path)


def _transformers(folder: Path, truth: Truth) -> None:
    import torch
    import transformers

    from flexai.integrations.transformers import FlexAICallback

    transformers.logging.set_verbosity_error()

    class Rows(torch.utils.data.Dataset):
        """Rows that are all the same."""

        def __len__(self) -> int:
            return 64

        def __getitem__(self, _number: int) -> dict[str, Any]:
            return {"input_ids": torch.arange(8), "labels": torch.arange(8)}

    class Told(transformers.TrainerCallback):
        """Saves once more and ends, where the training was told to."""

        def on_step_end(self, _args: Any, _state: Any, control: Any, **_: Any) -> None:
            """Pause as well."""
            time.sleep(_PAUSE)
            control.should_training_stop = truth.is_over

    class Trainer(transformers.Trainer):
        """Notes what it has saved, before any callback hears of it."""

        def _save_checkpoint(self, *arguments: Any, **options: Any) -> None:
            super()._save_checkpoint(*arguments, **options)
            truth.saved(self.state.global_step)

    folder = Path(os.environ.get("FLEXAI_OUTPUT_CHECKPOINT_DIR", folder))
    sizes = dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size", "max_position_embeddings"), 16)
    config = transformers.LlamaConfig(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, **sizes)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder),
        max_steps=1_000_000,
        save_steps=1,
        save_total_limit=_KEPT,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    callback = FlexAICallback("killed")
    model = transformers.LlamaForCausalLM(config)
    trainer = Trainer(model, arguments, train_dataset=Rows(), callbacks=[callback, Told()])
    place = callback.resume_path()
    trainer.train(resume_from_checkpoint=None if place is None else str(place))
    truth.left(trainer.state.global_step)


def _lightning(folder: Path, truth: Truth) -> None:
    import lightning
    from lightning.pytorch.callbacks import Callback, ModelCheckpoint
    from lightning.pytorch.demos.boring_classes import BoringModel
    from lightning.pytorch.plugins import TorchCheckpointIO

    from flexai.integrations.lightning import FlexAICallback

    class Noted(TorchCheckpointIO):
        """Notes what is written."""

        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            """Before any callback hears of it."""
            super().save_checkpoint(checkpoint, path, storage_options)
            truth.saved(checkpoint["global_step"])

    class Told(Callback):
        """Ends behind the step's save, where the training was told to."""

        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            """Pause as well."""
            time.sleep(_PAUSE)
            trainer.should_stop = truth.is_over

    folder = Path(os.environ.get("FLEXAI_OUTPUT_CHECKPOINT_DIR", folder))
    callback = FlexAICallback("killed", output_dir=folder)
    saves = ModelCheckpoint(folder, "{step}", monitor="step", mode="max", save_top_k=_KEPT, every_n_train_steps=1)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=1_000_000,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        plugins=[Noted()],
        callbacks=[callback, Told(), saves],
    )
    try:
        trainer.fit(BoringModel(), ckpt_path=callback.resume_path())
    finally:
        # It leaves by an exception where it was told to end.
        truth.left(trainer.global_step)


FRAMEWORKS: dict[str, Callable[[Path, Truth], None]] = {
    "numpy": loop(".npz", _numpy),
    "torch": loop(".pt", _torch),
    "transformers": _transformers,
    "lightning": _lightning,
}


MODULES = {
    "numpy": ("numpy",),
    "torch": ("torch",),
    "transformers": ("torch", "transformers", "transformers.trainer", "transformers.models.llama"),
    "lightning": ("lightning", "lightning.pytorch.demos.boring_classes"),
}
"""What each takes long to import."""


def main(framework: str, folder: Path, truth: Path) -> None:
    """Train."""
    FRAMEWORKS[framework](folder, Truth(truth))


def fork(framework: str, folder: Path, truth: Path) -> None:
    """Fork a training for each empty line, and wait for the one that another line names."""
    for module in MODULES[framework]:
        importlib.import_module(module)
    for line in sys.stdin:
        if line.strip():
            _, status = os.waitpid(int(line), 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
        elif training := os.fork():
            print(training, flush=True)
        else:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            main(framework, folder, truth)
            return


if __name__ == "__main__":
    is_forking = sys.argv[1] == "fork"
    (fork if is_forking else main)(sys.argv[-3], Path(sys.argv[-2]), Path(sys.argv[-1]))
