from __future__ import annotations

import pytest

from flexai.checkpoints.errors import InvalidNameError, NotFoundError, StorageUnavailableError
from flexai.checkpoints.models import CheckpointStatus
from flexai.checkpoints.service.delete import delete
from flexai.checkpoints.service.inspect import inspect
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import PART, Machine
from tests.support.trees import Tree, noise

SOURCE: Tree = {"config.json": b"{}", "model.bin": noise(2 * PART), "a/b.txt": b"x"}


def test_a_checkpoint_is_shown_with_its_files_in_order_and_its_exports(machine: Machine) -> None:
    pushed = machine.push("llama", machine.write("run", SOURCE))
    machine.export("llama", "bucket/one")
    machine.export("llama", "bucket/two")
    for reference in ("llama", "LLAMA", pushed.id, pushed.id.upper()):
        found = inspect(machine.system, reference)
        assert found.checkpoint == pushed
        assert [(file.path, file.content.size) for file in found.files] == [
            (path, len(SOURCE[path])) for path in sorted(SOURCE)
        ]
        assert [export.destination_path for export in found.exports] == ["bucket/one", "bucket/two"]


def test_a_captured_checkpoint_is_shown_by_its_uuid(machine: Machine) -> None:
    captured = capture_files(machine, begin_job(machine, "train"), "checkpoint-5", SOURCE)
    assert inspect(machine.system, captured.id).checkpoint == captured
    with pytest.raises(NotFoundError):
        inspect(machine.system, "checkpoint-5")


def test_a_failed_checkpoint_is_shown_with_its_reason_and_no_file(machine: Machine) -> None:
    machine.storage.down_from = 3
    with pytest.raises(StorageUnavailableError):
        machine.push("llama", machine.write("run", SOURCE))
    found = inspect(machine.system, "llama")
    assert found.checkpoint.status is CheckpointStatus.FAILED
    assert "a test wanted it" in found.checkpoint.reason
    assert (found.files, found.exports) == ([], [])


def test_what_is_not_there_or_deleted_is_not_shown(machine: Machine) -> None:
    with pytest.raises(NotFoundError):
        inspect(machine.system, "llama")
    machine.push("llama", machine.write("run", SOURCE))
    delete(machine.system, "llama")
    with pytest.raises(NotFoundError):
        inspect(machine.system, "llama")
    with pytest.raises(InvalidNameError):
        inspect(machine.system, "../llama")
