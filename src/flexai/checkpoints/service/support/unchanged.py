"""Push again: finding out that nothing has changed, without the store and without the code that a push needs."""

from __future__ import annotations

from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.models import Checkpoint, CheckpointStatus
from flexai.checkpoints.names import parse_reference
from flexai.checkpoints.own_folders import OwnFolders
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.transfer.scan import scan_local


def find_unchanged(system: System, request: PushRequest) -> Checkpoint | None:
    """The available checkpoint that a push would find to be the same, by what is remembered of an earlier push alone.

    None where that is not known, and for a push that reads its files in any case or comes from a provider. Nothing is
    read. Raises SourceError or UnsafePathError for what cannot be pushed.
    """
    if not request.files or not request.if_not_exists or request.rehash or request.refuse_executable:
        return None
    with system.look() as catalog:
        try:
            checkpoint = catalog.checkpoints.get(parse_reference(request.name))
        except NotFoundError:
            return None
        if checkpoint.status is not CheckpointStatus.AVAILABLE:
            return None
        if not catalog.soundness(checkpoint.store_id).is_sound(checkpoint.id):
            return None  # which a push heals
        files = catalog.checkpoints.list_files(checkpoint.id)
    found_here = scan_local(
        request.files,
        follow_symlinks=request.follow_symlinks,
        exclude=request.exclude,
        default_excludes=request.default_excludes,
        own=OwnFolders.of(system.settings),
    )
    sources = system.stat_cache.recall(found_here)
    # A file that was never read has no digest, and neither has a source that is not remembered.
    found = {(source.path, source.size, source.digest or None) for source in sources}
    same = found == {(file.path, file.size, file.digest) for file in files} and all(file.digest for file in files)
    return checkpoint if same else None
