"""Push again: finding out that nothing has changed, without the store and without the code that a push needs."""

from __future__ import annotations

from collections.abc import Sequence

from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.models import Checkpoint, CheckpointStatus
from flexai.checkpoints.names import parse_reference
from flexai.checkpoints.service.system import System
from flexai.checkpoints.transfer.scan import scan_local


def find_unchanged(
    system: System, name: str, specs: Sequence[str], *, follow_symlinks: bool = False
) -> Checkpoint | None:
    """The available checkpoint of a name whose content local files are known to be; None where that is not known.

    They are known by digests that are remembered of an earlier push, so nothing is read. ``specs`` are
    ``SOURCE[=DESTINATION]`` each. Raises InvalidNameError; SourceError or UnsafePathError for what cannot be pushed.
    """
    with system.look() as catalog:
        try:
            checkpoint = catalog.checkpoints.get(parse_reference(name))
        except NotFoundError:
            return None
        if checkpoint.status is not CheckpointStatus.AVAILABLE:
            return None
        files = catalog.checkpoints.list_files(checkpoint.id)
    sources = system.stat_cache.recall(scan_local(specs, follow_symlinks=follow_symlinks))
    # A file that was never read has no digest, and neither has a source that is not remembered.
    found = {(source.path, source.size, source.digest or None) for source in sources}
    same = found == {(file.path, file.size, file.digest) for file in files} and all(file.digest for file in files)
    return checkpoint if same else None
