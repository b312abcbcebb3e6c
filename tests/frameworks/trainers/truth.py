"""What a trainer has saved, copied aside after each save: what its captured checkpoints are compared with.

A trainer here saves in its framework's way, and tells each save by `keep`. The first saves have a pause behind them,
the others follow as fast as the framework can.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

OUT = Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"])
INPUT = os.environ.get("FLEXAI_INPUT_CHECKPOINT", "")
TRUTH = Path(os.environ["TRUTH"])
"""Where the copies go: outside the output directory."""
MODE = os.environ.get("MODE", "")
"""What ends the trainer early: ``term`` waits for the signal and saves once more, ``kill`` dies amid a save."""

PACED, FAST = 3, 6
SAVES = PACED + FAST
KILLED_AT = 3
"""The save amid which a trainer of the mode ``kill`` dies."""
_PAUSE = 0.8


def saves() -> Iterator[int]:
    """Count the saves, with pauses after the first."""
    for number in range(1, SAVES + 1):
        yield number
        pause(number)


def pause(number: int) -> None:
    """Wait after a save that is not one of the fast ones."""
    if number <= PACED or MODE:
        time.sleep(_PAUSE)


def keep(path: str | Path, step: int | None, metrics: Mapping[str, float] | None = None) -> None:
    """Copy a file or a folder that the framework has saved, by its path in the output directory."""
    saved = Path(path)
    number = len(list(TRUTH.glob("save-*")))
    copy = TRUTH / f"copy-{number:03}"
    if saved.is_dir():
        shutil.copytree(saved, copy / "files")
    else:
        (copy / "files").mkdir(parents=True)
        shutil.copy(saved, copy / "files" / saved.name)
    name = os.path.relpath(saved, OUT)
    document = {
        "name": "" if name == "." else name,
        "step": step,
        "metrics": dict(metrics or {}),
        "is_paced": bool(MODE) or number < PACED,
    }
    (copy / "save.json").write_text(json.dumps(document))
    copy.rename(TRUTH / f"save-{number:03}")


def resumed(step: int) -> None:
    """Say that the framework has loaded what it was given, and at which step it goes on."""
    (TRUTH / "resumed.json").write_text(json.dumps({"step": step}))
