"""Train a tiny model with accelerate, store each state, and go on where an earlier run ended.

    python examples/callbacks/train_accelerate.py

Stop it, and start it again. `flexai training checkpoints accelerate-demo` lists what is stored.
"""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator

from flexai.integrations.accelerate import save_state
from flexai.training import Run

out = sys.argv[1] if len(sys.argv) > 1 else "out-accelerate"
accelerator = Accelerator()
model = torch.nn.Linear(8, 1)
model, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters()))

with Run("accelerate-demo", output_dir=out) as run:
    first = 1
    if path := run.resume_path():
        accelerator.load_state(path)
        first = int(path.name.removeprefix("step_")) + 1
    for step in range(first, 61):
        loss = model(torch.ones(8, device=accelerator.device)).square().sum()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 0:
            save_state(accelerator, run, f"{out}/step_{step}", step=step, metrics={"loss": loss.item()})
