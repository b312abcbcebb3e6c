"""``torch.save`` in the ways of scripts: over one path, by a rename, to numbered files, and with a copy of the best."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from typing import Any

import torch
from truth import INPUT, KILLED_AT, MODE, OUT, keep, pause, resumed, saves

layout = sys.argv[1]
model = torch.nn.Linear(64, 256)
optimizer = torch.optim.Adam(model.parameters())


class HalfWritten:
    """A file whose writer dies in the middle."""

    def __init__(self, path: str) -> None:
        self.file = open(path, "wb")  # noqa: SIM115

    def write(self, data: bytes) -> int:
        self.file.write(data)
        if self.file.tell() > 20_000:
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return len(data)

    def flush(self) -> None:
        self.file.flush()


def state(step: int) -> dict[str, Any]:
    model(torch.ones(64)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}


def numbered(step: int) -> None:
    path = OUT / f"ckpt_{step:05}.pt"
    torch.save(state(step), path)
    keep(path, step)
    (OUT / f"ckpt_{step - 20:05}.pt").unlink(missing_ok=True)


start = 0
if INPUT:
    loaded = torch.load(INPUT)
    model.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    start = loaded["step"]
    resumed(start)

if MODE == "term":
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    number = 0
    while not stopped:
        number += 1
        numbered(start + 10 * number)
        pause(number)
    numbered(start + 10 * number + 1)
    sys.exit(0)
if MODE == "kill":
    for number in range(1, KILLED_AT):
        numbered(start + 10 * number)
        pause(number)
    step = start + 10 * KILLED_AT
    torch.save(state(step), HalfWritten(f"{OUT}/ckpt_{step:05}.pt"))

for number in saves():
    step = start + 10 * number
    if layout == "in-place":
        torch.save(state(step), OUT / "ckpt.pt")
        keep(OUT / "ckpt.pt", step)
    elif layout == "rename":
        torch.save(state(step), OUT / "ckpt.pt.tmp")
        os.replace(OUT / "ckpt.pt.tmp", OUT / "ckpt.pt")
        keep(OUT / "ckpt.pt", step)
    elif layout == "numbered":
        numbered(step)
    elif layout == "best":
        torch.save({"epoch": step, "state_dict": model.state_dict()} | state(step), OUT / "checkpoint.pth.tar")
        if number % 3 != 2:
            shutil.copyfile(OUT / "checkpoint.pth.tar", OUT / "model_best.pth.tar")
        keep(OUT / "checkpoint.pth.tar", step)
