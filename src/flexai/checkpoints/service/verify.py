"""Verify: read stored content and compare it with its digests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from flexai.checkpoints.contents import StoredContent
from flexai.checkpoints.errors import IntegrityError, NotFoundError, SourceChangedError
from flexai.checkpoints.progress import NoProgress, Progress
from flexai.checkpoints.service.system import System
from flexai.checkpoints.transfer.crew import CountedBody, Crew
from flexai.checkpoints.transfer.digest import Part, digest_blocks, parts_of
from flexai.checkpoints.transfer.reading import StoredBody


@dataclass(frozen=True, slots=True)
class Damage:
    """Content that is not what was recorded, and who needs it."""

    blob_id: str
    problem: str
    users: tuple[tuple[str, str], ...]
    """The files that need it: (checkpoint, path)."""


@dataclass
class VerifyReport:
    """What a verification found."""

    checked_contents: int = 0
    checked_bytes: int = 0
    damaged: list[Damage] = field(default_factory=list)

    def raise_if_damaged(self) -> None:
        """Raise IntegrityError naming the damage, if there is any."""
        if self.damaged:
            names = sorted({f"{path} of {checkpoint}" for damage in self.damaged for checkpoint, path in damage.users})
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise IntegrityError(
                f"stored content is damaged: {shown}",
                hint="push the same files again under another name to bring in sound content",
            )


def verify(system: System, references: Sequence[str] = (), *, progress: Progress | None = None) -> VerifyReport:
    """Read the content of checkpoints (of all, where none is named) and compare every part with its digest.

    Each content is read once however many checkpoints use it. Damage is reported, not raised. Raises NotFoundError
    for a checkpoint that is not there, and what the store raises.
    """
    progress = progress or NoProgress()
    contents: dict[int, StoredContent] = {}
    if references:
        for reference in references:
            checkpoint = system.available(reference)
            contents |= {file.content.id: file.content for file in system.blobs.files_of(str(checkpoint.id))}
    else:
        contents = {content.id: content for content in system.blobs.all_contents()}
    problems: dict[int, str] = {}
    crew = Crew(system.settings.concurrency)

    def check(content: StoredContent, part: Part) -> None:
        crew.check()
        stored = StoredBody(system.store, content.blob_id, content.start + part.offset, part.size)
        try:
            found = digest_blocks(CountedBody(stored, crew=crew, progress=progress).blocks())
        except (NotFoundError, IntegrityError, SourceChangedError) as error:
            problems[content.id] = error.message
            return
        if found != content.part_digest(part.number):
            problems[content.id] = f"bytes {part.offset} to {part.offset + part.size} do not match their digest"

    for content in contents.values():
        if content.digest is not None:
            for part in parts_of(content.size, content.part_size):
                crew.add(partial(check, content, part))
    total = sum(content.size for content in contents.values())
    progress.begin("verify", total_bytes=total, total_files=len(contents))
    try:
        crew.run()
    finally:
        progress.end()
    return VerifyReport(
        checked_contents=len(contents), checked_bytes=total, damaged=_damages(system, contents, problems)
    )


def _damages(system: System, contents: dict[int, StoredContent], problems: dict[int, str]) -> list[Damage]:
    users = system.blobs.users_of(list(problems))
    names = system.catalog.checkpoints.names_of(sorted({user for found in users.values() for user, _ in found}))
    return [
        Damage(
            blob_id=contents[content_id].blob_id,
            problem=problem,
            users=tuple(sorted((names[user], path) for user, path in users.get(content_id, ()))),
        )
        for content_id, problem in sorted(problems.items())
    ]
