"""The captured checkpoints of a job, as they are found in its output: each content is stored once."""

from __future__ import annotations

import posixpath
from bisect import insort
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from operator import attrgetter
from typing import TypeAlias

from flexai.checkpoints.choosing import latest
from flexai.checkpoints.documents import human_size
from flexai.checkpoints.errors import ConflictError, NotFoundError, SourceChangedError, StorageUnavailableError
from flexai.checkpoints.models import Checkpoint, CheckpointStatus, Node, TrainingFacts, TrainingJob
from flexai.checkpoints.names import Id, parse_reference
from flexai.checkpoints.paths import first_of, parse_path
from flexai.checkpoints.patterns import looks_secret
from flexai.checkpoints.service.capture import announce, capture
from flexai.checkpoints.service.support.commit import same_content
from flexai.checkpoints.service.support.parts import NodePart, combine, is_whole_by_itself
from flexai.checkpoints.service.system import System
from flexai.checkpoints.training.completeness.candidates import Fate, Found, title_of
from flexai.checkpoints.training.output_dir import Excluded
from flexai.checkpoints.training.units import COPY
from flexai.checkpoints.transfer.sources import LocalSource

OnCaptured: TypeAlias = Callable[[Checkpoint], None]
"""Is handed a captured checkpoint, from the thread that captured it."""

_MOST_COMPARED = 32
"""Versions, the latest first, with which a file of such a name is compared: the original may be written over by now."""


class JobCaptures:
    """Stores what is found in a job's output as captured checkpoints of that job."""

    def __init__(
        self,
        system: System,
        job: TrainingJob,
        *,
        tell: Callable[[str], None],
        on_captured: OnCaptured,
        whose: str = "",
        node: Node | None = None,
        attempt: int = 0,
        excluded: Excluded | None = None,
    ) -> None:
        """``tell`` is told of each checkpoint, and with ``whose`` where that lay: `` of attempt-1``.

        ``node`` says which of several machines captures, and for which attempt of the job; ``excluded`` what is not
        captured.
        """
        self._excluded = excluded or Excluded()
        self._told_secrets: set[str] = set()
        self.job = job
        self._node = node
        self._attempt = attempt or job.attempt
        self._rank = "0" if node is None else str(node.rank)
        self._system = system
        self._tell = tell
        self._on_captured = on_captured
        self._whose = whose
        self._captured: dict[str, Checkpoint] = {}
        self._versions: list[Checkpoint] = []
        """All of them, in the order of their capture."""
        self._usable: dict[Id, Checkpoint] = {}
        """Of several machines: the checkpoints that are available, and that this one has brought a part of."""
        self._failed: set[str] = set()
        self._begun: dict[Found, Checkpoint] = {}
        """What the catalog has of those that are not stored yet: another try goes on with it."""
        self._left: dict[str, list[Checkpoint]] = {}
        """What it has of those that an earlier attempt has left, by their names, in the order of their capture."""
        self.count = 0
        """How many checkpoints were stored."""

    def know(self) -> None:
        """Take in what the job has captured before, so that it is not captured again, and what has failed."""
        for checkpoint in self._system.catalog.checkpoints.of_job(self.job.id):
            if checkpoint.status is CheckpointStatus.AVAILABLE and not checkpoint.parts:
                self._remember(checkpoint)
            elif checkpoint.status is CheckpointStatus.FAILED:
                self._failed.add(checkpoint.name)
        if self._node is not None:
            for part in self._system.catalog.parts.of_job(self.job.id, self._node.rank):
                self._remember(part)

    def go_on(self, *, since: datetime) -> None:
        """Continue what an attempt that began then has left: what has arrived of it, and its place in the order."""
        for checkpoint in self._system.catalog.checkpoints.of_job(self.job.id):
            is_ours = checkpoint.node == self._rank and checkpoint.store_id == self._system.store_id
            if checkpoint.status is CheckpointStatus.FAILED and is_ours and checkpoint.created_at >= since:
                self._left.setdefault(checkpoint.name, []).append(checkpoint)

    def holds(self, found: Found) -> bool:
        """Whether the checkpoint of that name that was captured last holds the same."""
        earlier = self._captured.get(found.name)
        return earlier is not None and _has_content(self._system, earlier.id, found)

    def has_files(self, name: str, sizes: Mapping[str, int]) -> bool:
        """Whether the checkpoint of that name that was captured last has files of these paths and sizes, and others."""
        earlier = self._captured.get(name)
        if earlier is None:
            return False
        return (
            sizes.items() <= {file.path: file.content.size for file in self._system.blobs.files_of(earlier.id)}.items()
        )

    def of_name(self, name: str) -> Checkpoint | None:
        """The checkpoint of that name that was captured last."""
        return self._captured.get(name)

    @property
    def latest(self) -> Checkpoint | None:
        """What ``latest`` means of those that were stored; of several machines, of those that are whole."""
        stored = self._versions if self._node is None else list(self._usable.values())
        return latest(stored, lambda checkpoint: checkpoint.facts.step)

    def id_of(self, name: str) -> str:
        """The UUID of the checkpoint of that name that was captured last; empty where there is none."""
        checkpoint = self._captured.get(name)
        return "" if checkpoint is None else checkpoint.part_of or checkpoint.id

    def announce(self, found: Found) -> None:
        """Give a checkpoint that is stored later its place in the job's order now."""
        if found not in self._begun:
            self._begun[found] = announce(
                self._system, job=self.job, name=found.name, node=self._rank, reason="a later save is stored first"
            )

    def store(self, found: Found, facts: TrainingFacts) -> str | None:
        """Store a found checkpoint; see ``storing.Store``."""
        if self.holds(found):
            # Written again, but nothing in it has changed.
            earlier = self._captured[found.name]
            if facts.reported:
                self._remember(self._system.catalog.checkpoints.report(earlier.id, facts))
            if earlier.part_of:
                if facts.reported:
                    self._system.catalog.checkpoints.report(earlier.part_of, facts)
                self._combine(found.name, earlier.part_of)
            self._forget(found)
            return None
        if (same := self._holder(found, facts) or self._twin(found, facts)) is not None:
            self._forget(found)
            return same
        try:
            checkpoint = self._capture(found, facts)
        except StorageUnavailableError:
            self._failed.add(found.name)
            raise
        self._begun.pop(found, None)
        self.count += 1
        self._remember(self._own_part(checkpoint))
        if found.name in self._failed:
            waiting = {one.id for other, one in self._begun.items() if other.fate is Fate.WAITING}
            waiting |= {one.id for one in self._left.get(found.name, ())}
            self._delete(
                checkpoint
                for checkpoint in self._system.catalog.checkpoints.of_job(self.job.id)
                if checkpoint.status is CheckpointStatus.FAILED
                and (checkpoint.name, checkpoint.node) == (found.name, self._rank)
                and checkpoint.id not in waiting
            )
        if self._node is not None:
            own = self._captured[found.name]
            what = f"{_sizes(own)} of node {self._rank}"
            self._tell(f"captured a part of {found.title}{self._whose} ({what})")
            self._combine(found.name, checkpoint.id)
            return None
        self._captured_whole(found.name, checkpoint)
        return None

    def remove_left(self) -> None:
        """Delete what is left of tries of which nothing is here any more, where a later one has succeeded."""
        self._delete(one for name, left in self._left.items() if name in self._captured for one in left)

    def combine(self) -> None:
        """Make available what all machines have brought their parts of, where that was not done so far."""
        for checkpoint_id in self._system.catalog.parts.incomplete(self.job.id):
            self._combine("", checkpoint_id)

    def combine_last(self) -> None:
        """Make available what all machines have written last, now that their commands have succeeded."""
        for checkpoint_id in self._system.catalog.parts.join_last(self.job.id, self._attempt):
            self._combine("", checkpoint_id)

    def tell_secrets(self, paths: Iterable[str]) -> None:
        """Name files that look like secrets and are stored; once for each name, as each checkpoint may have one."""
        names = {path: posixpath.basename(path) for path in paths if looks_secret(path)}
        secret = [path for path, name in names.items() if name not in self._told_secrets]
        self._told_secrets |= {*names.values()}
        if secret:
            verb = "looks like a secret" if len(secret) == 1 else "look like secrets"
            self._tell(f"{first_of(secret)} {verb}, and will be stored: --exclude leaves out what should not")

    def _combine(self, name: str, checkpoint_id: Id) -> None:
        whole, is_new = combine(self._system, checkpoint_id, may_lack_files=self._excluded.is_asked_for)
        if whole.status is CheckpointStatus.AVAILABLE:
            self._usable[whole.id] = whole
        if is_new:
            self._captured_whole(whole.name, whole)
        if name:
            self._captured[name] = self._own_part(whole)

    def _captured_whole(self, name: str, checkpoint: Checkpoint) -> None:
        nodes = f" of nodes {checkpoint.nodes}" if checkpoint.parts else ""
        self._tell(f"captured {title_of(name)}{self._whose} ({_sizes(checkpoint)}{nodes}) as {checkpoint.id}")
        self._on_captured(checkpoint)

    def _own_part(self, checkpoint: Checkpoint) -> Checkpoint:
        """What this machine has brought of a checkpoint."""
        if not checkpoint.parts:
            return checkpoint
        own = [one for one in self._system.catalog.parts.of(checkpoint.id) if one.node == self._rank]
        return own[-1] if own else checkpoint

    def remove_cut_off(self) -> None:
        """Delete what is left of captures whose process died."""
        self._delete(self._system.catalog.checkpoints.cut_off(self.job.id))

    def _remember(self, checkpoint: Checkpoint) -> None:
        last = self._captured.get(checkpoint.name)
        if last is None or last.sequence <= checkpoint.sequence:
            self._captured[checkpoint.name] = checkpoint
        insort(self._versions, checkpoint, key=attrgetter("sequence"))

    def _forget(self, found: Found) -> None:
        """Take back what the catalog has of a checkpoint that turned out to be another one's content."""
        begun = self._begun.pop(found, None)
        if begun is not None:
            self._system.catalog.checkpoints.discard_failed(begun.id)

    def _capture(self, found: Found, facts: TrainingFacts) -> Checkpoint:
        left = self._left.get(found.name)
        if left and found not in self._begun:
            self._begun[found] = left.pop(0)
        part = None
        if self._node is not None:
            part = NodePart(self._node, self._attempt, is_whole_by_itself(found.as_written))
        self.tell_secrets(posixpath.join(found.unit.place, path) for path in found.files)
        return capture(
            self._system,
            job=self.job,
            name=found.name,
            node=self._rank,
            part=part,
            files=found.files,
            folders=found.unit.folders,
            facts=facts,
            identities={path: stamp.identity for path, stamp in found.stamps.items()},
            again=self._begun.get(found),
            on_begun=lambda checkpoint: self._begun.update({found: checkpoint}),
        )

    def _holder(self, found: Found, facts: TrainingFacts) -> str | None:
        """The checkpoint, named after a folder above, that its trainer reported with these files in it."""
        name = "" if facts.reported else found.unit.place
        while name:
            above = self._captured.get(name)
            place = posixpath.relpath(found.unit.place, name)
            paths = {posixpath.normpath(posixpath.join(place, path)): path for path in found.files}
            if above is not None and name != found.name and _has_content(self._system, above.id, found, paths=paths):
                return above.name
            name = posixpath.dirname(name)
        return None

    def _twin(self, found: Found, facts: TrainingFacts) -> str | None:
        """The captured checkpoint beside a file of which that file is a copy, as ``last.ckpt`` and ``best.pt`` are."""
        path = posixpath.basename(found.name)
        named = COPY.fullmatch(path)
        if named is None or list(found.stamps) != [path]:
            return None
        place = posixpath.dirname(found.name)
        beside = [one for one in self._versions if posixpath.dirname(one.name) == place and one.name != found.name]
        for one in beside[: -_MOST_COMPARED - 1 : -1]:
            if named["last"] and facts.step is not None and facts.step == one.facts.step:
                return one.name
            its_path = posixpath.basename(one.name)
            if one.size == found.stamps[path].size and _has_content(
                self._system, one.id, found, paths={its_path: path}
            ):
                return one.name
        return None

    def _delete(self, captures: Iterable[Checkpoint]) -> None:
        """Delete what is left of captures that were cut off, or that failed before another try did not."""
        for checkpoint in captures:
            # One that another process has continued or deleted meanwhile is left to it.
            with suppress(ConflictError, NotFoundError):
                self._system.catalog.checkpoints.delete(parse_reference(checkpoint.id))


def _sizes(checkpoint: Checkpoint) -> str:
    files = "1 file" if checkpoint.file_count == 1 else f"{checkpoint.file_count} files"
    return f"{files}, {human_size(checkpoint.size)}"


def _has_content(system: System, checkpoint_id: Id, found: Found, *, paths: Mapping[str, str] | None = None) -> bool:
    """Whether a checkpoint holds the same, or with ``paths`` what the files are called in it, among others."""
    own = found.files
    files = {
        path: (own[name], found.stamps[name]) for path, name in (paths or dict(zip(own, own, strict=True))).items()
    }
    try:
        sources = [LocalSource.of(parse_path(name), local, local.lstat()) for name, (local, _) in files.items()]
    except FileNotFoundError as error:
        raise SourceChangedError(f"{found.title} vanished before it was stored") from error
    if any(source.identity != files[source.path][1].identity for source in sources):
        raise SourceChangedError(f"{found.title} changed before it was stored")
    return same_content(system, str(checkpoint_id), sources, is_part=paths is not None)
