from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.errors import (
    AccessDeniedError,
    CheckpointError,
    IntegrityError,
    SourceError,
    StorageFullError,
)
from flexai.checkpoints.models import CheckpointKind, CheckpointStatus
from flexai.checkpoints.names import NIL_ID, parse_reference
from flexai.checkpoints.storage.protocol import ObjectInfo
from flexai.checkpoints.transfer.digest import digest_blocks, digest_parts, parts_of
from tests.checkpoints.service.pushes import SIZE, SOURCE, Reads, moved
from tests.support.faults import Call
from tests.support.fixtures import NewMachine
from tests.support.machine import (
    KIB,
    PART,
    THRESHOLD,
    Machine,
    check_all,
    check_nothing_is_left_over,
    parts_in,
)
from tests.support.progress import Counter
from tests.support.trees import noise, read_tree, written_bytes


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
    reads = Reads(monkeypatch)
    machine.push("llama", source)
    assert reads.of(source) == {path: len(content) for path, content in SOURCE.items()}


def test_every_byte_of_the_source_is_sent_once(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    assert moved(machine) == SIZE
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


def test_a_file_that_is_put_together_holds_up_no_part_of_another(machine: Machine) -> None:
    source = machine.write("two", {"a.bin": noise(2 * PART, "a"), "b.bin": noise(2 * PART, "b")})
    begun = threading.Event()
    completed = 0

    def wait(_number: int, call: Call) -> None:
        nonlocal completed
        if call.name == "complete_upload":
            completed += 1
            assert completed > 1 or begun.wait(30)
        elif call.name == "put_part" and len({one.key for one in machine.storage.named("put_part")}) == 2:
            begun.set()

    machine.storage.before_call = wait
    machine.push("llama", source)
    machine.fetch("llama")
    assert read_tree(machine.root / "out") == read_tree(source)


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


@pytest.mark.parametrize("says_it", [True, False], ids=["and says so", "and says nothing"])
def test_a_store_that_makes_less_of_parts_than_was_sent_gets_no_checkpoint(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, says_it: bool
) -> None:
    source = machine.write("run", {"model.bin": noise(3 * PART, "model")})
    complete = machine.storage.complete_upload

    def lose(key: str, *arguments: Any) -> ObjectInfo | None:
        complete(key, *arguments)
        os.truncate(machine.store_folder / key, 2 * PART)
        return machine.storage.head(key) if says_it else None

    monkeypatch.setattr(machine.storage, "complete_upload", lose)
    with pytest.raises(IntegrityError, match=f"has {2 * PART} bytes, where {3 * PART} bytes were sent"):
        machine.push("llama", source)
    assert machine.checkpoint("llama").status is CheckpointStatus.FAILED
    with pytest.raises(IntegrityError, match="bytes were sent"):
        machine.push("other", source)
    monkeypatch.undo()
    machine.push("llama", source)
    assert machine.fetched("llama") == {"model.bin": noise(3 * PART, "model")}


def test_nothing_is_left_over_after_all_that(machine: Machine, source: Path) -> None:
    for name in ("one", "two", "three"):
        machine.push(name, source)
        machine.system.catalog.checkpoints.delete(parse_reference(name))
    machine.collect()
    assert machine.blob_ids() == set()
    check_nothing_is_left_over(machine)
