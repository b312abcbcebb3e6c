"""A push from a storage provider, of an export among them."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest

from flexai.checkpoints.errors import (
    AlreadyExistsError,
    IntegrityError,
    SourceChangedError,
    SourceError,
    StorageUnavailableError,
    UnsafePathError,
)
from flexai.checkpoints.manifest import Manifest
from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.service.support.export_manifest import EXPORT_MANIFEST
from tests.checkpoints.service.pushes import SIZE, SOURCE, moved
from tests.hostile.paths import HOSTILE_PATHS
from tests.support.faults import Call, Fault
from tests.support.fixtures import NewMachine
from tests.support.machine import PART, Machine, check_all
from tests.support.trees import flip_byte, noise, read_tree, write_tree


@pytest.fixture
def remote(machine: Machine) -> str:
    for path, content in SOURCE.items():
        target = machine.buckets.root / "bucket" / "runs" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return "bucket/runs"


def test_the_content_of_a_provider_s_prefix_becomes_a_checkpoint(machine: Machine, remote: str) -> None:
    seen = set()
    machine.storage.before_call = lambda _number, _call: seen.add(machine.checkpoint("llama").status)
    checkpoint = machine.push_from("llama", remote)
    assert seen == {CheckpointStatus.SYNCING}
    assert checkpoint.source.storage_provider == "lab"
    assert checkpoint.source.storage_provider_id == machine.buckets.connection_id
    assert checkpoint.source.source_path == "bucket/runs"
    assert checkpoint.source.from_local_files == ()
    check_all(machine, ["llama"], SOURCE)


def test_a_provider_s_bytes_are_read_once(machine: Machine, remote: str) -> None:
    machine.push_from("llama", remote)
    assert machine.buckets.storage.delivered == SIZE
    assert moved(machine) == SIZE


def test_parts_of_a_provider_s_object_that_had_arrived_are_not_read_again(machine: Machine) -> None:
    content = os.urandom(6 * PART)
    write_tree(machine.buckets.root / "bucket" / "folder", {"model.bin": content})
    machine.buckets.storage.faults = {5: Fault.BEFORE}  # after the listing, the manifest's look-up and two parts
    with pytest.raises(StorageUnavailableError):
        machine.push_from("probe", "bucket/folder")
    arrived = machine.buckets.storage.delivered
    assert 0 < arrived < len(content)
    again = machine.again()
    again.push_from("probe", "bucket/folder")
    assert again.buckets.storage.delivered == len(content) - arrived
    check_all(again, ["probe"], {"model.bin": content})


def test_an_object_that_is_replaced_while_it_is_read_fails_the_push(machine: Machine, remote: str) -> None:
    target = machine.buckets.root / "bucket" / "runs" / "model" / "a.safetensors"

    def interfere(_number: int, call: Call) -> None:
        if call.name == "put_part":
            machine.storage.before_call = None
            new = target.with_name("new")
            new.write_bytes(noise(len(SOURCE["model/a.safetensors"]), "other"))
            new.replace(target)

    machine.storage.before_call = interfere
    with pytest.raises(SourceChangedError):
        machine.push_from("llama", remote)
    assert machine.checkpoint("llama").status is CheckpointStatus.FAILED


def test_one_object_of_a_provider_keeps_its_base_name(machine: Machine, remote: str) -> None:
    machine.push_from("llama", f"{remote}/model/b.safetensors")
    assert machine.fetched("llama") == {"b.safetensors": SOURCE["model/b.safetensors"]}


def test_nothing_at_a_provider_s_path_leaves_no_trace(machine: Machine, remote: str) -> None:
    with pytest.raises(SourceError, match="no object"):
        machine.push_from("llama", f"{remote}/nowhere")
    assert machine.checkpoints() == []


def test_the_same_content_at_a_provider_is_recognised(machine: Machine, remote: str) -> None:
    path = remote
    machine.push_from("llama", path)
    with pytest.raises(AlreadyExistsError, match="same content"):
        machine.push_from("llama", path)
    machine.push_from("llama", path, if_not_exists=True)


@pytest.mark.parametrize(
    ("name", "reason"),
    [(path, reason) for path, reason in HOSTILE_PATHS if "/" not in path and "\0" not in path and path.isprintable()],
)
def test_a_hostile_key_at_a_provider_is_refused_before_anything_is_written(
    machine: Machine, name: str, reason: str
) -> None:
    if name in {"", ".", ".."} or len(name.encode()) > 255:
        name = f"a\\{name[:9]}"  # what a file system can hold; an object store takes them as they are
    machine.write("buckets/bucket/runs", {"good.bin": b"x", name: b"x"})
    with pytest.raises(UnsafePathError):
        machine.push_from("llama", "bucket/runs")
    assert machine.checkpoints() == []
    assert machine.storage.calls == []


def test_a_pushed_export_is_exactly_what_its_manifest_lists(machine: Machine, source: Path) -> None:
    original = machine.push("llama", source)
    machine.export("llama", "bucket/place")
    machine.write("buckets/bucket/place", {"stray.bin": b"not of the export"})
    machine.storage.reset()
    machine.buckets.storage.reset()
    again = machine.push_from("back", "bucket/place")
    assert again.manifest_digest == original.manifest_digest
    stored = [call for call in machine.storage.named("put", "put_part") if "blobs/" in call.key]
    assert stored == [], "what lay there was read and compared, not stored again"
    check_all(machine, ["llama", "back"], SOURCE)


def test_a_part_of_an_export_is_pushed_as_its_manifest_has_it(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.export("llama", "bucket/place")
    names = sorted(read_tree(source))
    pushed = machine.push_from("again", "bucket/place/", exclude=names[1:])
    assert machine.fetched("again") == {names[0]: read_tree(source)[names[0]]}
    assert pushed.file_count == 1
    with pytest.raises(SourceError, match=r"all of the export at .* is excluded"):
        machine.push_from("nothing", "bucket/place", exclude=names)


def test_an_export_s_manifest_whose_digests_are_not_those_of_its_parts_is_refused(
    machine: Machine, source: Path
) -> None:
    machine.push("llama", source)
    machine.export("llama", "bucket/place")
    path = machine.buckets.root / "bucket" / "place" / EXPORT_MANIFEST
    document = json.loads(path.read_bytes())
    entries = {entry["path"]: entry for entry in document["manifest"]["files"]}
    large = max(entries.values(), key=lambda entry: entry["size"])
    assert len(large["parts"]) > 1
    large["digest"] = "0" * 64
    manifest = Manifest.model_validate(document["manifest"])
    path.write_bytes(json.dumps(document | {"manifestDigest": manifest.digest()}).encode())
    with pytest.raises(IntegrityError):
        machine.push_from("back", "bucket/place")


def test_a_pushed_export_is_verified_against_its_manifest(new_machine: NewMachine) -> None:
    here, there = new_machine(), new_machine()
    here.push("llama", here.write("run", SOURCE))
    here.export("llama", "bucket/place")
    there.buckets.root = here.buckets.root
    for path in ("model/a.safetensors", "tokens/one.bin"):
        target = here.buckets.root / "bucket" / "place" / path
        flip_byte(target, 4321)
        with pytest.raises(IntegrityError, match=path):
            there.push_from("llama", "bucket/place")
        assert there.checkpoints(CheckpointStatus.AVAILABLE) == []
        target.write_bytes(SOURCE[path])
    there.push_from("llama", "bucket/place")
    check_all(there, ["llama"], SOURCE)


def test_what_was_spoiled_on_the_way_from_a_provider_moves_again_into_parts_larger_than_the_manifest_s(
    new_machine: NewMachine,
) -> None:
    min_part_size = PART + 1
    here = new_machine()
    here.push("llama", here.write("run", SOURCE))
    here.export("llama", "bucket/place")
    for number in range(1, 20):
        there = new_machine()
        there.storage.min_part_size = min_part_size
        there.buckets.root = here.buckets.root
        there.buckets.storage.faults = {number: Fault.WRONG}
        with suppress(IntegrityError, SourceError):
            there.push_from("llama", "bucket/place")
        there.buckets.storage.reset()
        again = there.again()
        again.storage.min_part_size = min_part_size
        again.buckets.root = here.buckets.root
        again.push_from("llama", "bucket/place", if_not_exists=True)
        check_all(again, ["llama"], SOURCE)


def test_a_provider_s_parts_that_arrived_do_not_move_again(machine: Machine, remote: str) -> None:
    machine.storage.down_from = 4
    with pytest.raises(StorageUnavailableError):
        machine.push_from("llama", remote)
    again = machine.again()
    again.push_from("llama", remote)
    assert again.buckets.storage.delivered == SIZE - 2 * PART
    check_all(again, ["llama"], SOURCE)


def test_a_provider_s_object_that_arrived_whole_does_not_move_again(machine: Machine, remote: str) -> None:
    # start_upload, four parts, and the completion, whose answer is lost.
    machine.storage.faults = {6: Fault.AFTER}
    with pytest.raises(StorageUnavailableError):
        machine.push_from("llama", remote)
    again = machine.again()
    again.push_from("llama", remote)
    assert again.buckets.storage.delivered == SIZE - len(SOURCE["model/a.safetensors"])
    check_all(again, ["llama"], SOURCE)


def test_an_export_whose_files_are_missing_or_cut_is_refused(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.export("llama", "bucket/place")
    target = machine.buckets.root / "bucket" / "place" / "model" / "a.safetensors"
    os.truncate(target, PART)
    with pytest.raises(IntegrityError, match="missing or of another size"):
        machine.push_from("back", "bucket/place")
    target.unlink()
    with pytest.raises(IntegrityError, match="missing or of another size"):
        machine.push_from("back", "bucket/place")


def test_an_export_that_is_not_complete_is_refused(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.buckets.storage.down_from = 6
    with pytest.raises(StorageUnavailableError):
        machine.export("llama", "bucket/place")
    again = machine.again()
    with pytest.raises(IntegrityError, match="is not complete") as caught:
        again.push_from("back", "bucket/place")
    assert "run the export again" in caught.value.hint
