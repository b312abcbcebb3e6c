"""The engine that fetches a checkpoint's files from the managed store into a directory.

A file is written beside its name, verified part by part while it arrives, made durable, and only then given its
name. What an interrupted fetch left is adopted: its parts are digested where they lie and only the missing ones move.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.errors import DestinationExistsError, UnsafePathError, UsageError
from flexai.checkpoints.paths import check_path_set, parse_path
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.settings import Limits
from flexai.checkpoints.storage.beneath import KEPT_OPEN, Beneath, Folder
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX
from flexai.checkpoints.storage.files import is_hole, read_blocks, sync_data, write_block, write_blocks
from flexai.checkpoints.storage.local import storage_error
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.transfer.crew import CountedBody, Crew
from flexai.checkpoints.transfer.digest import DigestingBody, Part, digest_blocks, parts_of
from flexai.checkpoints.transfer.first_reading import FirstReading, check_checksum, learn
from flexai.checkpoints.transfer.journal import RecordDigests
from flexai.checkpoints.transfer.pack_plan import Stretch, plan_stretches
from flexai.checkpoints.transfer.stored_body import StoredBody, damaged, has_content, holds


@dataclass
class Fetched:
    """What a fetch did: paths in the checkpoint."""

    fetched: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


@dataclass
class FetchSurvey:
    """What is at the destination, before anything is written there."""

    root: Path
    kept: list[StoredFile] = field(default_factory=list)
    """Files that are there with the right content."""
    missing: list[StoredFile] = field(default_factory=list)
    others: list[StoredFile] = field(default_factory=list)
    """Files in whose place other content is."""

    def in_the_way(self) -> DestinationExistsError:
        """The error that says so."""
        first = min(str(self.root / file.path) for file in self.others)
        more = f" and {len(self.others) - 1} more" if len(self.others) > 1 else ""
        return DestinationExistsError(f"other content is already at {first}{more}")


def fetch_files(
    files: Sequence[StoredFile],
    destination: Path,
    *,
    store: ManagedStore,
    record: RecordDigests,
    limits: Limits,
    overwrite: bool,
    progress: Progress,
    private: bool = False,
) -> Fetched:
    """Fetch files into a directory, which is made where it is missing; ``private`` files are their owner's alone.

    Raises UnsafePathError for a path that would leave it, DestinationExistsError for other content in the way, both
    before anything is written; IntegrityError for stored content that is not what was recorded.
    """
    transfer = _Fetch(_root_of(files, destination), store, record, limits, progress, private=private)
    with _storage_errors(transfer.root):
        transfer.run(files, overwrite=overwrite)
    return transfer.done


def survey(
    files: Sequence[StoredFile],
    destination: Path,
    *,
    store: ManagedStore,
    record: RecordDigests,
    limits: Limits,
    progress: Progress,
) -> FetchSurvey:
    """Find what a fetch would meet, for which what has the right size is read; nothing is written.

    Raises what ``fetch_files`` raises, but for other content in the way.
    """
    transfer = _Fetch(_root_of(files, destination), store, record, limits, progress)
    with _storage_errors(transfer.root):
        return transfer.survey(files)


def find_begun(found: FetchSurvey) -> set[str]:
    """The paths of missing files of which an interrupted fetch left something beside their names."""
    begun: set[str] = set()
    left: dict[str, set[str]] = {}
    tree = Beneath(found.root)
    with _storage_errors(found.root):
        for file in found.missing:
            folder, own = os.path.split(partial_path(file.path, file.content))
            if folder not in left:
                left[folder] = {_content_name(name) for name in _partials_in(tree, folder)}
            if _content_name(own) in left[folder]:
                begun.add(file.path)
    return begun


def _root_of(files: Sequence[StoredFile], destination: Path) -> Path:
    check_path_set([parse_path(file.path) for file in files])
    try:
        root = destination.expanduser().absolute()
        root.lstat()
    except RuntimeError as error:
        raise UsageError(f"destination {destination} cannot be found: its user has no home folder") from error
    except ValueError as error:
        raise UsageError(f"destination {str(destination)!r} cannot be a path: {error}") from error
    except OSError:
        pass  # what is there already, if anything, is looked at when it is opened
    return root


@contextlib.contextmanager
def _storage_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = root / (error.filename or "*")
        if error.errno == errno.ELOOP:
            raise UnsafePathError(
                f"{path} is a symbolic link: files would land outside {root}",
                hint="choose another destination, or remove the link",
            ) from error
        if isinstance(error, NotADirectoryError):
            raise _no_folder(path) from error
        raise storage_error(error, path) from error


class _Fetch:
    def __init__(
        self,
        root: Path,
        store: ManagedStore,
        record: RecordDigests,
        limits: Limits,
        progress: Progress,
        *,
        private: bool = False,
    ) -> None:
        self.root = root
        self.tree = Beneath(root, keep=KEPT_OPEN)
        self.store = store
        self.record = record
        self.limits = limits
        self.progress = progress
        self.private = private
        self.file_mode = 0o600 if private else 0o666
        self.crew = Crew(limits.concurrency, bandwidth=limits.bandwidth)
        self.done = Fetched()

    def run(self, files: Sequence[StoredFile], *, overwrite: bool) -> None:
        found = self.survey(files)
        if found.others and not overwrite:
            raise found.in_the_way()
        self.done.kept += [file.path for file in found.kept]
        missing = found.missing + found.others
        folders = sorted({os.path.dirname(file.path) for file in missing})
        for folder in folders:
            self.tree.make(folder, private=self.private)
        large = [file for file in missing if file.content.size >= self.limits.pack_threshold]
        small = [file for file in missing if file.content.size < self.limits.pack_threshold]
        partials = _Partials(files, large, self)
        for file in sorted(large, key=lambda file: -file.content.size):
            self.crew.add(partial(_FileFetch(self, file, partials).begin))
        for stretch in plan_stretches(small, max_length=max(self.limits.pack_threshold, 1)):
            self.crew.add(partial(self._fetch_stretch, stretch))
        try:
            self.crew.run()
        finally:
            partials.close_all()
        # As they are found now: what went to a folder that has been taken away since is not at the destination.
        self.tree.forget()
        for folder in folders:
            self.tree.folder(folder).sync()

    def survey(self, files: Sequence[StoredFile]) -> FetchSurvey:
        """Find which files are not there yet, without writing anything."""
        nearest = next(path for path in (self.root, *self.root.parents) if os.path.lexists(path))
        if not nearest.is_dir():
            raise _no_folder(nearest)
        found = FetchSurvey(self.root)
        crew = Crew(self.limits.concurrency)

        def compare(file: StoredFile) -> None:
            content = learn(file.content, store=self.store, record=self.record, check=crew.check)
            if self._has_content(file, content, crew):
                self.progress.advance(skipped=file.content.size, files=1)
                found.kept.append(file)
            else:
                found.others.append(file)

        for file in files:
            try:
                folder, name = self.tree.at(file.path)
                status = folder.status(name)
            except FileNotFoundError:
                found.missing.append(file)
                continue
            if stat.S_ISDIR(status.st_mode):
                raise DestinationExistsError(
                    f"{self.root / file.path} is a folder, where a file should go", hint="choose another destination"
                )
            if stat.S_ISREG(status.st_mode) and status.st_size == file.content.size:
                crew.add(partial(compare, file))
            else:
                found.others.append(file)
        crew.run()
        return found

    def _has_content(self, file: StoredFile, content: StoredContent, crew: Crew) -> bool:
        folder, name = self.tree.at(file.path)
        descriptor = folder.open(name, os.O_RDONLY)
        try:
            return holds(content, lambda part: read_blocks(descriptor, part.offset, part.size), crew.check)
        except EOFError:
            return False
        finally:
            os.close(descriptor)

    def publish(self, temporary: str, file: StoredFile) -> None:
        """Give a durable, verified file its name."""
        folder, name = self.tree.at(file.path)
        os.replace(os.path.basename(temporary), name, src_dir_fd=folder.number, dst_dir_fd=folder.number)
        self.done.fetched.append(file.path)
        self.progress.advance(files=1)

    def _fetch_stretch(self, stretch: Stretch) -> None:
        """Fetch neighbouring small files by one request; all are made durable together."""
        body = CountedBody(
            StoredBody(self.store, stretch.blob_id, stretch.start, stretch.length),
            crew=self.crew,
            progress=self.progress,
        )
        room = bytearray(stretch.length)
        position = 0
        for block in body.blocks():
            room[position : position + len(block)] = block
            position += len(block)
        content, pieces = memoryview(room), []
        for file in stretch.files:
            start = file.content.start - stretch.start
            piece = content[start : start + file.content.size]
            self._check_piece(file, piece)
            pieces.append((file, piece))
        _try_again(partial(self._write_small, pieces))

    def _check_piece(self, file: StoredFile, piece: Block) -> None:
        """Compare a small file in memory with its digest, or with its provider's checksum at its first reading."""
        content = file.content
        if content.digest is not None:
            if not has_content(piece, content):
                raise damaged(file)
            return
        check_checksum(content, [piece])
        reading = FirstReading(content)
        for part in parts_of(content.size, content.part_size):
            reading.take(part, digest_blocks([piece[part.offset : part.offset + part.size]]))
        reading.record(self.record)

    def _write_small(self, pieces: list[tuple[StoredFile, Block]]) -> None:
        """Write small files beside their names, and give them these when all are durable; takes what is done."""
        temporaries = [(file, partial_path(file.path, file.content)) for file, _ in pieces]
        try:
            for (_, piece), (_, temporary) in zip(pieces, temporaries, strict=True):
                _write_file(*self.tree.at(temporary), piece, self.file_mode)
            _sync_files(self.tree, [temporary for _, temporary in temporaries])
            for file, temporary in temporaries:
                self.publish(temporary, file)
                del pieces[0]
        except BaseException:
            for _, temporary in temporaries:
                with contextlib.suppress(OSError):
                    _remove(*self.tree.at(temporary))
            raise


class _FileFetch:
    """One large file on its way; its parts arrive by any threads in any order."""

    def __init__(self, fetch: _Fetch, file: StoredFile, partials: _Partials) -> None:
        self._fetch = fetch
        self._file = file
        self._partials = partials
        self._lock = threading.Lock()
        self._left = 0
        self._tries = 0
        self._temporary = ""
        self._descriptor = -1
        self._first = FirstReading(file.content) if file.content.digest is None else None

    def begin(self) -> None:
        """Open the file beside its name, or what an earlier fetch left of it, and queue its parts."""
        self._tries += 1
        self._temporary, self._descriptor = self._partials.open(self._file, adopt=self._tries == 1)
        parts = parts_of(self._file.content.size, self._file.content.part_size)
        self._left = len(parts)
        for part in reversed(parts):
            self._fetch.crew.add(partial(self._fetch_part, part), next_up=True)

    def _fetch_part(self, part: Part) -> None:
        self._fetch.crew.check()
        content = self._file.content
        fresh = is_hole(self._descriptor, part.offset, part.size)
        if not (fresh or self._first) and (
            digest_blocks(read_blocks(self._descriptor, part.offset, part.size)) == content.part_digest(part.number)
        ):
            self._fetch.progress.advance(skipped=part.size)
        else:
            stored = StoredBody(self._fetch.store, content.blob_id, content.start + part.offset, part.size)
            body = DigestingBody(CountedBody(stored, crew=self._fetch.crew, progress=self._fetch.progress))
            write_blocks(self._descriptor, part.offset, body.blocks(), keep_holes=fresh)
            if self._first:
                self._first.take(part, body.digest)
            elif body.digest != content.part_digest(part.number):
                raise damaged(self._file)
        with self._lock:
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._finish()

    def _finish(self) -> None:
        if self._first:
            check_checksum(self._file.content, read_blocks(self._descriptor, 0, self._file.content.size))
            self._first.record(self._fetch.record)
        sync_data(self._descriptor)
        self._partials.close(self._descriptor)
        try:
            self._fetch.publish(self._temporary, self._file)
        except FileNotFoundError:
            if self._tries == _TRIES:
                raise
            # Locks keep no process out here, so another fetch took it for a dead one's and finishes it.
            self.begin()


class _Partials:
    """Unfinished files: ours, and those that dead fetches left.

    A lock tells whether the owner of a large one lives. That only one process goes on with it is made sure by renaming
    it to a name of its own, which holds on file systems whose locks do not. Small ones, and those beside files that are
    complete, are removed; an owner who lives after all writes them again.
    """

    def __init__(self, files: Sequence[StoredFile], large: Sequence[StoredFile], fetch: _Fetch) -> None:
        """``files`` are all of the checkpoint, ``large`` those that are to be fetched part by part."""
        self._fetch = fetch
        self._open: set[int] = set()
        self._left: dict[str, list[str]] = {}
        targets: set[str] = {file.path for file in files}
        for folder in {os.path.dirname(target) for target in targets}:
            for name in _partials_in(fetch.tree, folder):
                target = os.path.join(folder, _target_name(name))
                if target in targets:
                    self._left.setdefault(target, []).append(name)
        for target in self._left.keys() - {file.path for file in large}:
            opened, _ = fetch.tree.at(target)
            for left in self._left.pop(target):
                if (descriptor := _open_if_abandoned(opened, left)) is not None:
                    _remove(opened, left)
                    os.close(descriptor)

    def open(self, file: StoredFile, *, adopt: bool) -> tuple[str, int]:
        """A locked file of the right size under a name of this process: a new one, or one adopted if there is any."""
        path = partial_path(file.path, file.content)
        folder, own = self._fetch.tree.at(path)
        adopted = False
        for left in self._left.get(file.path, ()) if adopt else ():
            descriptor = _open_if_abandoned(folder, left)
            if descriptor is None:
                continue
            if adopted or _content_name(left) != _content_name(own):
                # Of another content of that name, or a second one of this: no fetch will go on with it.
                _remove(folder, left)
                os.close(descriptor)
                continue
            try:
                os.rename(left, own, src_dir_fd=folder.number, dst_dir_fd=folder.number)
            except FileNotFoundError:
                os.close(descriptor)  # another process was faster
                continue
            adopted = True
            kept = descriptor
        if not adopted:
            kept = folder.open(own, os.O_RDWR | os.O_CREAT | os.O_EXCL, self._fetch.file_mode)
            with contextlib.suppress(OSError):
                fcntl.flock(kept, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._open.add(kept)
        os.ftruncate(kept, file.content.size)
        return path, kept

    def close(self, descriptor: int) -> None:
        """Let go of a file that is done."""
        self._open.discard(descriptor)
        os.close(descriptor)

    def close_all(self) -> None:
        """Let go of what is unfinished; it stays for the next fetch."""
        for descriptor in self._open:
            os.close(descriptor)
        self._open.clear()


_TRIES = 5
"""How often a file is written that other fetches take away."""
_FEW = 16
"""Small files that are made durable one by one."""
_ID = 16
"""Characters that tell apart the partial files of several processes."""


def partial_path(target: str, content: StoredContent) -> str:
    """Where a file is written before it gets its name: beside it, named after it, its content and this try."""
    named = content.blob_id if content.digest is None else content.digest.hex()
    unique = uuid.uuid4().hex[:_ID]
    folder, name = os.path.split(target)
    return os.path.join(folder, f".{name}.{named[:_ID]}{unique}{PARTIAL_SUFFIX}")


def _content_name(partial: str) -> str:
    """What is equal for the partial files of one content that is to get one name."""
    return partial[: -len(PARTIAL_SUFFIX) - _ID]


def _target_name(partial_name: str) -> str:
    return partial_name.removesuffix(PARTIAL_SUFFIX).removeprefix(".").rpartition(".")[0]


def _partials_in(tree: Beneath, folder: str) -> list[str]:
    """The names of a folder's unfinished files; none where it is not there yet."""
    try:
        entries = tree.folder(folder).entries()
    except FileNotFoundError:
        return []
    return [name for name, _ in entries if name.endswith(PARTIAL_SUFFIX)]


def _write_file(folder: Folder, name: str, content: Block, mode: int) -> None:
    # Not by a file object, which asks for more about the file than writing it takes.
    descriptor = folder.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        write_block(descriptor, 0, content, keep_hole=False)
    finally:
        os.close(descriptor)


def _remove(folder: Folder, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder.number)


def _open_if_abandoned(folder: Folder, name: str) -> int | None:
    """Open and lock a partial file; None where its owner is at work, it is gone, or it has another name as well."""
    try:
        descriptor = folder.open(name, os.O_RDWR)
    except OSError:
        return None
    status = os.fstat(descriptor)
    if status.st_nlink > 1 or not stat.S_ISREG(status.st_mode):
        # No fetch left it so. What is written here would be written to a file elsewhere.
        os.close(descriptor)
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _try_again(write: Callable[[], None]) -> None:
    """Write files again that another fetch has taken for a dead one's."""
    for _ in range(_TRIES - 1):
        with contextlib.suppress(FileNotFoundError):
            write()
            return
    write()


def _no_folder(path: Path | str) -> DestinationExistsError:
    return DestinationExistsError(f"{path} is no folder, where one should be", hint="choose another destination")


def _sync_files(tree: Beneath, paths: Sequence[str]) -> None:
    """Make small files durable: many by one request for the file system they lie on where there is one (Linux)."""
    # That request also waits for what others have written there, so it has to be worth it.
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None) if len(paths) > _FEW else None
    for path in paths[:1] if syncfs else paths:
        folder, name = tree.at(path)
        descriptor = folder.open(name, os.O_RDONLY)
        try:
            if syncfs is None:
                os.fsync(descriptor)
            elif syncfs(descriptor) != 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error), path)
        finally:
            os.close(descriptor)
