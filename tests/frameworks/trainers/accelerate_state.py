"""Accelerate's ``save_state``: into folders that the script names, or that accelerate names and rotates."""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from truth import OUT, keep, saves

layout = sys.argv[1]
automatic = ProjectConfiguration(project_dir=str(OUT), automatic_checkpoint_naming=True, total_limit=1)
accelerator = Accelerator(cpu=True, project_config=automatic if layout == "automatic" else None)
model = torch.nn.Linear(32, 32)
optimizer = torch.optim.Adam(model.parameters())
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10)
model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
for number in saves():
    accelerator.backward(model(torch.ones(32)).sum())
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    if layout == "automatic":
        keep(accelerator.save_state(), number - 1)
    else:
        keep(accelerator.save_state(str(OUT / f"step_{10 * number}")), 10 * number)
