"""Flax: the bytes of its serialization in numbered files, and the older ``checkpoint_N`` with one kept."""

from __future__ import annotations

import os
import sys

import flax
import jax.numpy
from flax import serialization
from flax.training import checkpoints
from truth import OUT, keep, saves

layout = sys.argv[1]
flax.config.update("flax_use_orbax_checkpointing", False)
for number in saves():
    step = 10 * number
    tree = {"params": jax.numpy.ones((32, 32)) * number, "opt_state": jax.numpy.ones(32) * number, "step": step}
    if layout == "msgpack":
        path = OUT / f"state-{step}.msgpack"
        path.write_bytes(serialization.to_bytes(tree))
        keep(path, step)
        (OUT / f"state-{step - 10}.msgpack").unlink(missing_ok=True)
    else:
        keep(os.fspath(checkpoints.save_checkpoint(OUT, tree, step, keep=1)), step)
