"""What goes where, computed from paths and sizes alone: nothing here reads or writes anything."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.transfer.digest import spread_part_size
from flexai.checkpoints.transfer.sources import FileSource

S = TypeVar("S", bound=FileSource)

_LEAST_PACK = 4 * 1024**2
"""Bytes of a pack below which the way to its first byte is most of its time."""

MAX_FILES_IN_PACK = 4096
"""Keeps one transaction of the catalog, and one loss to an interruption, small."""


@dataclass(frozen=True, slots=True)
class UploadPlan(Generic[S]):
    """How the files of a push are stored."""

    packs: tuple[tuple[S, ...], ...]
    """Small files, stored many to a blob."""
    whole: tuple[S, ...]
    """Large files, stored as blobs of their own, largest first."""
    pack_size: int
    """Bytes of a pack."""


def plan_upload(sources: Iterable[S], *, pack_threshold: int, pack_size: int, is_remote: bool = False) -> UploadPlan[S]:
    """Sort files into packs (files below ``pack_threshold``, ``pack_size`` a pack; bytes both) and whole blobs.

    For a store that ``is_remote`` packs are smaller, down to 4 MiB, until a network's connections all have one; where
    the processor is what is waited for after all, ``PackQueue`` joins them.
    """
    packs: list[tuple[S, ...]] = []
    small: list[S] = []
    whole: list[S] = []
    for source in sources:
        (whole if source.size >= max(pack_threshold, 1) else small).append(source)
    if is_remote:
        pack_size = spread_part_size(
            sum(source.size for source in small), pack_size, least=max(_LEAST_PACK, pack_threshold)
        )
    pack: list[S] = []
    room = pack_size
    for source in small:
        if pack and (source.size > room or len(pack) == MAX_FILES_IN_PACK):
            packs.append(tuple(pack))
            pack, room = [], pack_size
        pack.append(source)
        room -= source.size
    if pack:
        packs.append(tuple(pack))
    whole.sort(key=lambda source: (-source.size, source.path))
    return UploadPlan(packs=tuple(packs), whole=tuple(whole), pack_size=pack_size)


class PackQueue(Generic[S]):
    """Packs of a plan that threads take, each one once."""

    def __init__(self, packs: Iterable[Sequence[S]]) -> None:
        self._packs = deque(packs)
        self._lock = threading.Lock()

    def take(self, most: int) -> list[S]:
        """The next pack, joined with those after it while all have at most ``most`` bytes; empty at the end."""
        taken: list[S] = []
        size = 0
        with self._lock:
            while self._packs:
                more = sum(source.size for source in self._packs[0])
                if taken and (size + more > most or len(taken) + len(self._packs[0]) > MAX_FILES_IN_PACK):
                    break
                taken += self._packs.popleft()
                size += more
        return taken


def chain_twins(sources: Sequence[S], samples: Mapping[str, Hashable]) -> list[list[S]]:
    """Group files that may be equal (same size, same sample), so that each group is stored one after the other.

    The second of two equal files then finds the first one's content. ``samples`` has a sample for each path
    that shares its size with another; files without one stand alone.
    """
    chains: dict[Hashable, list[S]] = {}
    for source in sources:
        key: Hashable = (source.size, samples[source.path]) if source.path in samples else source.path
        chains.setdefault(key, []).append(source)
    return list(chains.values())


@dataclass(frozen=True, slots=True)
class Stretch:
    """Neighbouring small contents of one blob, read by one request."""

    blob_id: str
    start: int
    length: int
    files: tuple[StoredFile, ...]


def plan_stretches(files: Iterable[StoredFile], *, max_length: int, max_gap: int = 64 * 1024) -> list[Stretch]:
    """Join small files that lie near each other in their packs into stretches of at most ``max_length`` bytes."""
    stretches: list[Stretch] = []
    group: list[StoredFile] = []
    end = 0

    def close() -> None:
        first = group[0].content
        stretches.append(Stretch(first.blob_id, first.start, end - first.start, tuple(group)))

    for file in sorted(files, key=lambda file: (file.content.blob_id, file.content.start, file.path)):
        content = file.content
        if group and not (
            group[0].content.blob_id == content.blob_id
            and content.start - end <= max_gap
            and content.start + content.size - group[0].content.start <= max_length
            and len(group) < MAX_FILES_IN_PACK
        ):
            close()
            group = []
        end = max(end, content.start + content.size) if group else content.start + content.size
        group.append(file)
    if group:
        close()
    return stretches
