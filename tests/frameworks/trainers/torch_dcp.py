"""Distributed checkpoints of torch, by one process: at once, in the background, rank by rank, and as safetensors."""

from __future__ import annotations

import os
import sys
import warnings

import torch
import torch.distributed as distributed
import torch.distributed.checkpoint as dcp
from truth import OUT, keep, saves

layout = sys.argv[1]
warnings.simplefilter("ignore")
os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "RANK": "0", "WORLD_SIZE": "1"}
distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
model = torch.nn.Linear(64, 64)
optimizer = torch.optim.Adam(model.parameters())
for number in saves():
    model(torch.ones(64)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    step = 10 * number
    folder = OUT / f"step-{step}"
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    if layout == "save":
        dcp.save(state, checkpoint_id=folder)
    elif layout == "async":
        dcp.async_save(state, checkpoint_id=folder).result()
    elif layout == "rank-wise":
        dcp.save(state, checkpoint_id=folder, use_collectives=False)
    else:
        writer = dcp.HuggingFaceStorageWriter(
            str(folder),
            save_distributed=True,
            enable_consolidation=layout == "safetensors-consolidated",
            fqn_to_index_mapping=dict.fromkeys(model.state_dict(), 1) if layout == "safetensors-consolidated" else None,
        )
        dcp.save(model.state_dict(), storage_writer=writer)
    keep(folder, step)
distributed.destroy_process_group()
