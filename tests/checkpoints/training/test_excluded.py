"""What a capture leaves out: judged by all that a trainer writes, stored without what is excluded."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flexai.checkpoints.models import TrainingFacts
from flexai.checkpoints.patterns import LONGEST_IGNORE_FILE
from flexai.checkpoints.training.completeness.by_time import Watch
from flexai.checkpoints.training.completeness.candidates import Found
from flexai.checkpoints.training.managed_capture import CaptureReport, OutputCapture, salvage
from flexai.checkpoints.training.output_dir import Excluded
from flexai.checkpoints.training.pins import Pins
from flexai.checkpoints.training.reports import Reports, ReportWriter
from tests.checkpoints.training.trainers import (
    Files,
    archive,
    deepspeed_files,
    model_files,
    save,
    trainer_files,
    unknown_files,
    weights,
)


def _age(folder: Path) -> None:
    """Let files be old: what was written just now could be written over unseen, and so has to wait."""
    for path in folder.rglob("*"):
        os.utime(path, ns=(0, 1))


class Stage:
    """An output directory that is captured into a plain list."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "output"
        self.output.mkdir()
        self.notes: list[str] = []
        self.pins = Pins(folder / "pins", self.notes.append)
        self.stored: dict[str, Files] = {}
        self.facts: dict[str, TrainingFacts] = {}
        self.captures: list[OutputCapture] = []

    def store(self, found: Found, facts: TrainingFacts) -> None:
        self.stored[found.name] = {path: local.read_bytes() for path, local in found.files.items()}
        self.facts[found.name] = facts

    def excluded(self, *patterns: str) -> Excluded:
        return Excluded(self.output, patterns)

    def start(self, *patterns: str, reports: Reports | None = None, quiet_period: float = 600) -> OutputCapture:
        """Begin to capture: by default what no format vouches for waits until the end."""
        capture = OutputCapture(
            self.output,
            self.pins,
            quiet_period=quiet_period,
            store=self.store,
            note=self.notes.append,
            reports=reports,
            excluded=self.excluded(*patterns),
        )
        capture.start()
        self.captures.append(capture)
        return capture

    def wait_for(self, *names: str) -> None:
        while not self.stored.keys() >= {*names}:
            time.sleep(0.01)

    def captured(self, *patterns: str, reports: Reports | None = None) -> CaptureReport:
        """Capture what is there, as at the end of a command that has succeeded."""
        return self.start(*patterns, reports=reports).finish(is_clean=True)

    def watch(self, *patterns: str, take: Callable[[Found], object]) -> Watch:
        return Watch(
            self.output,
            self.pins,
            quiet_period=5,
            take=take,
            note=self.notes.append,
            excluded=self.excluded(*patterns),
        )


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    staged = Stage(tmp_path)
    yield staged
    for capture in staged.captures:
        capture.abandon()


def without(files: Files, *names: str) -> Files:
    return {name: content for name, content in files.items() if name not in names}


def test_what_a_pattern_names_is_in_no_checkpoint_and_no_log_and_is_not_missed(stage: Stage) -> None:
    save(stage.output / "checkpoint-5", trainer_files(5))
    save(stage.output / "samples", {"one.bin": weights(1), "two.png": b"png"})
    save(stage.output, {"train.log": b"step 5", "notes.csv": b"a,b"})
    report = stage.captured("optimizer.pt", "samples/", "*.csv")
    assert stage.stored == {"checkpoint-5": without(trainer_files(5), "optimizer.pt")}
    assert (report.rest, report.uncaptured, report.is_pinned) == (("train.log",), (), False)
    assert report.left_out == ("checkpoint-5/optimizer.pt", "notes.csv", "samples/")


def test_the_output_directorys_own_ignore_file_and_the_defaults_name_what_is_left_out(stage: Stage) -> None:
    save(stage.output / "checkpoint-5", trainer_files(5))
    for folder in (".git", "code/__pycache__", "runs"):
        save(stage.output / folder, {"HEAD": b"x"})
    save(stage.output, {".flexaiignore": b"# not these\nruns/\n/checkpoint-5/scheduler.pt\n"})
    report = stage.captured()
    assert stage.stored == {"checkpoint-5": without(trainer_files(5), "scheduler.pt")}
    assert (report.rest, report.uncaptured) == ((), ())
    expected = {".git/", "code/__pycache__/", "runs/"} | {"checkpoint-5/scheduler.pt"} & set(report.left_out)
    assert set(report.left_out) == expected


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.symlink_to(path.parent / "rules"), "is no file, so what it names is captured"),
        (lambda path: path.write_bytes(b"#" * LONGEST_IGNORE_FILE + b"\n*.pt"), "is longer than 64 KiB: lines behind"),
    ],
)
def test_an_ignore_file_that_is_not_gone_by_is_told_of_once(
    stage: Stage, make: Callable[[Path], object], said: str
) -> None:
    save(stage.output, {"rules": b"*.pt"})
    make(stage.output / ".flexaiignore")
    save(stage.output / "checkpoint-5", trainer_files(5))
    stage.captured()
    assert stage.stored["checkpoint-5"] == trainer_files(5)
    (note,) = [note for note in stage.notes if ".flexaiignore" in note]
    assert said in note


def test_an_ignore_file_takes_a_default_back(stage: Stage) -> None:
    save(stage.output / "__pycache__", {"HEAD": b"x"})
    save(stage.output, {".flexaiignore": b"!__pycache__\n"})
    assert stage.captured().rest == ("__pycache__/HEAD",)


def test_an_ignore_file_that_the_training_writes_before_its_first_save_counts(stage: Stage) -> None:
    stage.start()
    save(stage.output, {".flexaiignore": b"optimizer.pt\n"})
    save(stage.output / "checkpoint-5", trainer_files(5))
    stage.wait_for("checkpoint-5")
    assert stage.stored["checkpoint-5"] == without(trainer_files(5), "optimizer.pt")


def test_what_an_ignore_file_names_later_is_let_go_of_and_taken_for_no_deletion(stage: Stage) -> None:
    taken: list[set[str]] = []
    watch = stage.watch(take=lambda found: taken.append({*found.files}))
    save(stage.output / "odd", unknown_files(1) | {"scratch.custom": b"scratch"})
    _age(stage.output / "odd")
    watch.look(100)
    save(stage.output, {".flexaiignore": b"scratch.*\n"})
    watch.look(101)
    assert not list(stage.pins.folder.rglob("scratch.custom"))
    watch.look(110)
    assert taken == [{*unknown_files(1)}]
    assert watch.lost == []


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (trainer_files(5), "trainer_state.json"),
        ({"model.safetensors": weights(5), "optimizer.bin": archive(5), "random_states_0.pkl": b"\x80\x02N."}, "*.pkl"),
        (
            {f"global_step5/{path}": content for path, content in deepspeed_files(5).items()}
            | {"latest": b"global_step5"},
            "latest",
        ),
    ],
    ids=["trainer", "accelerate", "deepspeed"],
)
def test_a_checkpoint_is_whole_by_the_last_file_of_its_layout_also_where_that_is_excluded(
    stage: Stage, files: Files, name: str
) -> None:
    save(stage.output if "latest" in files else stage.output / "checkpoint-5", files)
    report = stage.captured(name)
    (found,) = stage.stored.values()
    kept = {path for path in files if path != name and not (name == "*.pkl" and path.endswith(".pkl"))}
    assert set(found) == kept
    assert (report.uncaptured, report.lost, report.failures) == ((), (), ())


def test_a_checkpoint_without_its_excluded_last_file_is_torn_before_that_is_written(stage: Stage) -> None:
    taken: list[str] = []
    watch = stage.watch("trainer_state.json", take=lambda found: taken.append(found.name))
    save(stage.output / "checkpoint-5", without(trainer_files(5), "trainer_state.json"))
    for now in (100, 200, 300):
        watch.look(now)
    assert taken == []
    save(stage.output / "checkpoint-5", {"trainer_state.json": trainer_files(5)["trainer_state.json"]})
    watch.look(301)
    watch.look(302)
    assert taken == ["checkpoint-5"]


def test_an_excluded_file_that_is_torn_or_written_all_the_time_holds_no_checkpoint_up(stage: Stage) -> None:
    taken: list[set[str]] = []
    watch = stage.watch("cache*", take=lambda found: taken.append({*found.files}))
    save(stage.output / "odd", unknown_files(1))
    _age(stage.output / "odd")
    for now in range(100, 108):
        save(stage.output / "odd", {"cache.safetensors": weights(1)[: 9 + now], f"cache-{now}": b"x"})
        watch.look(now)
    assert taken == [{*unknown_files(1)}]


def test_excluded_checkpoints_that_come_and_go_are_none_that_are_lost(stage: Stage) -> None:
    capture = stage.start("tmp-eval/", "scratch.pt")
    for step in range(20):
        save(stage.output / "tmp-eval", {f"step-{step}.pt": archive(step)})
        save(stage.output, {"scratch.pt": archive(step)})
        (stage.output / "scratch.pt").unlink()
        shutil.rmtree(stage.output / "tmp-eval")
    report = capture.finish(is_clean=True)
    assert (stage.stored, report.lost, report.uncaptured) == ({}, (), ())


def test_facts_are_those_of_what_is_stored(stage: Stage) -> None:
    save(stage.output / "checkpoint-5", trainer_files(5))
    stage.captured("optimizer.pt")
    assert stage.facts["checkpoint-5"].step == 5
    assert not stage.facts["checkpoint-5"].resumable, "without the optimizer's state no training goes on"


def test_what_a_dead_runner_left_is_captured_without_what_is_excluded(stage: Stage) -> None:
    save(stage.output / "checkpoint-5", trainer_files(5))
    save(stage.output / "samples", {"one.bin": weights(1)})
    report = salvage(
        stage.output,
        stage.pins,
        store=stage.store,
        note=stage.notes.append,
        excluded=stage.excluded("optimizer.pt", "samples/"),
    )
    assert stage.stored == {"checkpoint-5": without(trainer_files(5), "optimizer.pt")}
    assert report.uncaptured == ()


def test_what_a_trainer_reports_is_stored_without_what_is_excluded(stage: Stage, tmp_path: Path) -> None:
    writer = ReportWriter(tmp_path / "reports", stage.output)
    writer.expect()
    save(stage.output / "checkpoint-5", trainer_files(5))
    save(stage.output, {"scratch.pt": archive(1)} | model_files(5))
    writer.write(stage.output / "checkpoint-5", step=5, metrics={})
    writer.write(stage.output / "scratch.pt", step=5, metrics={})
    report = stage.captured("optimizer.pt", "scratch.pt", "*.json", reports=Reports(writer.folder))
    assert set(stage.stored["checkpoint-5"]) == {
        name for name in trainer_files(5) if name != "optimizer.pt" and not name.endswith(".json")
    }
    assert "scratch.pt" not in stage.stored
    told = {outcome.path: outcome.error for outcome in writer.outcomes()}
    assert told == {"checkpoint-5": "", "scratch.pt": "all of it is excluded"}
    assert report.lost == ()
    writer.close()
