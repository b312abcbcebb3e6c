"""Delete and undelete: the catalog's word at once, the bytes only after the grace period (see gc)."""

from __future__ import annotations

from flexai.checkpoints.models import Checkpoint
from flexai.checkpoints.names import parse_name, parse_reference
from flexai.checkpoints.service.system import System


def delete(system: System, reference: str) -> Checkpoint:
    """Delete a checkpoint: its name is free at once, its bytes go when nothing else uses them.

    Raises NotFoundError where there is none, ConflictError while it is being pushed.
    """
    return system.catalog.checkpoints.delete(parse_reference(reference))


def undelete(system: System, reference: str, *, new_name: str = "") -> Checkpoint:
    """Bring back a deleted checkpoint within its grace period, under its old name or a new one.

    Raises NotFoundError where there is none that could come back, AlreadyExistsError where the name is in use again.
    """
    name = parse_name(new_name, what="checkpoint name") if new_name else None
    return system.catalog.checkpoints.undelete(parse_reference(reference), new_name=name)
