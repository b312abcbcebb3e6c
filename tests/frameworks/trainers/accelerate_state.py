"""Accelerate's ``save_state``: into folders that the script names, or that accelerate names and rotates."""

from __future__ import annotations

import sys
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from truth import OUT, REPORTS, keep, kill_helper, saves

layout = sys.argv[1]
automatic = ProjectConfiguration(project_dir=str(OUT), automatic_checkpoint_naming=True, total_limit=1)
accelerator = Accelerator(cpu=True, project_config=automatic if layout == "automatic" else None)
model = torch.nn.Linear(32, 32)
optimizer = torch.optim.Adam(model.parameters())
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10)
model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
if REPORTS:
    from flexai.integrations.accelerate import save_state
    from flexai.training import Run
reporting = (Run.current() or Run("job", OUT)) if REPORTS else nullcontext()
with reporting as run:
    for number in saves():
        accelerator.backward(model(torch.ones(32)).sum())
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        step, folder = number - 1, None
        if layout != "automatic":
            step, folder = 10 * number, str(OUT / f"step_{10 * number}")
        if run is None:
            keep(accelerator.save_state(folder), step)
        else:
            keep(
                save_state(accelerator, run, folder, step=step, metrics={"loss": 1 / number}),
                step,
                {"loss": 1 / number},
            )
            kill_helper(run, number)
