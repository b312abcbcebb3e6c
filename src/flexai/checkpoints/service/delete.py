"""Delete and undelete: the catalog's word at once, the bytes only after the grace period (see gc); and protect."""

from __future__ import annotations

from collections.abc import Sequence

from flexai.checkpoints.models import Checkpoint
from flexai.checkpoints.names import parse_name, parse_reference
from flexai.checkpoints.service.requests import DeleteRequest, UndeleteRequest
from flexai.checkpoints.service.system import System


def delete(system: System, request: DeleteRequest) -> Checkpoint:
    """Delete a checkpoint: its name is free at once, its bytes go when nothing else uses them.

    Raises NotFoundError where there is none, ConflictError while it is being pushed, or protected.
    """
    return system.catalog.checkpoints.delete(parse_reference(request.reference))


def protect(system: System, references: Sequence[str]) -> list[Checkpoint]:
    """Keep checkpoints from being deleted, by users and by rules; all of them or none.

    Raises NotFoundError where there is none, ConflictError for one that is not available.
    """
    return system.catalog.checkpoints.protect([parse_reference(reference) for reference in references])


def unprotect(system: System, references: Sequence[str]) -> list[Checkpoint]:
    """Let checkpoints be deleted again; all of them or none. Raises NotFoundError where there is none."""
    found = [parse_reference(reference) for reference in references]
    return system.catalog.checkpoints.protect(found, protected=False)


def undelete(system: System, request: UndeleteRequest) -> Checkpoint:
    """Bring back a deleted checkpoint within its grace period, under its old name or a new one.

    Raises NotFoundError where there is none that could come back, AlreadyExistsError where the name is in use again.
    """
    name = parse_name(request.new_name, what="checkpoint name") if request.new_name else None
    return system.catalog.checkpoints.undelete(parse_reference(request.reference), new_name=name)
