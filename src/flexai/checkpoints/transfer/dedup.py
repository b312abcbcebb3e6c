"""What the store is known to hold, and what its provider may copy into it, without reading it here.

A provider's object is known by what the provider says that it is: a SHA-256 where it keeps one, else its place and
version. A directory's files have only a time of writing, which is not trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeGuard

from flexai.checkpoints.contents import StoredContent
from flexai.checkpoints.storage.protocol import ObjectStorage
from flexai.checkpoints.transfer.journal import Journal
from flexai.checkpoints.transfer.sources import FileSource, ObjectSource


def find_known(sources: Sequence[FileSource], journal: Journal, checkpoint_id: str) -> dict[str, StoredContent]:
    """What the store is known to hold without reading it, by the sources' paths; it is referred to at once."""
    held = journal.hold_by_origin(checkpoint_id, origins_of(sources))
    held |= journal.hold_by_digest(checkpoint_id, [one.digest for one in sources if one.digest])
    return match_known(sources, held)


def origins_of(sources: Sequence[FileSource]) -> list[str]:
    """Which versions of which providers' objects sources are."""
    return [source.origin for source in sources if source.origin]


def match_known(sources: Sequence[FileSource], held: Mapping[str, StoredContent]) -> dict[str, StoredContent]:
    """The contents of sources, by their paths, among those that were found by their digests and origins."""
    known: dict[str, StoredContent] = {}
    for source in sources:
        content = held.get(source.digest) or held.get(source.origin)
        if content is not None and content.size == source.size:
            known[source.path] = content
    return known


def is_one_service(one: ObjectStorage, other: ObjectStorage) -> bool:
    """Whether one service holds both, so that it may be able to copy by itself."""
    return bool(one.service_identity) and one.service_identity == other.service_identity


def can_be_copied(source: FileSource, storage: ObjectStorage) -> TypeGuard[ObjectSource]:
    """Whether the store's provider may be able to copy a source by itself."""
    return (
        isinstance(source, ObjectSource)
        and is_one_service(source.storage, storage)
        # What was written again since is read, so that its manifest's claim is compared at once.
        and (source.claim is None or source.is_untouched)
    )
