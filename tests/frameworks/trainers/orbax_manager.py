"""Orbax' CheckpointManager: a folder of the step's digits, of which one is kept."""

from __future__ import annotations

import jax.numpy
import orbax.checkpoint as ocp
from truth import OUT, keep, saves

with ocp.CheckpointManager(OUT, options=ocp.CheckpointManagerOptions(max_to_keep=1)) as manager:
    for number in saves():
        tree = {"params": jax.numpy.ones((32, 32)) * number, "opt_state": jax.numpy.ones(32) * number, "step": number}
        manager.save(10 * number, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
        keep(OUT / str(10 * number), 10 * number)
