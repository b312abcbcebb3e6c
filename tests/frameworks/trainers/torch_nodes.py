"""Shards of torch's DCP, by ranks that ``torchrun`` has started on several machines, each with a disk of its own."""

from __future__ import annotations

import faulthandler
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

# A rank that hangs, in torch or at its own end, says where: the test would learn no more than that it did.
faulthandler.dump_traceback_later(200, exit=True)
last, meeting = int(sys.argv[1]), Path(sys.argv[2])
warnings.simplefilter("ignore")
distributed.init_process_group("gloo")
mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
out = Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"])


def values(step: int) -> torch.Tensor:
    """What the model holds at a step."""
    return torch.arange(64 * 16, dtype=torch.float32).reshape(64, 16) * step


def state_of(step: int) -> dict[str, Any]:
    """A model in shards, and its optimizer's moments."""
    moments = {"state.weights.exp_avg": distribute_tensor(values(2 * step), mesh, [Shard(0)])}
    return {"model": {"weights": distribute_tensor(values(step), mesh, [Shard(0)])}, "optimizer": moments, "step": step}


start = 0
if "FLEXAI_INPUT_CHECKPOINT" in os.environ:
    state = state_of(0)
    dcp.load(state, checkpoint_id=os.environ["FLEXAI_INPUT_CHECKPOINT"])
    start = state["step"]
    assert torch.equal(state["model"]["weights"].full_tensor(), values(start))
    if not distributed.get_rank():
        print(f"resumed at {start}", flush=True)
for step in range(start + 10, last + 1, 10):
    if step == int(os.environ.get("DIES_AT", "0")):
        # All ranks of this machine stay behind, until the machine is gone.
        (meeting / f"behind-{distributed.get_rank()}").touch()
        faulthandler.cancel_dump_traceback_later()
        time.sleep(600)
    dcp.save(state_of(step), checkpoint_id=out / f"step-{step}")
distributed.destroy_process_group()
