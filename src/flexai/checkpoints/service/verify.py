"""Verify: read stored content and compare it with its digests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.documents import Document
from flexai.checkpoints.errors import CheckpointError, IntegrityError, SourceChangedError
from flexai.checkpoints.names import count, some
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.repair import Repair, RepairReport, repair
from flexai.checkpoints.service.store_requests import VerifyRequest
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.transfer.crew import CountedBody, Crew
from flexai.checkpoints.transfer.digest import Part, digest_blocks, parts_of
from flexai.checkpoints.transfer.first_reading import learn
from flexai.checkpoints.transfer.pack_plan import Stretch, plan_stretches
from flexai.checkpoints.transfer.stored_body import StoredBody, has_content


@dataclass(frozen=True, slots=True)
class Damage:
    """Content that is not what was recorded, and who needs it."""

    blob_id: str
    problem: str
    users: tuple[tuple[str, str], ...]
    """The files that need it: (checkpoint, path)."""


OnDamage: TypeAlias = Callable[[Sequence[Damage]], None]
"""Is told of damage as soon as it is found."""


@dataclass(frozen=True)
class VerifyReport:
    """What a verification found."""

    checked_contents: int
    checked_bytes: int
    damaged: tuple[Damage, ...] = ()
    repair: RepairReport = field(default_factory=RepairReport)
    """What was repaired, and what was not; empty where no repair was asked for."""
    repairs: bool = False
    """Whether a repair was asked for."""

    def raise_if_damaged(self) -> None:
        """Raise IntegrityError naming the damage that is left, if there is any."""
        self.repair.raise_if_unrepaired()
        if self.damaged and not self.repairs:
            names = sorted({f"{path} of {checkpoint}" for damage in self.damaged for checkpoint, path in damage.users})
            raise IntegrityError(
                f"stored content is damaged: {some(names)}",
                hint=_HEALED_BY,
                damaged=self.damaged,
            )

    def to_dict(self) -> Document:
        """What ``checkpoint verify --json`` prints; sizes in bytes."""
        return {
            "checkedContents": self.checked_contents,
            "checkedBytes": self.checked_bytes,
            "damagedContents": len(self.damaged),
            "repairedContents": len(self.repair.repaired),
            "damaged": [_document(one) | {"problem": one.problem} for one in self.damaged],
            "repaired": [_document(one) | {"source": one.source} for one in self.repair.repaired],
            "unrepaired": [_document(one) | {"problem": one.problem} for one in self.repair.unrepaired],
        }


def _document(content: Damage | Repair) -> Document:
    """Which content it is, and the files that need it."""
    files = [{"checkpoint": checkpoint, "path": path} for checkpoint, path in content.users]
    return {"blobID": content.blob_id, "files": files}


def verify(
    system: System, request: VerifyRequest, *, on_damage: OnDamage | None = None, progress: Progress | None = None
) -> VerifyReport:
    """Read the content of checkpoints (of all, where none is named) and compare every part with its digest.

    Each content is read once however many checkpoints use it. Damage is reported, not raised, and remembered: no push
    relies on such content, so pushing the files again brings in sound content. Damage to what no checkpoint
    needs any more is not reported. With ``repair`` it then repairs all known damage from exports; before, it
    tells ``on_damage`` what it found.

    Raises NotFoundError for a checkpoint that is not there, and what the store raises.
    """
    progress = progress or Progress()
    contents: dict[int, StoredContent] = {}
    if request.references:
        for reference in request.references:
            checkpoint = system.available(reference)
            contents |= {file.content.id: file.content for file in system.files_of(checkpoint)}
    else:
        contents = {content.id: content for content in system.blobs.all_contents()}
        if elsewhere := system.soundness.count_elsewhere():
            lie = "lies" if elsewhere == 1 else "lie"
            progress.note(
                f"{count(elsewhere, 'checkpoint')} {lie} in another store than {system.store.location}, and could not"
                " be read"
            )
    total = sum(content.size for content in contents.values())
    progress.begin("verify", total_bytes=total, total_files=len(contents))
    try:
        damaged = check_contents(system, contents.values(), progress=progress)
    finally:
        progress.end()
    if damaged and on_damage is not None:
        on_damage(damaged)
    repaired = repair(system, progress=progress) if request.repair else RepairReport()
    return VerifyReport(len(contents), total, tuple(damaged), repaired, repairs=request.repair)


def check_contents(system: System, contents: Iterable[StoredContent], *, progress: Progress) -> list[Damage]:
    """Read contents, compare them, and record what was found; returns the damage that a checkpoint suffers from."""
    by_id = {content.id: content for content in contents}
    verification = _Verification(system, progress)
    verification.run(by_id.values())
    problems = verification.problems
    system.soundness.record_verification(damaged=problems.keys(), sound=by_id.keys() - problems.keys())
    return _damages(system, by_id, problems)


def remember_damage(system: System, files: Sequence[StoredFile], error: IntegrityError) -> None:
    """Verify the content of files that may be damaged, so that the catalog knows what no push may rely on.

    What cannot be verified or recorded is left as it is: the error is what is to be told.
    """
    contents = {file.content.id: file.content for file in files}.values()
    if not contents or system.is_read_only:
        return
    try:
        # Of a store that went away meanwhile, as a volume does, nothing is known.
        is_there = system.store.read_id() == system.store_id
        if is_there and check_contents(system, contents, progress=Progress()):
            error.hint = _HEALED_BY
    except CheckpointError as second:
        error.add_note(f"the damage could not be recorded: {second.message}")


_HEALED_BY = (
    "push the same files again, which heals every checkpoint that needs them; flexai checkpoint verify --repair takes"
    " sound content from an export"
)


class _Verification:
    def __init__(self, system: System, progress: Progress) -> None:
        self.problems: dict[int, str] = {}
        """What is wrong with contents, by their ids."""
        self._system = system
        self._progress = progress
        self._crew = Crew(system.settings.concurrency, bandwidth=system.settings.bandwidth_limit)
        self._parts_left: dict[int, int] = {}
        self._lock = threading.Lock()

    def run(self, contents: Iterable[StoredContent]) -> None:
        small_size = self._system.settings.limits.pack_threshold
        small = []
        for content in contents:
            if content.digest is None:
                self._crew.add(partial(self._learn, content))
            elif content.size < small_size:
                small.append(StoredFile(path=str(content.id), content=content))
            else:
                self._crew.add(partial(self._begin, content))
        for stretch in plan_stretches(small, max_length=max(small_size, 1)):
            self._crew.add(partial(self._check_stretch, stretch))
        self._crew.run()

    def _learn(self, content: StoredContent) -> None:
        """Read what only the provider has read so far, and compare it with the provider's checksum."""
        problem = ""
        try:
            learn(content, store=self._system.store, record=self._system.blobs.learn, check=self._crew.check)
        except (IntegrityError, SourceChangedError) as error:
            problem = error.message
        self._progress.advance(moved=content.size)
        self._tell(content, problem)

    def _check_stretch(self, stretch: Stretch) -> None:
        """Check neighbouring small contents by one request."""
        try:
            data = memoryview(
                b"".join(bytes(block) for block in self._read(stretch.blob_id, stretch.start, stretch.length))
            )
        except (IntegrityError, SourceChangedError):
            # Not all of it is there: each one tells for itself.
            for file in stretch.files:
                self._begin(file.content)
            return
        for file in stretch.files:
            content = file.content
            start = content.start - stretch.start
            is_sound = has_content(data[start : start + content.size], content)
            self._tell(content, "" if is_sound else _mismatch(Part(1, 0, content.size)))

    def _begin(self, content: StoredContent) -> None:
        parts = parts_of(content.size, content.part_size)
        self._parts_left[content.id] = len(parts)
        for part in reversed(parts):
            self._crew.add(partial(self._check_part, content, part), next_up=True)

    def _check_part(self, content: StoredContent, part: Part) -> None:
        problem = ""
        try:
            if digest_blocks(self._read(content.blob_id, content.start + part.offset, part.size)) != (
                content.part_digest(part.number)
            ):
                problem = _mismatch(part)
        except (IntegrityError, SourceChangedError) as error:
            problem = error.message
        with self._lock:
            if problem:
                self.problems.setdefault(content.id, problem)
            self._parts_left[content.id] -= 1
            is_last = not self._parts_left[content.id]
        if is_last:
            self._progress.advance(files=1)

    def _read(self, blob_id: str, start: int, size: int) -> Iterator[Block]:
        self._crew.check()
        stored = StoredBody(self._system.store, blob_id, start, size)
        return CountedBody(stored, crew=self._crew, progress=self._progress).blocks()

    def _tell(self, content: StoredContent, problem: str) -> None:
        with self._lock:
            if problem:
                self.problems[content.id] = problem
        self._progress.advance(files=1)


def _mismatch(part: Part) -> str:
    return f"bytes {part.offset} to {part.offset + part.size} do not match their digest"


def _damages(system: System, contents: dict[int, StoredContent], problems: dict[int, str]) -> list[Damage]:
    users = system.blobs.users_of(list(problems))
    names = system.catalog.checkpoints.names_of(sorted({user for found in users.values() for user, _ in found}))
    return [
        Damage(
            blob_id=contents[content_id].blob_id,
            problem=problem,
            users=tuple(sorted((names[user], path) for user, path in users[content_id])),
        )
        for content_id, problem in sorted(problems.items())
        if content_id in users
    ]
