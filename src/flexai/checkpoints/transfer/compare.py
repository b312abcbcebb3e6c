"""Whether sources have the content that a checkpoint has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial

from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.transfer.crew import Crew, StoppedError
from flexai.checkpoints.transfer.sources import FileSource
from flexai.checkpoints.transfer.stored_body import holds


def same_content(
    files: Sequence[StoredFile],
    sources: Sequence[FileSource],
    *,
    learn: Callable[[StoredContent], StoredContent],
    concurrency: int,
) -> bool:
    """Whether the sources are exactly these files: the same paths with the same bytes.

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
