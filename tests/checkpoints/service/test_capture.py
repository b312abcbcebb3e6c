from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from flexai.checkpoints.errors import SourceChangedError, SourceError, StorageUnavailableError, UnsafePathError
from flexai.checkpoints.models import CheckpointKind, CheckpointStatus, TrainingFacts, TrainingJob
from flexai.checkpoints.service.capture import capture
from tests.hostile.paths import HOSTILE_PATHS
from tests.support.faults import Call, Fault
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import PART, Machine, check_nothing_is_left_over, check_nothing_is_torn
from tests.support.trees import Tree, noise

FILES: Tree = {
    "config.json": b'{"layers": 2}',
    "global_step5/state.pt": noise(3 * PART + 17, "a"),
    "model.safetensors": noise(2 * PART, "b"),
}
FACTS = TrainingFacts(step=5, train_loss=0.25, eval_loss=0.5, model="llama", version="4.57", resumable=True)


@pytest.fixture
def job(machine: Machine) -> TrainingJob:
    return begin_job(machine, "train")


def test_a_captured_checkpoint_is_available_with_its_files_and_facts(machine: Machine, job: TrainingJob) -> None:
    checkpoint = capture_files(machine, job, "checkpoint-5", FILES, node="3", facts=FACTS)
    assert (checkpoint.kind, checkpoint.status) == (CheckpointKind.CAPTURED, CheckpointStatus.AVAILABLE)
    assert (checkpoint.name, checkpoint.node, checkpoint.sequence) == ("checkpoint-5", "3", 1)
    assert (checkpoint.job_id, checkpoint.job_name) == (job.id, "train")
    assert checkpoint.facts == FACTS
    assert checkpoint.source.from_local_files == (f"{job.output_dir}/checkpoint-5",)
    assert checkpoint == machine.system.catalog.checkpoints.get_by_id(checkpoint.id)
    assert machine.fetched(checkpoint.id) == FILES
    check_nothing_is_torn(machine)


def test_captures_of_a_job_are_numbered_in_their_order(machine: Machine, job: TrainingJob) -> None:
    for number, name in enumerate(("checkpoint-5", "checkpoint-10", "checkpoint-5", ""), start=1):
        captured = capture_files(machine, job, name, {"model.bin": noise(50, number)})
        assert (captured.sequence, captured.name) == (number, name)


def test_unchanged_files_of_the_next_capture_do_not_move(machine: Machine, job: TrainingJob) -> None:
    capture_files(machine, job, "checkpoint-5", FILES)
    machine.storage.reset()
    capture_files(machine, job, "checkpoint-10", FILES | {"config.json": b"{}"})
    writes = [call for call in machine.storage.named("put", "put_part") if call.key.startswith("blobs/")]
    assert sum(call.size for call in writes) == 2


def test_a_capture_of_no_file_is_refused(machine: Machine, job: TrainingJob) -> None:
    with pytest.raises(SourceError, match="'checkpoint-5' holds no file"):
        capture_files(machine, job, "checkpoint-5", {})
    assert machine.checkpoints() == []


def _capture(machine: Machine, job: TrainingJob, files: dict[str, Path]) -> None:
    capture(machine.system, job=job, name="checkpoint-5", node="0", files=files, facts=TrainingFacts())


@pytest.mark.parametrize(("path", "reason"), HOSTILE_PATHS)
def test_a_hostile_path_is_refused_and_leaves_no_trace(
    machine: Machine, job: TrainingJob, path: str, reason: str
) -> None:
    file = machine.write("output", {"a": b"x"}) / "a"
    with pytest.raises(UnsafePathError):
        _capture(machine, job, {path: file})
    assert machine.checkpoints() == []


def test_paths_that_cannot_lie_together_are_refused_and_leave_no_trace(machine: Machine, job: TrainingJob) -> None:
    file = machine.write("output", {"a": b"x"}) / "a"
    with pytest.raises(UnsafePathError):
        _capture(machine, job, {"Model.bin": file, "model.bin": file})
    assert machine.checkpoints() == []


_ODD: dict[str, Callable[[Path], object]] = {
    "a link": lambda path: path.symlink_to("config.json"),
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("make", _ODD.values(), ids=_ODD)
def test_what_is_no_plain_file_is_refused_and_leaves_no_trace(
    machine: Machine, job: TrainingJob, make: Callable[[Path], object]
) -> None:
    folder = machine.write("output", {"config.json": b"{}"})
    make(folder / "odd")
    with pytest.raises(SourceError, match="no plain file"):
        _capture(machine, job, {"config.json": folder / "config.json", "odd": folder / "odd"})
    assert machine.checkpoints() == []


@pytest.mark.parametrize("path", ["gone", "config.json/gone"])
def test_a_file_that_is_gone_is_told_and_leaves_no_trace(machine: Machine, job: TrainingJob, path: str) -> None:
    folder = machine.write("output", {"config.json": b"{}"})
    with pytest.raises(SourceChangedError, match="vanished"):
        _capture(machine, job, {"gone": folder / path})
    assert machine.checkpoints() == []


@pytest.mark.parametrize(
    "change", [Path.unlink, lambda path: path.write_bytes(b"other"), lambda path: os.truncate(path, 9)]
)
def test_a_capture_whose_files_change_was_no_checkpoint(
    machine: Machine, job: TrainingJob, change: Callable[[Path], object]
) -> None:
    def interfere(_number: int, call: Call) -> None:
        if call.name == "put_part":
            machine.storage.before_call = None
            change(machine.root / "output" / "checkpoint-5" / "model.safetensors")

    machine.storage.before_call = interfere
    with pytest.raises(SourceChangedError):
        capture_files(machine, job, "checkpoint-5", FILES)
    assert machine.checkpoints() == []
    assert capture_files(machine, job, "checkpoint-5", FILES).sequence == 1
    machine.collect()
    check_nothing_is_torn(machine)
    check_nothing_is_left_over(machine)


def test_a_file_whose_links_change_has_not_changed(machine: Machine, job: TrainingJob) -> None:
    """Captures read files by links of their own, and trainers delete theirs meanwhile."""

    def interfere(_number: int, call: Call) -> None:
        (machine.root / "output" / "checkpoint-5" / "other").unlink(missing_ok=True)

    folder = machine.write("output/checkpoint-5", FILES)
    os.link(folder / "model.safetensors", folder / "other")
    machine.storage.before_call = interfere
    capture_files(machine, job, "checkpoint-5", FILES)


def test_a_capture_that_fails_says_why(machine: Machine, job: TrainingJob) -> None:
    machine.storage.faults = {4: Fault.BEFORE}
    with pytest.raises(StorageUnavailableError):
        capture_files(machine, job, "checkpoint-5", FILES)
    (failed,) = machine.checkpoints()
    assert failed.status is CheckpointStatus.FAILED
    assert "a test wanted it" in failed.reason
    captured = capture_files(machine, job, "checkpoint-5", FILES)
    assert captured.id != failed.id
    assert machine.fetched(captured.id) == FILES
    machine.collect()
    check_nothing_is_torn(machine)
    check_nothing_is_left_over(machine)
