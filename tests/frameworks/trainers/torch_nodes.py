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
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor


def values(step: int) -> torch.Tensor:
    """What the model holds at a step."""
    return torch.arange(64 * 16, dtype=torch.float32).reshape(64, 16) * step


def state_of(step: int, mesh: DeviceMesh) -> dict[str, Any]:
    """A model in shards, and its optimizer's moments."""
    moments = {"state.weights.exp_avg": distribute_tensor(values(2 * step), mesh, [Shard(0)])}
    return {"model": {"weights": distribute_tensor(values(step), mesh, [Shard(0)])}, "optimizer": moments, "step": step}


def train(last: int, meeting: Path) -> None:
    """Save each tenth step up to ``last``, from the start or from the checkpoint that ``flexai`` gives."""
    mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
    out = Path(os.environ["FLEXAI_OUTPUT_CHECKPOINT_DIR"])
    start = 0
    if "FLEXAI_INPUT_CHECKPOINT" in os.environ:
        state = state_of(0, mesh)
        dcp.load(state, checkpoint_id=os.environ["FLEXAI_INPUT_CHECKPOINT"])
        start = state["step"]
        weights = state["model"]["weights"]
        assert torch.equal(weights.to_local(), distribute_tensor(values(start), mesh, [Shard(0)]).to_local())
        if not distributed.get_rank():
            print(f"resumed at {start}", flush=True)
    for step in range(start + 10, last + 1, 10):
        if step == int(os.environ.get("DIES_AT", "0")):
            # All ranks of this machine stay behind, until the machine is gone.
            (meeting / f"behind-{distributed.get_rank()}").touch()
            faulthandler.cancel_dump_traceback_later()
            time.sleep(600)
        dcp.save(state_of(step, mesh), checkpoint_id=out / f"step-{step}")


# A rank that hangs, in torch or at its own end, says where: the test would learn no more than that it did.
faulthandler.dump_traceback_later(200, exit=True)
warnings.simplefilter("ignore")
distributed.init_process_group("gloo")
train(int(sys.argv[1]), Path(sys.argv[2]))
distributed.destroy_process_group()
# A thread of gloo that drops a tensor when Python ends aborts the process, in about one rank of ten. It lives for as
# long as a mesh does: at the module's level, or in what a gathered tensor (``full_tensor``) leaves in torch's caches.
# See https://github.com/pytorch/pytorch/pull/179291.
assert not [name for task in Path("/proc/self/task").iterdir() if "gloo" in (name := (task / "comm").read_text())]
