"""A training of fixed steps, and how many it does in a second before, while and after a save is stored.

``steps.py SAVER numpy|torch THREADS SIZE SECONDS FOLDER REPORT``. The report is a JSON object: steps a second,
``alone`` and ``storing``, and the seconds that the storing took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.programs.savers import SAVERS, write_save

_CHECKED = 20
"""Steps between two questions whether all is stored."""


def step_of(library: str, threads: int) -> Callable[[], Any]:
    """One step: small operations one after the other with one thread, and one that two threads share with more."""
    sides, layers = (256, 20) if threads == 1 else (1024, 2)
    if library == "numpy":
        import numpy as np

        weights = np.full((sides, sides), 1 / sides, np.float32)

        def numpy_step() -> Any:
            values = weights
            for _ in range(layers):
                values = np.tanh(values @ weights)
            return values

        return numpy_step
    import torch

    torch.set_num_threads(threads)
    parameters = torch.full((sides, sides), 1 / sides)

    def torch_step() -> Any:
        values = parameters
        for _ in range(layers):
            values = torch.tanh(values @ parameters)
        return values

    return torch_step


def main(saver_name: str, library: str, threads: int, size: int, seconds: float, folder: Path, report: Path) -> None:
    """Train."""
    folder.mkdir(parents=True)
    saver = SAVERS[saver_name](folder, size)
    path = folder / "step-1.safetensors"
    write_save(path, size, 1, is_full=True)
    step = step_of(library, threads)

    def rate(is_over: Callable[[float], bool], first: Callable[[], None] = lambda: None) -> tuple[float, float]:
        count, began = 0, time.perf_counter()
        first()
        while not is_over(time.perf_counter() - began):
            for _ in range(_CHECKED):
                step()
            count += _CHECKED
        took = time.perf_counter() - began
        return count / took, took

    rate(lambda passed: passed >= seconds)
    before, _ = rate(lambda passed: passed >= seconds)
    storing, took = rate(lambda _: saver.is_settled(), lambda: saver.save(path, 1))
    saver.settle()
    after, _ = rate(lambda passed: passed >= seconds)
    saver.close()
    report.write_text(json.dumps({"alone": (before + after) / 2, "storing": storing, "seconds": took}))


if __name__ == "__main__":
    _saver, _library, _threads, _size, _seconds, _folder, _report = sys.argv[1:]
    main(_saver, _library, int(_threads), int(_size), float(_seconds), Path(_folder), Path(_report))
