"""Fetch: bring a checkpoint's files to a directory of this machine."""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from flexai.checkpoints.contents import StoredFile, is_unverified
from flexai.checkpoints.documents import Document, identity
from flexai.checkpoints.errors import IntegrityError, InvalidNameError, NotFoundError
from flexai.checkpoints.local_paths import expanded, working_directory
from flexai.checkpoints.models import Checkpoint
from flexai.checkpoints.names import some
from flexai.checkpoints.own_folders import OwnFolders, first_within
from flexai.checkpoints.paths import first_of
from flexai.checkpoints.patterns import exactly
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.requests import FetchRequest, split_file
from flexai.checkpoints.service.support.extras import check_extra, tell_extra
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.at_once import Beside
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.transfer.extra import Extra, find_extra, remove_extra
from flexai.checkpoints.transfer.fetch import WITNESS, Fetched, Fetcher, fetch_files, root_of, storage_errors
from flexai.checkpoints.transfer.shard_plan import shard_target
from flexai.checkpoints.wanted import Wanted

if TYPE_CHECKING:
    from flexai.checkpoints.service.support.shard_work import ShardRunner

_NAMED = 20
"""Damaged files that an error names; the catalog knows all of them then."""


@dataclass(frozen=True, slots=True)
class FetchReport:
    """What a fetch did."""

    checkpoint: Checkpoint
    destination: Path
    """The directory, absolute."""
    fetched_files: int
    kept_files: int
    """Files that were there already with the right content."""
    moved_bytes: int
    """Bytes of the files that were fetched; what an interrupted fetch had brought counts too."""
    unverified_files: int
    """Files whose bytes could be compared with nothing."""
    extra_files: int = 0
    """What else lies in the directory, files and empty folders; where more than 10,000 do, this is one more."""
    deleted_files: int = 0
    """What else lay there, and was deleted."""
    left_out_files: int = 0
    """Files of the checkpoint that were not asked for."""
    left_out_bytes: int = 0

    def to_dict(self) -> Document:
        """What ``checkpoint fetch --json`` prints; sizes in bytes."""
        return {
            "checkpoint": identity(self.checkpoint),
            "destination": str(self.destination),
            "fetchedFiles": self.fetched_files,
            "keptFiles": self.kept_files,
            "movedBytes": self.moved_bytes,
            "unverifiedFiles": self.unverified_files,
            "extraFiles": self.extra_files,
            "deletedFiles": self.deleted_files,
            "leftOutFiles": self.left_out_files,
            "leftOutBytes": self.left_out_bytes,
        }


def fetch(
    system: System,
    request: FetchRequest,
    *,
    runner: ShardRunner | None = None,
    progress: Progress | None = None,
    private: bool = False,
) -> FetchReport:
    """Bring a checkpoint's files into a directory, which is made where it is missing; a rerun continues a broken fetch.

    A file that is there with the right content is kept. ``private`` makes files and folders their owner's alone; else
    they have the modes that the umask leaves. ``runner`` runs a large one in shards.

    Raises NotFoundError for a checkpoint that is not there, ConflictError for one that is not available (but with
    ``node``), DestinationExistsError for other content in the way (unless ``overwrite``), ExecutableContentError for
    files that run code when they are loaded (with ``refuse_executable``; else a checkpoint from a provider has a note).
    Raises IntegrityError for stored content that is damaged, once all else has come, and for content that nothing is
    known of to compare it with (with ``require_digests``; else it has a note), and what ``destination_of`` raises.

    A part that is asked for is fetched as the whole is, and the directory then counts as one that no checkpoint was
    fetched to. Raises NotFoundError for a pattern or a role that names none of its files.

    What else lies in the directory is noted, or deleted (with ``delete_extra``): ExtraFilesError where the caller does
    not insist, DestinationExistsError where no checkpoint was fetched to before; both before anything is written.
    """
    progress = progress or Progress()
    root = destination_of(system, request)
    system.read_ahead()
    found_extra: list[Extra] = []
    checkpoint, all_files, wanted = look_for(system, request)
    # Of a store that is far the first bytes are asked for beside this, and none is written before.
    store_check = Beside(partial(system.check_store, checkpoint))
    if isinstance(system.store.storage, LocalStorage) or request.refuse_executable or runner is not None:
        store_check.answer()
    files = [file for file in all_files if file.path in wanted.paths]
    unverified = [file.path for file in files if is_unverified(file.content.digest, file.content.checksums)]
    unknown = f"neither a digest nor a checksum is known of {first_of(unverified)}" if unverified else ""
    if unknown and request.require_digests:
        raise IntegrityError(
            f"checkpoint {checkpoint.title!r} was refused: {unknown}",
            hint="push the files again from a source that can be trusted, or fetch without --require-digests",
        )
    if request.refuse_executable:
        from flexai.checkpoints.service.support.code import refuse_code, stored_files

        refuse_code(stored_files(system.store, files), checkpoint.title)
    is_known = False
    if not private and request.node is None:
        found_extra = extra_at(checkpoint, all_files, root)
        is_known = bool(found_extra) and may_be_cleared(system, root)
        check_extra(request, found_extra, str(root), may_be_removed=is_known)
    progress.begin(
        f"fetch {wanted.what(checkpoint)}", total_bytes=checkpoint.size - wanted.left_bytes, total_files=len(files)
    )
    fetcher: Fetcher | None = None
    if runner is not None and shard_target([file.content.size for file in files], runner.shard_size):
        from flexai.checkpoints.service.support.shard_dispatch import ShardedFetcher

        fetcher = ShardedFetcher(system, checkpoint, request, runner=runner, progress=progress)
    try:
        done = fetch_files(
            files,
            root,
            folders=wanted.folders,
            store=system.store,
            record=system.learning(files),
            limits=system.settings.limits,
            overwrite=request.overwrite,
            progress=progress,
            private=private,
            fetcher=fetcher,
            store_check=store_check,
        )
    finally:
        store_check.give_up()
        progress.end()
    if done.damaged:
        from flexai.checkpoints.service.verify import remember_damage

        error = _damage(done, root)
        remember_damage(system, [file for file in files if _may_be_damaged(file, done)], error)
        raise error
    if request.delete_extra:
        with storage_errors(root):
            remove_extra(root, found_extra, checkpoint.folders)
    elif is_known or root != working_directory():
        # What lies in the directory that the caller works in is known there.
        tell_extra(found_extra, str(root), checkpoint.title, progress, may_be_removed=is_known)
    if not (private or wanted.left_files):
        # A folder with a part is no checkpoint's: nothing else in it may be cleared for one.
        system.stat_cache.note_fetched(root)
    if checkpoint.pointers and not wanted.left_files:
        from flexai.checkpoints.service.support.pointers import make_links

        make_links(checkpoint, [file.path for file in files], root, progress)
    if unknown:
        progress.note(f"checkpoint {checkpoint.title!r} is unverified: {unknown}, so its bytes were taken as they lay")
    if checkpoint.source.storage_provider and not request.refuse_executable:
        from flexai.checkpoints.service.support.code import fetched_files, warn_of_code

        warn_of_code(fetched_files(root, files), checkpoint.title, progress)
    sizes = {file.path: file.content.size for file in files}
    return FetchReport(
        checkpoint=checkpoint,
        destination=root,
        fetched_files=len(done.fetched),
        kept_files=len(done.kept),
        moved_bytes=sum(sizes[path] for path in done.fetched),
        unverified_files=len(unverified),
        extra_files=0 if request.delete_extra else len(found_extra),
        deleted_files=len(found_extra) if request.delete_extra else 0,
        left_out_files=wanted.left_files,
        left_out_bytes=wanted.left_bytes,
    )


def destination_of(system: System, request: FetchRequest) -> Path:
    """The directory that a fetch is to, absolute.

    Raises UsageError for what can be none, for the home folder and for one in the managed store.
    """
    root = root_of(Path(request.destination))
    OwnFolders.of(system.settings).check("the destination", root, may_hold=True)
    return root


def is_large(system: System, request: FetchRequest, shard_size: int) -> bool:
    """Whether a fetch is worth more than one shard, by what is asked for.

    Raises what ``look_for`` and ``System.check_store`` raise.
    """
    checkpoint, files, wanted = look_for(system, request)
    system.check_store(checkpoint)
    return bool(shard_target([file.content.size for file in files if file.path in wanted.paths], shard_size))


def _damage(done: Fetched, root: Path) -> IntegrityError:
    """The error that names every file whose stored content is damaged."""
    first = next(iter(done.damaged.values()))
    what, names = first.message, [repr(path) for path in sorted(done.damaged)]
    if len(names) > 1:
        what = f"the stored content of {len(names)} files is damaged: {some(names, _NAMED)}"
    sound = len(done.fetched) + len(done.kept)
    return IntegrityError(f"{what}; what is sound is in {root}" if sound else what)


def _may_be_damaged(file: StoredFile, done: Fetched) -> bool:
    """Whether a file turned out damaged, or lies in a blob of which not all is there."""
    return file.path in done.damaged or any(file.content.blob_id == one.blob_id for one in done.damaged.values())


@dataclass(frozen=True, slots=True)
class PartToFetch:
    """What of a checkpoint is fetched."""

    paths: Set[str]
    folders: Sequence[str]
    """Its empty folders."""
    left_files: int
    left_bytes: int

    def what(self, checkpoint: Checkpoint) -> str:
        """What to call it in a sentence: the checkpoint, or how many of its files."""
        if not self.left_files:
            return checkpoint.title
        return f"{len(self.paths)} of {checkpoint.file_count} files of {checkpoint.title}"


def look_for(system: System, request: FetchRequest) -> tuple[Checkpoint, list[StoredFile], PartToFetch]:
    """The checkpoint that a fetch is of, all of its files, and which of them are meant, by the catalog's word alone.

    Raises what ``System.catalogued_files`` and ``Wanted.of`` raise.
    """
    reference, path = split_file(request.reference)
    found = None
    if path and "/" in reference:
        # What a job captured may have such a path itself.
        with suppress(NotFoundError, InvalidNameError):
            found, path = system.catalogued_files(request.reference, request.node), ""
    checkpoint, files = found or system.catalogued_files(reference, request.node)
    include = (*request.include, exactly(path)) if path else tuple(request.include)
    wanted = Wanted(include, tuple(request.exclude), tuple(request.only))
    paths = wanted.of([file.path for file in files], checkpoint.title)
    left = [file.content.size for file in files if file.path not in paths]
    return checkpoint, files, PartToFetch(paths, wanted.folders(checkpoint.folders), len(left), sum(left))


def extra_at(checkpoint: Checkpoint, files: Sequence[StoredFile], root: Path) -> list[Extra]:
    """What lies at a fetch's destination that is no part of the checkpoint; StorageError where that cannot be read."""
    paths = [file.path for file in files]
    links: list[str] = []
    if checkpoint.pointers:
        from flexai.checkpoints.service.support.pointers import link_names

        links = link_names(checkpoint, paths)
    with storage_errors(root):
        return find_extra(root, [*paths, *links, WITNESS], checkpoint.folders)


def may_be_cleared(system: System, root: Path) -> bool:
    """Whether a checkpoint was fetched to a folder before, and it holds nothing that flexai or its user lives in."""
    settings = system.settings
    homes = [settings.home, settings.jobs_path, Path(settings.effective_store)]
    with suppress(RuntimeError):  # a user without one
        homes.append(expanded(Path("~")))
    return first_within(root, homes) is None and system.stat_cache.was_fetched(root)
