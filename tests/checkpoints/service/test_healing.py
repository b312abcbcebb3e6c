"""Damaged content: a fetch tells the catalog of it, no push relies on it, and a push of the same files heals it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flexai.checkpoints.documents import checkpoint_list_document
from flexai.checkpoints.errors import AlreadyExistsError, CheckpointError, IntegrityError
from flexai.checkpoints.models import DAMAGED
from flexai.checkpoints.service.change_requests import DeleteRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete, undelete
from flexai.checkpoints.service.inspect import inspect_checkpoint
from flexai.checkpoints.service.naming import name_checkpoint
from flexai.checkpoints.service.push_requests import NameRequest, PushRequest
from flexai.checkpoints.service.recover import recover
from flexai.checkpoints.service.store_requests import VerifyRequest
from flexai.checkpoints.service.support.unchanged import find_unchanged
from flexai.checkpoints.service.verify import verify
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX
from tests.support.faults import Fault
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import PART, SOURCE, Machine, check_all, check_nothing_is_torn, lose_catalog
from tests.support.training import Notes
from tests.support.trees import Tree, flip_byte, noise, read_tree

LARGE = "model/a.safetensors"
SMALL = "tokens/one.bin"

HARM: dict[str, Callable[[Path], object]] = {
    "gone": lambda blob: blob.unlink(),
    "cut": lambda blob: os.truncate(blob, blob.stat().st_size // 2 - 4000),
    "empty": lambda blob: os.truncate(blob, 0),
}
"""What a look at a blob's size tells."""


@pytest.fixture
def pushed(machine: Machine) -> Machine:
    """A machine with two checkpoints of the same content."""
    for path in machine.write("run", SOURCE).rglob("*"):
        os.utime(path, (0, 0))  # so long ago that their digests are remembered
    machine.push("llama", machine.root / "run")
    machine.push("mistral", machine.root / "run")
    machine.storage.reset()
    return machine


def flip(machine: Machine, path: str) -> Path:
    blob = machine.blob_of("llama", path)
    flip_byte(blob, blob.read_bytes().index(SOURCE[path][:100]) + len(SOURCE[path]) // 2)
    return blob


def known_damage(machine: Machine) -> set[str]:
    """The files of a checkpoint whose content the catalog knows to be damaged."""
    damaged = {content.id for content in machine.system.soundness.damaged()}
    files = machine.system.blobs.files_of(machine.checkpoint("llama").id)
    return {file.path for file in files if file.content.id in damaged}


def stored_bytes(machine: Machine) -> int:
    writes = machine.storage.named("put", "put_part")
    return sum(call.size for call in writes if call.key.startswith("blobs/"))


# Who finds it


@pytest.mark.parametrize("path", [LARGE, SMALL])
@pytest.mark.parametrize("operation", ["fetch", "export"])
def test_damage_that_is_met_is_known_from_then_on(pushed: Machine, operation: str, path: str) -> None:
    flip(pushed, path)
    with pytest.raises(IntegrityError, match=path) as caught:
        getattr(pushed, operation)("llama")
    assert known_damage(pushed) == {path}
    assert "push the same files again" in caught.value.hint


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
@pytest.mark.parametrize("path", [LARGE, SMALL])
def test_a_blob_that_is_not_all_there_is_known_once_a_fetch_has_met_it(
    pushed: Machine, path: str, harm: Callable[[Path], object]
) -> None:
    harm(pushed.blob_of("llama", path))
    with pytest.raises(IntegrityError):
        pushed.fetch("llama")
    assert path in known_damage(pushed)
    assert LARGE not in known_damage(pushed) or path == LARGE


def test_a_fetch_brings_all_that_is_sound_and_names_all_that_is_not(pushed: Machine) -> None:
    flip(pushed, LARGE)
    flip(pushed, SMALL)
    with pytest.raises(IntegrityError, match=f"2 files is damaged: '{LARGE}', '{SMALL}'") as caught:
        pushed.fetch("llama")
    assert (caught.value.exit_code, known_damage(pushed)) == (6, {LARGE, SMALL})
    there = {path: content for path, content in SOURCE.items() if path not in {LARGE, SMALL}}
    assert without_partials(pushed.root / "out") == there
    pushed.push("again", pushed.root / "run")
    pushed.storage.reset()
    assert pushed.fetch("llama").fetched_files == 2
    assert read_tree(pushed.root / "out") == SOURCE
    # The sound parts of the large one had come.
    assert pushed.storage.delivered < len(SOURCE[LARGE])


def _standings(machine: Machine) -> dict[str, str]:
    return {row.name: row.standing for row in machine.system.catalog.checkpoints.list_pushed()}


def test_a_list_marks_what_is_damaged_and_an_inspection_names_the_files_until_they_are_sound(pushed: Machine) -> None:
    catalog = pushed.system.catalog
    flip(pushed, LARGE)
    flip(pushed, SMALL)
    assert _standings(pushed) == {"llama": "available", "mistral": "available"}
    verify(pushed.system, VerifyRequest())
    assert _standings(pushed) == {"llama": "available, damaged", "mistral": "available, damaged"}
    assert [one["damaged"] for one in checkpoint_list_document(catalog.checkpoints.list_pushed())] == [True, True]
    status = inspect_checkpoint(catalog, "mistral")["status"]
    assert (status["damagedFiles"], status["reason"]) == ([LARGE, SMALL], DAMAGED)
    delete(pushed.system, DeleteRequest("mistral"))
    undelete(pushed.system, UndeleteRequest("mistral"))
    recover(pushed.system)
    assert _standings(pushed)["mistral"] == "available, damaged"
    pushed.push("again", pushed.root / "run")
    assert _standings(pushed) == dict.fromkeys(["llama", "mistral", "again"], "available")
    status = inspect_checkpoint(catalog, "mistral")["status"]
    assert (status["damagedFiles"], status["reason"]) == ([], "")


def test_a_blob_that_a_push_finds_gone_marks_what_needs_it(pushed: Machine) -> None:
    blob = pushed.blob_of("llama", LARGE)
    pushed.system.blobs.mark_lost(blob.name, size=-1)
    assert _standings(pushed) == {"llama": "available, damaged", "mistral": "available, damaged"}
    verify(pushed.system, VerifyRequest())
    assert _standings(pushed) == {"llama": "available", "mistral": "available"}


def test_of_a_pack_that_is_cut_off_a_fetch_brings_what_is_left(pushed: Machine) -> None:
    pack = pushed.blob_of("llama", SMALL)
    files = {file.path: file.content for file in pushed.system.blobs.files_of(pushed.checkpoint("llama").id)}
    in_pack = sorted((one.start, path) for path, one in files.items() if one.blob_id == pack.name)
    os.truncate(pack, in_pack[-1][0] + 1)
    with pytest.raises(IntegrityError):
        pushed.fetch("llama")
    assert known_damage(pushed) == {in_pack[-1][1]}
    assert without_partials(pushed.root / "out").keys() == SOURCE.keys() - {in_pack[-1][1]}


def test_content_that_is_damaged_takes_the_place_of_none_that_is_there(pushed: Machine) -> None:
    flip(pushed, LARGE)
    flip(pushed, SMALL)
    for path in (LARGE, SMALL):
        pushed.write("out", {path: b"mine"})
    with pytest.raises(IntegrityError):
        pushed.fetch("llama", overwrite=True)
    assert without_partials(pushed.root / "out") == SOURCE | {LARGE: b"mine", SMALL: b"mine"}


def without_partials(folder: Path) -> Tree:
    return {path: content for path, content in read_tree(folder).items() if not path.endswith(PARTIAL_SUFFIX)}


def test_bytes_that_were_spoiled_on_their_way_are_no_damage_in_the_store(pushed: Machine) -> None:
    reads = [number for number, call in enumerate(_calls_of_a_fetch(pushed), 1) if call == "get"]
    pushed.storage.faults = {reads[-1]: Fault.WRONG}
    with pytest.raises(CheckpointError):
        pushed.fetch("llama")
    assert known_damage(pushed) == set()


def _calls_of_a_fetch(machine: Machine) -> list[str]:
    machine.fetch("llama", "elsewhere")
    calls = [call.name for call in machine.storage.calls]
    machine.storage.reset()
    return calls


def test_a_store_that_went_away_meanwhile_is_not_taken_for_damaged(pushed: Machine) -> None:
    away = pushed.store_folder.with_name("away")

    def go(_number: int, call: object) -> None:
        if not away.exists():
            pushed.store_folder.rename(away)
            pushed.store_folder.mkdir()

    assert pushed.system.store_id
    pushed.storage.before_call = go
    with pytest.raises(CheckpointError):
        pushed.fetch("llama")
    pushed.storage.before_call = None
    shutil.rmtree(pushed.store_folder)
    away.rename(pushed.store_folder)
    assert known_damage(pushed) == set()


def test_a_store_that_went_away_is_not_pushed_to_as_if_all_was_lost(pushed: Machine) -> None:
    away = pushed.store_folder.with_name("away")

    def go(_number: int, call: object) -> None:
        if getattr(call, "name", "") == "head" and not away.exists():
            pushed.store_folder.rename(away)
            pushed.store_folder.mkdir()

    pushed.storage.before_call = go
    with pytest.raises(CheckpointError, match="is gone"):
        pushed.push("phi", pushed.root / "run")
    pushed.storage.before_call = None
    shutil.rmtree(pushed.store_folder)
    away.rename(pushed.store_folder)
    assert known_damage(pushed) == set()


# What a push does about it


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
@pytest.mark.parametrize("path", [LARGE, SMALL])
@pytest.mark.parametrize("options", [{}, {"rehash": True}], ids=["remembered", "read"])
def test_a_push_relies_on_no_blob_that_is_not_all_there_and_heals_who_does(
    pushed: Machine, options: dict[str, bool], path: str, harm: Callable[[Path], object]
) -> None:
    harm(pushed.blob_of("llama", path))
    notes = Notes()
    pushed.push("phi", pushed.root / "run", progress=notes, **options)
    check_all(pushed, ["llama", "mistral", "phi"], SOURCE)
    (told,) = [message for message in notes.messages if "healed" in message]
    assert "of llama" in told


@pytest.mark.parametrize("path", [LARGE, SMALL])
def test_what_a_fetch_found_damaged_is_healed_by_a_push_of_the_same_files(pushed: Machine, path: str) -> None:
    flip(pushed, path)
    with pytest.raises(IntegrityError):
        pushed.fetch("mistral")
    pushed.storage.reset()
    notes = Notes()
    pushed.push("phi", pushed.root / "run" / path, progress=notes)
    assert stored_bytes(pushed) == len(SOURCE[path])
    assert notes.messages == [f"healed what was damaged in the store: {path} of llama, {path} of mistral"]
    check_all(pushed, ["llama", "mistral"], SOURCE)


@pytest.mark.parametrize("if_not_exists", [False, True])
@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("path", [LARGE, SMALL])
def test_a_push_under_the_same_name_heals_and_succeeds(
    pushed: Machine, path: str, is_known: bool, if_not_exists: bool
) -> None:
    if is_known:
        flip(pushed, path)
        with pytest.raises(IntegrityError):
            pushed.fetch("llama")
    else:
        pushed.blob_of("llama", path).unlink()
    notes = Notes()
    before = pushed.checkpoint("llama")
    done = pushed.push("llama", pushed.root / "run", if_not_exists=if_not_exists, progress=notes)
    assert done == before
    assert any(f"{path} of llama" in message for message in notes.messages)
    check_all(pushed, ["llama", "mistral"], SOURCE)
    # Once it is sound, the name is taken again.
    with pytest.raises(AlreadyExistsError):
        pushed.push("llama", pushed.root / "run")


def test_a_push_of_other_files_under_the_same_name_heals_nothing(pushed: Machine) -> None:
    pushed.blob_of("llama", LARGE).unlink()
    with pytest.raises(AlreadyExistsError, match="other content"):
        pushed.push("llama", pushed.root / "run" / SMALL)


def test_a_push_that_nothing_new_is_expected_of_looks_once_it_is_known_that_something_is_damaged(
    pushed: Machine,
) -> None:
    request = PushRequest("llama", [str(pushed.root / "run")], if_not_exists=True)
    assert find_unchanged(pushed.system, request) == pushed.checkpoint("llama")
    flip(pushed, LARGE)
    with pytest.raises(IntegrityError):
        pushed.fetch("llama")
    assert find_unchanged(pushed.system, request) is None


def test_a_healed_checkpoint_is_recovered_with_its_sound_content(pushed: Machine) -> None:
    pushed.blob_of("llama", LARGE).unlink()
    pushed.push("phi", pushed.root / "run")
    pushed.collect()
    with lose_catalog(pushed) as found:
        assert recover(found.system).problems == {}
        check_all(found, ["llama", "mistral", "phi"], SOURCE)


def test_captures_rely_on_no_lost_blob_and_are_healed_by_a_push(machine: Machine) -> None:
    job = begin_job(machine, "train")
    capture_files(machine, job, "step-1", SOURCE)
    _, files = machine.system.available_files("train/step-1")
    next(machine.blob_path(one.content.blob_id) for one in files if one.path == LARGE).unlink()
    capture_files(machine, job, "step-2", SOURCE)
    machine.push("llama", machine.root / "output" / "step-2")
    check_nothing_is_torn(machine)


def test_another_name_is_given_to_nothing_that_is_lost(pushed: Machine) -> None:
    pushed.blob_of("llama", LARGE).unlink()
    with pytest.raises(IntegrityError, match=LARGE):
        name_checkpoint(pushed.system, NameRequest("phi", "llama"))
    assert known_damage(pushed) == {LARGE}
    pushed.push("again", pushed.root / "run")
    name_checkpoint(pushed.system, NameRequest("phi", "llama"))
    check_all(pushed, ["llama", "mistral", "again", "phi"], SOURCE)


# What that costs


def test_a_push_asks_once_for_each_blob_that_it_uses_again_and_not_for_each_file(machine: Machine) -> None:
    many = {f"{number:03}.bin": noise(100, number) for number in range(200)} | {"large": noise(2 * PART, "large")}
    machine.push("llama", machine.write("run", many))
    machine.storage.reset()
    machine.push("mistral", machine.root / "run", rehash=True)
    heads = [call.key for call in machine.storage.named("head")]
    assert sorted(heads) == sorted(machine.system.store.blob_key(blob_id) for blob_id in machine.blob_ids())
    assert stored_bytes(machine) == 0


def test_a_push_of_what_is_new_asks_for_no_blob(machine: Machine) -> None:
    machine.push("llama", machine.write("run", SOURCE))
    assert [call for call in machine.storage.named("head") if "blobs/" in call.key] == []


def test_a_sound_store_has_nothing_to_heal(pushed: Machine) -> None:
    notes = Notes()
    pushed.push("phi", pushed.root / "run", progress=notes)
    assert notes.messages == []
    assert verify(pushed.system, VerifyRequest()).damaged == ()
    assert inspect_checkpoint(pushed.system.catalog, "phi")["status"]["status"] == "available"
