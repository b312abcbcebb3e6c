"""The engine that fetches a checkpoint's files from the managed store into a directory.

A file is written beside its name, verified part by part while it arrives, made durable, and only then given its
name. What an interrupted fetch left is adopted: its parts are digested where they lie and only the missing ones move.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Protocol

from flexai.checkpoints.contents import StoredContent, StoredFile
from flexai.checkpoints.documents import human_size
from flexai.checkpoints.errors import (
    DestinationExistsError,
    IntegrityError,
    StorageFullError,
    UnsafePathError,
    UsageError,
)
from flexai.checkpoints.local_paths import from_root
from flexai.checkpoints.names import some
from flexai.checkpoints.paths import check_path_set, parse_path
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.settings import Limits
from flexai.checkpoints.storage.at_once import Beside
from flexai.checkpoints.storage.beneath import KEPT_OPEN, Beneath, Folder
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX
from flexai.checkpoints.storage.files import (
    free_space,
    read_blocks,
    set_executable,
    write_block,
)
from flexai.checkpoints.storage.local import storage_error
from flexai.checkpoints.storage.managed import ManagedStore
from flexai.checkpoints.storage.protocol import Block
from flexai.checkpoints.transfer.crew import CountedBody, Crew
from flexai.checkpoints.transfer.digest import digest_blocks, parts_of
from flexai.checkpoints.transfer.file_fetch import TRIES, CutFile, FileFetch, PartsFetch, PartShares
from flexai.checkpoints.transfer.first_reading import FirstReading, check_checksum, learn
from flexai.checkpoints.transfer.journal import RecordDigests
from flexai.checkpoints.transfer.pack_plan import Stretch, plan_stretches
from flexai.checkpoints.transfer.partial_files import PartialFiles, arrived_bytes, begun_files, partial_path, remove
from flexai.checkpoints.transfer.stored_body import StoredBody, damaged, has_content, holds


@dataclass
class Fetched:
    """What a fetch did: paths in the checkpoint."""

    fetched: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """Where only a look was taken: in their place other content is."""
    damaged: dict[str, IntegrityError] = field(default_factory=dict)
    """What is wrong with stored content; nothing is at the destination of these that was not there before."""

    def add(self, more: Fetched) -> None:
        """Take in what was done elsewhere."""
        self.fetched += more.fetched
        self.kept += more.kept
        self.others += more.others
        self.damaged |= more.damaged

    def left_of(self, files: Sequence[StoredFile]) -> list[StoredFile]:
        """The files of which it tells nothing."""
        told = {*self.fetched, *self.kept, *self.others, *self.damaged}
        return [file for file in files if file.path not in told]


@dataclass
class FetchSurvey:
    """What is at the destination, before anything is written there."""

    root: Path
    kept: list[StoredFile] = field(default_factory=list)
    """Files that are there with the right content."""
    missing: list[StoredFile] = field(default_factory=list)
    others: list[StoredFile] = field(default_factory=list)
    """Files in whose place other content is."""
    wrong_modes: set[str] = field(default_factory=set)
    """The paths of files whose mode lets them be executed and should not, or the other way round."""

    def in_the_way(self) -> DestinationExistsError:
        """The error that says so."""
        others = some(sorted(str(self.root / file.path) for file in self.others), 1)
        return DestinationExistsError(f"other content is already at {others}")


class Fetcher(Protocol):
    """Does the long work of a fetch in other processes, which may be on other machines.

    What a destination's path leads to may be another directory there: those that see no file named ``witness`` in it
    do nothing. What is not told of then is left to this process.
    """

    def compare(self, files: Sequence[StoredFile], root: Path, witness: str) -> Fetched:
        """Read what is at the destination, and tell which files are there and in which place other content is."""

    def fetch(
        self, files: Sequence[StoredFile], root: Path, witness: str, begin: Callable[[StoredFile], CutFile]
    ) -> Fetched:
        """Fetch files, as ``fetch_files`` does; ``begin`` begins one whose parts different processes bring."""


def fetch_files(
    files: Sequence[StoredFile],
    destination: Path,
    *,
    folders: Sequence[str] = (),
    store: ManagedStore,
    record: RecordDigests,
    limits: Limits,
    overwrite: bool,
    progress: Progress,
    private: bool = False,
    fetcher: Fetcher | None = None,
    witness: str = "",
    store_check: Beside[None] | None = None,
) -> Fetched:
    """Fetch files into a directory, which is made where it is missing; ``private`` files are their owner's alone.

    ``folders`` are the paths of empty folders, which are made there. A file that its mode lets be executed can be
    executed there by who can read it, any other one by no user, also where it was there already. ``fetcher`` compares
    and fetches the files, as far as it can. Where a ``witness`` is asked for and does not lie in the directory, nothing
    is done. ``store_check`` is asking whether the store is the right one: what it raises is raised, and no content is
    written before it has answered.

    Stored content that is not what was recorded is told, and all else is fetched. Raises UnsafePathError for a path
    that would leave the directory, DestinationExistsError for other content in the way, both before anything is
    written.
    """
    root = _checked_root(files, destination, folders)
    transfer = Fetch(
        root,
        store,
        record,
        limits,
        progress,
        private=private,
        fetcher=fetcher,
        witness=witness,
        store_check=store_check,
    )
    with storage_errors(transfer.root):
        if transfer.is_here():
            transfer.run(files, folders, overwrite=overwrite)
    return transfer.done


def compare_files(
    files: Sequence[StoredFile],
    destination: Path,
    *,
    store: ManagedStore,
    record: RecordDigests,
    limits: Limits,
    progress: Progress,
    witness: str,
) -> Fetched:
    """Find which files are in a directory, and in which place other content is; nothing is written.

    Where ``witness`` does not lie in it, it tells of none. Raises what ``fetch_files`` raises, but for other content in
    the way.
    """
    transfer = Fetch(_checked_root(files, destination, ()), store, record, limits, progress, witness=witness)
    if not transfer.is_here():
        return transfer.done
    with storage_errors(transfer.root):
        found = transfer.survey(files, ())
    transfer.done.kept += [file.path for file in found.kept]
    transfer.done.others += [file.path for file in found.others]
    return transfer.done


def fetch_parts(
    file: StoredFile,
    numbers: range,
    place: str,
    destination: Path,
    *,
    store: ManagedStore,
    limits: Limits,
    progress: Progress,
    witness: str,
) -> Fetched:
    """Bring some parts of a large file, by their numbers (from 1), to where another process has made it (``CutFile``).

    ``place`` is below the directory. Where that file, or ``witness``, does not lie in it, nothing is told of it.
    """
    root = _checked_root([file], destination, ())
    transfer = Fetch(root, store, lambda _: None, limits, progress, witness=witness)
    parts = PartsFetch(transfer, file, place, numbers)
    with storage_errors(root), contextlib.closing(parts):
        try:
            if transfer.is_here():
                transfer.shares.expect(len(numbers))
                transfer.crew.add(parts.begin)
                transfer.crew.run()
        except FileNotFoundError:
            pass  # a later fetch goes on with it, and this one's process finds what is left
    if parts.have_arrived:
        transfer.done.fetched.append(file.path)
    return transfer.done


def survey(
    files: Sequence[StoredFile],
    destination: Path,
    *,
    folders: Sequence[str] = (),
    store: ManagedStore,
    record: RecordDigests,
    limits: Limits,
    progress: Progress,
) -> FetchSurvey:
    """Find what a fetch would meet, for which what has the right size is read; nothing is written.

    Raises what ``fetch_files`` raises, but for other content in the way, and IntegrityError for stored content that is
    not what was recorded.
    """
    transfer = Fetch(_checked_root(files, destination, folders), store, record, limits, progress)
    with storage_errors(transfer.root):
        found = transfer.survey(files, folders)
    for error in transfer.done.damaged.values():
        raise error
    return found


def find_begun(found: FetchSurvey) -> set[str]:
    """The paths of missing files of which an interrupted fetch left something beside their names."""
    with storage_errors(found.root):
        return begun_files(Beneath(found.root), found.missing)


def lack_of_room(found: FetchSurvey) -> StorageFullError | None:
    """The error for a destination that has no room for the files that are to come; None where it has."""
    files = found.missing + found.others
    with storage_errors(found.root):
        room = free_space(found.root)
        needed = sum(file.content.size for file in files)
        if room is not None and needed > room:
            needed -= arrived_bytes(Beneath(found.root), files)
    if room is None or needed <= room:
        return None
    return StorageFullError(
        f"no space is left in {found.root} for what is fetched: {human_size(needed)} are needed, and"
        f" {human_size(room)} are free"
    )


def root_of(destination: Path) -> Path:
    """Where a fetch's destination is, absolute; UsageError for what can be no path, or begins nowhere."""
    try:
        root = from_root(destination)
        if ".." in root.parts:
            # While a folder before it is missing, nothing would be found at the destination; once it is made, all is.
            root = Path(os.path.realpath(root))
        root.lstat()
    except RuntimeError as error:
        raise UsageError(f"destination {destination} cannot be found: its user has no home folder") from error
    except ValueError as error:
        raise UsageError(f"destination {str(destination)!r} cannot be a path: {error}") from error
    except OSError:
        pass  # what is there already, if anything, is looked at when it is opened
    return root


def _checked_root(files: Sequence[StoredFile], destination: Path, folders: Sequence[str]) -> Path:
    check_path_set([parse_path(path) for path in (*(file.path for file in files), *folders)])
    return root_of(destination)


@contextlib.contextmanager
def storage_errors(root: Path) -> Iterator[None]:
    """Say an operating system's errors about what lies below a destination in our words."""
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


class Fetch:
    def __init__(
        self,
        root: Path,
        store: ManagedStore,
        record: RecordDigests,
        limits: Limits,
        progress: Progress,
        *,
        private: bool = False,
        fetcher: Fetcher | None = None,
        witness: str = "",
        store_check: Beside[None] | None = None,
    ) -> None:
        self.root = root
        self.tree = Beneath(root, keep=KEPT_OPEN)
        self.store = store
        self.record = record
        self.limits = limits
        self.progress = progress
        self.private = private
        self.fetcher = fetcher
        self.witness = witness
        self.store_check = store_check
        self.file_mode = 0o600 if private else 0o666
        self.crew = Crew(limits.concurrency, bandwidth=limits.bandwidth)
        self.done = Fetched()
        self.shares = PartShares(self.crew)

    def run(self, files: Sequence[StoredFile], empty_folders: Sequence[str], *, overwrite: bool) -> None:
        found = self.survey(files, empty_folders)
        if found.others and not overwrite:
            raise found.in_the_way()
        self.done.kept += [file.path for file in found.kept]
        missing = found.missing + found.others
        if (error := lack_of_room(found)) is not None:
            raise error
        for file in found.kept:
            if file.path in found.wrong_modes:
                self._set_executable(file)
        folders = sorted({os.path.dirname(file.path) for file in missing}.union(empty_folders))
        for folder in folders:
            self.tree.make(folder, private=self.private)
        if self.fetcher is not None and missing:
            done = self._by_others(partial(self.fetcher.fetch, begin=partial(CutFile, self)), missing)
            self.done.add(done)
            missing = done.left_of(missing)
        self._bring(files, missing)
        self.check_store()
        # As they are found now: what went to a folder that has been taken away since is not at the destination.
        self.tree.forget()
        for folder in folders:
            self.tree.folder(folder).sync()

    def _bring(self, files: Sequence[StoredFile], missing: Sequence[StoredFile]) -> None:
        large = [file for file in missing if file.content.size >= self.limits.pack_threshold]
        small = [file for file in missing if file.content.size < self.limits.pack_threshold]
        targets = [file.path for file in files] + ([] if self.witness else [WITNESS])
        partials = PartialFiles(self.tree, targets, [file.path for file in large], mode=self.file_mode)
        for file in sorted(large, key=lambda file: -file.content.size):
            self.shares.expect(len(parts_of(file.content.size, file.content.part_size)))
            self.crew.add(partial(FileFetch(self, file, partials).begin))
        self._add_small(small)
        try:
            self.crew.run(may_leave=self._knows_no_store)
        finally:
            partials.close_all(keep_new=not self._knows_no_store())

    def check_store(self, look_up: Callable[[], None] | None = None) -> None:
        """Wait until the store is known to be the right one; raises what says that it is another, or ``look_up``."""
        if self.store_check is not None:
            self.store_check.answer(look_up)
            if look_up is not None:
                look_up()

    def _knows_no_store(self) -> bool:
        """Whether no content has been written, and none will be once the crew is stopped."""
        return self.store_check is not None and not self.store_check.has_answer

    def is_here(self) -> bool:
        """Whether the destination is the directory that is meant: no witness is asked for, or it lies there."""
        if self.witness:
            try:
                self.tree.folder("").status(self.witness)
            except OSError:
                return False
        return True

    def _by_others(
        self, work: Callable[[Sequence[StoredFile], Path, str], Fetched], files: Sequence[StoredFile]
    ) -> Fetched:
        """Have other processes work on files: those to whom the destination is the same directory."""
        name = f".{WITNESS}.{uuid.uuid4().hex}{PARTIAL_SUFFIX}"
        folder = self.tree.folder("")
        try:
            descriptor = folder.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except OSError:
            return Fetched()  # all may be there, and nothing has to be written
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return work(files, self.root, name)
        finally:
            remove(folder, name)
            os.close(descriptor)

    def survey(self, files: Sequence[StoredFile], empty_folders: Sequence[str]) -> FetchSurvey:
        """Find which files are not there yet, without writing anything."""
        nearest = next(path for path in (self.root, *self.root.parents) if os.path.lexists(path))
        if not nearest.is_dir():
            raise _no_folder(nearest)
        found = FetchSurvey(self.root)
        for path in empty_folders:
            with contextlib.suppress(FileNotFoundError):
                self.tree.folder(path)
        crew = Crew(self.limits.concurrency)

        def compare(file: StoredFile) -> None:
            try:
                content = learn(file.content, store=self.store, record=self.record, check=crew.check)
            except IntegrityError as error:
                self.done.damaged[file.path] = error
                return
            if self._has_content(file, content, crew):
                self.progress.advance(skipped=file.content.size, files=1)
                found.kept.append(file)
            else:
                found.others.append(file)

        candidates: list[StoredFile] = []
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
                candidates.append(file)
                if bool(status.st_mode & stat.S_IXUSR) is not file.is_executable:
                    found.wrong_modes.add(file.path)
            else:
                found.others.append(file)
        if self.fetcher is not None and candidates:
            told = self._by_others(self.fetcher.compare, candidates)
            kept, others = set(told.kept), set(told.others)
            found.kept += [file for file in candidates if file.path in kept]
            found.others += [file for file in candidates if file.path in others]
            self.done.damaged |= told.damaged
            candidates = told.left_of(candidates)
        for file in candidates:
            crew.add(partial(compare, file))
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

    def _set_executable(self, file: StoredFile) -> None:
        folder, name = self.tree.at(file.path)
        descriptor = folder.open(name, os.O_RDONLY)
        try:
            set_executable(descriptor, file.is_executable)
        finally:
            os.close(descriptor)

    def give_name(self, temporary: str, file: StoredFile) -> None:
        """Give a durable, verified file its name."""
        folder, name = self.tree.at(file.path)
        os.replace(os.path.basename(temporary), name, src_dir_fd=folder.number, dst_dir_fd=folder.number)

    def publish(self, temporary: str, file: StoredFile) -> None:
        """Give a durable, verified file its name, and tell that it is done."""
        self.check_store(self.crew.check)
        self.give_name(temporary, file)
        self.done.fetched.append(file.path)
        self.progress.advance(files=1)

    def _add_small(self, files: Sequence[StoredFile]) -> None:
        for stretch in plan_stretches(files, max_length=max(self.limits.pack_threshold, 1)):
            self.crew.add(partial(self._fetch_stretch, stretch))

    def _fetch_stretch(self, stretch: Stretch) -> None:
        """Fetch neighbouring small files by one request; all are made durable together."""
        try:
            room = self._read(stretch)
        except IntegrityError as error:
            if len(stretch.files) == 1:
                self.done.damaged[stretch.files[0].path] = error
            else:
                for file in stretch.files:
                    self._add_small([file])  # it may be there all the same
            return
        content, pieces = memoryview(room), []
        for file in stretch.files:
            start = file.content.start - stretch.start
            piece = content[start : start + file.content.size]
            try:
                self._check_piece(file, piece)
            except IntegrityError as error:
                self.done.damaged[file.path] = error
            else:
                pieces.append((file, piece))
        if pieces:
            _try_again(partial(self._write_small, pieces))

    def _read(self, stretch: Stretch) -> bytearray:
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
        self.check_store(self.crew.check)
        return room

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
            for (_, piece), (file, temporary) in zip(pieces, temporaries, strict=True):
                _write_file(*self.tree.at(temporary), piece, self.file_mode, is_executable=file.is_executable)
            _sync_files(self.tree, [temporary for _, temporary in temporaries])
            for file, temporary in temporaries:
                self.publish(temporary, file)
                del pieces[0]
        except BaseException:
            for _, temporary in temporaries:
                with contextlib.suppress(OSError):
                    remove(*self.tree.at(temporary))
            raise


WITNESS = "flexai-shards"
"""After what the file is named by which other machines see that a directory of theirs is the destination."""

_FEW = 16
"""Small files that are made durable one by one."""


def _write_file(folder: Folder, name: str, content: Block, mode: int, *, is_executable: bool) -> None:
    # Not by a file object, which asks for more about the file than writing it takes.
    descriptor = folder.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        write_block(descriptor, 0, content, keep_hole=False)
        if is_executable:
            set_executable(descriptor, is_executable)
    finally:
        os.close(descriptor)


def _try_again(write: Callable[[], None]) -> None:
    """Write files again that another fetch has taken for a dead one's."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(FileNotFoundError):
            write()
            return
    write()


def _no_folder(path: Path | str) -> DestinationExistsError:
    return DestinationExistsError(f"{path} is no folder, where one should be", hint="choose another destination")


def _sync_files(tree: Beneath, paths: Sequence[str]) -> None:
    """Make small files durable: many by one request for the file system they lie on where there is one (Linux)."""
    # That request also waits for what others have written there, so it has to be worth it.
    syncfs = None
    if len(paths) > _FEW:
        import ctypes

        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
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
