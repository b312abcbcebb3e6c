from __future__ import annotations

import pytest

from flexai.checkpoints.documents import Document
from flexai.checkpoints.errors import InvalidNameError, NotFoundError, StorageUnavailableError
from flexai.checkpoints.service.change_requests import DeleteRequest
from flexai.checkpoints.service.delete import delete
from flexai.checkpoints.service.inspect import inspect_checkpoint, inspect_training
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import PART, Machine
from tests.support.trees import Tree, noise

SOURCE: Tree = {"config.json": b"{}", "model.bin": noise(2 * PART), "a/b.txt": b"x"}


def inspect(machine: Machine, reference: str) -> Document:
    with machine.system.look() as catalog:
        return inspect_checkpoint(catalog, reference)


def test_a_checkpoint_is_shown_with_its_files_in_order_and_its_exports(machine: Machine) -> None:
    pushed = machine.push("llama", machine.write("run", SOURCE))
    machine.export("llama", "bucket/one")
    machine.export("llama", "bucket/two")
    for reference in ("llama", "LLAMA", pushed.id, pushed.id.upper()):
        found = inspect(machine, reference)
        assert found["metadata"]["id"] == pushed.id
        assert [(file["path"], file["sizeBytes"]) for file in found["status"]["files"]] == [
            (path, len(SOURCE[path])) for path in sorted(SOURCE)
        ]
        assert [export["destinationPath"] for export in found["status"]["exports"]] == ["bucket/one", "bucket/two"]


def test_a_captured_checkpoint_is_shown_by_its_uuid(machine: Machine) -> None:
    captured = capture_files(machine, begin_job(machine, "train"), "checkpoint-5", SOURCE)
    assert inspect(machine, captured.id)["status"]["metadata"]["job"] == "train"
    with pytest.raises(NotFoundError):
        inspect(machine, "checkpoint-5")
    with machine.system.look() as catalog:
        assert inspect_training(catalog, "train")["runtime"]["checkpointsCount"] == 1
        with pytest.raises(NotFoundError):
            inspect_training(catalog, "llama")


def test_a_failed_checkpoint_is_shown_with_its_reason_and_no_file(machine: Machine) -> None:
    machine.storage.down_from = 3
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", machine.write("run", SOURCE))
    status = inspect(machine, "llama")["status"]
    assert status["status"] == "failed"
    assert "a test wanted it" in status["reason"]
    assert (status["files"], status["exports"]) == ([], [])


def test_what_is_not_there_or_deleted_is_not_shown(machine: Machine) -> None:
    with pytest.raises(NotFoundError):
        inspect(machine, "llama")
    machine.push("llama", machine.write("run", SOURCE))
    delete(machine.system, DeleteRequest("llama"))
    with pytest.raises(NotFoundError):
        inspect(machine, "llama")
    with pytest.raises(InvalidNameError):
        inspect(machine, "../llama")
