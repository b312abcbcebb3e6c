"""A training that saves once and then computes until it is killed, and that says when it has gone on from its save.

``resuming.py SIZE TIMES``. TIMES gets a line for each thing and its time, ``begins 1767222000.123``: by the clock of
this machine, which all of its processes share.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from flexai.training import Run


def main(size: int, times: Path) -> None:
    """Train."""

    def note(what: str, at: float | None = None) -> None:
        with times.open("a") as file:
            file.write(f"{what} {at or time.time()}\n")

    note("begins")
    run = Run.current()
    assert run is not None, "it is a training of `flexai training run`, or of its task"
    place = run.resume_path()
    if place is not None:
        # Its last change is the rename to its name.
        note("fetched", place.stat().st_ctime)
        note("loads")
        weights = np.load(place)
        note("loaded")
        np.tanh(weights[:1000]).sum()
        note("steps")
        return
    rows = size // 4096
    weights = np.random.default_rng(0).random((rows, 1024), np.float32)
    np.save(run.output_dir / "step-1.npy", weights)
    run.saved(run.output_dir / "step-1.npy", step=1, metrics={"eval_loss": 0.5})
    run.wait(check=True)
    note("stored")
    while True:
        np.tanh(weights[:1000]).sum()
        time.sleep(0.01)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
