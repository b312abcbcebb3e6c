"""Code in checkpoints: which files run something when they are loaded, told, warned of, or refused."""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from flexai.checkpoints.contents import StoredFile
from flexai.checkpoints.documents import human_size
from flexai.checkpoints.errors import ExecutableContentError
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.beneath import Beneath
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.training.formats.executable import (
    FoundCode,
    find_code,
    is_named_as_pickle,
    may_hold_code,
    summary,
)
from flexai.checkpoints.training.formats.folder import CheckpointFolder, RangedFiles
from flexai.checkpoints.transfer.sources import FileSource
from flexai.checkpoints.transfer.stored_body import StoredBody

WARNING_BYTES = 1024**3
"""Bytes that are read for no more than a warning."""
WARNING_SECONDS = 60.0
"""Seconds that are taken for no more than a warning, and what the file takes that is looked into then."""


@dataclass(frozen=True, slots=True)
class _Ranges:
    files: Mapping[str, int]
    blocks: Callable[[str, int, int], Iterator[Block]]

    def read(self, path: str, start: int, length: int) -> bytes:
        length = min(length, self.files[path] - start)
        # A block is valid only until the next one: joined as they are, all would be the last.
        return b"".join(map(bytes, self.blocks(path, start, length))) if length > 0 else b""


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


def look_for_code(files: RangedFiles, title: str, progress: Progress, *, refuse: bool) -> None:
    """Refuse files that run code when they are loaded, or else warn of them. Raises ExecutableContentError."""
    if refuse:
        refuse_code(files, title)
    else:
        warn_of_code(files, title, progress)


def refuse_code(files: RangedFiles, title: str) -> None:
    """Look into all files. Raises ExecutableContentError where one runs something, or could not be followed."""
    if told := summary(find_code(files)):
        raise ExecutableContentError(f"checkpoint {title!r} was refused: {told}")


def warn_of_code(files: RangedFiles, title: str, progress: Progress) -> None:
    """Look into the files whose names do not rule code out, and say in one line what they run.

    Those named as pickles come first. Where the bytes or the seconds for a warning do not last, the line says so.
    """
    wanted = sorted(filter(may_hold_code, files.files), key=lambda path: not is_named_as_pickle(path))
    allowed = _Allowance(files)
    found = find_code(allowed, takewhile(lambda _: allowed.lasts(), wanted))
    if told := summary(found):
        progress.note(f"checkpoint {title!r} runs code when it is loaded: {told}")
    if not allowed.lasts():
        progress.note(
            f"checkpoint {title!r} was not looked through for code to its end: that would read more than"
            f" {human_size(WARNING_BYTES)} or take more than {WARNING_SECONDS:.0f} seconds; flexai checkpoint inspect"
            " --executable looks through all of it"
        )


@dataclass(slots=True)
class _Allowance:
    """Files of which no more is read than a warning may cost."""

    of: RangedFiles
    left: int = field(default_factory=lambda: WARNING_BYTES)
    until: float = field(default_factory=lambda: time.monotonic() + WARNING_SECONDS)

    @property
    def files(self) -> Mapping[str, int]:
        return self.of.files

    def lasts(self) -> bool:
        return self.left >= 0 and time.monotonic() < self.until

    def read(self, path: str, start: int, length: int) -> bytes:
        self.left -= length
        if self.left < 0:
            raise OSError(errno.EDQUOT, "more would have to be read than a warning may cost")
        return self.of.read(path, start, length)
