from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flexai.checkpoints.errors import ConflictError, IntegrityError, NotFoundError, StorageUnavailableError
from flexai.checkpoints.service.change_requests import DeleteRequest
from flexai.checkpoints.service.delete import delete
from flexai.checkpoints.service.store_requests import VerifyRequest
from flexai.checkpoints.service.verify import VerifyReport, verify
from tests.support.faults import Fault
from tests.support.fixtures import NewMachine
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import KIB, PART, Machine, check_all
from tests.support.progress import Counter
from tests.support.training import Notes
from tests.support.trees import Tree, flip_byte, noise

SOURCE: Tree = {
    "config.json": b'{"layers": 2}',
    "empty.txt": b"",
    "model/a.safetensors": noise(3 * PART + 17, "a"),
    "model/b.safetensors": noise(2 * PART, "b"),
    "tokens/one.bin": noise(5000, "one"),
    "tokens/two.bin": noise(9000, "two"),
}
SIZE = sum(map(len, SOURCE.values()))
LARGE = "model/a.safetensors"
SMALL = "tokens/one.bin"


@pytest.fixture
def pushed(machine: Machine) -> Machine:
    machine.push("llama", machine.write("run", SOURCE))
    machine.storage.reset()
    return machine


def _damage(machine: Machine, path: str, *, name: str = "llama") -> Path:
    """Flip a byte in the middle of a file's stored content."""
    blob = machine.blob_of(name, path)
    flip_byte(blob, blob.read_bytes().index(SOURCE[path][:100]) + len(SOURCE[path]) // 2)
    return blob


def test_sound_content_is_read_in_full_and_found_sound(pushed: Machine) -> None:
    report = verify(pushed.system, VerifyRequest())
    assert report == VerifyReport(checked_contents=len(SOURCE), checked_bytes=SIZE, damaged=())
    assert pushed.storage.delivered == SIZE
    report.raise_if_damaged()


def test_an_empty_store_is_sound(machine: Machine) -> None:
    assert verify(machine.system, VerifyRequest()) == VerifyReport(checked_contents=0, checked_bytes=0, damaged=())


def test_content_that_many_need_is_read_once(pushed: Machine) -> None:
    pushed.push("mistral", pushed.root / "run")
    pushed.storage.reset()
    verify(pushed.system, VerifyRequest())
    assert pushed.storage.delivered == SIZE


def test_only_the_named_checkpoints_are_read(pushed: Machine) -> None:
    pushed.push("other", pushed.write("other", {"o.bin": noise(PART, "o")}))
    _damage(pushed, LARGE)
    pushed.storage.reset()
    report = verify(pushed.system, VerifyRequest(["other"]))
    assert (report.checked_bytes, pushed.storage.delivered, report.damaged) == (PART, PART, ())
    both = verify(pushed.system, VerifyRequest(["OTHER", str(pushed.checkpoint("llama").id), "llama"]))
    assert both.checked_bytes == PART + SIZE
    assert len(both.damaged) == 1


def test_a_checkpoint_that_is_not_there_or_not_available_is_an_error(machine: Machine) -> None:
    with pytest.raises(NotFoundError, match="no checkpoint 'llama'"):
        verify(machine.system, VerifyRequest(["llama"]))
    machine.storage.down_from = 3
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", machine.write("run", SOURCE))
    with pytest.raises(ConflictError):
        verify(machine.again().system, VerifyRequest(["llama"]))


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("path", [LARGE, SMALL])
def test_one_flipped_byte_is_found_and_the_file_named(new_machine: NewMachine, path: str, concurrency: int) -> None:
    machine = new_machine(concurrency=concurrency)
    machine.push("llama", machine.write("run", SOURCE))
    blob = _damage(machine, path)
    (damage,) = verify(machine.system, VerifyRequest()).damaged
    assert damage.blob_id == blob.name
    assert damage.users == (("llama", path),)
    start = len(SOURCE[path]) // 2 // PART * PART
    assert damage.problem == (f"bytes {start} to {min(start + PART, len(SOURCE[path]))} do not match their digest")


def test_every_checkpoint_and_path_that_needs_damaged_content_is_named(pushed: Machine) -> None:
    pushed.push("mistral", f"{pushed.root}/run/{LARGE}=copy.bin")
    capture_files(pushed, begin_job(pushed, "train"), "checkpoint-5", {"w.bin": SOURCE[LARGE]})
    _damage(pushed, LARGE)
    report = verify(pushed.system, VerifyRequest())
    (damage,) = report.damaged
    assert damage.users == (("llama", LARGE), ("mistral", "copy.bin"), ("train/checkpoint-5", "w.bin"))
    with pytest.raises(IntegrityError) as caught:
        report.raise_if_damaged()
    assert caught.value.exit_code == 6
    assert caught.value.message == (
        f"stored content is damaged: copy.bin of mistral, {LARGE} of llama, w.bin of train/checkpoint-5"
    )


def test_many_damaged_files_are_counted(machine: Machine) -> None:
    files = {f"{number}.bin": noise(PART, number) for number in range(5)}
    machine.push("llama", machine.write("run", files))
    for path in files:
        flip_byte(machine.blob_of("llama", path))
    report = verify(machine.system, VerifyRequest())
    assert len(report.damaged) == 5
    with pytest.raises(IntegrityError, match=r"0\.bin of llama, 1\.bin of llama, 2\.bin of llama and 2 more"):
        report.raise_if_damaged()


_HARMS: dict[str, Callable[[Path], None]] = {
    "cut": lambda blob: os.truncate(blob, KIB),
    "emptied": lambda blob: os.truncate(blob, 0),
    "removed": Path.unlink,
}


@pytest.mark.parametrize("harm", _HARMS.values(), ids=_HARMS)
def test_a_blob_that_is_cut_or_gone_is_damage_of_every_file_in_it(
    pushed: Machine, harm: Callable[[Path], None]
) -> None:
    harm(pushed.blob_of("llama", LARGE))
    assert [damage.users for damage in verify(pushed.system, VerifyRequest()).damaged] == [(("llama", LARGE),)]
    harm(pushed.blob_of("llama", SMALL))
    damaged = {path for damage in verify(pushed.system, VerifyRequest()).damaged for _, path in damage.users}
    assert damaged >= {LARGE, SMALL, "tokens/two.bin"}


def test_other_files_of_a_damaged_pack_are_sound(pushed: Machine) -> None:
    _damage(pushed, SMALL)
    assert [damage.users for damage in verify(pushed.system, VerifyRequest()).damaged] == [(("llama", SMALL),)]


def test_damage_of_a_deleted_checkpoint_that_can_still_come_back_is_told(pushed: Machine) -> None:
    _damage(pushed, LARGE)
    delete(pushed.system, DeleteRequest("llama"))
    assert [damage.users for damage in verify(pushed.system, VerifyRequest()).damaged] == [(("llama", LARGE),)]


def test_damage_of_what_no_checkpoint_needs_is_not_reported_but_not_used_again(pushed: Machine) -> None:
    _damage(pushed, SMALL)
    pushed.push("rest", f"{pushed.root}/run/config.json")
    delete(pushed.system, DeleteRequest("llama"))
    pushed.collect()
    assert verify(pushed.system, VerifyRequest()).damaged == ()
    pushed.push("again", pushed.root / "run")
    check_all(pushed, ["again"], SOURCE)


def test_a_store_that_fails_is_not_taken_for_damage(pushed: Machine) -> None:
    pushed.storage.faults = {3: Fault.BEFORE}
    with pytest.raises(StorageUnavailableError):
        verify(pushed.system, VerifyRequest())


def test_progress_counts_what_is_read(pushed: Machine) -> None:
    progress = Counter()
    verify(pushed.system, VerifyRequest(), progress=progress)
    assert progress.stages == [("verify", SIZE, len(SOURCE))]
    assert (progress.moved, progress.files, progress.ended) == (SIZE, len(SOURCE), 1)


# What becomes of damaged content.


@pytest.mark.parametrize("path", [LARGE, SMALL])
def test_a_push_brings_in_sound_content_in_place_of_what_was_found_damaged(pushed: Machine, path: str) -> None:
    _damage(pushed, path)
    report = verify(pushed.system, VerifyRequest())
    with pytest.raises(IntegrityError) as caught:
        report.raise_if_damaged()
    assert caught.value.hint == (
        "push the same files again, which heals every checkpoint that needs them; flexai checkpoint verify --repair"
        " takes sound content from an export"
    )
    pushed.storage.reset()
    pushed.push("again", pushed.root / "run")
    writes = [call for call in pushed.storage.named("put", "put_part") if call.key.startswith("blobs/")]
    assert sum(call.size for call in writes) == len(SOURCE[path])
    check_all(pushed, ["again", "llama"], SOURCE)


def test_content_that_is_found_sound_again_is_used_again(pushed: Machine) -> None:
    blob = _damage(pushed, LARGE)
    verify(pushed.system, VerifyRequest())
    flip_byte(blob, len(SOURCE[LARGE]) // 2)
    assert verify(pushed.system, VerifyRequest()).damaged == ()
    pushed.storage.reset()
    pushed.push("again", pushed.root / "run")
    writes = [call for call in pushed.storage.named("put", "put_part") if call.key.startswith("blobs/")]
    assert writes == []


def test_checkpoints_of_other_stores_are_told_of_as_not_read(pushed: Machine) -> None:
    elsewhere = pushed.again(store=str(pushed.root / "other-store"))
    notes = Notes()
    report = verify(elsewhere.system, VerifyRequest(), progress=notes)
    assert report.checked_contents == 0
    assert any("1 checkpoint lies in another store" in message for message in notes.messages)
