"""What an operation would do, told file by file and without doing it.

Everything here is computed from what a scan, a listing and the catalog gave: nothing reads or writes anything. Bytes
are what moves at most, as some of it may turn out to be there when it is compared; requests are an estimate.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from flexai.checkpoints.contents import StoredContent, StoredFile, UnfinishedBlob
from flexai.checkpoints.documents import Document, flexai_size, human_size
from flexai.checkpoints.errors import CheckpointError
from flexai.checkpoints.names import count
from flexai.checkpoints.settings import Limits
from flexai.checkpoints.transfer.digest import join_parts, part_size_for, parts_of, spread_part_size
from flexai.checkpoints.transfer.extra import Extra
from flexai.checkpoints.transfer.pack_plan import plan_stretches, plan_upload
from flexai.checkpoints.transfer.sources import FileSource

_LISTED = 1000
"""Objects in one page of a listing, with all providers."""


class Action(enum.StrEnum):
    """What happens to a file (or, with gc, to a checkpoint); the most important first."""

    CONFLICT = "conflict"
    """Something else is in its place, so nothing would be done at all."""
    COMPARE = "compare"
    """Content of its size is there: it is read and compared first, and moved only if it is another."""
    MOVE = "move"
    """Its bytes move through this machine."""
    COPY = "copy"
    """The provider copies it by itself."""
    DELETE = "delete"
    """It is no part of the checkpoint, and goes."""
    FREE = "free"
    """Its bytes go."""
    SKIP = "skip"
    """There is nothing to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one file."""

    action: Action
    name: str
    """Its path in the checkpoint, or what gc calls a checkpoint."""
    size: int
    """Bytes."""
    why: str
    moved_bytes: int = 0
    """Bytes that move through this machine, at most."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What an operation would do."""

    verb: str
    title: str
    """What it is done to."""
    steps: Sequence[Step]
    requests: int = 0
    """About how many requests go over the network."""
    freed_bytes: int = 0
    left_out: tuple[int, int] = (0, 0)
    """How many files are not asked for, or are left out, and their bytes."""
    conflict: CheckpointError | None = field(default=None, compare=False)
    """The error that the operation would end with, before anything is written."""

    @property
    def moved_bytes(self) -> int:
        """Bytes that move through this machine, at most."""
        return sum(step.moved_bytes for step in self.steps)

    def by_action(self) -> dict[Action, tuple[int, int]]:
        """How many files each action has, and their bytes; the most important action first."""
        found = {}
        for action in Action:
            sizes = [step.size for step in self.steps if step.action is action]
            if sizes:
                found[action] = (len(sizes), sum(sizes))
        return found


def preview_document(preview: Preview) -> Document:
    """What ``--dry-run --json`` shows."""
    return {
        "dryRun": True,
        "operation": preview.verb,
        "subject": preview.title,
        "conflict": preview.conflict.message if preview.conflict else "",
        "moved": human_size(preview.moved_bytes),
        "movedBytes": preview.moved_bytes,
        "freed": human_size(preview.freed_bytes),
        "freedBytes": preview.freed_bytes,
        "requests": preview.requests,
        "leftOutFiles": preview.left_out[0],
        "leftOutBytes": preview.left_out[1],
        "summary": [
            {"action": action.value, "count": count, "size": flexai_size(size), "sizeBytes": size}
            for action, (count, size) in preview.by_action().items()
        ],
        "steps": [
            {
                "action": step.action.value,
                "name": step.name,
                "size": flexai_size(step.size),
                "sizeBytes": step.size,
                "movedBytes": step.moved_bytes,
                "why": step.why,
            }
            for step in preview.steps
        ],
    }


@dataclass(frozen=True, slots=True)
class Wire:
    """What a storage asks of who moves bytes to it or from it."""

    is_remote: bool
    """Whether there is a network between; a directory takes no requests."""
    min_part_size: int
    max_parts: int

    def requests(self, count: int) -> int:
        """So many, if there is a network."""
        return count if self.is_remote else 0

    def listing(self, count: int) -> int:
        """The requests that list so many objects."""
        return self.requests(max(1, -(-count // _LISTED)))


@dataclass(frozen=True, slots=True)
class Held:
    """What the catalog knows of the store, before a push."""

    known: Mapping[str, StoredContent] = field(default_factory=dict)
    """By path, contents that the store is known to hold without reading the source."""
    sizes: Set[int] = frozenset()
    """The sizes of all contents that a source can be compared with."""
    unfinished: Mapping[str, UnfinishedBlob] = field(default_factory=dict)
    """By path, blobs that an earlier try began and that can go on."""
    twins: Mapping[str, str] = field(default_factory=dict)
    """By path, another file of the same push that may be equal and is stored first."""
    copied: Set[str] = frozenset()
    """Paths of the provider's objects that the store's provider copies by itself."""


def push_steps(
    sources: Sequence[FileSource], held: Held, limits: Limits, *, store: Wire, provider: Wire
) -> tuple[list[Step], int]:
    """What a push does with each source, and how many requests that takes.

    ``store`` is the managed store's wire, ``provider`` that of where the sources are (this machine's without network).
    """
    missing = [source for source in sources if source.path not in held.known]
    plan = plan_upload(
        missing, pack_threshold=limits.pack_threshold, pack_size=limits.pack_size, is_remote=store.is_remote
    )
    whole = {source.path for source in plan.whole}
    requests = store.requests(len(plan.packs) + 2)  # what the store is, and the manifest
    steps = []
    for source in sources:
        if source.path in held.known:
            steps.append(Step(Action.SKIP, source.path, source.size, _why_known(source)))
            continue
        step = _large_step(source, held) if source.path in whole else _small_step(source, held)
        steps.append(step)
        if step.action is Action.COPY:
            requests += store.requests(2)
            continue
        if source.path in whole:
            part_size = part_size_for(
                source.size,
                part_size=max(spread_part_size(source.size, limits.part_size), store.min_part_size),
                max_parts=store.max_parts,
            )
            requests += store.requests(-(-step.moved_bytes // part_size) + 2)
            requests += provider.requests(-(-step.moved_bytes // part_size) + 1)
        else:
            requests += provider.requests(2)
    return steps, requests


def _why_known(source: FileSource) -> str:
    if source.is_local:
        return "stored: digest remembered"
    return "stored: same object"


def _small_step(source: FileSource, held: Held) -> Step:
    if source.size in held.sizes:
        return Step(Action.COMPARE, source.path, source.size, "its size is in the store", source.size)
    return Step(Action.MOVE, source.path, source.size, "new, packed", source.size)


def _large_step(source: FileSource, held: Held) -> Step:
    if source.path in held.copied:
        return Step(Action.COPY, source.path, source.size, "the provider copies it")
    moved, arrived = source.size, ""
    blob = held.unfinished.get(source.path)
    if blob is not None and blob.parts and (blob.size, blob.version) == (source.size, source.version):
        parts = parts_of(blob.size, blob.part_size)
        moved = sum(part.size for part in parts if part.number not in blob.parts)
        arrived = f"{len(blob.parts)} of {len(parts)} parts have arrived"
    if source.is_local and source.size in held.sizes:
        return Step(Action.COMPARE, source.path, source.size, "its size is in the store", moved)
    if source.path in held.twins:
        why = f"looks like {held.twins[source.path]}"
        return Step(Action.COMPARE, source.path, source.size, why, moved)
    return Step(Action.MOVE, source.path, source.size, f"goes on: {arrived}" if arrived else "new", moved)


def taken_name_steps(sources: Iterable[FileSource], files: Iterable[StoredFile]) -> list[Step]:
    """How sources compare with the files of the checkpoint that has the name, as far as that is known unread."""
    there = {file.path: file.content.as_claim() for file in files}
    steps = []
    for source in sources:
        content = there.pop(source.path, None)
        if content is None:
            action, why = Action.CONFLICT, "that name has not got it"
        elif content.size != source.size:
            action, why = Action.CONFLICT, "that name has another size"
        elif source.origin and source.origin == content.origin:
            action, why = Action.SKIP, "that name has it"
        elif not source.digest or content.digest is None:
            action, why = Action.COMPARE, "that name has its size"
        elif source.digest == content.digest.hex():
            action, why = Action.SKIP, "that name has it"
        else:
            action, why = Action.CONFLICT, "that name has other content"
        steps.append(Step(action, source.path, source.size, why))
    for path, content in there.items():
        steps.append(Step(Action.CONFLICT, path, content.size, "only that name has it"))
    return sorted(steps, key=lambda step: step.name)


def fetch_steps(
    kept: Iterable[StoredFile],
    missing: Sequence[StoredFile],
    others: Sequence[StoredFile],
    *,
    begun: Set[str],
    overwrite: bool,
    limits: Limits,
    store: Wire,
) -> tuple[list[Step], int]:
    """What a fetch does with each file, and how many requests that takes; ``begun`` are those partly there."""
    steps = [_skip(file) for file in kept]
    steps += [
        _move(file, _GOES_ON if file.path in begun and _is_large(file, limits) else "not there yet") for file in missing
    ]
    steps += [_move(file, _REPLACED) if overwrite else _conflict(file) for file in others]
    coming = [*missing, *(others if overwrite else ())]
    large = [file.content for file in coming if _is_large(file, limits)]
    small = [file for file in coming if not _is_large(file, limits)]
    stretches = plan_stretches(small, max_length=max(limits.pack_threshold, 1))
    gets = sum(len(parts_of(content.size, content.part_size)) for content in large) + len(stretches)
    return _in_order(steps), store.requests(gets + 1)


def export_steps(
    same: Iterable[StoredFile],
    missing: Sequence[StoredFile],
    others: Sequence[StoredFile],
    *,
    copied: Set[str],
    overwrite: bool,
    is_new: bool,
    limits: Limits,
    store: Wire,
    place: Wire,
) -> tuple[list[Step], int]:
    """What an export does with each file, and how many requests that takes.

    ``copied`` are the blobs that the provider copies by itself; ``is_new`` says that no whole export is there, so that
    its manifest is written whatever the files.
    """
    steps = [_skip(file) for file in same]
    requests = place.listing(len(steps) + len(others)) + place.requests(1) + store.requests(1)
    coming = [*missing, *(others if overwrite else ())]
    replaced = {file.path for file in others}
    if coming or is_new:
        requests += place.requests(3)  # two manifests, and a look for what a broken export left
    for file in coming:
        content, why = file.content, _REPLACED if file.path in replaced else "not there yet"
        if content.blob_id in copied:
            steps.append(Step(Action.COPY, file.path, content.size, f"{why}; the provider copies it"))
            requests += place.requests(2)
            continue
        steps.append(_move(file, why))
        if not _is_large(file, limits):
            requests += store.requests(1) + place.requests(1)
        else:
            joined = join_parts(content.size, content.part_size, place)
            requests += store.requests(sum(map(len, joined))) + place.requests(len(joined) + 2)
    if not overwrite:
        steps += [_conflict(file) for file in others]
    return _in_order(steps), requests


_GOES_ON = "an earlier fetch left some"
_REPLACED = "replaces other content"


def _is_large(file: StoredFile, limits: Limits) -> bool:
    """Whether a file moves part by part."""
    return file.content.size >= limits.pack_threshold


def _skip(file: StoredFile) -> Step:
    return Step(Action.SKIP, file.path, file.content.size, "there already")


def _move(file: StoredFile, why: str) -> Step:
    return Step(Action.MOVE, file.path, file.content.size, why, file.content.size)


def _conflict(file: StoredFile) -> Step:
    return Step(Action.CONFLICT, file.path, file.content.size, "other content is there")


def extra_steps(extra: Iterable[Extra]) -> list[Step]:
    """What becomes of what else lies where files go, where that is to be deleted."""
    return [Step(Action.DELETE, one.path, one.size, "no part of the checkpoint") for one in extra]


def deletion_steps(files: Iterable[StoredFile], blobs: Mapping[str, tuple[int, int]]) -> tuple[list[Step], int]:
    """What becomes of the bytes of each file of a checkpoint, and how many bytes gc frees.

    ``blobs`` has for each of its blobs the bytes, and how many other checkpoints need it.
    """
    steps = []
    freed: dict[str, int] = {}
    for file in files:
        size, others = blobs[file.content.blob_id]
        if others:
            many = "another needs" if others == 1 else f"{others} others need"
            packed = " it" if file.content.size == size else " its pack"
            steps.append(Step(Action.SKIP, file.path, file.content.size, f"stays: {many}{packed}"))
        else:
            freed[file.content.blob_id] = size
            steps.append(Step(Action.FREE, file.path, file.content.size, "no other checkpoint needs it"))
    return steps, sum(freed.values())


@dataclass(frozen=True, slots=True)
class Idle:
    """A checkpoint that gc would take something of."""

    title: str
    why: str
    blob_ids: Sequence[str]


def gc_steps(idle: Iterable[Idle], garbage: Mapping[str, int]) -> tuple[list[Step], int]:
    """What gc frees, checkpoint by checkpoint, and how many bytes in all.

    ``garbage`` has the bytes of the blobs that go. One that several checkpoints share is counted for the first.
    """
    left = dict(garbage)
    steps = []
    for one in idle:
        size = sum(left.pop(blob_id, 0) for blob_id in one.blob_ids)
        steps.append(Step(Action.FREE, one.title, size, one.why))
    if left:
        steps.append(Step(Action.FREE, count(len(left), "blob"), sum(left.values()), "no checkpoint needs it"))
    return steps, sum(garbage.values())


def _in_order(steps: Iterable[Step]) -> list[Step]:
    return sorted(steps, key=lambda step: step.name)
