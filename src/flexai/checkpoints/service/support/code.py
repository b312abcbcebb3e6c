"""Code in checkpoints: which files run something when they are loaded, told, warned of, or refused."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.errors import ExecutableContentError
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.beneath import Beneath
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.training.formats.executable import FoundCode, find_code, may_hold_code, summary
from flexai.checkpoints.training.formats.folder import CheckpointFolder, RangedFiles
from flexai.checkpoints.transfer.sources import FileSource
from flexai.checkpoints.transfer.stored_body import StoredBody

MAX_FOR_A_WARNING = 500
"""Files that are looked into for no more than a warning, of those whose names are such as pickles have."""


@dataclass(frozen=True, slots=True)
class _Ranges:
    files: Mapping[str, int]
    blocks: Callable[[str, int, int], Iterator[Block]]

    def read(self, path: str, start: int, length: int) -> bytes:
        length = min(length, self.files[path] - start)
        return b"".join(self.blocks(path, start, length)) if length > 0 else b""


def code_of(system: System, reference: str) -> dict[str, FoundCode]:
    """What the files of a checkpoint run, by path, read by range from the store; harmless ones are left out.

    Raises what ``System.available_files`` and the store raise.
    """
    _, files = system.available_files(reference)
    return find_code(stored_files(system.store, files))


def stored_files(store: ManagedStore, files: Sequence[StoredFile]) -> RangedFiles:
    """Files of a checkpoint, read by range from the store."""
    contents = {file.path: file.content for file in files}

    def blocks(path: str, start: int, length: int) -> Iterator[Block]:
        content = contents[path]
        return StoredBody(store, content.blob_id, content.start + start, length).blocks()

    return _Ranges({path: content.size for path, content in contents.items()}, blocks)


def source_files(sources: Sequence[FileSource]) -> RangedFiles:
    """Files that are to be pushed, read by range from where they are."""
    by_path = {str(source.path): source for source in sources}

    def blocks(path: str, start: int, length: int) -> Iterator[Block]:
        with contextlib.closing(by_path[path].open()) as opened:
            yield from opened.blocks(start, length)

    return _Ranges({path: source.size for path, source in by_path.items()}, blocks)


def fetched_files(folder: Path, files: Iterable[StoredFile]) -> RangedFiles:
    """Files of a checkpoint in the directory that they were fetched to."""
    return CheckpointFolder(folder.name, {file.path: file.content.size for file in files}, Beneath(folder).at)


def refuse_code(files: RangedFiles, title: str) -> None:
    """Look into all files. Raises ExecutableContentError where one runs something, or could not be followed."""
    if told := summary(find_code(files)):
        raise ExecutableContentError(f"checkpoint {title!r} was refused: {told}")


def warn_of_code(files: RangedFiles, title: str, progress: Progress) -> None:
    """Look into the files whose names are such as pickles have, and say in one line what they run."""
    wanted = islice((path for path in files.files if may_hold_code(path)), MAX_FOR_A_WARNING)
    if told := summary(find_code(files, list(wanted))):
        progress.note(f"checkpoint {title!r} runs code when it is loaded: {told}")
