"""A training that saves again and again, and tells what each save has cost it.

``saves.py SAVER SIZE SAVES new|same FOLDER REPORT``: each save is a file of its own, or the same one is written over
where it is. The report is a JSON list of seconds.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.programs.savers import SAVERS, write_save

_BURST = 6
"""Saves that follow one another before the training waits for the store: fewer than a Run lets wait."""
_HUGE = 1024**3


def main(saver_name: str, size: int, saves: int, place: str, folder: Path, report: Path) -> None:
    """Train."""
    folder.mkdir(parents=True)
    saver = SAVERS[saver_name](folder, size)
    took = []
    # What is cloned in memory for each save that waits would not fit in.
    burst = 1 if place == "same" or (saver_name == "lightning" and size >= _HUGE) else _BURST
    for step in range(1, saves + 1):
        path = folder / ("weights.safetensors" if place == "same" else f"step-{step}.safetensors")
        write_save(path, size, step)
        began = time.perf_counter()
        saver.save(path, step)
        took.append(time.perf_counter() - began)
        if step % burst == 0 or step == saves:
            saver.settle()
            for old in folder.glob("step-*"):
                old.unlink()
    saver.close()
    report.write_text(json.dumps(took))


if __name__ == "__main__":
    _saver, _size, _saves, _place, _folder, _report = sys.argv[1:]
    main(_saver, int(_size), int(_saves), _place, Path(_folder), Path(_report))
