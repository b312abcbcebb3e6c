"""One machine of a user: a home folder with a catalog and a store, some files, and a provider's buckets."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from flexai.checkpoints.catalog.tables import blob_references, blobs, checkpoints, metadata
from flexai.checkpoints.errors import NotFoundError
from flexai.checkpoints.manifest import Manifest
from flexai.checkpoints.models import Checkpoint, CheckpointKind, CheckpointStatus, now, to_text
from flexai.checkpoints.names import Id, new_id
from flexai.checkpoints.service.export import ExportReport, export
from flexai.checkpoints.service.fetch import FetchReport, fetch
from flexai.checkpoints.service.gc import GarbageReport, collect_garbage
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.requests import ExportRequest, FetchRequest
from flexai.checkpoints.service.store_requests import GarbageRequest, VerifyRequest
from flexai.checkpoints.service.support.export_manifest import EXPORT_MANIFEST
from flexai.checkpoints.service.support.manifest_reader import manifest_of, read_manifest_document
from flexai.checkpoints.service.support.unreferenced import find_unreferenced
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.verify import verify
from flexai.checkpoints.settings import Settings, load_settings
from flexai.checkpoints.storage.connection import RemotePath, StorageConnection, split_bucket
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.protocol import ObjectStorage
from flexai.checkpoints.transfer.digest import part_size_for
from tests.support.faults import FaultyStorage
from tests.support.tables import tables_of
from tests.support.trees import Tree, noise, read_tree, write_tree

KIB = 1024
PART = 64 * KIB
"""Bytes of a part here."""
THRESHOLD = 16 * KIB
"""Bytes below which a file goes into a pack here."""

SOURCE: Tree = {
    "config.json": b'{"layers": 2}',
    "model/a.safetensors": noise(3 * PART + 17, "a"),
    "model/b.safetensors": noise(2 * PART, "b"),
    "tokens/one.bin": noise(5000, "one"),
    "tokens/two.bin": noise(9000, "two"),
}
"""A checkpoint of large files and of small ones, which go into a pack."""

NO_GRACE = timedelta(0)


def small_settings(home: Path, **changes: Any) -> Settings:
    """Settings with which a few hundred kilobytes are a large checkpoint."""
    sizes = {"part_size": PART, "pack_threshold": THRESHOLD, "pack_size": PART, "concurrency": 1}
    return load_settings(**{"home": home, **sizes, **changes})


def fast_folder() -> str | None:
    """Where to make folders for tests that write often: in memory, if this machine has that."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir()


@dataclass
class Buckets:
    """A storage provider whose buckets are folders; it counts and fails as it is told."""

    root: Path
    connection_name: str = "lab"
    connection_id: Id = field(default_factory=new_id)
    storage: FaultyStorage = field(init=False)

    def __post_init__(self) -> None:
        self.storage = FaultyStorage(LocalStorage(self.root))

    def open(self, path: str) -> RemotePath:
        """Open ``BUCKET/PREFIX-or-KEY``."""
        bucket, key = split_bucket(path)
        self.storage.inner = LocalStorage(self.root / bucket)
        return RemotePath(storage=self.storage, key=key)

    def tree(self, path: str) -> Tree:
        """What lies at a path, the manifest of an export left out."""
        found = read_tree(self.root / path)
        found.pop(EXPORT_MANIFEST, None)
        return found


@dataclass
class Machine:
    """A home folder and the system opened on it."""

    root: Path
    settings: Settings
    system: System
    buckets: Buckets
    """A provider; its connection is the only one that the system knows."""
    storage: FaultyStorage
    changes: Mapping[str, Any]
    """Settings that differ from the usual ones."""

    @classmethod
    def start(cls, root: Path, **changes: Any) -> Machine:
        """Open the system of the home folder below ``root``, as a new process would."""
        settings = small_settings(root / "home", **changes)
        system = System.open(settings)
        storage = FaultyStorage(system.store.storage)
        system.store.storage = storage
        assert system.store_id
        storage.reset()
        machine = cls(root, settings, system, Buckets(root / "buckets"), storage, changes)
        system.connect = machine.connect
        return machine

    def again(self, **changes: Any) -> Machine:
        """The same machine in another process's eyes; nothing is counted yet and nothing fails."""
        return Machine.start(self.root, **{**self.changes, **changes})

    @property
    def store_folder(self) -> Path:
        """Where the store is."""
        return Path(self.settings.effective_store)

    def connect(self, name: str) -> StorageConnection:
        """The provider's connection; NotFoundError for another name."""
        if name != self.buckets.connection_name:
            raise NotFoundError(f"there is no storage provider connection {name!r}")
        return self.buckets

    def write(self, name: str, files: Tree) -> Path:
        """Make a folder of files to be pushed."""
        return write_tree(self.root / name, files)

    def push(self, name: str, *specs: Path | str, **options: Any) -> Checkpoint:
        """Push files of this machine."""
        wanted, aside = _split(options)
        return push(self.system, PushRequest(name, [str(spec) for spec in specs], **wanted), **aside)

    def push_from(self, name: str, path: str, **options: Any) -> Checkpoint:
        """Push what lies on the provider."""
        wanted, aside = _split(options)
        return push(
            self.system,
            PushRequest(name, storage_provider=self.buckets.connection_name, source_path=path, **wanted),
            **aside,
        )

    def fetch(self, reference: str, folder: str = "out", **options: Any) -> FetchReport:
        """Fetch into a folder of this machine."""
        wanted, aside = _split(options)
        return fetch(self.system, FetchRequest(reference, str(self.root / folder), **wanted), **aside)

    def fetched(self, reference: str) -> Tree:
        """The files that a fetch into an empty folder brings."""
        with tempfile.TemporaryDirectory(dir=self.root) as folder:
            fetch(self.system, FetchRequest(reference, folder))
            return read_tree(Path(folder))

    def export(self, reference: str, path: str = "bucket/place", **options: Any) -> ExportReport:
        """Export to the provider."""
        wanted, aside = _split(options)
        return export(self.system, ExportRequest(reference, self.buckets.connection_name, path, **wanted), **aside)

    def collect(self, grace_period: timedelta = NO_GRACE, **options: Any) -> GarbageReport:
        """Collect garbage, without a grace period unless one is given."""
        wanted, aside = _split(options)
        return collect_garbage(self.system, GarbageRequest(grace_period, **wanted), **aside)

    def planned_garbage(self) -> GarbageReport:
        """What ``gc --dry-run`` counts on, without a grace period."""
        plan = self.system.catalog.garbage(self.system.store_id).plan(before=now())
        return GarbageReport(
            checkpoints=plan.deleted,
            abandoned=len(plan.checkpoints) - plan.deleted,
            blobs=plan.blobs,
            freed_bytes=sum(plan.garbage.values()),
            unreferenced=tuple(find_unreferenced(self.system)),
        )

    def checkpoints(self, *statuses: CheckpointStatus) -> list[Checkpoint]:
        """The checkpoints of the catalog that have one of these statuses, deleted ones included; all without any."""
        found = self.system.catalog.checkpoints.of_store(self.system.store_id)
        return [one for one in found if not statuses or one.status in statuses]

    def checkpoint(self, name: str) -> Checkpoint:
        """The checkpoint of a name that is not deleted."""
        (found,) = [one for one in self.checkpoints() if one.name == name and one.deleted_at is None]
        return found

    def blob_ids(self) -> set[str]:
        """The blobs whose bytes are in the store."""
        return {blob_id for blob_id, _ in self.system.store.list_blobs()}

    def blob_path(self, blob_id: str) -> Path:
        """The file of a blob."""
        return self.store_folder / self.system.store.blob_key(blob_id)

    def blob_of(self, name: str, path: str) -> Path:
        """The file that holds the content of a checkpoint's file."""
        files = self.system.blobs.files_of(str(self.checkpoint(name).id))
        return self.blob_path(next(file.content.blob_id for file in files if file.path == path))

    def close(self) -> None:
        """Close the catalog."""
        self.system.close()

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of a request, and what an operation is given beside its request."""
    aside = {name: value for name, value in options.items() if name in {"progress", "runner"}}
    return {name: value for name, value in options.items() if name not in aside}, aside


def make_template(root: Path) -> Path:
    """A home folder with an empty catalog and a store, to be copied: making one takes half a second."""
    settings = load_settings(home=root, store=str(root / "store"), database_url=f"sqlite:///{root}/catalog.db")
    with System.open(settings) as system:
        assert system.store_id
    # What SQLite had in its log is in the file now.
    assert {path.name for path in root.iterdir()} <= {"catalog.db", "identity.json", "store"}
    return root


def copy_home(template: Path, root: Path) -> None:
    """Give a new machine the template's home, whose store was used a moment ago however old the template is."""
    shutil.copytree(template, root / "home")
    store = root / "home" / "store" / "store.json"
    document = json.loads(store.read_text().replace(str(template), str(root / "home")))
    document["catalog"]["renewed_at"] = to_text(now())
    store.write_text(json.dumps(document))


def lose_catalog(machine: Machine) -> Machine:
    """The same machine without anything in its catalog."""
    database = machine.system.catalog.database
    if database.is_postgresql:
        with tables_of(database) as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
    machine.close()
    for path in machine.settings.home.glob("catalog.db*"):
        path.unlink()
    return beginning_anew(machine.again())


def copy_of_catalog(machine: Machine) -> bytes:
    """A backup of a machine's catalog, which has to be a file."""
    machine.close()
    copy = (machine.settings.home / "catalog.db").read_bytes()
    machine.system = machine.again().system
    return copy


def restored(machine: Machine, copy: bytes) -> Machine:
    """The same machine with the catalog of a backup."""
    machine.close()
    for path in machine.settings.home.glob("catalog.db*"):
        path.unlink()
    (machine.settings.home / "catalog.db").write_bytes(copy)
    return machine.again()


def beginning_anew(machine: Machine) -> Machine:
    """A machine whose catalog is made anew where the store belongs to one that was at its place, as by recover."""
    machine.system.begins_anew = True
    return machine


def check_nothing_is_torn(machine: Machine) -> None:
    """Every available checkpoint is whole: its manifest, its blobs and every byte of them."""
    system = machine.system
    for checkpoint in machine.checkpoints(CheckpointStatus.AVAILABLE):
        checkpoint_id = checkpoint.id
        files = system.blobs.files_of(checkpoint_id)
        manifest = manifest_of(files)
        assert (manifest.size, len(files)) == (checkpoint.size, checkpoint.file_count)
        described, written, ranges = read_manifest_document(system.store.read_manifest(checkpoint_id))
        assert described.id == checkpoint.id
        assert written.digest() == checkpoint.manifest_digest
        assert _is_of(written, manifest)
        assert {path: blob_id for path, (blob_id, _) in ranges.items()} == {
            file.path: file.content.blob_id for file in files
        }
        _check_references(machine, checkpoint_id, {file.content.blob_id for file in files})
    assert verify(system, VerifyRequest()).damaged == ()


def _is_of(written: Manifest, manifest: Manifest) -> bool:
    """Whether a manifest is the one that was written, but for digests that are known only since a later reading."""
    return len(written.files) == len(manifest.files) and all(
        old == new or (old.digest is None and (old.path, old.size) == (new.path, new.size))
        for old, new in zip(written.files, manifest.files, strict=True)
    )


def _check_references(machine: Machine, checkpoint_id: str, blob_ids: set[str]) -> None:
    """gc may take none of a checkpoint's blobs."""
    with tables_of(machine.system.catalog.database) as connection:
        query = (
            select(blobs.c.id)
            .join(blob_references, blob_references.c.blob_id == blobs.c.id)
            .where(blob_references.c.checkpoint_id == checkpoint_id, blobs.c.status == "stored")
        )
        assert blob_ids <= set(connection.execute(query).scalars())


def check_nothing_is_left_over(machine: Machine) -> None:
    """The store's files, and the catalog's rows, are exactly those that its checkpoints need."""
    system = machine.system
    prefix = _prefix(machine)
    needed = {"store.json"}
    for checkpoint in machine.checkpoints(CheckpointStatus.AVAILABLE, CheckpointStatus.DELETING):
        checkpoint_id = checkpoint.id
        needed.add(f"manifests/{checkpoint_id}.json")
        needed |= {
            system.store.blob_key(file.content.blob_id).removeprefix(prefix)
            for file in system.blobs.files_of(checkpoint_id)
        }
    found = _found_in_store(machine)
    # What has changed since it was stored, and each job, has a record.
    kept = {one.id for one in machine.checkpoints(CheckpointStatus.AVAILABLE, CheckpointStatus.DELETING)}
    kept |= {one.job_id for one in machine.checkpoints() if one.job_id is not None}
    kept |= {job.id for job in system.catalog.jobs.list()}
    needed |= {name for name in found if name.startswith("records/") and name.rpartition("/")[2][:-5] in kept}
    needed |= {name for name in found if name.startswith("catalogs/")}
    left = found - needed, needed - found
    assert left == (set(), set()), left
    with tables_of(system.catalog.database) as connection:
        known = connection.execute(select(blobs.c.id)).scalars()
        assert {system.store.blob_key(one).removeprefix(prefix) for one in known} <= needed
        assert set(connection.execute(select(checkpoints.c.kind)).scalars()) <= set(CheckpointKind)


def _prefix(machine: Machine) -> str:
    """What the store's keys begin with: empty unless it lies in a bucket."""
    return machine.system.store.blob_key("").partition("blobs/")[0]


def _found_in_store(machine: Machine) -> set[str]:
    """The names of all that lies in the store, unfinished uploads included."""
    if "://" not in machine.settings.effective_store:
        return set(read_tree(machine.store_folder))
    prefix = _prefix(machine)
    storage = machine.storage
    found = {info.key.removeprefix(prefix) for info in storage.list(prefix)}
    return found | {f"unfinished {upload.key.removeprefix(prefix)}" for upload in storage.list_uploads(prefix)}


def check_all(machine: Machine, names: Iterable[str], source: Tree) -> None:
    """The named checkpoints hold exactly the source's bytes; nothing is torn, and after gc nothing left over."""
    check_nothing_is_torn(machine)
    for name in names:
        assert machine.checkpoint(name).status is CheckpointStatus.AVAILABLE
        assert machine.fetched(name) == source
    machine.collect()
    check_nothing_is_torn(machine)
    check_nothing_is_left_over(machine)


def parts_in(size: int, storage: ObjectStorage) -> int:
    """How many parts a file of ``size`` bytes has here."""
    part_size = part_size_for(size, part_size=PART, max_parts=storage.max_parts)
    return max(1, -(-size // part_size))
