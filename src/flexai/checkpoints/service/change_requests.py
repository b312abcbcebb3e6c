"""What can be asked for of a checkpoint but its files; see ``flexai.checkpoints.service.requests``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.names import parse_name, parse_reference
from flexai.checkpoints.service.requests import keep_tuples


@dataclass(frozen=True, slots=True)
class DeleteRequest:
    """A checkpoint to be deleted.

    Args:
        reference: NAME, UUID or JOB/PATH of the checkpoint.
        force: Delete it also where another user made it.

    Raises:
        UsageError: InvalidNameError for the reference.
    """

    reference: str
    force: bool = False

    def __post_init__(self) -> None:
        parse_reference(self.reference)


@dataclass(frozen=True, slots=True)
class UndeleteRequest:
    """A deleted checkpoint to be brought back.

    Args:
        reference: The name that it had, or its UUID.
        new_name: Another name for it; the old one where empty.

    Raises:
        UsageError: InvalidNameError for the reference or the new name.
    """

    reference: str
    new_name: str = ""

    def __post_init__(self) -> None:
        parse_reference(self.reference)
        if self.new_name:
            parse_name(self.new_name, what="checkpoint name")


@dataclass(frozen=True, slots=True)
class ProtectRequest:
    """Checkpoints to be kept from being deleted, or to be no longer; all that are named, or none.

    Args:
        references: NAME, UUID or JOB/PATH of each checkpoint.
        protected: Keep them; where it is false they can be deleted again, and nothing is deleted by that.
        force: Change them also where another user made them.

    Raises:
        UsageError: No reference, or InvalidNameError for one.
    """

    references: Sequence[str]
    protected: bool = True
    _: KW_ONLY
    force: bool = False

    def __post_init__(self) -> None:
        keep_tuples(self, "references")
        if not self.references:
            raise UsageError("no checkpoint is named", hint="name one or more: NAME, UUID or JOB/PATH")
        for reference in self.references:
            parse_reference(reference)
