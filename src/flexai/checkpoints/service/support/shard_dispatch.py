"""Cuts a large push, fetch or export into shards, has a runner run them, and puts their results together.

The process that does so holds the lease, and it alone commits or writes the manifest. A fetch has neither: each shard
gives its whole files their names, and this process does so for those that were cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from pathlib import Path

from flexai.checkpoints.catalog.leases import Lease
from flexai.checkpoints.contents import StoredFile, UnfinishedBlob
from flexai.checkpoints.errors import UnsupportedError
from flexai.checkpoints.models import Checkpoint
from flexai.checkpoints.names import count
from flexai.checkpoints.progress import Progress
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.support.shard_work import (
    ExportedShard,
    ExportShard,
    FetchShard,
    PushShard,
    ShardRunner,
    ShardSource,
)
from flexai.checkpoints.service.system import System
from flexai.checkpoints.storage.connection import RemotePath, StorageConnection
from flexai.checkpoints.storage.protocol import ObjectInfo, PartReceipt
from flexai.checkpoints.transfer.dedup import can_be_copied, find_known, is_one_service
from flexai.checkpoints.transfer.digest import Part, digest_blocks, join_parts, parts_of
from flexai.checkpoints.transfer.export import aborted_on_error, complete
from flexai.checkpoints.transfer.fetch import Fetched
from flexai.checkpoints.transfer.file_fetch import CutFile
from flexai.checkpoints.transfer.file_upload import begin_blob
from flexai.checkpoints.transfer.shard_plan import Bundle, Cut, cut, one_shard, shard_target
from flexai.checkpoints.transfer.sources import FileSource, LocalSource
from flexai.checkpoints.transfer.upload import AlreadyStored, find_twins


def push_in_shards(
    system: System,
    checkpoint: Checkpoint,
    lease: Lease,
    sources: Sequence[FileSource],
    *,
    runner: ShardRunner,
    progress: Progress,
) -> AlreadyStored:
    """Store the sources in shards, where they are worth more than one; returns what the shards stored.

    What needs no reading (content that is there already, objects that the provider copies by itself) is left to the
    upload that follows, and so is completing the files that were cut.
    """
    planner = _PushPlanner(system, checkpoint, lease, runner.shard_size)
    shards = planner.plan(sources)
    if not shards:
        return AlreadyStored()
    progress.note(f"{checkpoint.title}: {len(shards)} shards")
    content_ids: dict[str, int] = {}
    for done in runner.push(shards):
        content_ids |= done.content_ids
        progress.advance(moved=done.moved, skipped=done.skipped, files=len(done.content_ids))
    contents = system.blobs.contents_of(content_ids.values())
    return AlreadyStored(
        # What is no longer there has to be stored again.
        contents={path: contents[number] for path, number in content_ids.items() if number in contents},
        blob_ids=frozenset(blob.id for blob in planner.blobs.values()),
    )


class _PushPlanner:
    """Plans the shards of a push."""

    def __init__(self, system: System, checkpoint: Checkpoint, lease: Lease, shard_size: int) -> None:
        self.blobs: dict[str, UnfinishedBlob] = {}
        """Those of files that are cut, by path."""
        self._system = system
        self._checkpoint = checkpoint
        self._lease = lease
        self._shard_size = shard_size
        self._limits = system.settings.limits
        self._unfinished = system.blobs.unfinished(checkpoint.id)

    def plan(self, sources: Sequence[FileSource]) -> list[PushShard]:
        """The shards; none where one process does as well."""
        if not shard_target([source.size for source in sources], self._shard_size):
            return []
        store = self._system.store
        known = find_known(sources, self._system.blobs, self._checkpoint.id)
        todo = [
            source
            for source in sources
            if source.path not in known and not can_be_copied(source, store.storage) and not self._is_complete(source)
        ]
        if not todo:
            return []
        # What is left may be worth no more than one shard, and is one all the same: a shard holds a place in the limit
        # of transfers, and this process holds none.
        sizes = [source.size for source in todo]
        target = shard_target(sizes, self._shard_size) or one_shard(sizes)
        bundles = []
        small = [source for source in todo if source.size < self._limits.pack_threshold]
        large = [source for source in todo if source.size >= self._limits.pack_threshold]
        for chain in [*([source] for source in small), *find_twins(large)]:
            first = chain[0]
            part_size = 0
            if len(chain) == 1 and first.size > target and self._may_be_cut(first):
                blob = self._begin(first)
                part_size = blob.part_size
            bundles.append(Bundle(tuple(source.path for source in chain), sum(one.size for one in chain), part_size))
        by_path: dict[str, FileSource] = {source.path: source for source in todo}
        cuts = cut(sorted(bundles, key=lambda unit: unit.paths[0]), target)
        return [self._shard(one, by_path, number, len(cuts)) for number, one in enumerate(cuts, start=1)]

    def _is_complete(self, source: FileSource) -> bool:
        """Whether an earlier try stored all parts of a file: this process compares and completes it."""
        known = self._unfinished.get(source.path)
        return known is not None and len(known.parts) >= len(parts_of(known.size, known.part_size))

    def _may_be_cut(self, source: FileSource) -> bool:
        """Whether a file's parts may be stored by different processes."""
        if not isinstance(source, LocalSource):
            # A SHA-256 of the whole is compared as the file is read, from its first byte to its last.
            return "sha256" not in source.checksums
        # Content that may be there already is compared first, which ends at the first part that differs.
        if source.path in self._unfinished:
            return True
        candidates = self._system.blobs.find_by_size(source.size)
        with contextlib.closing(source.open()) as opened:
            for part_size in {candidate.part_size for candidate in candidates}:
                found = digest_blocks(opened.blocks(0, min(part_size, source.size)))
                if any(found == one.part_digest(1) for one in candidates if one.part_size == part_size):
                    return False
        return True

    def _begin(self, source: FileSource) -> UnfinishedBlob:
        self.blobs[source.path] = begin_blob(
            source,
            self._unfinished.get(source.path),
            checkpoint_id=self._checkpoint.id,
            store=self._system.store,
            journal=self._system.blobs,
            limits=self._limits,
        )
        return self.blobs[source.path]

    def _shard(self, one: Cut, sources: Mapping[str, FileSource], number: int, total: int) -> PushShard:
        origin = self._checkpoint.source
        return PushShard(
            label=f"{self._checkpoint.title} {number} of {total}",
            size=one.size,
            checkpoint_id=self._checkpoint.id,
            claim_token=self._lease.token,
            store_id=self._system.store_id,
            storage_provider=origin.storage_provider,
            source_path=origin.source_path,
            files=tuple(ShardSource.of(sources[path]) for path in one.paths),
            blob_id=self.blobs[one.paths[0]].id if one.numbers else "",
            numbers=(one.numbers.start, one.numbers.stop) if one.numbers else (0, 0),
        )


class ShardedExporter:
    """Exports in shards."""

    def __init__(
        self,
        system: System,
        checkpoint: Checkpoint,
        connection: StorageConnection,
        destination_path: str,
        place: RemotePath,
        *,
        runner: ShardRunner,
        progress: Progress,
    ) -> None:
        self._system = system
        self._checkpoint = checkpoint
        self._connection = connection
        self._path = destination_path
        self._place = place
        self._runner = runner
        self._progress = progress

    def compare(self, pairs: Sequence[tuple[StoredFile, ObjectInfo]]) -> Set[str]:
        """Read objects; returns the paths of the files whose content they have."""
        infos = {file.path: info for file, info in pairs}
        cuts = self._cut([file for file, _ in pairs], frozenset())
        shards = [
            self._shard(one, number, len(cuts), existing=tuple(infos[path] for path in one.paths))
            for number, one in enumerate(cuts, start=1)
        ]
        same: set[str] = set()
        for done in self._run(shards):
            same.update(done.same)
            self._progress.advance(files=len(done.same))
        return same

    def export(self, files: Sequence[StoredFile], new_paths: Set[str]) -> Mapping[str, ObjectInfo]:
        """Export files; returns the provider's objects by path."""
        by_path = {file.path: file for file in files}
        storage = self._place.storage
        # What the provider copies is one request, and a file whose digest is not known is read whole first.
        may_be_cut = frozenset(
            file.path
            for file in files
            if file.content.digest is not None and not is_one_service(self._system.store.storage, storage)
        )
        cuts = self._cut(files, may_be_cut)
        uploads: dict[str, str] = {}
        with aborted_on_error(self._place, uploads):
            try:
                for path in dict.fromkeys(one.paths[0] for one in cuts if one.numbers):
                    uploads[path] = storage.start_upload(self._place.prefix + path, size=by_path[path].content.size)
            except UnsupportedError:
                # A service that takes no parts gets each file whole.
                cuts = self._cut(files, frozenset())
            return self._export(cuts, uploads, by_path, frozenset(new_paths))

    def _export(
        self,
        cuts: Sequence[Cut],
        uploads: dict[str, str],
        files: Mapping[str, StoredFile],
        new_paths: frozenset[str],
    ) -> Mapping[str, ObjectInfo]:
        shards = [
            self._shard(
                one,
                number,
                len(cuts),
                new_paths=new_paths & set(one.paths),
                upload_id=uploads[one.paths[0]] if one.numbers else "",
                numbers=(one.numbers.start, one.numbers.stop) if one.numbers else (0, 0),
            )
            for number, one in enumerate(cuts, start=1)
        ]
        exported: dict[str, ObjectInfo] = {}
        receipts: dict[str, dict[int, PartReceipt]] = {path: {} for path in uploads}
        paths = {upload_id: path for path, upload_id in uploads.items()}
        for done in self._run(shards):
            exported |= done.exported
            self._progress.advance(files=len(done.exported))
            if not done.upload_id:
                continue
            path = paths[done.upload_id]
            receipts[path] |= {number: PartReceipt(number, token) for number, token in done.receipts.items()}
            if len(receipts[path]) == len(self._join_parts(files[path])):
                is_new = path in new_paths
                exported[path] = complete(files[path], self._place, uploads[path], receipts[path], only_new=is_new)
                del uploads[path]
                self._progress.advance(files=1)
        return exported

    def _join_parts(self, file: StoredFile) -> Sequence[Sequence[Part]]:
        return join_parts(file.content.size, file.content.part_size, self._place.storage)

    def _cut(self, files: Sequence[StoredFile], may_be_cut: Set[str]) -> list[Cut]:
        bundles = []
        for file in files:
            part_size = 0
            if file.path in may_be_cut:
                part_size = sum(part.size for part in self._join_parts(file)[0])
            bundles.append(Bundle((file.path,), file.content.size, part_size))
        target = shard_target([unit.size for unit in bundles], self._runner.shard_size)
        # One shard alone takes no longer than this process would, and is tried again by itself.
        return cut(bundles, target or one_shard([unit.size for unit in bundles]))

    def _shard(
        self,
        one: Cut,
        number: int,
        total: int,
        *,
        existing: tuple[ObjectInfo, ...] = (),
        new_paths: frozenset[str] = frozenset(),
        upload_id: str = "",
        numbers: tuple[int, int] = (0, 0),
    ) -> ExportShard:
        return ExportShard(
            label=f"{self._checkpoint.title} {number} of {total}",
            size=one.size,
            checkpoint_id=self._checkpoint.id,
            store_id=self._system.store_id,
            storage_provider=self._connection.connection_name,
            destination_path=self._path,
            paths=one.paths,
            existing=existing,
            new_paths=new_paths,
            upload_id=upload_id,
            numbers=numbers,
        )

    def _run(self, shards: Sequence[ExportShard]) -> Iterator[ExportedShard]:
        for done in self._runner.export(shards) if shards else ():
            self._progress.advance(moved=done.moved, skipped=done.skipped)
            yield done


class ShardedFetcher:
    """Fetches in shards."""

    def __init__(
        self,
        system: System,
        checkpoint: Checkpoint,
        request: FetchRequest,
        *,
        runner: ShardRunner,
        progress: Progress,
    ) -> None:
        self._system = system
        self._checkpoint = checkpoint
        self._request = request
        self._runner = runner
        self._progress = progress

    def compare(self, files: Sequence[StoredFile], root: Path, witness: str) -> Fetched:
        """Read what is at the destination, where that is worth more than one shard."""
        if not shard_target([file.content.size for file in files], self._runner.shard_size):
            return Fetched()
        return self._run(files, root, witness)

    def fetch(
        self, files: Sequence[StoredFile], root: Path, witness: str, begin: Callable[[StoredFile], CutFile]
    ) -> Fetched:
        """Fetch files; one that is larger than a shard is begun here, and gets its name when all parts are there."""
        return self._run(files, root, witness, begin)

    def _run(
        self,
        files: Sequence[StoredFile],
        root: Path,
        witness: str,
        begin: Callable[[StoredFile], CutFile] | None = None,
    ) -> Fetched:
        """Compare files, or fetch them where it is said how one is begun."""
        by_path = {file.path: file for file in sorted(files, key=lambda file: file.path)}
        sizes = [file.content.size for file in files]
        # Parts whose digests are not known are compared with a checksum of the whole.
        bundles = [
            Bundle((path,), file.content.size, file.content.part_size if begin and file.content.digest else 0)
            for path, file in by_path.items()
        ]
        cuts = cut(bundles, shard_target(sizes, self._runner.shard_size) or one_shard(sizes))
        title = self._checkpoint.title
        all_done = Fetched()
        with contextlib.ExitStack() as stack:
            begun: dict[str, CutFile] = {}
            for path in dict.fromkeys(one.paths[0] for one in cuts if one.numbers):
                assert begin is not None
                begun[path] = stack.enter_context(contextlib.closing(begin(by_path[path])))
            shards = [
                FetchShard(
                    label=f"{title} {number} of {len(cuts)}",
                    size=one.size,
                    checkpoint_id=self._checkpoint.id,
                    store_id=self._system.store_id,
                    destination=str(root),
                    witness=witness,
                    paths=one.paths,
                    compares=begin is None,
                    overwrite=self._request.overwrite,
                    place=begun[one.paths[0]].place if one.numbers else "",
                    numbers=(one.numbers.start, one.numbers.stop) if one.numbers else (0, 0),
                )
                for number, one in enumerate(cuts, start=1)
            ]
            for done in self._runner.fetch(shards):
                fetched = [
                    path for path in done.fetched if not done.part_count or begun[path].count_in(done.part_count)
                ]
                self._progress.advance(moved=done.moved, skipped=done.skipped, files=len(fetched) + len(done.kept))
                all_done.add(Fetched(fetched, list(done.kept), list(done.others), dict(done.damaged)))
        if unseen := len(all_done.left_of(files)):
            self._progress.note(
                f"{count(unseen, 'file')} of {title} came to machines where {root} is another"
                f" directory: this process {'fetches' if begin else 'compares'} them"
            )
        return all_done
