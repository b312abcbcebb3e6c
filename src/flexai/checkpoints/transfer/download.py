"""The engine that brings a checkpoint's files out of the managed store into a directory.

A file is written beside its name, verified part by part while it arrives, made durable, and only then given its
name. What an interrupted fetch left is adopted: its parts are digested where they lie and only the missing ones move.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import stat
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.errors import DestinationExistsError, IntegrityError, UnsafePathError
from flexai.checkpoints.paths import check_path_set, parse_path
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.storage.files import (
    is_hole,
    make_directories,
    read_blocks,
    sync_data,
    sync_directory,
    write_blocks,
)
from flexai.checkpoints.storage.keys import PARTIAL_SUFFIX
from flexai.checkpoints.storage.local import storage_error
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.transfer.crew import CountedBody, Crew
from flexai.checkpoints.transfer.digest import DigestingBody, Part, digest_blocks, parts_of
from flexai.checkpoints.transfer.plan import Run, plan_runs
from flexai.checkpoints.transfer.reading import StoredBody
from flexai.checkpoints.transfer.upload import Limits


@dataclass
class Download:
    """What a download did."""

    fetched: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


def download(
    files: Sequence[StoredFile],
    destination: Path,
    *,
    store: ManagedStore,
    limits: Limits,
    overwrite: bool,
    progress: Progress,
) -> Download:
    """Bring files into a directory, which is made where it is missing.

    Raises UnsafePathError for a path that would leave it, DestinationExistsError for other content in the way, both
    before anything is written; IntegrityError for stored content that is not what was recorded.
    """
    check_path_set([parse_path(file.path) for file in files])
    transfer = _Download(destination.expanduser().absolute(), store, limits, progress)
    try:
        transfer.run(files, overwrite=overwrite)
    except OSError as error:
        raise storage_error(error, Path(error.filename) if error.filename else destination / "*") from error
    return transfer.done


class _Download:
    def __init__(self, root: Path, store: ManagedStore, limits: Limits, progress: Progress) -> None:
        self.root = root
        self.store = store
        self.limits = limits
        self.progress = progress
        self.crew = Crew(limits.concurrency)
        self.done = Download()

    def run(self, files: Sequence[StoredFile], *, overwrite: bool) -> None:
        missing = self._compare(files, overwrite=overwrite)
        folders = sorted({self.target(file).parent for file in missing})
        for folder in folders:
            make_directories(folder)
        large = [file for file in missing if file.content.size >= self.limits.pack_threshold]
        small = [file for file in missing if file.content.size < self.limits.pack_threshold]
        partials = _Partials(large, self)
        for file in sorted(large, key=lambda file: -file.content.size):
            self.crew.add(partial(_FileDownload(self, file, partials).begin))
        for run in plan_runs(small, max_length=max(self.limits.pack_threshold, 1)):
            self.crew.add(partial(self._fetch_run, run))
        try:
            self.crew.run()
        finally:
            partials.close_all()
        for folder in folders:
            sync_directory(folder)

    def target(self, file: StoredFile) -> Path:
        """Where a file goes."""
        return self.root / file.path

    def _compare(self, files: Sequence[StoredFile], *, overwrite: bool) -> list[StoredFile]:
        """Find which files are not there yet, without writing anything."""
        missing: list[StoredFile] = []
        others: list[StoredFile] = []
        crew = Crew(self.limits.concurrency)
        checked: set[Path] = {self.root}

        def compare(file: StoredFile) -> None:
            if _has_content(self.target(file), file.content, crew):
                self.progress.advance(skipped=file.content.size, files=1)
                self.done.kept.append(file.path)
            else:
                others.append(file)

        for file in files:
            self._check_folders(self.target(file).parent, checked)
            try:
                status = self.target(file).lstat()
            except FileNotFoundError:
                missing.append(file)
                continue
            if stat.S_ISDIR(status.st_mode):
                raise DestinationExistsError(
                    f"{self.target(file)} is a folder, where a file should go", hint="choose another destination"
                )
            if stat.S_ISREG(status.st_mode) and status.st_size == file.content.size:
                crew.add(partial(compare, file))
            else:
                others.append(file)
        crew.run()
        if others and not overwrite:
            first = min(str(self.target(file)) for file in others)
            more = f" and {len(others) - 1} more" if len(others) > 1 else ""
            raise DestinationExistsError(f"other content is already at {first}{more}")
        return missing + others

    def _check_folders(self, folder: Path, checked: set[Path]) -> None:
        """Refuse a way to the file that leads through a link or a file."""
        pending = []
        while folder not in checked:
            pending.append(folder)
            folder = folder.parent
        for folder in reversed(pending):
            checked.add(folder)
            try:
                status = folder.lstat()
            except FileNotFoundError:
                continue
            if stat.S_ISLNK(status.st_mode):
                raise UnsafePathError(
                    f"{folder} is a symbolic link: files would land outside {self.root}",
                    hint="choose another destination, or remove the link",
                )
            if not stat.S_ISDIR(status.st_mode):
                raise DestinationExistsError(f"{folder} is a file, where a folder should be")

    def publish(self, temporary: Path, file: StoredFile) -> None:
        """Give a durable, verified file its name."""
        temporary.replace(self.target(file))
        self.done.fetched.append(file.path)
        self.progress.advance(files=1)

    def _fetch_run(self, run: Run) -> None:
        """Fetch neighbouring small files by one request; all are made durable together."""
        body = CountedBody(
            StoredBody(self.store, run.blob_id, run.start, run.length), crew=self.crew, progress=self.progress
        )
        content = b"".join(bytes(block) for block in body.blocks())
        view = memoryview(content)
        temporaries: list[tuple[Path, StoredFile]] = []
        try:
            for file in run.files:
                start = file.content.start - run.start
                piece = view[start : start + file.content.size]
                if digest_blocks([piece]) != file.content.digest:
                    raise damaged(file)
                temporary = partial_path(self.target(file), file.content)
                temporaries.append((temporary, file))
                temporary.write_bytes(piece)
            _sync_files([temporary for temporary, _ in temporaries])
            for temporary, file in temporaries:
                self.publish(temporary, file)
        except BaseException:
            for temporary, _ in temporaries:
                temporary.unlink(missing_ok=True)
            raise


class _FileDownload:
    """One large file on its way; its parts arrive by any threads in any order."""

    def __init__(self, download: _Download, file: StoredFile, partials: _Partials) -> None:
        self._download = download
        self._file = file
        self._partials = partials
        self._lock = threading.Lock()
        self._left = 0
        self._temporary = Path()
        self._descriptor = -1

    def begin(self) -> None:
        """Open the file beside its name, or what an earlier fetch left of it, and queue its parts."""
        self._temporary, self._descriptor = self._partials.open(self._file)
        parts = parts_of(self._file.content.size, self._file.content.part_size)
        self._left = len(parts)
        for part in reversed(parts):
            self._download.crew.add(partial(self._fetch_part, part), next_up=True)

    def _fetch_part(self, part: Part) -> None:
        self._download.crew.check()
        content = self._file.content
        expected = content.part_digest(part.number)
        fresh = is_hole(self._descriptor, part.offset, part.size)
        if not fresh and digest_blocks(read_blocks(self._descriptor, part.offset, part.size)) == expected:
            self._download.progress.advance(skipped=part.size)
        else:
            stored = StoredBody(self._download.store, content.blob_id, content.start + part.offset, part.size)
            body = DigestingBody(CountedBody(stored, crew=self._download.crew, progress=self._download.progress))
            write_blocks(self._descriptor, part.offset, body.blocks(), keep_holes=fresh)
            if body.digest != expected:
                raise damaged(self._file)
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            sync_data(self._descriptor)
            self._partials.close(self._descriptor)
            self._download.publish(self._temporary, self._file)


class _Partials:
    """Unfinished files of large contents: ours, and those that dead fetches left.

    A lock tells whether a partial file's owner lives. That only one process goes on with it is made sure by renaming it
    to a name of its own, which holds on file systems whose locks do not.
    """

    def __init__(self, files: Sequence[StoredFile], download: _Download) -> None:
        self._download = download
        self._open: set[int] = set()
        self._left: dict[Path, list[Path]] = {}
        targets = {download.target(file) for file in files}
        for folder in {target.parent for target in targets}:
            for entry in os.scandir(folder):
                target = folder / _target_name(entry.name)
                if entry.name.endswith(PARTIAL_SUFFIX) and target in targets:
                    self._left.setdefault(target, []).append(folder / entry.name)

    def open(self, file: StoredFile) -> tuple[Path, int]:
        """A locked file of the right size under a name of this process: adopted, or new."""
        target = self._download.target(file)
        own = partial_path(target, file.content)
        adopted = False
        for left in self._left.get(target, ()):
            descriptor = _open_if_abandoned(left)
            if descriptor is None:
                continue
            if adopted or left.name[: -len(PARTIAL_SUFFIX) - _ID] != own.name[: -len(PARTIAL_SUFFIX) - _ID]:
                # Of another content of that name, or a second one of this: nobody will go on with it.
                left.unlink(missing_ok=True)
                os.close(descriptor)
                continue
            try:
                left.rename(own)
            except FileNotFoundError:
                os.close(descriptor)  # another process was faster
                continue
            adopted = True
            kept = descriptor
        if not adopted:
            kept = os.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            with contextlib.suppress(OSError):
                fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._open.add(kept)
        os.ftruncate(kept, file.content.size)
        return own, kept

    def close(self, descriptor: int) -> None:
        """Let go of a file that is done."""
        self._open.discard(descriptor)
        os.close(descriptor)

    def close_all(self) -> None:
        """Let go of what is unfinished; it stays for the next fetch."""
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()


_ID = 16
"""Characters that tell apart the partial files of several processes."""


def partial_path(target: Path, content: StoredContent) -> Path:
    """Where a file is written before it gets its name: beside it, named after it, its content and this try."""
    assert content.digest is not None
    unique = uuid.uuid4().hex[:_ID]
    return target.with_name(f".{target.name}.{content.digest.hex()[:_ID]}{unique}{PARTIAL_SUFFIX}")


def _target_name(partial_name: str) -> str:
    return partial_name.removesuffix(PARTIAL_SUFFIX).removeprefix(".").rpartition(".")[0]


def _open_if_abandoned(path: Path) -> int | None:
    """Open and lock a partial file; None where its owner is at work, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _has_content(path: Path, content: StoredContent, crew: Crew) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for part in parts_of(content.size, content.part_size):
            crew.check()
            if digest_blocks(read_blocks(descriptor, part.offset, part.size)) != content.part_digest(part.number):
                return False
        return True
    except EOFError:
        return False
    finally:
        os.close(descriptor)


def _sync_files(paths: Sequence[Path]) -> None:
    """Make small files durable: by one request for the file system they lie on where there is one (Linux)."""
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None) if len(paths) > 1 else None
    for path in paths[:1] if syncfs else paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if syncfs is None:
                os.fsync(descriptor)
            elif syncfs(descriptor) != 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error), str(path))
        finally:
            os.close(descriptor)


def damaged(file: StoredFile) -> IntegrityError:
    """The error for stored content that does not match its digest."""
    return IntegrityError(
        f"the stored content of {file.path!r} is damaged: its digest does not match (blob {file.content.blob_id})"
    )
