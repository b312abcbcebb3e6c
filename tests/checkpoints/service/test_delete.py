from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from flexai.checkpoints.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidNameError,
    NotFoundError,
    StorageUnavailableError,
)
from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.service.change_requests import DeleteRequest, UndeleteRequest
from flexai.checkpoints.service.delete import delete, undelete
from tests.support.faults import Call
from tests.support.machine import PART, Machine, check_all, check_nothing_is_left_over
from tests.support.trees import Tree, noise

SOURCE: Tree = {
    "config.json": b'{"layers": 2}',
    "model/a.safetensors": noise(3 * PART + 17, "a"),
    "tokens/one.bin": noise(5000, "one"),
}


@pytest.fixture
def source(machine: Machine) -> Path:
    return machine.write("run", SOURCE)


def test_a_deleted_checkpoint_is_gone_at_once_and_its_bytes_are_still_there(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    before = machine.blob_ids()
    deleted = delete(machine.system, DeleteRequest("LLAMA"))
    assert deleted.status is CheckpointStatus.DELETING
    assert deleted.deleted_at is not None
    for use in (
        lambda: machine.fetch("llama"),
        lambda: machine.fetch(deleted.id),
        lambda: delete(machine.system, DeleteRequest("llama")),
    ):
        with pytest.raises(NotFoundError):
            use()
    assert machine.blob_ids() == before
    assert machine.storage.named("delete") == []


def test_a_checkpoint_is_deleted_by_its_uuid_too(machine: Machine, source: Path) -> None:
    checkpoint = machine.push("llama", source)
    delete(machine.system, DeleteRequest(checkpoint.id))
    with pytest.raises(NotFoundError):
        machine.fetch("llama")


def test_a_checkpoint_that_never_was_cannot_be_deleted(machine: Machine) -> None:
    for reference in ("llama", str(uuid.UUID(int=5))):
        with pytest.raises(NotFoundError, match=reference):
            delete(machine.system, DeleteRequest(reference))


def test_a_checkpoint_that_is_being_pushed_cannot_be_deleted(machine: Machine, source: Path) -> None:
    refused: list[ConflictError] = []

    def try_to_delete(_number: int, _call: Call) -> None:
        machine.storage.before_call = None  # a deletion looks into the store as well
        with pytest.raises(ConflictError, match="is being pushed by process") as caught:
            delete(machine.system, DeleteRequest("llama"))
        refused.append(caught.value)

    machine.storage.before_call = try_to_delete
    machine.push("llama", source)
    assert refused
    check_all(machine, ["llama"], SOURCE)


def test_a_failed_push_can_be_deleted_and_leaves_nothing(machine: Machine, source: Path) -> None:
    machine.storage.down_from = 6
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", source)
    machine.storage.reset()
    delete(machine.system, DeleteRequest("llama"))
    machine.collect()
    assert machine.checkpoints() == []
    check_nothing_is_left_over(machine)


def test_a_deleted_checkpoint_comes_back_as_it_was(machine: Machine, source: Path) -> None:
    pushed = machine.push("llama", source)
    delete(machine.system, DeleteRequest("llama"))
    back = undelete(machine.system, UndeleteRequest("llama"))
    assert back == replace(pushed, updated_at=back.updated_at)
    check_all(machine, ["llama"], SOURCE)


def test_a_deleted_checkpoint_comes_back_under_a_new_name(machine: Machine, source: Path) -> None:
    deleted = machine.push("llama", source)
    delete(machine.system, DeleteRequest("llama"))
    machine.push("llama", source / "tokens")
    with pytest.raises(AlreadyExistsError, match="'llama' is in use again") as caught:
        undelete(machine.system, UndeleteRequest("llama"))
    assert f"undelete {deleted.id} --name" in caught.value.hint
    assert undelete(machine.system, UndeleteRequest(deleted.id, new_name="old-llama")).name == "old-llama"
    assert machine.fetched("old-llama") == SOURCE


def test_of_several_deleted_checkpoints_of_a_name_the_last_one_comes_back(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    delete(machine.system, DeleteRequest("llama"))
    last = machine.push("llama", source / "tokens")
    delete(machine.system, DeleteRequest("llama"))
    assert undelete(machine.system, UndeleteRequest("llama")).id == last.id


def test_what_was_not_deleted_or_is_gone_cannot_come_back(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    for reference in ("llama", "mistral"):
        with pytest.raises(NotFoundError, match="could come back"):
            undelete(machine.system, UndeleteRequest(reference))
    delete(machine.system, DeleteRequest("llama"))
    machine.collect()
    with pytest.raises(NotFoundError, match="could come back"):
        undelete(machine.system, UndeleteRequest("llama"))


def test_a_new_name_obeys_the_rules_of_names(machine: Machine, source: Path) -> None:
    machine.push("llama", source)
    delete(machine.system, DeleteRequest("llama"))
    with pytest.raises(InvalidNameError):
        undelete(machine.system, UndeleteRequest("llama", new_name="a b"))
    with pytest.raises(InvalidNameError):
        undelete(machine.system, UndeleteRequest("../llama"))
    with pytest.raises(InvalidNameError):
        delete(machine.system, DeleteRequest("../llama"))
