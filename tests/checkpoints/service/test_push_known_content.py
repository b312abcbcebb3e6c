"""A push of content that the store holds already, or that is known to be unchanged."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flexai.checkpoints.errors import AlreadyExistsError
from flexai.checkpoints.names import parse_reference
from flexai.checkpoints.service.change_requests import DeleteRequest
from flexai.checkpoints.service.delete import delete
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.transfer.digest import digest_blocks
from flexai.checkpoints.transfer.sources import LocalSource
from tests.checkpoints.service.pushes import SIZE, SOURCE, Reads, blob_writes, moved
from tests.support.fixtures import NewMachine
from tests.support.machine import PART, Machine, check_all
from tests.support.trees import noise


def test_a_second_push_of_the_same_content_moves_no_byte_of_it(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.storage.reset()
    machine.push("mistral", source)
    assert blob_writes(machine) == []
    assert machine.storage.named("start_upload") == []
    check_all(machine, ["llama", "mistral"], SOURCE)


def test_a_second_push_reads_the_source_once(machine: Machine, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.push("llama", source)
    reads = Reads(monkeypatch)
    machine.push("mistral", source)
    assert reads.of(source) == {path: len(content) for path, content in SOURCE.items()}


def test_only_the_shard_that_changed_moves(machine: Machine) -> None:
    shards = {f"model-{number}.safetensors": noise(2 * PART, number) for number in range(8)}
    machine.push("step-1", machine.write("step-1", shards))
    changed = shards | {"model-3.safetensors": noise(2 * PART, "new")}
    machine.storage.reset()
    machine.push("step-2", machine.write("step-2", changed))
    assert moved(machine) == 2 * PART
    assert machine.fetched("step-1") == shards
    check_all(machine, ["step-2"], changed)


def test_only_the_small_file_that_changed_moves(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    (source / "tokens" / "one.bin").write_bytes(noise(777, "new"))
    machine.storage.reset()
    machine.push("mistral", source)
    assert moved(machine) == 777
    assert machine.fetched("mistral") == SOURCE | {"tokens/one.bin": noise(777, "new")}


def test_a_changed_shard_is_read_twice_only_as_far_as_it_is_alike(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = noise(4 * PART)
    machine.push("llama", machine.write("run", {"shard": content}))
    other = machine.write("other", {"shard": b"x" + content[1:]})
    reads = Reads(monkeypatch)
    machine.push("mistral", other)
    assert reads.of(other) == {"shard": 5 * PART}


def test_moved_and_renamed_files_do_not_move_as_bytes(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    (source / "model").rename(source / "weights")
    (source / "config.json").rename(source / "c.json")
    machine.storage.reset()
    machine.push("mistral", source)
    assert blob_writes(machine) == []
    assert set(machine.fetched("mistral")) == {
        path.replace("model/", "weights/").replace("config.json", "c.json") for path in SOURCE
    }


@pytest.mark.parametrize("concurrency", [1, 8])
def test_equal_files_of_one_push_are_stored_once(new_machine: NewMachine, concurrency: int) -> None:
    machine = new_machine(concurrency=concurrency)
    large, small = noise(3 * PART, "l"), noise(700, "s")
    files = {f"large-{number}": large for number in range(4)} | {f"small-{number}": small for number in range(4)}
    machine.push("llama", machine.write("run", files))
    assert moved(machine) == len(large) + len(small)
    check_all(machine, ["llama"], files)


def test_files_that_differ_only_where_no_sample_is_taken_are_both_stored(machine: Machine) -> None:
    content = bytearray(noise(20 * PART))
    files = {"one": bytes(content)}
    content[5 * PART] ^= 1
    files["two"] = bytes(content)
    machine.push("llama", machine.write("run", files))
    check_all(machine, ["llama"], files)


def test_content_is_found_whatever_the_part_size_is_now(new_machine: NewMachine) -> None:
    first = new_machine()
    source = first.write("run", SOURCE)
    first.push("llama", source)
    now = first.again(part_size=2 * PART, pack_threshold=100, pack_size=2 * PART)
    now.push("mistral", source)
    assert moved(now) == 0
    check_all(now, ["llama", "mistral"], SOURCE)


def test_content_of_a_deleted_checkpoint_is_used_again_while_its_bytes_are_there(
    machine: Machine, source: Path
) -> None:
    machine.push("llama", source)
    machine.system.catalog.checkpoints.delete(parse_reference("llama"))
    machine.storage.reset()
    machine.push("llama", source)
    assert moved(machine) == 0
    check_all(machine, ["llama"], SOURCE)


def test_content_is_stored_anew_when_its_bytes_are_gone(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.system.catalog.checkpoints.delete(parse_reference("llama"))
    machine.collect()
    machine.storage.reset()
    machine.push("llama", source)
    assert moved(machine) == SIZE
    check_all(machine, ["llama"], SOURCE)


def test_a_file_that_is_the_list_of_another_s_part_digests_is_not_taken_for_it(machine: Machine) -> None:
    # Its digest is that of the large file: the digest of the parts' digests.
    large = noise(2 * PART)
    digests = b"".join(digest_blocks([memoryview(large)[start : start + PART]]) for start in (0, PART))
    machine.push("large", machine.write("large", {"file": large}))
    machine.push("digests", machine.write("digests", {"file": digests}))
    assert machine.fetched("digests") == {"file": digests}
    machine.push("both", machine.write("both", {"a": large, "b": digests}))
    check_all(machine, ["both"], {"a": large, "b": digests})


def _make_old(folder: Path) -> None:
    for path in folder.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))


def test_files_that_are_unchanged_since_the_last_push_are_not_read(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = machine.write("run", SOURCE)
    _make_old(source)
    machine.push("llama", source)
    opened: list[Path] = []
    monkeypatch.setattr(LocalSource, "open", lambda self: opened.append(self.local_path))
    machine.storage.reset()
    assert machine.push("again", source).manifest_digest == machine.checkpoint("llama").manifest_digest
    assert [call.key.partition("/")[0] for call in machine.storage.named("put", "put_part")] == ["manifests"]
    with pytest.raises(AlreadyExistsError, match="same content"):
        machine.push("again", source)
    assert opened == []


def test_a_changed_file_is_read_though_the_others_are_known(machine: Machine) -> None:
    source = machine.write("run", SOURCE)
    _make_old(source)
    machine.push("llama", source)
    changed = sorted(SOURCE)[0]
    (source / changed).write_bytes(b"new")
    machine.push("again", source)
    assert machine.fetched("again") == {**SOURCE, changed: b"new"}


def test_a_change_that_leaves_no_trace_is_found_by_rehashing(machine: Machine) -> None:
    source = machine.write("run", {"model.bin": b"one"})
    _make_old(source)
    machine.push("llama", source)
    with (source / "model.bin").open("r+b") as file:
        file.write(b"two")
    _make_old(source)
    push(machine.system, PushRequest("again", (str(source),), rehash=True))
    assert machine.fetched("again") == {"model.bin": b"two"}


def test_a_known_file_whose_content_the_store_has_lost_is_read_again(machine: Machine) -> None:
    source = machine.write("run", SOURCE)
    _make_old(source)
    machine.push("llama", source)
    delete(machine.system, DeleteRequest("llama"))
    machine.collect()
    machine.push("again", source)
    check_all(machine, ["again"], SOURCE)
