"""What a trainer has saved, copied aside after each save: what its captured checkpoints are compared with.

A trainer here saves in its framework's way, and tells each save by `keep`. The first saves have a pause behind them,
the others follow as fast as the framework can. One that reports what it saves has a short pause behind each.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

OUT = Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"])
INPUT = os.environ.get("FLEXAI_INPUT_CHECKPOINT", "")
TRUTH = Path(os.environ["TRUTH"])
"""Where the copies go: outside the output directory."""
MODE = os.environ.get("MODE", "")
"""What ends the trainer early: ``term`` waits for the signal and saves once more, ``kill`` dies amid a save."""
REPORTS = bool(os.environ.get("REPORTS"))
"""Whether the trainer reports what it saves to a run: one of its own, or that of the runner which it is below."""

RANK, RANKS = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
"""Which of how many processes of a training this is; the first one copies."""

PACED, FAST = 3, 6
SAVES = int(os.environ.get("SAVES") or (30 if REPORTS else PACED + FAST))
KILLED_AT = 3
"""The save amid which a trainer of the mode ``kill`` dies."""
_PAUSE = 0.05 if REPORTS else 0.8
HELPER_KILLED_AT = 25
"""The save after which a trainer of the mode ``kill-helper`` kills the process that stores for it."""


def saves() -> Iterator[int]:
    """Count the saves, with pauses after the first."""
    for number in range(1, SAVES + 1):
        yield number
        pause(number)


def pause(number: int) -> None:
    """Wait after a save that is not one of the fast ones."""
    if REPORTS or number <= PACED or MODE:
        time.sleep(_PAUSE)


def keep(path: str | Path, step: int | None, metrics: Mapping[str, float] | None = None) -> None:
    """Copy a file or a folder that the framework has saved, by its path in the output directory."""
    if RANK:
        return
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


def kill_helper(run: Any, number: int) -> None:
    """Kill the process that stores what is reported to a run, in the mode for it, after one of the saves."""
    if MODE == "kill-helper" and number == HELPER_KILLED_AT:
        os.kill(run._helper.pid, signal.SIGKILL)


def resumed(step: int) -> None:
    """Say that the framework has loaded what it was given, and at which step it goes on."""
    if RANK:
        return
    (TRUTH / "resumed.json").write_text(json.dumps({"step": step}))
