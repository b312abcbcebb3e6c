"""Delete and undelete: the catalog's word at once, the bytes only after the grace period (see gc); and protect."""

from __future__ import annotations

from collections.abc import Callable

from flexai.checkpoints.catalog.database import Record, Transaction
from flexai.checkpoints.models import Checkpoint
from flexai.checkpoints.names import parse_name, parse_reference, title_of
from flexai.checkpoints.service.change_requests import DeleteRequest, ProtectRequest, UndeleteRequest
from flexai.checkpoints.service.system import System


def delete(system: System, request: DeleteRequest) -> Checkpoint:
    """Delete a checkpoint: its name is free at once, its bytes go when nothing else uses them.

    Raises NotFoundError where there is none, ConflictError while it is being pushed, or protected, NotYoursError where
    another user made it (but with ``force``).
    """
    check = None if request.force else _own(system)
    return system.catalog.checkpoints.delete(parse_reference(request.reference), check=check)


def protect(system: System, request: ProtectRequest) -> list[Checkpoint]:
    """Keep checkpoints from being deleted, by users and by rules, or take that back; all of them or none.

    Raises NotFoundError where there is none, ConflictError for one that is not available, NotYoursError for one that
    another user made (but with ``force``).
    """
    found = [parse_reference(reference) for reference in request.references]
    check = None if request.force else _own(system)
    return system.catalog.checkpoints.protect(found, protected=request.protected, check=check)


def _own(system: System) -> Callable[[Transaction, Record], None]:
    """What raises NotYoursError for the row of a checkpoint that another user made."""

    def check(_: Transaction, row: Record) -> None:
        title = title_of(row["kind"], row["name"], row["job_name"] or "")
        system.owner.check_made(f"checkpoint {title!r}", row["creator_user_id"], row["creator"])

    return check


def undelete(system: System, request: UndeleteRequest) -> Checkpoint:
    """Bring back a deleted checkpoint within its grace period, under its old name or a new one.

    Raises NotFoundError where there is none that could come back, AlreadyExistsError where the name is in use again.
    """
    name = parse_name(request.new_name, what="checkpoint name") if request.new_name else None
    return system.catalog.checkpoints.undelete(parse_reference(request.reference), new_name=name)
