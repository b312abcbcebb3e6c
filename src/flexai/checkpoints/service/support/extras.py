"""What else lies where a checkpoint was fetched or exported to: telling of it, and whether it may be removed."""

from __future__ import annotations

from collections.abc import Sequence

from flexai.checkpoints.errors import DestinationExistsError, ExtraFilesError
from flexai.checkpoints.names import some
from flexai.checkpoints.paths import first_of
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.requests import ExportRequest, FetchRequest
from flexai.checkpoints.transfer.extra import MOST_EXTRA, Extra

_STAYS = "without --delete-extra it stays; remove it yourself, or choose another destination"


def refusal(extra: Sequence[Extra], where: str, *, may_be_removed: bool) -> DestinationExistsError | None:
    """The error for what is never removed; None where it may be.

    ``may_be_removed`` says that a checkpoint was brought to the place before.
    """
    if not extra:
        return None
    if not may_be_removed:
        found = f"{first_of([one.path for one in extra])} in {where} would be deleted"
        return DestinationExistsError(f"{found}, where no checkpoint was fetched or exported to before", hint=_STAYS)
    if len(extra) > MOST_EXTRA:
        return DestinationExistsError(f"more than {MOST_EXTRA:,} other files lie in {where}", hint=_STAYS)
    return None


def check_extra(
    request: FetchRequest | ExportRequest, extra: Sequence[Extra], where: str, *, may_be_removed: bool
) -> None:
    """Raise what ``refusal`` gives, or ExtraFilesError where the caller has not insisted, for what is to be removed."""
    if not request.delete_extra or not extra:
        return
    if (error := refusal(extra, where, may_be_removed=may_be_removed)) is not None:
        raise error
    if not request.force:
        paths = [one.path for one in extra]
        raise ExtraFilesError(
            f"in {where} this would be deleted, which is no part of the checkpoint: {some(list(map(repr, paths)))}",
            paths=paths,
        )


def tell_extra(extra: Sequence[Extra], where: str, title: str, progress: Progress, *, may_be_removed: bool) -> None:
    """Note what else lies there, and stays."""
    if extra:
        more = f": --delete-extra removes {'it' if len(extra) == 1 else 'them'}" if may_be_removed else ""
        which = first_of([one.path for one in extra]) if len(extra) <= MOST_EXTRA else f"more than {MOST_EXTRA:,} files"
        progress.note(f"{which} in {where} {'is' if len(extra) == 1 else 'are'} no part of {title!r}{more}")
