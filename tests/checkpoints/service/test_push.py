from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CheckpointError,
    ConflictError,
    IntegrityError,
    InvalidNameError,
    NotFoundError,
    SourceChangedError,
    SourceError,
    StorageFullError,
    StorageUnavailableError,
    UnsafePathError,
)
from flexai.checkpoints.manifest import Manifest
from flexai.checkpoints.models import CheckpointKind, CheckpointStatus
from flexai.checkpoints.names import NIL_ID, new_id, parse_name
from flexai.checkpoints.service.change_requests import DeleteRequest
from flexai.checkpoints.service.delete import delete
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.push_requests import NameRequest, PushRequest
from flexai.checkpoints.service.support.export_manifest import EXPORT_MANIFEST
from flexai.checkpoints.transfer.digest import digest_blocks, digest_parts, parts_of
from flexai.checkpoints.transfer.sources import LocalSource
from tests.hostile.paths import HOSTILE_PATHS
from tests.support.faults import Call, Fault
from tests.support.fixtures import NewMachine
from tests.support.machine import (
    KIB,
    PART,
    THRESHOLD,
    Machine,
    check_all,
    check_nothing_is_left_over,
    check_nothing_is_torn,
    parts_in,
)
from tests.support.progress import Counter
from tests.support.tables import tables_of
from tests.support.trees import Tree, flip_byte, noise, read_tree, write_tree, written_bytes

SOURCE: Tree = {
    "config.json": b'{"layers": 2}',
    "empty.txt": b"",
    "model/a.safetensors": noise(3 * PART + 17, "a"),
    "model/b.safetensors": noise(2 * PART, "b"),
    "tokens/one.bin": noise(5000, "one"),
    "tokens/two.bin": noise(9000, "two"),
}
SIZE = sum(map(len, SOURCE.values()))


@pytest.fixture
def source(machine: Machine) -> Path:
    return machine.write("run", SOURCE)


def _blob_writes(machine: Machine) -> list[Call]:
    return [call for call in machine.storage.named("put", "put_part") if call.key.startswith("blobs/")]


def _moved(machine: Machine) -> int:
    """Bytes of content that were sent to the store."""
    return sum(call.size for call in _blob_writes(machine))


class _Reads:
    """Counts the bytes that are read from local files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.by_inode: dict[int, int] = {}
        real = os.preadv

        def preadv(descriptor: int, buffers: Any, offset: int) -> int:
            count = real(descriptor, buffers, offset)
            inode = os.fstat(descriptor).st_ino
            self.by_inode[inode] = self.by_inode.get(inode, 0) + count
            return count

        monkeypatch.setattr(os, "preadv", preadv)

    def of(self, folder: Path) -> dict[str, int]:
        """How many bytes were read of each file of a folder."""
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(folder)): self.by_inode.get(path.stat().st_ino, 0) for path in paths}


def test_a_pushed_checkpoint_is_available_with_exactly_its_files(machine: Machine, source: Path) -> None:
    checkpoint = machine.push("llama", source)
    assert checkpoint.status is CheckpointStatus.AVAILABLE
    assert checkpoint.kind is CheckpointKind.PUSHED
    assert (checkpoint.name, checkpoint.reason) == ("llama", "")
    assert (checkpoint.size, checkpoint.file_count) == (SIZE, len(SOURCE))
    assert checkpoint.source.from_local_files == (str(source),)
    assert checkpoint.source.storage_provider_id == NIL_ID
    assert checkpoint.creator_user_id == machine.system.owner.user_id
    assert checkpoint == machine.checkpoint("llama")
    check_all(machine, ["llama"], SOURCE)


@pytest.mark.parametrize("concurrency", [1, 2, 8])
def test_the_number_of_threads_changes_nothing(new_machine: NewMachine, concurrency: int) -> None:
    machine = new_machine(concurrency=concurrency)
    machine.push("llama", machine.write("run", SOURCE))
    check_all(machine, ["llama"], SOURCE)


def test_files_go_where_their_destinations_say(machine: Machine, source: Path) -> None:
    machine.push(
        "llama", f"{source}/config.json=meta/c.json", f"{source}/tokens=tok", source / "model" / "b.safetensors"
    )
    assert machine.fetched("llama") == {
        "meta/c.json": SOURCE["config.json"],
        "tok/one.bin": SOURCE["tokens/one.bin"],
        "tok/two.bin": SOURCE["tokens/two.bin"],
        "b.safetensors": SOURCE["model/b.safetensors"],
    }


def test_a_file_s_digest_is_that_of_its_content(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    for file in machine.system.blobs.files_of(str(machine.checkpoint("llama").id)):
        content = memoryview(SOURCE[file.path])
        parts = [
            digest_blocks([content[part.offset : part.offset + part.size]])
            for part in parts_of(len(content), file.content.part_size)
        ]
        assert file.content.digest == digest_parts(parts)
        assert file.content.part_digests == b"".join(parts)


def test_the_manifest_does_not_depend_on_how_files_are_stored(new_machine: NewMachine) -> None:
    digests = set()
    for changes in ({}, {"pack_size": 4 * PART}, {"concurrency": 4}):
        machine = new_machine(**changes)
        digests.add(machine.push("llama", machine.write("run", SOURCE)).manifest_digest)
    assert len(digests) == 1


def test_every_byte_of_the_source_is_read_once(machine: Machine, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = _Reads(monkeypatch)
    machine.push("llama", source)
    assert reads.of(source) == {path: len(content) for path, content in SOURCE.items()}


def test_every_byte_of_the_source_is_sent_once(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    assert _moved(machine) == SIZE
    assert len(machine.storage.named("put_part")) == sum(
        parts_in(len(content), machine.storage) for content in SOURCE.values() if len(content) >= THRESHOLD
    )


def test_the_manifest_is_written_after_the_last_blob(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    writes = [call.key.partition("/")[0] for call in machine.storage.named("put", "put_part", "complete_upload")]
    assert writes[-1] == "manifests"
    assert "manifests" not in writes[:-1]


def test_a_checkpoint_is_uploading_while_its_bytes_arrive(machine: Machine, source: Path) -> None:
    seen = set()
    machine.storage.before_call = lambda _number, _call: seen.add(machine.checkpoint("llama").status)
    machine.push("llama", source)
    assert seen == {CheckpointStatus.UPLOADING}


def test_small_files_share_a_blob_and_large_ones_have_their_own(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    small = {path for path, content in SOURCE.items() if len(content) < THRESHOLD}
    assert len({machine.blob_of("llama", path) for path in small}) == 1
    assert len({machine.blob_of("llama", path) for path in SOURCE}) == 1 + len(SOURCE) - len(small)


def test_a_pack_holds_no_more_than_its_size(machine: Machine) -> None:
    files = {f"{number:02}.bin": noise(10 * KIB, number) for number in range(20)}
    machine.push("llama", machine.write("run", files))
    sizes = [machine.blob_path(blob_id).stat().st_size for blob_id in machine.blob_ids()]
    assert sum(sizes) == 20 * 10 * KIB
    assert max(sizes) <= PART
    check_all(machine, ["llama"], files)


@pytest.mark.parametrize("size", [THRESHOLD - 1, THRESHOLD, THRESHOLD + 1, PART - 1, PART, PART + 1, 2 * PART])
def test_files_of_every_interesting_size_arrive(machine: Machine, size: int) -> None:
    files = {"file.bin": noise(size)}
    machine.push("llama", machine.write("run", files))
    check_all(machine, ["llama"], files)


@pytest.mark.parametrize("threshold", [0, 1, 10**9])
def test_thresholds_at_their_ends_work(new_machine: NewMachine, threshold: int) -> None:
    machine = new_machine(pack_threshold=threshold)
    machine.push("llama", machine.write("run", SOURCE))
    check_all(machine, ["llama"], SOURCE)


def test_a_checkpoint_of_empty_files_alone_is_one(machine: Machine) -> None:
    files = {"a": b"", "b/c": b""}
    checkpoint = machine.push("llama", machine.write("run", files))
    assert (checkpoint.size, checkpoint.file_count) == (0, 2)
    check_all(machine, ["llama"], files)


def test_a_large_file_has_no_more_parts_than_the_store_allows(machine: Machine) -> None:
    machine.storage.max_parts = 3
    files = {"file.bin": noise(10 * PART)}
    machine.push("llama", machine.write("run", files))
    assert [call.size for call in machine.storage.named("put_part")] == [4 * PART, 4 * PART, 2 * PART]
    machine.storage.max_parts = 1_000_000
    check_all(machine, ["llama"], files)


def test_no_part_is_smaller_than_the_store_allows(machine: Machine) -> None:
    machine.storage.min_part_size = 3 * PART
    files = {"file.bin": noise(4 * PART)}
    machine.push("llama", machine.write("run", files))
    assert [call.size for call in machine.storage.named("put_part")] == [3 * PART, PART]
    check_all(machine, ["llama"], files)


def test_progress_counts_every_byte_and_file_once(machine: Machine, source: Path) -> None:
    progress = Counter()
    machine.push("llama", source, progress=progress)
    assert progress.stages == [("push llama", SIZE, len(SOURCE))]
    assert (progress.moved, progress.skipped, progress.files) == (SIZE, 0, len(SOURCE))
    assert progress.ended == 1
    again = Counter()
    machine.push("mistral", source, progress=again)
    assert (again.moved, again.skipped, again.files) == (0, SIZE, len(SOURCE))


# Content that the store holds already.


def test_a_second_push_of_the_same_content_moves_no_byte_of_it(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.storage.reset()
    machine.push("mistral", source)
    assert _blob_writes(machine) == []
    assert machine.storage.named("start_upload") == []
    check_all(machine, ["llama", "mistral"], SOURCE)


def test_a_second_push_reads_the_source_once(machine: Machine, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.push("llama", source)
    reads = _Reads(monkeypatch)
    machine.push("mistral", source)
    assert reads.of(source) == {path: len(content) for path, content in SOURCE.items()}


def test_only_the_shard_that_changed_moves(machine: Machine) -> None:
    shards = {f"model-{number}.safetensors": noise(2 * PART, number) for number in range(8)}
    machine.push("step-1", machine.write("step-1", shards))
    changed = shards | {"model-3.safetensors": noise(2 * PART, "new")}
    machine.storage.reset()
    machine.push("step-2", machine.write("step-2", changed))
    assert _moved(machine) == 2 * PART
    assert machine.fetched("step-1") == shards
    check_all(machine, ["step-2"], changed)


def test_only_the_small_file_that_changed_moves(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    (source / "tokens" / "one.bin").write_bytes(noise(777, "new"))
    machine.storage.reset()
    machine.push("mistral", source)
    assert _moved(machine) == 777
    assert machine.fetched("mistral") == SOURCE | {"tokens/one.bin": noise(777, "new")}


def test_a_changed_shard_is_read_twice_only_as_far_as_it_is_alike(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = noise(4 * PART)
    machine.push("llama", machine.write("run", {"shard": content}))
    other = machine.write("other", {"shard": b"x" + content[1:]})
    reads = _Reads(monkeypatch)
    machine.push("mistral", other)
    assert reads.of(other) == {"shard": 5 * PART}


def test_moved_and_renamed_files_do_not_move_as_bytes(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    (source / "model").rename(source / "weights")
    (source / "config.json").rename(source / "c.json")
    machine.storage.reset()
    machine.push("mistral", source)
    assert _blob_writes(machine) == []
    assert set(machine.fetched("mistral")) == {
        path.replace("model/", "weights/").replace("config.json", "c.json") for path in SOURCE
    }


@pytest.mark.parametrize("concurrency", [1, 8])
def test_equal_files_of_one_push_are_stored_once(new_machine: NewMachine, concurrency: int) -> None:
    machine = new_machine(concurrency=concurrency)
    large, small = noise(3 * PART, "l"), noise(700, "s")
    files = {f"large-{number}": large for number in range(4)} | {f"small-{number}": small for number in range(4)}
    machine.push("llama", machine.write("run", files))
    assert _moved(machine) == len(large) + len(small)
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
    assert _moved(now) == 0
    check_all(now, ["llama", "mistral"], SOURCE)


def test_content_of_a_deleted_checkpoint_is_used_again_while_its_bytes_are_there(
    machine: Machine, source: Path
) -> None:
    machine.push("llama", source)
    machine.system.catalog.checkpoints.delete(_reference("llama"))
    machine.storage.reset()
    machine.push("llama", source)
    assert _moved(machine) == 0
    check_all(machine, ["llama"], SOURCE)


def test_content_is_stored_anew_when_its_bytes_are_gone(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.system.catalog.checkpoints.delete(_reference("llama"))
    machine.collect()
    machine.storage.reset()
    machine.push("llama", source)
    assert _moved(machine) == SIZE
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


# A push that fails, and the next one that continues it.


def test_a_failed_push_says_why_and_nothing_is_available(machine: Machine, source: Path) -> None:
    machine.storage.faults = {5: Fault.BEFORE}
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    failed = machine.checkpoint("llama")
    assert failed.status is CheckpointStatus.FAILED
    assert "a test wanted it" in failed.reason
    assert machine.checkpoints(CheckpointStatus.AVAILABLE) == []
    with pytest.raises(ConflictError, match="is failed, not available: put_part failed"):
        machine.fetch("llama")


def test_a_failed_push_is_continued_under_its_id(machine: Machine, source: Path) -> None:
    machine.storage.faults = {5: Fault.BEFORE}
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    failed = machine.checkpoint("llama")
    done = machine.again().push("llama", source)
    assert done.id == failed.id
    assert done.reason == ""
    check_all(machine, ["llama"], SOURCE)


def test_parts_that_arrived_are_not_sent_again(machine: Machine) -> None:
    source = machine.write("run", {"file.bin": noise(10 * PART)})
    # start_upload, six parts, and then nothing answers any more.
    machine.storage.down_from = 8
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    again = machine.again()
    progress = Counter()
    again.push("llama", source, progress=progress)
    assert _moved(again) == 4 * PART
    assert (progress.moved, progress.skipped) == (4 * PART, 6 * PART)
    check_all(again, ["llama"], {"file.bin": noise(10 * PART)})


def test_a_part_that_arrived_is_sent_again_where_the_file_has_changed_since(machine: Machine) -> None:
    source = machine.write("run", {"file.bin": noise(4 * PART)})
    machine.storage.down_from = 4
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    changed = b"x" + noise(4 * PART)[1:]
    (source / "file.bin").write_bytes(changed)
    again = machine.again()
    again.push("llama", source)
    assert _moved(again) == 3 * PART
    check_all(again, ["llama"], {"file.bin": changed})


def test_a_file_of_another_size_starts_over(machine: Machine) -> None:
    source = machine.write("run", {"file.bin": noise(4 * PART)})
    machine.storage.down_from = 4
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    (source / "file.bin").write_bytes(noise(4 * PART) + b"more")
    again = machine.again()
    again.push("llama", source)
    check_all(again, ["llama"], {"file.bin": noise(4 * PART) + b"more"})


def test_a_continued_push_keeps_the_part_size_of_what_arrived(machine: Machine) -> None:
    source = machine.write("run", {"file.bin": noise(6 * PART)})
    machine.storage.down_from = 5
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    again = machine.again(part_size=2 * PART, pack_size=2 * PART)
    again.push("llama", source)
    assert _moved(again) == 3 * PART
    check_all(again, ["llama"], {"file.bin": noise(6 * PART)})


def test_a_blob_that_was_complete_before_it_was_recorded_is_recognised(machine: Machine) -> None:
    files = {"file.bin": noise(4 * PART)}
    source = machine.write("run", files)
    # start_upload, four parts, and the completion, whose answer is lost.
    machine.storage.faults = {6: Fault.AFTER}
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    again = machine.again()
    again.push("llama", source)
    assert _moved(again) == 0
    check_all(again, ["llama"], files)


def test_a_complete_blob_is_not_taken_for_a_file_that_has_changed_since(machine: Machine) -> None:
    source = machine.write("run", {"file.bin": noise(4 * PART)})
    machine.storage.faults = {6: Fault.AFTER}
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    changed = noise(4 * PART)[:-1] + b"x"
    (source / "file.bin").write_bytes(changed)
    again = machine.again()
    again.push("llama", source)
    check_all(again, ["llama"], {"file.bin": changed})


def test_an_upload_that_the_store_has_given_up_starts_over(machine: Machine) -> None:
    files = {"file.bin": noise(4 * PART)}
    source = machine.write("run", files)
    machine.storage.down_from = 4
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    again = machine.again()
    ((_, upload),) = again.system.store.list_unfinished()
    again.storage.inner.abort_upload(upload.key, upload.upload_id)
    again.push("llama", source)
    assert _moved(again) == 4 * PART
    check_all(again, ["llama"], files)


def test_a_continued_push_may_mean_other_files(machine: Machine, source: Path) -> None:
    machine.storage.down_from = 6
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    again = machine.again()
    done = again.push("llama", f"{source}/tokens")
    assert done.source.from_local_files == (f"{source}/tokens",)
    check_all(again, ["llama"], {"one.bin": SOURCE["tokens/one.bin"], "two.bin": SOURCE["tokens/two.bin"]})


def test_a_failed_push_is_continued_in_the_store_that_is_in_force_now(machine: Machine, source: Path) -> None:
    machine.storage.down_from = 6
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    moved = machine.again(store=str(machine.root / "other-store"))
    moved.push("llama", source)
    assert moved.fetched("llama") == SOURCE
    check_nothing_is_torn(moved)
    machine.again().collect()
    assert machine.again().blob_ids() == set()
    assert moved.fetched("llama") == SOURCE


def test_a_push_that_gc_gave_up_half_way_is_continued_without_harm(machine: Machine) -> None:
    files = {"file.bin": noise(6 * PART), "config.json": b"{}"}
    source = machine.write("run", files)
    machine.storage.down_from = 5
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    collector = machine.again()
    # gc gives the push up, and dies before it takes the bytes.
    collector.storage.down_from = 1
    with pytest.raises(StorageUnavailableError):
        collector.collect()
    again = machine.again()
    again.push("llama", source)
    check_all(again, ["llama"], files)


def test_a_name_that_is_being_pushed_by_a_live_process_is_refused(machine: Machine, source: Path) -> None:
    refused: list[str] = []

    def push_too(_number: int, _call: Call) -> None:
        if not refused:
            with pytest.raises(ConflictError, match=f"being pushed by process {os.getpid()}") as caught:
                machine.again().push("llama", source)
            refused.append(caught.value.hint)

    machine.storage.before_call = push_too
    machine.push("llama", source)
    assert refused == ["try again when the other one has finished, or use another name"]
    check_all(machine, ["llama"], SOURCE)


def test_an_unfinished_push_of_another_owner_is_refused(machine: Machine, source: Path) -> None:
    machine.storage.faults = {5: Fault.BEFORE}
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    other = machine.again()
    other.system.owner = replace(other.system.owner, user_id=new_id())
    with pytest.raises(ConflictError, match="another owner"):
        other.push("llama", source)


def test_an_interruption_leaves_a_push_that_can_be_continued(machine: Machine, source: Path) -> None:
    def interrupt(number: int, _call: Call) -> None:
        if number == 5:
            raise KeyboardInterrupt

    machine.storage.before_call = interrupt
    with pytest.raises(KeyboardInterrupt):
        machine.push("llama", source)
    assert machine.checkpoint("llama").reason == "interrupted by SIGINT"
    again = machine.again()
    again.push("llama", source)
    check_all(again, ["llama"], SOURCE)


def test_a_failure_that_cannot_be_recorded_does_not_hide_the_first_one(machine: Machine, source: Path) -> None:
    machine.storage.faults = {5: Fault.BEFORE}
    checkpoints = machine.system.catalog.checkpoints

    def take_over(number: int, _call: Call) -> None:
        if number == 5:
            with tables_of(machine.system.catalog.database) as connection:
                connection.exec_driver_sql("UPDATE checkpoints SET claim_token = 'another token'")

    machine.storage.before_call = take_over
    with pytest.raises(StorageUnavailableError, match="put_part failed") as caught:
        machine.push("llama", source)
    assert "taken over" in "".join(caught.value.__notes__)
    assert checkpoints.get(_reference("llama")).status is CheckpointStatus.UPLOADING


def test_a_push_that_lost_its_claim_makes_nothing_available(machine: Machine, source: Path) -> None:
    def take_over(_number: int, call: Call) -> None:
        if call.key.startswith("manifests/"):
            with tables_of(machine.system.catalog.database) as connection:
                connection.exec_driver_sql("UPDATE checkpoints SET claim_token = 'another token'")

    machine.storage.before_call = take_over
    with pytest.raises(ConflictError, match="taken over"):
        machine.push("llama", source)
    assert machine.checkpoints(CheckpointStatus.AVAILABLE) == []


# A source that does not stand still.


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _shrink(path: Path) -> None:
    os.truncate(path, path.stat().st_size - PART)


def _rewrite(path: Path) -> None:
    times = path.stat()
    with path.open("r+b") as file:
        file.write(b"other bytes")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))


def _replace(path: Path) -> None:
    new = path.with_name("new")
    new.write_bytes(path.read_bytes())
    new.replace(path)


def _vanish(path: Path) -> None:
    path.unlink()


_CHANGES = [_grow, _shrink, _rewrite, _replace, _vanish]


@pytest.mark.parametrize("change", _CHANGES)
@pytest.mark.parametrize("when", ["put_part", "start_upload", "complete_upload"])
def test_a_large_source_that_changes_while_it_is_read_fails_the_push(
    machine: Machine, change: Callable[[Path], None], when: str
) -> None:
    source = machine.write("run", {"file.bin": noise(4 * PART), "config.json": b"{}"})

    def interfere(_number: int, call: Call) -> None:
        if call.name == when:
            machine.storage.before_call = None
            change(source / "file.bin")

    machine.storage.before_call = interfere
    with pytest.raises(SourceChangedError, match=r"file\.bin") as caught:
        machine.push("llama", source)
    assert "nothing writes to the source" in caught.value.hint
    failed = machine.checkpoint("llama")
    assert (failed.status, failed.reason) == (CheckpointStatus.FAILED, caught.value.message)
    assert machine.checkpoints(CheckpointStatus.AVAILABLE) == []
    after = read_tree(source)
    again = machine.again()
    again.push("llama", source)
    check_all(again, ["llama"], after)


@pytest.mark.parametrize("change", [_grow, _rewrite, _replace, _vanish])
@pytest.mark.parametrize("name", ["a-large.bin", "a-small.bin"])
def test_a_source_that_changes_after_its_bytes_have_arrived_fails_the_push(
    machine: Machine, change: Callable[[Path], None], name: str
) -> None:
    # Files are stored largest first, packs last.
    files = {"a-large.bin": noise(3 * PART, 1), "b-large.bin": noise(2 * PART, 2), "a-small.bin": noise(50)}
    source = machine.write("run", files)

    def interfere(_number: int, call: Call) -> None:
        if call.name == "put" and call.key.startswith("blobs/"):
            change(source / name)

    machine.storage.before_call = interfere
    with pytest.raises(SourceChangedError, match=name):
        machine.push("llama", source)
    assert machine.checkpoint("llama").status is CheckpointStatus.FAILED
    after = read_tree(source)
    again = machine.again()
    again.push("llama", source)
    check_all(again, ["llama"], after)


@pytest.mark.parametrize("change", [_rewrite, _replace, _vanish])
def test_a_source_that_changes_before_it_is_opened_fails_the_push(
    machine: Machine, change: Callable[[Path], None]
) -> None:
    source = machine.write("run", {"a.bin": noise(3 * PART, 1), "b.bin": noise(2 * PART, 2), "c.bin": b"small"})

    def interfere(_number: int, call: Call) -> None:
        if call.name == "start_upload":
            machine.storage.before_call = None
            change(source / "b.bin")

    machine.storage.before_call = interfere
    with pytest.raises(SourceChangedError, match=r"b\.bin"):
        machine.push("llama", source)


def test_a_source_whose_folder_is_gone_when_it_is_checked_has_changed(machine: Machine) -> None:
    source = machine.write("run", {"deep/a.bin": noise(3 * PART)})

    def interfere(_number: int, call: Call) -> None:
        if call.name == "complete_upload":
            (source / "deep").rename(source / "gone")
            (source / "deep").write_bytes(b"a file now")

    machine.storage.before_call = interfere
    with pytest.raises(SourceChangedError, match=r"a\.bin"):
        machine.push("llama", source)


def test_a_source_that_becomes_a_link_has_changed(machine: Machine) -> None:
    source = machine.write("run", {"a.bin": noise(3 * PART), "z.bin": noise(50)})
    secret = machine.write("other", {"secret": noise(50, "secret")}) / "secret"

    def interfere(_number: int, call: Call) -> None:
        if call.name == "start_upload":
            (source / "z.bin").unlink()
            (source / "z.bin").symlink_to(secret)

    machine.storage.before_call = interfere
    with pytest.raises(SourceChangedError, match=r"z\.bin"):
        machine.push("llama", source)


def test_a_source_that_is_only_touched_by_reading_has_not_changed(machine: Machine, source: Path) -> None:
    def read(_number: int, _call: Call) -> None:
        for path in source.rglob("*.json"):
            os.utime(path, ns=(0, path.stat().st_mtime_ns))
            path.chmod(0o600)

    machine.storage.before_call = read
    machine.push("llama", source)
    check_all(machine, ["llama"], SOURCE)


# Holes and memory.


def test_a_sparse_file_takes_no_room_in_the_store_nor_where_it_is_fetched(new_machine: NewMachine) -> None:
    machine = new_machine(part_size=16 * 1024**2)
    source = machine.write("run", {})
    with (source / "sparse.bin").open("wb") as file:
        file.write(b"begin")
        file.seek(64 * 1024**2)
        file.write(b"end")
    machine.push("llama", source)
    assert written_bytes(machine.store_folder, ["blobs"]) < 1024**2
    machine.fetch("llama")
    assert written_bytes(machine.root / "out") < 1024**2
    assert (machine.root / "out" / "sparse.bin").stat().st_size == 64 * 1024**2 + 3
    assert read_tree(machine.root / "out") == read_tree(source)


_MEMORY = """
import resource, sys, threading
from pathlib import Path
from flexai.checkpoints.settings import load_settings
from flexai.checkpoints.service.system import System
from flexai.checkpoints.service.push import push
from flexai.checkpoints.service.fetch import fetch
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.requests import FetchRequest

root, warm = Path(sys.argv[1]), Path(sys.argv[2])
with System.open(load_settings(home=root / "home", concurrency=2, part_size="4MiB", pack_size="1MiB")) as system:
    def peak():
        return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
    def run(name, source):
        push(system, PushRequest(name, [str(source)]))
        fetch(system, FetchRequest(name, str(root / name)))
    run("warm", warm)
    before = peak()
    run("large", root / "run")
    print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process is read from /proc")
def test_memory_does_not_grow_with_the_size_of_a_file(machine: Machine) -> None:
    warm = machine.write("few", {"file.bin": noise(6 * 1024**2), "small": noise(1000)})
    large = machine.write("run", {})
    block = noise(1024**2)
    with (large / "file.bin").open("wb") as file:
        for number in range(192):
            file.write(number.to_bytes(8, "big") + block[8:])
    arguments = [sys.executable, "-c", _MEMORY, str(machine.root), str(warm)]
    grown = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert int(grown) < 24 * 1024**2


# Names.


@pytest.mark.parametrize("name", ["", "a", "-ab", "a b", "latest", "best", "a" * 64, NIL_ID, "../etc"])
def test_a_name_that_breaks_the_rules_is_refused_before_anything_is_read(machine: Machine, name: str) -> None:
    with pytest.raises(InvalidNameError):
        machine.push(name, "/nowhere")


def test_a_source_whose_own_name_is_not_utf_8_is_pushed_all_the_same(machine: Machine) -> None:
    folder = machine.root / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "model.bin").write_bytes(b"weights")
    pushed = machine.push("llama", folder)
    assert pushed.source.from_local_files == (str(machine.root / "caf?"),)
    assert machine.fetched("llama") == {"model.bin": b"weights"}


def test_a_missing_source_leaves_no_trace_of_the_name(machine: Machine) -> None:
    with pytest.raises(SourceError):
        machine.push("llama", machine.root / "nowhere")
    assert machine.checkpoints() == []
    assert machine.storage.calls == []


def test_a_name_that_is_available_with_the_same_content_is_refused_and_says_so(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    with pytest.raises(AlreadyExistsError, match="'llama' already exists with the same content") as caught:
        machine.push("LLAMA", source)
    assert "--if-not-exists" in caught.value.hint


def test_a_name_that_is_available_with_other_content_is_refused_and_says_so(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    (source / "tokens" / "one.bin").write_bytes(noise(5000, "other"))
    for if_not_exists in (False, True):
        with pytest.raises(AlreadyExistsError, match="'llama' already exists with other content") as caught:
            machine.push("llama", source, if_not_exists=if_not_exists)
        assert caught.value.hint == "use another name, or: flexai checkpoint delete llama"


@pytest.mark.parametrize(
    "change",
    [
        lambda source: (source / "more.txt").write_bytes(b""),
        lambda source: (source / "empty.txt").unlink(),
        lambda source: (source / "empty.txt").rename(source / "blank.txt"),
        lambda source: flip_byte(source / "model" / "a.safetensors", 3 * PART + 16),
        lambda source: os.truncate(source / "model" / "a.safetensors", 3 * PART),
    ],
)
def test_any_difference_makes_other_content(machine: Machine, source: Path, change: Callable[[Path], None]) -> None:
    machine.push("llama", source)
    change(source)
    with pytest.raises(AlreadyExistsError, match="with other content"):
        machine.push("llama", source, if_not_exists=True)


def test_if_not_exists_takes_the_same_content_for_done(machine: Machine, source: Path) -> None:
    done = machine.push("llama", source, if_not_exists=True)
    machine.storage.reset()
    assert machine.push("llama", source, if_not_exists=True) == done
    assert {call.name for call in machine.storage.calls} == {"head"}
    assert len(machine.storage.calls) == len(machine.blob_ids())


def test_a_large_difference_in_sizes_is_seen_without_reading(
    machine: Machine, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.push("llama", source)
    (source / "config.json").write_bytes(b"{}")
    reads = _Reads(monkeypatch)
    with pytest.raises(AlreadyExistsError):
        machine.push("llama", source)
    assert set(reads.of(source).values()) == {0}


def test_a_deleted_checkpoint_s_name_is_free(machine: Machine, source: Path) -> None:
    first = machine.push("llama", source)
    machine.system.catalog.checkpoints.delete(_reference("llama"))
    second = machine.push("llama", source / "tokens")
    assert first.id != second.id
    assert set(machine.fetched("llama")) == {"one.bin", "two.bin"}


# A checkpoint that is here already, under another name.


def test_a_checkpoint_gets_another_name_and_no_byte_moves(machine: Machine, source: Path) -> None:
    original = machine.push("llama", source)
    machine.storage.reset()
    for reference in ("llama", original.id):
        named = name_checkpoint(machine.system, NameRequest(f"copy-{reference}"[:20], reference))
        assert named.id != original.id
        assert named.parent_id == original.id
        assert named.manifest_digest == original.manifest_digest
        assert (named.size, named.file_count) == (SIZE, len(SOURCE))
        assert named.source == original.source
    assert _blob_writes(machine) == []
    machine.system.catalog.checkpoints.delete(_reference("llama"))
    check_all(machine, ["copy-llama"], SOURCE)


def test_a_checkpoint_that_is_not_there_gets_no_other_name(machine: Machine) -> None:
    with pytest.raises(NotFoundError):
        name_checkpoint(machine.system, NameRequest("copy", "llama"))
    assert machine.checkpoints() == []


def test_a_name_of_the_same_checkpoint_is_taken_with_the_same_content(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    done = name_checkpoint(machine.system, NameRequest("copy", "llama"))
    with pytest.raises(AlreadyExistsError, match="same content"):
        name_checkpoint(machine.system, NameRequest("copy", "llama"))
    assert name_checkpoint(machine.system, NameRequest("copy", "llama", if_not_exists=True)) == done
    machine.push("other", source / "tokens")
    with pytest.raises(AlreadyExistsError, match="other content"):
        name_checkpoint(machine.system, NameRequest("copy", "other", if_not_exists=True))


def test_a_failed_push_s_name_can_be_given_to_a_checkpoint_that_is_here(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    broken = machine.again()
    broken.storage.down_from = 1
    with pytest.raises(StorageUnavailableError):
        broken.push("copy", machine.write("more", {"file": noise(5 * PART, "more")}))
    again = machine.again()
    name_checkpoint(again.system, NameRequest("copy", "llama"))
    check_all(again, ["llama", "copy"], SOURCE)


def test_a_manifest_that_cannot_be_written_leaves_the_name_failed(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    machine.storage.reset()
    machine.storage.down_from = 1
    with pytest.raises(StorageUnavailableError):
        name_checkpoint(machine.system, NameRequest("copy", "llama"))
    assert machine.checkpoint("copy").status is CheckpointStatus.FAILED
    again = machine.again()
    name_checkpoint(again.system, NameRequest("copy", "llama"))
    check_all(again, ["llama", "copy"], SOURCE)


# From a provider.


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
    assert _moved(machine) == SIZE


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


def _reference(name: str) -> Any:
    from flexai.checkpoints.names import parse_reference

    return parse_reference(parse_name(name))


def test_nothing_is_left_over_after_all_that(machine: Machine, source: Path) -> None:
    for name in ("one", "two", "three"):
        machine.push(name, source)
        machine.system.catalog.checkpoints.delete(_reference(name))
    machine.collect()
    assert machine.blob_ids() == set()
    check_nothing_is_left_over(machine)


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


@pytest.mark.parametrize("error", [AccessDeniedError, StorageFullError, SourceError])
def test_a_push_that_is_refused_leaves_its_name_behind_only_where_something_has_arrived(
    machine: Machine, error: type[CheckpointError]
) -> None:
    source = machine.write("run", {"a.bin": noise(4 * PART)})

    def refuse_from(part: int) -> None:
        def refuse(_number: int, call: Call) -> None:
            if call.name == "put_part" and len(machine.storage.named("put_part")) > part:
                raise error("refused")

        machine.storage.reset()
        machine.storage.before_call = refuse
        with pytest.raises(error):
            machine.push("llama", source)

    refuse_from(0)
    assert machine.checkpoints() == []
    refuse_from(2)
    assert machine.checkpoint("llama").status is CheckpointStatus.FAILED
    refuse_from(0)
    assert machine.checkpoint("llama").status is CheckpointStatus.FAILED, "the next push goes on with what has arrived"


def test_a_file_of_one_part_arrives_by_one_request(machine: Machine) -> None:
    machine.push("first", machine.write("other", {"a": b"a"}))
    with machine.again() as again:
        again.push("llama", again.write("run", {"model.bin": noise(PART - 1)}))
        calls = [(call.name, call.key.partition("/")[0]) for call in again.storage.calls]
        assert calls == [("put", "blobs"), ("put", "manifests")]
        assert again.fetched("llama") == {"model.bin": noise(PART - 1)}


def test_few_requests_come_before_the_first_byte_and_after_the_last(machine: Machine) -> None:
    machine.push("first", machine.write("other", {"a": b"a"}))
    with machine.again() as again:
        again.push("llama", again.write("run", {"model.bin": noise(4 * PART)}))
        names = [call.name for call in again.storage.calls]
        last = len(names) - names[::-1].index("put_part")
        assert names[: names.index("put_part")] == ["start_upload"]
        assert names[last:] == ["complete_upload", "put"]
    with machine.again() as again:
        again.fetch("llama")
        assert [call.name for call in again.storage.calls] == ["get"] * 4
