"""Content that a provider copied into the store by itself: it has no digest until its first reading."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import google_crc32c
import pytest

from flexai.checkpoints.contents import CLAIMED, StoredFile
from flexai.checkpoints.errors import (
    AlreadyExistsError,
    CheckpointError,
    DestinationExistsError,
    IntegrityError,
    SourceChangedError,
    UnsupportedError,
)
from flexai.checkpoints.foreign_json import MAX_DOCUMENT
from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.service.change_requests import DeleteRequest
from flexai.checkpoints.service.delete import delete
from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.recover import recover
from flexai.checkpoints.service.requests import FetchRequest
from flexai.checkpoints.service.store_requests import VerifyRequest
from flexai.checkpoints.service.support.export_manifest import EXPORT_MANIFEST
from flexai.checkpoints.service.support.unchanged import find_unchanged
from flexai.checkpoints.service.verify import verify
from flexai.checkpoints.storage.connection import RemotePath, split_bucket
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.protocol import ObjectInfo, ObjectStorage
from tests.checkpoints.catalog.steps import set_columns
from tests.support.faults import READ_FAULTS, WRITE_FAULTS, Call, Fault
from tests.support.fixtures import NewMachine
from tests.support.machine import PART, Buckets, Machine, check_all, check_nothing_is_torn, lose_catalog
from tests.support.trees import Tree, noise, read_tree, write_tree

SOURCE: Tree = {
    "config.json": b'{"layers": 2}',
    "model/a.safetensors": noise(3 * PART + 17, "a"),
    "model/b.safetensors": noise(2 * PART, "b"),
}
LARGE = {"model/a.safetensors", "model/b.safetensors"}


class Checksummed(LocalStorage):
    """A directory whose objects have checksums, as those of a provider do."""

    def head(self, key: str) -> ObjectInfo:
        return self._with_checksum(super().head(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        return map(self._with_checksum, super().list(prefix))

    def copy(self, source: ObjectStorage, source_key: str, key: str, *, etag: str = "") -> ObjectInfo:
        return self._with_checksum(super().copy(source, source_key, key, etag=etag))

    def _with_checksum(self, info: ObjectInfo) -> ObjectInfo:
        content = b"".join(bytes(block) for block in self.get(info.key))
        return replace(info, checksums={"crc32c": f"{google_crc32c.value(content):08x}"})


class Lab(Buckets):
    """A provider in whose buckets the managed store lies too."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.storage.service_identity = "lab"

    def open(self, path: str) -> RemotePath:
        bucket, key = split_bucket(path)
        self.storage.inner = Checksummed(self.root / bucket)
        return RemotePath(storage=self.storage, key=key)


@pytest.fixture
def lab(machine: Machine) -> Machine:
    """A machine whose store is the provider's, where the source lies as well."""
    return _in_lab(machine)


@pytest.fixture
def copied(lab: Machine) -> Machine:
    """A checkpoint whose large files the provider copied."""
    lab.push_from("llama", "bucket/run")
    lab.storage.reset()
    lab.buckets.storage.reset()
    return lab


def _in_lab(machine: Machine) -> Machine:
    machine.storage.inner = Checksummed(machine.store_folder)
    machine.storage.service_identity = "lab"
    machine.buckets = Lab(machine.root / "buckets")
    write_tree(machine.root / "buckets" / "bucket" / "run", SOURCE)
    return machine


def _files(machine: Machine, name: str = "llama") -> dict[str, StoredFile]:
    return {file.path: file for file in machine.system.blobs.files_of(machine.checkpoint(name).id)}


def _unread(machine: Machine, name: str = "llama") -> set[str]:
    return {path for path, file in _files(machine, name).items() if file.content.digest is None}


def _moved(machine: Machine) -> int:
    """Bytes that went through this machine's memory."""
    storages = (machine.storage, machine.buckets.storage)
    return sum(storage.delivered + storage.received for storage in storages)


def test_a_push_from_the_stores_own_provider_moves_no_large_file_through_here(lab: Machine) -> None:
    lab.push_from("llama", "bucket/run")
    assert lab.buckets.storage.delivered == len(SOURCE["config.json"])
    assert len(lab.storage.named("copy")) == len(LARGE)
    assert _unread(lab) == LARGE
    assert all(_files(lab)[path].content.checksums.keys() == {"crc32c"} for path in LARGE)


def test_a_fetch_brings_the_bytes_and_learns_their_digests_in_passing(copied: Machine) -> None:
    digest = copied.checkpoint("llama").manifest_digest
    copied.fetch("llama")
    assert read_tree(copied.root / "out") == SOURCE
    assert copied.storage.delivered == sum(map(len, SOURCE.values()))
    assert _unread(copied) == set()
    # What was written beside the blobs stays as it was written.
    assert copied.checkpoint("llama").manifest_digest == digest
    assert copied.fetch("llama").kept_files == len(SOURCE)
    check_nothing_is_torn(copied)


def test_a_small_file_is_learned_too_where_the_threshold_has_grown(copied: Machine) -> None:
    with copied.again(pack_threshold=4 * PART, pack_size=4 * PART) as again:
        again.storage.inner = Checksummed(again.store_folder)
        assert again.fetched("llama") == SOURCE
        assert _unread(again) == set()


def test_learned_digests_are_those_of_a_local_push(copied: Machine) -> None:
    verify(copied.system, VerifyRequest())
    copied.push("local", copied.write("run", SOURCE))
    assert {path: file.content.digest for path, file in _files(copied).items()} == {
        path: file.content.digest for path, file in _files(copied, "local").items()
    }
    # They are the same contents by now: nothing was stored twice.
    assert not copied.storage.named("put_part", "copy")


def test_a_verification_reads_what_was_never_read(copied: Machine) -> None:
    assert verify(copied.system, VerifyRequest()).damaged == ()
    assert _unread(copied) == set()
    copied.blob_of("llama", "model/a.safetensors").write_bytes(b"\0" * len(SOURCE["model/a.safetensors"]))
    (damage,) = verify(copied.system, VerifyRequest()).damaged
    assert damage.users == (("llama", "model/a.safetensors"),)


@pytest.mark.parametrize("reader", ["verify", "fetch", "export"])
def test_a_copy_that_is_not_what_the_provider_had_is_found_by_its_checksum(copied: Machine, reader: str) -> None:
    copied.blob_of("llama", "model/b.safetensors").write_bytes(b"\0" * len(SOURCE["model/b.safetensors"]))
    if reader == "verify":
        (damage,) = verify(copied.system, VerifyRequest()).damaged
        assert "CRC32C" in damage.problem
    else:
        copied.buckets = Buckets(copied.root / "elsewhere")
        with pytest.raises(IntegrityError, match="CRC32C"):
            copied.fetch("llama") if reader == "fetch" else copied.export("llama")
    assert "model/b.safetensors" in _unread(copied)


def test_an_export_back_moves_no_large_file_through_here(copied: Machine) -> None:
    report = copied.export("llama", "bucket/back")
    assert report.exported_files == len(SOURCE)
    assert copied.buckets.tree("bucket/back") == SOURCE
    assert copied.storage.delivered == 0
    assert _unread(copied) == LARGE


def test_an_export_that_is_whole_is_not_read_again(copied: Machine) -> None:
    copied.export("llama", "bucket/back")
    verify(copied.system, VerifyRequest())
    copied.storage.reset()
    copied.buckets.storage.reset()
    assert copied.export("llama", "bucket/back").skipped_files == len(SOURCE)
    assert [call.key for call in copied.buckets.storage.named("get")] == [f"back/{EXPORT_MANIFEST}"]
    # By now the digests are known, which the manifest says from now on.
    manifest = json.loads((copied.buckets.root / "bucket/back" / EXPORT_MANIFEST).read_bytes())
    assert all(entry["digest"] for entry in manifest["manifest"]["files"])


def test_an_object_that_was_replaced_in_an_export_is_noticed(copied: Machine) -> None:
    copied.export("llama", "bucket/back")
    path = copied.buckets.root / "bucket/back/model/b.safetensors"
    path.unlink()
    path.write_bytes(noise(2 * PART, "another"))
    with pytest.raises(DestinationExistsError, match=r"model/b\.safetensors"):
        copied.export("llama", "bucket/back")
    copied.export("llama", "bucket/back", overwrite=True)
    assert copied.buckets.tree("bucket/back") == SOURCE


def test_an_export_to_another_provider_reads_and_learns(copied: Machine) -> None:
    copied.buckets = Buckets(copied.root / "elsewhere")
    copied.export("llama")
    assert copied.buckets.tree("bucket/place") == SOURCE
    assert _unread(copied) == set()
    manifest = json.loads((copied.root / "elsewhere/bucket/place" / EXPORT_MANIFEST).read_bytes())
    assert all(entry["digest"] for entry in manifest["manifest"]["files"])
    assert manifest["etags"] == {}


def test_a_second_push_of_an_object_moves_and_copies_nothing(copied: Machine) -> None:
    copied.push_from("again", "bucket/run")
    assert _moved(copied) == len(copied.storage.named("put")) * copied.storage.named("put")[0].size
    assert [call.key.partition("/")[0] for call in copied.storage.named("put", "copy")] == ["manifests"]
    with pytest.raises(AlreadyExistsError, match="same content"):
        copied.push_from("again", "bucket/run")
    assert copied.push_from("again", "bucket/run", if_not_exists=True).name == "again"
    assert copied.buckets.storage.delivered == 0


def test_the_files_of_this_machine_are_not_known_to_be_what_was_never_read(copied: Machine) -> None:
    assert (
        find_unchanged(
            copied.system, PushRequest("llama", [str(copied.buckets.root / "bucket/run")], if_not_exists=True)
        )
        is None
    )


def test_an_object_that_has_changed_is_copied_anew(copied: Machine) -> None:
    path = copied.buckets.root / "bucket/run/model/b.safetensors"
    path.unlink()
    path.write_bytes(noise(2 * PART, "another"))
    copied.push_from("again", "bucket/run")
    assert len(copied.storage.named("copy")) == 1
    assert copied.fetched("again")["model/b.safetensors"] == noise(2 * PART, "another")
    assert copied.fetched("llama") == SOURCE


def test_an_object_that_changes_after_it_was_listed_fails_the_push(lab: Machine) -> None:
    path = lab.root / "buckets/bucket/run/model/a.safetensors"

    def change(_number: int, call: Call) -> None:
        if call.name == "copy" and path.stat().st_size != 3:
            path.write_bytes(b"new")

    lab.storage.before_call = change
    with pytest.raises(SourceChangedError, match="changed"):
        lab.push_from("llama", "bucket/run")


def test_what_the_provider_cannot_copy_goes_through_memory(lab: Machine) -> None:
    def refuse(_number: int, call: Call) -> None:
        if call.name == "copy":
            raise UnsupportedError("no copies here")

    lab.storage.before_call = refuse
    lab.push_from("llama", "bucket/run")
    assert _unread(lab) == set()
    assert len(lab.storage.named("copy")) == 1
    lab.storage.before_call = None
    check_all(lab, ["llama"], SOURCE)


def _pushed_from_an_export(lab: Machine) -> None:
    """Push what lay in the store, and was exported to the same provider, into a store that has nothing of it."""
    lab.push("llama", lab.write("local", SOURCE))
    lab.export("llama", "bucket/back")
    delete(lab.system, DeleteRequest("llama"))
    lab.collect()
    lab.storage.reset()
    lab.buckets.storage.reset()


def test_what_an_exports_manifest_says_of_copied_files_is_a_claim_until_they_are_read(lab: Machine) -> None:
    _pushed_from_an_export(lab)
    lab.push_from("back", "bucket/back")
    assert len(lab.storage.named("copy")) == len(LARGE)
    assert _unread(lab, "back") == set(LARGE)
    claims = {path: _files(lab, "back")[path].content.checksums[CLAIMED] for path in LARGE}
    check_all(lab, ["back"], SOURCE)
    learned = {path: _files(lab, "back")[path].content.digest for path in LARGE}
    assert {path: digest.hex() for path, digest in learned.items() if digest} == claims


def _forge(lab: Machine) -> tuple[str, bytes]:
    """Give an export's file other bytes of the same size, under a manifest that has the right ETag for them.

    Returns the file's path and its right content.
    """
    path = sorted(LARGE)[0]
    place = lab.buckets.root / "bucket/back"
    content = (place / path).read_bytes()
    (place / path).unlink()
    (place / path).write_bytes(noise(len(content), "forged"))
    document = json.loads((place / EXPORT_MANIFEST).read_bytes())
    document["etags"][path] = lab.buckets.open("bucket/back").storage.head(f"back/{path}").etag
    (place / EXPORT_MANIFEST).write_bytes(json.dumps(document).encode())
    return path, content


def test_a_false_manifest_never_gives_its_bytes_the_digest_of_other_content(lab: Machine) -> None:
    _pushed_from_an_export(lab)
    path, content = _forge(lab)
    lab.push_from("forged", "bucket/back")
    honest = lab.write("honest", {"weights": content})
    lab.push("honest", honest)
    shutil.rmtree(honest)
    fetch(lab.system, FetchRequest("honest", str(lab.root / "honest out")))
    assert read_tree(lab.root / "honest out") == {"weights": content}
    with pytest.raises(IntegrityError):
        fetch(lab.system, FetchRequest("forged", str(lab.root / "out")))
    assert not (lab.root / "out" / path).exists()
    damaged = verify(lab.system, VerifyRequest()).damaged
    assert [user for one in damaged for user in one.users] == [("forged", path)]


def test_to_name_the_digest_of_stored_content_does_not_give_that_content(lab: Machine) -> None:
    lab.push("llama", lab.write("local", SOURCE))
    lab.export("llama", "bucket/back")
    path, _ = _forge(lab)
    lab.push_from("forged", "bucket/back")
    stored = _files(lab)[path].content
    assert stored.digest is not None
    assert _files(lab, "forged")[path].content.blob_id != stored.blob_id


def test_an_exports_manifest_is_read_further_only_where_the_catalog_knows_that_it_is_larger(lab: Machine) -> None:
    lab.push("llama", lab.write("local", SOURCE))
    lab.export("llama", "bucket/back")
    path = lab.buckets.root / "bucket/back" / EXPORT_MANIFEST
    path.write_bytes(path.read_bytes() + b" " * MAX_DOCUMENT)
    with pytest.raises(IntegrityError, match="longer than 64 MiB"):
        lab.push_from("back", "bucket/back")
    with pytest.raises(IntegrityError, match="longer than 64 MiB"):
        lab.export("llama", "bucket/back")
    set_columns(lab.system.catalog, lab.checkpoint("llama").id, file_count=50_000)
    assert lab.push_from("back", "bucket/back").file_count == len(SOURCE)


def test_an_object_that_its_exports_manifest_was_not_written_for_is_read(lab: Machine) -> None:
    lab.push("llama", lab.write("local", SOURCE))
    lab.export("llama", "bucket/back")
    path = lab.buckets.root / "bucket/back/model/b.safetensors"
    path.unlink()
    path.write_bytes(noise(2 * PART, "another"))
    delete(lab.system, DeleteRequest("llama"))
    lab.collect()
    with pytest.raises(IntegrityError, match=r"model/b\.safetensors"):
        push(lab.system, PushRequest("back", storage_provider="lab", source_path="bucket/back"))


@pytest.mark.parametrize("fault", WRITE_FAULTS)
def test_a_push_by_copies_survives_the_failure_of_any_call(new_machine: NewMachine, fault: Fault) -> None:
    for number in count(1):
        machine = _in_lab(new_machine())
        machine.storage.faults = {number: fault}
        broken = _broken_off(machine)
        calls = len(machine.storage.calls)
        machine.storage.reset()
        check_nothing_is_torn(machine)
        if number > calls:
            break
        if broken:
            assert [one.status for one in machine.checkpoints()] == [CheckpointStatus.FAILED]
            machine.push_from("llama", "bucket/run")
        check_all(machine, ["llama"], SOURCE)
    assert number > 5


@pytest.mark.parametrize("fault", READ_FAULTS)
def test_a_first_fetch_survives_the_failure_of_any_call(new_machine: NewMachine, fault: Fault) -> None:
    for number in count(1):
        machine = _in_lab(new_machine())
        machine.push_from("llama", "bucket/run")
        machine.storage.reset()
        machine.storage.faults = {number: fault}
        out = f"out-{number}"
        try:
            machine.fetch("llama", out)
        except CheckpointError:
            machine.storage.reset()
            machine.fetch("llama", out)
        assert read_tree(machine.root / out) == SOURCE
        if number > len(machine.storage.calls):
            break
        machine.storage.reset()
        check_nothing_is_torn(machine)
    assert number > 3


def _broken_off(machine: Machine) -> bool:
    try:
        machine.push_from("llama", "bucket/run")
    except CheckpointError:
        return True
    return False


def test_a_recovered_catalog_knows_such_content_again(copied: Machine) -> None:
    with lose_catalog(copied) as again:
        again.storage.inner = Checksummed(again.store_folder)
        assert list(recover(again.system).recovered.values()) == ["llama"]
        assert _unread(again) == LARGE
        assert again.fetched("llama") == SOURCE
