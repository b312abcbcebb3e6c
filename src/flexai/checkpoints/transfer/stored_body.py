"""Stored content as a body, and whether it is what was recorded, or what a source has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.errors import IntegrityError, NotFoundError
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.transfer.crew import Crew, StoppedError
from flexai.checkpoints.transfer.digest import Part, digest_blocks, digest_each, parts_of
from flexai.checkpoints.transfer.sources import FileSource


@dataclass(frozen=True, slots=True)
class StoredBody:
    """A range of a blob."""

    store: ManagedStore
    blob_id: str
    start: int
    size: int

    def blocks(self) -> Iterator[Block]:
        """Yield the range from its start; IntegrityError for a blob that is gone or too short."""
        try:
            yield from self.store.read_blob(self.blob_id, start=self.start, length=self.size)
        except NotFoundError as error:
            raise IntegrityError(
                f"blob {self.blob_id} is missing from the store {self.store.location}", blob_id=self.blob_id
            ) from error
        except IntegrityError as error:
            error.blob_id = self.blob_id
            raise


@dataclass(frozen=True, slots=True)
class VerifiedBody:
    """Parts of a stored file that follow each other, each compared with its digest as it passes."""

    store: ManagedStore
    file: StoredFile
    parts: Sequence[Part]

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(part.size for part in self.parts)

    def blocks(self) -> Iterator[Block]:
        """Yield the parts; IntegrityError before the end of one that is not what was recorded."""
        content = self.file.content
        stored = StoredBody(self.store, content.blob_id, content.start + self.parts[0].offset, self.size)
        return digest_each(self.parts, stored.blocks(), partial(check_part, self.file))


def has_content(data: Block, content: StoredContent) -> bool:
    """Whether bytes in memory are a content, by the digest of each of its parts."""
    return len(data) == content.size and all(
        digest_blocks([data[part.offset : part.offset + part.size]]) == content.part_digest(part.number)
        for part in parts_of(content.size, content.part_size)
    )


def holds(content: StoredContent, read: Callable[[Part], Iterable[Block]], check: Callable[[], None]) -> bool:
    """Whether what is read is a content; it ends at the first part that is not.

    ``check`` is called before each part, and raises where the work is being given up.
    """
    for part in parts_of(content.size, content.part_size):
        check()
        if digest_blocks(read(part)) != content.part_digest(part.number):
            return False
    return True


def check_part(file: StoredFile, part: Part, digest: bytes) -> None:
    """Raise IntegrityError for a part of a stored file that has another digest than was recorded."""
    if digest != file.content.part_digest(part.number):
        raise damaged(file)


def damaged(file: StoredFile) -> IntegrityError:
    """The error for stored content that does not match its digest."""
    return IntegrityError(
        f"the stored content of {file.path!r} is damaged: its digest does not match (blob {file.content.blob_id})",
        blob_id=file.content.blob_id,
    )


def hold_exactly(
    files: Sequence[StoredFile],
    sources: Sequence[FileSource],
    *,
    learn: Callable[[StoredContent], StoredContent],
    concurrency: int,
) -> bool:
    """Whether these files are exactly the sources: the same paths with the same bytes.

    Sources are read only where paths and sizes agree, and not where they are known to be the content.
    ``learn`` gives a content its digests that has none yet. Raises SourceChangedError or SourceError for a source.
    """
    contents = {file.path: file.content for file in files}
    if {source.path: source.size for source in sources} != {path: one.size for path, one in contents.items()}:
        return False
    differing: list[str] = []
    crew = Crew(concurrency)

    def go_on() -> None:
        crew.check()
        if differing:
            raise StoppedError

    def compare(source: FileSource, content: StoredContent) -> None:
        if source.origin and source.origin == content.origin:
            return
        content = content.as_claim()
        if source.digest and content.digest is not None and source.digest == content.digest.hex():
            return
        content = learn(content)
        with contextlib.closing(source.open()) as opened:
            if not holds(content, lambda part: opened.blocks(part.offset, part.size), go_on):
                differing.append(source.path)

    for source in sources:
        crew.add(partial(compare, source, contents[source.path]))
    crew.run()
    return not differing
