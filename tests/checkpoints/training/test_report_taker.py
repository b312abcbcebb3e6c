"""Taking what a trainer reports, with a store that each test makes as it needs it."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flexai.checkpoints.errors import CheckpointError, IntegrityError, StorageUnavailableError, UnsafePathError
from flexai.checkpoints.models import TrainingFacts
from flexai.checkpoints.training.completeness.candidates import Found
from flexai.checkpoints.training.managed_capture import OutputCapture, salvage
from flexai.checkpoints.training.pins import Pins
from flexai.checkpoints.training.preemption import Preemption
from flexai.checkpoints.training.reports import ReportOutcome, Reports, ReportWriter
from flexai.checkpoints.transfer.crew import give_way
from tests.checkpoints.training.trainers import (
    Files,
    deepspeed_files,
    save,
    save_by_rename,
    script_file,
    trainer_files,
    unknown_files,
    weights,
)

LARGE = 5 * 1024 * 1024
"""Bytes of a file that the trainer does not copy itself."""


def wait_for(event: threading.Event) -> None:
    event.wait()


def refusing(error: CheckpointError) -> Callable[[Found], None]:
    """What a store does that takes nothing."""

    def refuse(_found: Found) -> None:
        raise error

    return refuse


class Stage:
    """An output directory whose trainer reports, and which is captured into a plain list."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.output = folder / "output"
        self.output.mkdir()
        self.notes: list[str] = []
        self.stored: list[tuple[str, Files]] = []
        self.facts: list[TrainingFacts] = []
        self.before_storing: Callable[[Found], None] = lambda found: None
        self.announced: list[str] = []
        self.preemption = Preemption(600)
        self.writer = ReportWriter(folder / "reports", self.output)
        self.reports = Reports(self.writer.folder)
        self.writer.expect()
        self.capture = self.new_capture()

    def new_capture(self) -> OutputCapture:
        return OutputCapture(
            self.output,
            Pins(self.folder / "pins", self.notes.append),
            quiet_period=60,
            store=self.store,
            note=self.notes.append,
            reports=self.reports,
            identify=lambda name: f"id of {name}",
            preemption=self.preemption,
            announce=lambda found: self.announced.append(found.name),
        )

    def store(self, found: Found, facts: TrainingFacts) -> None:
        self.before_storing(found)
        self.stored.append((found.name, {path: local.read_bytes() for path, local in found.files.items()}))
        self.facts.append(facts)

    def save(self, name: str, files: Files) -> None:
        save(self.output / name, files)

    def save_by_rename(self, name: str, files: Files) -> None:
        save_by_rename(self.output / name, files)

    def report(self, name: str, step: int | None = None, **metrics: float) -> None:
        self.writer.write(self.output / name, step=step, metrics=metrics)

    def settle(self) -> list[ReportOutcome]:
        """Wait until all that was reported is taken."""
        while self.writer.waiting():
            time.sleep(0.01)
        return self.writer.outcomes()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    staged = Stage(tmp_path)
    yield staged
    staged.capture.abandon()


def test_where_nothing_is_reported_nothing_is_looked_at(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    names = Reports.names

    def counted(reports: Reports) -> list[str]:
        looks.append(reports.folder)
        return names(reports)

    monkeypatch.setattr(Reports, "names", counted)
    stage.capture.start()
    for _ in range(3):
        time.sleep(0.1)
        list(stage.reports.folder.iterdir())
    assert len(looks) < 5, "that a folder is looked at is no report"
    stage.save("step-1", unknown_files(1))
    stage.report("step-1")
    stage.settle()
    assert len(stage.stored) == 1


def test_what_is_reported_is_stored_at_once_although_it_is_deleted(stage: Stage) -> None:
    stage.capture.start()
    for step in range(1, 6):
        stage.save(f"run-{step}", unknown_files(step))
        stage.report(f"run-{step}", step, eval_loss=1 / step)
        shutil.rmtree(stage.output / f"run-{step}")
    outcomes = stage.settle()
    assert stage.stored == [(f"run-{step}", unknown_files(step)) for step in range(1, 6)]
    assert [(facts.step, facts.eval_loss) for facts in stage.facts] == [(step, 1 / step) for step in range(1, 6)]
    assert all(facts.reported == ("step", "eval_loss") for facts in stage.facts)
    assert [(one.path, one.step, one.checkpoint, one.error) for one in outcomes] == [
        (f"run-{step}", step, f"id of run-{step}", "") for step in range(1, 6)
    ]


@pytest.mark.parametrize("name", ["checkpoint-5", "model"])
def test_what_may_be_executed_and_empty_folders_are_held_too(stage: Stage, name: str) -> None:
    held: list[tuple[str, ...]] = []

    def look(found: Found) -> None:
        held.append(found.unit.folders)
        held.append(tuple(path for path, local in found.files.items() if os.access(local, os.X_OK)))

    stage.before_storing = look
    stage.capture.start()
    stage.save(name, trainer_files(5) | {"merge.sh": b"#!/bin/sh"})
    (stage.output / name / "merge.sh").chmod(0o755)
    (stage.output / name / "empty" / "deep").mkdir(parents=True)
    stage.report(name, 5)
    shutil.rmtree(stage.output / name)
    stage.settle()
    assert held == [("empty/deep",), ("merge.sh",)]


def test_a_trainer_that_reports_is_not_guessed_at(stage: Stage) -> None:
    (stage.reports.folder / "expected").unlink()
    stage.capture.start()
    stage.save("run-5", unknown_files(5))
    stage.report("run-5")
    stage.settle()
    for step in (6, 7):
        stage.save(f"checkpoint-{step}", trainer_files(step))
    shutil.rmtree(stage.output / "checkpoint-6")
    assert [name for name, _ in stage.stored] == ["run-5"]
    report = stage.capture.finish(is_clean=True)
    # What is there at the end is captured all the same: a trainer that is killed reports no more.
    assert [name for name, _ in stage.stored] == ["run-5", "checkpoint-7"]
    assert (report.lost, report.failures, report.uncaptured) == ((), (), ())


def test_before_the_first_report_nothing_is_guessed_where_the_trainer_will_report(stage: Stage) -> None:
    stage.save("checkpoint-5", trainer_files(5))
    stage.capture.start()
    stage.save("checkpoint-6", trainer_files(6))
    stage.report("checkpoint-6")
    stage.settle()
    assert [name for name, _ in stage.stored] == ["checkpoint-6"]


def test_a_save_that_is_not_whole_is_refused_and_the_trainer_is_told(stage: Stage) -> None:
    stage.capture.start()
    (stage.output / "step-1.safetensors").write_bytes(weights(1)[:-1])
    stage.report("step-1.safetensors", 1)
    (outcome,) = stage.settle()
    assert outcome.error.startswith("it is not whole: ")
    assert any("which the trainer reported, was not captured: it is not whole" in note for note in stage.notes)
    assert stage.stored == []


def test_the_unit_is_what_its_loader_wants(stage: Stage) -> None:
    stage.capture.start()
    stage.save("global_step5", deepspeed_files(5))
    (stage.output / "latest").write_bytes(b"global_step5")
    stage.report("global_step5", 5)
    stage.settle()
    inside = {f"global_step5/{path}": data for path, data in deepspeed_files(5).items()}
    assert stage.stored == [("global_step5", inside | {"latest": b"global_step5"})]


def test_several_files_of_one_folder_are_checkpoints_of_their_own(stage: Stage) -> None:
    stage.capture.start()
    for step in (1, 2):
        stage.save("exp", {f"step-{step}.pt": script_file(step)})
        stage.report(f"exp/step-{step}.pt", step)
    stage.settle()
    assert stage.stored == [(f"exp/step-{step}.pt", {f"step-{step}.pt": script_file(step)}) for step in (1, 2)]


def test_what_is_written_over_before_it_could_be_copied_is_counted_as_lost(stage: Stage) -> None:
    (stage.output / "last.bin").write_bytes(bytes(LARGE))
    stage.report("last.bin", 1)
    report = stage.reports.read(stage.writer.waiting()[0])
    assert report is not None
    (stage.output / "last.bin").write_bytes(b"\1" * (LARGE + 1))
    stage.capture.start()
    (outcome,) = stage.settle()
    if report.is_linked:  # else the file system clones
        assert "written over" in outcome.error
        assert len(stage.capture.finish(is_clean=False).lost) == 1


def test_a_file_that_may_be_written_over_is_copied_while_the_store_is_slow(stage: Stage) -> None:
    go_on = threading.Event()
    stage.before_storing = lambda _found: wait_for(go_on)
    stage.capture.start()
    for step in range(1, 4):
        (stage.output / "last.bin").write_bytes(bytes([step]) * LARGE)
        stage.report("last.bin", step)
        held = stage.reports.folder / stage.writer.waiting()[-1] / "files" / "last.bin"
        while held.stat().st_ino == (stage.output / "last.bin").stat().st_ino:
            time.sleep(0.01)
    go_on.set()
    stage.settle()
    assert [files["last.bin"][0] for _, files in stage.stored] == [1, 2, 3]


def test_the_reports_of_all_ranks_make_one_checkpoint(stage: Stage) -> None:
    stage.capture.start()
    every: dict[str, bytes] = {}
    for rank in (2, 1, 0):
        assert stage.stored == []
        stage.save("step-5", {f"rank-{rank}.data": bytes([rank])})
        every |= {f"rank-{rank}.data": bytes([rank])}
        writer = ReportWriter(stage.writer.folder, stage.output, rank=rank, ranks=3)
        writer.write(stage.output / "step-5", step=5, metrics={f"loss_{rank}": 1.0})
        time.sleep(0.05)
    while stage.reports.names():
        time.sleep(0.01)
    assert stage.stored == [("step-5", every)]
    assert set(stage.facts[0].metrics) == {"loss_0", "loss_1", "loss_2"}


def test_a_rank_that_is_late_joins_the_save_that_it_means(stage: Stage) -> None:
    writers = [ReportWriter(stage.writer.folder, stage.output, rank=rank, ranks=2) for rank in range(2)]
    for writer in writers:
        for version in (b"first", b"second"):
            stage.save("last", {f"rank-{rank}.data": version for rank in range(2)})
            writer.write(stage.output / "last", step=None, metrics={})
    stage.capture.start()
    while stage.reports.names():
        time.sleep(0.01)
    assert stage.stored == [
        ("last", {"rank-0.data": version, "rank-1.data": version}) for version in (b"first", b"second")
    ]


def test_a_rank_may_see_what_another_one_is_still_writing(stage: Stage) -> None:
    stage.capture.start()
    stage.save("step-5", {"rank-0.data": b"0", "rank-1.data": b"1"})
    ReportWriter(stage.writer.folder, stage.output, rank=0, ranks=2).write(stage.output / "step-5", step=5, metrics={})
    with (stage.output / "step-5" / "rank-1.data").open("ab") as file:
        file.write(b"1")
    stage.save_by_rename("step-5", {"rank-0.data": b"00"})
    ReportWriter(stage.writer.folder, stage.output, rank=1, ranks=2).write(stage.output / "step-5", step=5, metrics={})
    while stage.reports.names():
        time.sleep(0.01)
    assert stage.stored == [("step-5", {"rank-0.data": b"00", "rank-1.data": b"11"})]


def test_what_one_rank_reports_whole_is_stored_without_waiting_for_the_others(stage: Stage) -> None:
    stage.capture.start()
    stage.save("checkpoint-5", trainer_files(5))
    for rank in range(3):
        writer = ReportWriter(stage.writer.folder, stage.output, rank=rank, ranks=3)
        writer.write(stage.output / "checkpoint-5", step=5, metrics={})
        while stage.reports.names():
            time.sleep(0.01)
        assert [one.error for one in writer.outcomes()] == [""]
    assert stage.stored == [("checkpoint-5", trainer_files(5))]


def test_what_other_ranks_report_while_it_is_being_stored_is_stored_once(stage: Stage) -> None:
    go_on = threading.Event()
    stage.before_storing = lambda _found: wait_for(go_on)
    stage.capture.start()
    stage.save("checkpoint-5", trainer_files(5))
    for rank in range(3):
        writer = ReportWriter(stage.writer.folder, stage.output, rank=rank, ranks=3)
        writer.write(stage.output / "checkpoint-5", step=5, metrics={})
        time.sleep(0.3)
    go_on.set()
    while stage.reports.names():
        time.sleep(0.01)
    assert stage.stored == [("checkpoint-5", trainer_files(5))]


def test_the_end_waits_for_no_rank(stage: Stage) -> None:
    stage.capture.start()
    stage.save("step-5", {"rank-0.data": b"0"})
    ReportWriter(stage.writer.folder, stage.output, rank=0, ranks=2).write(stage.output / "step-5", step=5, metrics={})
    stage.capture.finish(is_clean=True)
    assert stage.stored == [("step-5", {"rank-0.data": b"0"})]


def test_what_the_store_does_not_take_stays_for_the_next_run(stage: Stage) -> None:
    stage.before_storing = refusing(StorageUnavailableError("away"))
    stage.save("run-5", unknown_files(5))
    stage.report("run-5", 5)
    shutil.rmtree(stage.output / "run-5")
    report = stage.capture.finish(is_clean=True)
    assert report.is_pinned and len(report.failures) == 1
    assert [outcome.error for outcome in stage.writer.outcomes()] == ["away"]
    stage.before_storing = lambda _found: None
    stage.capture = stage.new_capture()
    report = salvage(
        stage.output,
        Pins(stage.folder / "pins", stage.notes.append),
        store=stage.store,
        note=stage.notes.append,
        reports=stage.reports,
    )
    assert stage.stored == [("run-5", unknown_files(5))]
    assert (stage.reports.names(), report.failures) == ([], ())


def test_a_save_that_cannot_be_stored_now_is_waited_for_no_longer_and_stays(stage: Stage) -> None:
    stage.before_storing = refusing(IntegrityError("damaged"))
    stage.capture.start()
    stage.save("run-5", unknown_files(5))
    stage.report("run-5", 5)
    while not stage.writer.outcomes():
        time.sleep(0.01)
    assert stage.writer.waiting() == []
    assert len(stage.reports.names()) == 1


def test_what_no_store_would_take_is_not_tried_for_ever(stage: Stage) -> None:
    stage.before_storing = refusing(UnsafePathError("no such path"))
    stage.capture.start()
    stage.save("run-5", unknown_files(5))
    stage.report("run-5", 5)
    assert [outcome.error for outcome in stage.settle()] == ["no such path"]


def test_a_report_that_cannot_be_read_is_left_and_said_and_holds_up_nothing(stage: Stage) -> None:
    stage.save("run-4", unknown_files(4))
    stage.report("run-4", 4)
    place = stage.reports.folder / stage.writer.waiting()[0] / "report.json"
    place.write_text(json.dumps({"path": "run-4"}))
    stage.save("run-5", unknown_files(5))
    stage.report("run-5", 5)
    stage.capture.finish(is_clean=False)
    assert [name for name, _ in stage.stored] == ["run-5"]
    assert any("cannot be read" in note for note in stage.notes)
    assert len(stage.reports.names()) == 1
    assert ["cannot be read" in outcome.error for outcome in stage.writer.outcomes()] == [True, False]
    assert not stage.writer.waiting()  # its trainer would wait for ever


def test_a_dropped_report_is_passed_over(stage: Stage) -> None:
    go_on = threading.Event()
    stage.before_storing = lambda _found: wait_for(go_on)
    stage.capture.start()
    for step in (1, 2, 3):
        stage.save(f"run-{step}", unknown_files(step))
        stage.report(f"run-{step}", step)
    first, second, _ = stage.writer.waiting()
    while stage.writer.drop(second) is False:
        time.sleep(0.01)
    go_on.set()
    stage.settle()
    assert [name for name, _ in stage.stored] == ["run-1", "run-3"]
    assert first not in stage.reports.names()


def test_after_a_notice_what_was_reported_last_is_stored_first(stage: Stage) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(found: Found) -> None:
        begun.set()
        while not go_on.wait(0.01):
            give_way.get()()  # as a transfer asks

    stage.before_storing = slow
    stage.capture.start()
    for step in (1, 2):
        stage.save(f"run-{step}", unknown_files(step))
        stage.report(f"run-{step}", step)
    wait_for(begun)
    stage.preemption.give()
    stage.save("run-3", unknown_files(3))
    stage.report("run-3", 3)
    while not {"run-1", "run-2"} <= set(stage.announced):
        time.sleep(0.01)
    go_on.set()
    outcomes = stage.settle()
    assert [name for name, _ in stage.stored] == ["run-3", "run-2", "run-1"]
    assert sorted((one.path, one.error) for one in outcomes) == [(f"run-{step}", "") for step in (1, 2, 3)]


def test_reports_that_the_deadline_left_unstored_stay_for_the_next_run(stage: Stage) -> None:
    def slow(_found: Found) -> None:
        while True:
            time.sleep(0.01)
            give_way.get()()

    stage.before_storing = slow
    stage.capture.start()
    for step in (1, 2):
        stage.save(f"run-{step}", unknown_files(step))
        stage.report(f"run-{step}", step)
        shutil.rmtree(stage.output / f"run-{step}")
    stage.preemption.give()
    stage.preemption.ends_at = time.monotonic() + 0.5
    report = stage.capture.finish(is_clean=False)
    assert sorted(found.name for found in report.postponed) == ["run-1", "run-2"]
    stage.before_storing = lambda _found: None
    salvage(stage.output, Pins(stage.folder / "pins", print), store=stage.store, note=print, reports=stage.reports)
    assert sorted(stage.stored) == [(f"run-{step}", unknown_files(step)) for step in (1, 2)]
