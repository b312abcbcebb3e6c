"""A push that fails, and the next one that goes on with it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from flexai.checkpoints.errors import ConflictError, StorageUnavailableError
from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.names import new_id, parse_reference
from tests.checkpoints.service.pushes import SOURCE, moved
from tests.support.faults import Call, Fault
from tests.support.machine import PART, Machine, check_all, check_nothing_is_torn
from tests.support.progress import Counter
from tests.support.tables import tables_of
from tests.support.trees import noise


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
    assert moved(again) == 4 * PART
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
    assert moved(again) == 3 * PART
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
    assert moved(again) == 3 * PART
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
    assert moved(again) == 0
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
    assert moved(again) == 4 * PART
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
    assert checkpoints.get(parse_reference("llama")).status is CheckpointStatus.UPLOADING


def test_a_push_that_lost_its_claim_makes_nothing_available(machine: Machine, source: Path) -> None:
    def take_over(_number: int, call: Call) -> None:
        if call.key.startswith("manifests/"):
            with tables_of(machine.system.catalog.database) as connection:
                connection.exec_driver_sql("UPDATE checkpoints SET claim_token = 'another token'")

    machine.storage.before_call = take_over
    with pytest.raises(ConflictError, match="taken over"):
        machine.push("llama", source)
    assert machine.checkpoints(CheckpointStatus.AVAILABLE) == []
