"""Distributed checkpoints of torch by the processes of torchrun, each of which reports each save."""

from __future__ import annotations

import shutil

import torch
import torch.distributed as distributed
import torch.distributed.checkpoint as dcp
from truth import OUT, RANK, keep, saves

from flexai.training import Run

distributed.init_process_group("gloo")
with Run.current() or Run("job", OUT) as run:
    for number in saves():
        step = 10 * number
        folder = OUT / f"step-{step}"
        state = {f"weights-{RANK}": torch.full((64,), float(step + RANK)), "step": step}
        dcp.save(state, checkpoint_id=folder)
        run.saved(folder, step=step, metrics={"loss": 1 / number})
        keep(folder, step, {"loss": 1 / number})
        distributed.barrier()
        if RANK == 0:
            shutil.rmtree(folder)
distributed.destroy_process_group()
