from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexai.checkpoints.errors import ConflictError, IntegrityError
from flexai.checkpoints.service.change_requests import DeleteRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete, undelete
from flexai.checkpoints.service.recover import recover
from flexai.checkpoints.service.repair import RepairReport, repair
from flexai.checkpoints.service.store_requests import VerifyRequest
from flexai.checkpoints.service.verify import verify
from tests.support.faults import Fault
from tests.support.fixtures import NewMachine
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import (
    PART,
    SOURCE,
    Machine,
    check_all,
    check_nothing_is_torn,
    copy_of_catalog,
    lose_catalog,
    restored,
)
from tests.support.trees import flip_byte

LARGE = "model/a.safetensors"
SMALL = "tokens/one.bin"


@pytest.fixture
def exported(machine: Machine) -> Machine:
    """A machine with a checkpoint that was exported, and another one that shares its files."""
    machine.push("llama", machine.write("run", SOURCE))
    machine.push("mistral", machine.root / "run")
    machine.export("llama")
    return machine


def damage(machine: Machine, *paths: str, name: str = "llama") -> list[Path]:
    """Flip a byte in the middle of files' stored contents, and let a verification find it."""
    blobs = []
    for path in paths:
        blob = machine.blob_of(name, path)
        flip_byte(blob, blob.read_bytes().index(SOURCE[path][:100]) + len(SOURCE[path]) // 2)
        blobs.append(blob)
    assert len(verify(machine.system, VerifyRequest()).damaged) == len(paths)
    return blobs


def repaired(machine: Machine) -> RepairReport:
    return repair(machine.system)


@pytest.mark.parametrize("path", [LARGE, SMALL])
def test_damaged_content_is_read_from_an_export_for_all_checkpoints_that_need_it(exported: Machine, path: str) -> None:
    damage(exported, path)
    report = repaired(exported)
    (done,) = report.repaired
    assert (done.source, done.users) == ("lab:bucket/place", (("llama", path), ("mistral", path)))
    assert report.unrepaired == ()
    report.raise_if_unrepaired()
    check_all(exported, ["llama", "mistral"], SOURCE)


def test_many_damaged_contents_are_repaired_in_one_go(exported: Machine) -> None:
    blobs = damage(exported, LARGE, SMALL, "tokens/two.bin")
    assert len(repaired(exported).repaired) == 3
    check_all(exported, ["llama", "mistral"], SOURCE)
    assert not blobs[0].exists(), "gc has not taken what is damaged"


def test_a_repair_finds_nothing_to_do_in_a_sound_store(exported: Machine) -> None:
    verify(exported.system, VerifyRequest())
    exported.storage.reset()
    assert repaired(exported) == RepairReport()
    assert exported.storage.calls == []


def test_a_blob_that_is_gone_comes_back(exported: Machine) -> None:
    exported.blob_of("llama", LARGE).unlink()
    verify(exported.system, VerifyRequest())
    assert len(repaired(exported).repaired) == 1
    check_all(exported, ["llama", "mistral"], SOURCE)


def test_a_catalog_that_is_lost_after_a_repair_is_recovered_with_the_sound_content(exported: Machine) -> None:
    damage(exported, LARGE, SMALL)
    repaired(exported)
    exported.collect()
    found = lose_catalog(exported)
    assert recover(found.system).problems == {}
    check_all(found, ["llama", "mistral"], SOURCE)


def test_sound_content_in_the_store_itself_comes_first(exported: Machine) -> None:
    damage(exported, LARGE)
    # No capture relies on damaged content either, so this brings in sound content, and heals none.
    capture_files(exported, begin_job(exported, "train"), "step-5", SOURCE)
    exported.buckets.storage.reset()
    (done,) = repaired(exported).repaired
    assert done.source == "the store itself"
    assert exported.buckets.storage.calls == []
    check_all(exported, ["llama", "mistral"], SOURCE)


def test_a_deleted_checkpoint_comes_back_repaired(exported: Machine) -> None:
    deleted = str(exported.checkpoint("mistral").id)
    delete(exported.system, DeleteRequest("mistral"))
    damage(exported, LARGE)
    repaired(exported)
    undelete(exported.system, UndeleteRequest(deleted))
    check_all(exported, ["llama", "mistral"], SOURCE)


def test_a_checkpoint_that_is_gone_for_good_gets_no_manifest_again(exported: Machine) -> None:
    damage(exported, LARGE)
    gone = str(exported.checkpoint("mistral").id)
    delete(exported.system, DeleteRequest("mistral"))
    exported.collect()
    repaired(exported)
    assert gone not in set(exported.system.store.list_manifests())
    check_all(exported, ["llama"], SOURCE)


def test_without_an_export_the_damage_stays_and_is_told(machine: Machine) -> None:
    machine.push("llama", machine.write("run", SOURCE))
    damage(machine, SMALL)
    report = repaired(machine)
    (left,) = report.unrepaired
    assert (left.users, left.problem) == ((("llama", SMALL),), "no checkpoint that has it was exported")
    with pytest.raises(IntegrityError, match=f"could not be repaired: {SMALL} of llama"):
        report.raise_if_unrepaired()


@pytest.mark.parametrize("path", [LARGE, SMALL])
def test_an_export_that_is_damaged_itself_is_not_taken(exported: Machine, path: str) -> None:
    damage(exported, path)
    flip_byte(exported.buckets.root / "bucket" / "place" / path, 100)
    (left,) = repaired(exported).unrepaired
    assert left.problem.startswith("lab:bucket/place: ")
    assert len(verify(exported.system, VerifyRequest()).damaged) == 1
    # The other export is sound.
    flip_byte(exported.buckets.root / "bucket" / "place" / path, 100)
    assert len(repaired(exported).repaired) == 1
    check_all(exported, ["llama", "mistral"], SOURCE)


def test_the_next_export_is_tried_where_one_is_gone(exported: Machine) -> None:
    exported.export("llama", "bucket/other")
    damage(exported, LARGE)
    (exported.buckets.root / "bucket" / "other" / LARGE).unlink()
    (done,) = repaired(exported).repaired
    assert done.source == "lab:bucket/place"
    check_all(exported, ["llama", "mistral"], SOURCE)


def test_a_connection_that_is_gone_is_told(exported: Machine) -> None:
    damage(exported, LARGE)
    exported.buckets.connection_name = "renamed"
    (left,) = repaired(exported).unrepaired
    assert "there is no storage provider connection 'lab'" in left.problem


def test_a_manifest_that_is_damaged_as_well_is_written_anew(exported: Machine) -> None:
    damage(exported, LARGE)
    manifest = exported.store_folder / "manifests" / f"{exported.checkpoint('llama').id}.json"
    manifest.chmod(0o600)
    manifest.write_text("torn")
    repaired(exported)
    assert json.loads(manifest.read_text())
    check_all(exported, ["llama", "mistral"], SOURCE)


def test_content_stored_with_parts_of_another_size_replaces_it(new_machine: NewMachine) -> None:
    machine = new_machine(part_size=PART)
    machine.push("llama", machine.write("run", SOURCE))
    machine.export("llama")
    machine = machine.again(part_size=2 * PART)
    damage(machine, LARGE)
    repaired(machine)
    check_all(machine, ["llama"], SOURCE)


class _Died(BaseException):
    """The end of a process."""


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(call=st.integers(1, 45))
def test_a_repair_that_dies_at_any_call_leaves_all_as_it_was_and_the_next_one_finishes(
    new_machine: NewMachine, call: int
) -> None:
    machine = new_machine()
    machine.push("llama", machine.write("run", SOURCE))
    machine.push("mistral", machine.root / "run")
    machine.export("llama")
    damage(machine, LARGE, SMALL)
    machine.storage.reset()

    def die(number: int, _call: object) -> None:
        if number == call:
            raise _Died

    machine.storage.before_call = die
    with contextlib.suppress(_Died):
        repaired(machine)
    machine.storage.reset()

    again = machine.again()
    # What is not damaged is there for everybody, and gc takes nothing of it.
    again.collect()
    for name in ("llama", "mistral"):
        for file in again.system.blobs.files_of(str(again.checkpoint(name).id)):
            assert again.blob_path(file.content.blob_id).exists()
    repair(again.system)
    check_all(again, ["llama", "mistral"], SOURCE)
    again.close()


def test_a_store_that_fails_meanwhile_can_be_asked_again(exported: Machine) -> None:
    damage(exported, LARGE)
    exported.storage.reset()
    exported.storage.faults = {3: Fault.BEFORE}
    try:
        report = repaired(exported)
    except Exception as error:  # noqa: BLE001 - whichever call it was, the store says so
        assert "a test wanted it to" in str(error)
    else:
        assert len(report.repaired) + len(report.unrepaired) == 1
    exported.storage.reset()
    repaired(exported)
    check_nothing_is_torn(exported)


_MENDS: dict[str, Callable[[Machine], object]] = {
    "repair": repaired,
    "a push of the same files": lambda machine: machine.push("again", machine.root / "run"),
}


@pytest.mark.parametrize("mend", _MENDS.values(), ids=_MENDS)
def test_a_repair_is_told_in_the_history_of_each_checkpoint(
    exported: Machine, mend: Callable[[Machine], object]
) -> None:
    damage(exported, LARGE)
    mend(exported)
    with exported.system.catalog.database.reading() as transaction:
        told = transaction.rows("SELECT title, after FROM history WHERE action = 'repair' ORDER BY title")
    after = json.dumps({"repaired": [LARGE]})
    assert list(map(tuple, told)) == [("llama", after), ("mistral", after)]


@pytest.mark.parametrize("aside", [False, True], ids=["brought up", "made anew"])
@pytest.mark.parametrize("mend", _MENDS.values(), ids=_MENDS)
def test_a_catalog_from_before_a_repair_finds_what_was_repaired(
    exported: Machine, mend: Callable[[Machine], object], *, aside: bool
) -> None:
    copy = copy_of_catalog(exported)
    damage(exported, LARGE, SMALL)
    mend(exported)
    exported.collect()
    machine = restored(exported, copy)
    with pytest.raises(ConflictError, match="older copy"):
        machine.collect()
    machine.close()
    machine = machine.again()
    recover(machine.system, aside=aside)
    check_all(machine, ["llama", "mistral"], SOURCE)
    assert recover(machine.system).recovered == {}
    machine.collect()
    check_all(machine, ["llama", "mistral"], SOURCE)


def test_of_a_checkpoint_that_its_catalog_knows_otherwise_no_manifest_says_where_it_lies(exported: Machine) -> None:
    checkpoint = exported.checkpoint("llama")
    path = exported.store_folder / "manifests" / f"{checkpoint.id}.json"
    other = exported.push("phi-3", exported.write("other", SOURCE | {SMALL: b"other"}))
    document = json.loads((exported.store_folder / "manifests" / f"{other.id}.json").read_bytes())
    document["checkpoint"] = json.loads(path.read_bytes())["checkpoint"]
    path.write_text(json.dumps(document))
    recover(exported.system)
    check_all(exported, ["llama"], SOURCE)
