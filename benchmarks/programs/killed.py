"""A training that saves all the time and is killed: ``killed.py FRAMEWORK FOLDER TRUTH``.

It writes ``saved N`` to TRUTH once its framework has completed the save of step N, before flexai hears of it, and goes
on from what flexai gives it. At SIGTERM it saves what it has, writes ``left at N`` and ends; where TRUTH with ``.end``
behind it is there, it ends after its next save.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

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


FRAMEWORKS: dict[str, Callable[[Path, Truth], None]] = {
    "numpy": loop(".npz", _numpy),
    "torch": loop(".pt", _torch),
}


def main(framework: str, folder: Path, truth: Path) -> None:
    """Train."""
    FRAMEWORKS[framework](folder, Truth(truth))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
