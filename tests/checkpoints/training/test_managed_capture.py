"""Watching and storing at the same time, with a store that each test makes as it needs it."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flexai.checkpoints.errors import (
    IntegrityError,
    SourceChangedError,
    StorageUnavailableError,
    UnsafePathError,
)
from flexai.checkpoints.models import TrainingFacts
from flexai.checkpoints.storage.beneath import Beneath
from flexai.checkpoints.training.completeness.candidates import Found
from flexai.checkpoints.training.managed_capture import OutputCapture, salvage
from flexai.checkpoints.training.output_dir import OutputTree, Stamp
from flexai.checkpoints.training.pins import Pins
from tests.checkpoints.training.trainers import (
    Files,
    archive,
    model_files,
    save,
    save_by_rename,
    trainer_files,
    unknown_files,
    weights,
)


def listed(output: Path, name: str) -> dict[str, Stamp]:
    """The files of a folder, by their paths in the output directory."""
    tree = OutputTree(Beneath(output))
    tree.refresh()
    return {path: stamp for path, stamp in tree.files() if path.startswith(f"{name}/")}


def wait_for(event: threading.Event) -> None:
    event.wait()


class Stage:
    """An output directory that is being captured into a plain list."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "output"
        self.output.mkdir()
        self.notes: list[str] = []
        self.pins = Pins(folder / "pins", self.notes.append)
        self.stored: list[tuple[str, Files]] = []
        self.facts: list[TrainingFacts] = []
        self.before_storing: Callable[[Found], None] = lambda found: None
        self.capture = OutputCapture(self.output, self.pins, quiet_period=0.3, store=self.store, note=self.notes.append)

    def store(self, found: Found, facts: TrainingFacts) -> None:
        self.before_storing(found)
        self.stored.append((found.name, {path: local.read_bytes() for path, local in found.files.items()}))
        self.facts.append(facts)

    def wait_for(self, count: int) -> None:
        """Wait until so many checkpoints are stored."""
        while len(self.stored) < count:
            time.sleep(0.01)

    def save(self, name: str, files: Files) -> None:
        save(self.output / name, files)


@pytest.fixture(params=["with notices", "blind"])
def stage(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    if request.param == "blind":
        # As on a network file system, or on macOS.
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.delattr(fcntl, "F_SETLEASE")
    staged = Stage(tmp_path)
    yield staged
    staged.capture.abandon()


def test_checkpoints_are_stored_while_the_command_runs(stage: Stage) -> None:
    stage.capture.start()
    for step in (5, 10):
        stage.save(f"checkpoint-{step}", trainer_files(step, eval_loss=1 / step))
        stage.wait_for(step // 5)
    assert stage.stored == [(f"checkpoint-{step}", trainer_files(step, eval_loss=1 / step)) for step in (5, 10)]
    assert [(facts.step, facts.train_loss, facts.eval_loss) for facts in stage.facts] == [(5, 0.2, 0.2), (10, 0.1, 0.1)]
    assert stage.facts[0].model == "TinyModel"
    assert stage.facts[0].version == "4.57.6"
    assert stage.facts[0].inference_ready and stage.facts[0].resumable


def test_nothing_is_left_to_say_when_everything_was_stored(stage: Stage) -> None:
    stage.capture.start()
    stage.save("checkpoint-5", trainer_files(5))
    stage.save("run-1", unknown_files(1))
    save(stage.output, model_files(5))
    report = stage.capture.finish(is_clean=True)
    assert (report.failures, report.uncaptured, report.is_pinned) == ((), (), False)
    assert sorted(name for name, _ in stage.stored) == ["", "checkpoint-5", "run-1"]
    assert not stage.pins.folder.exists()


def test_a_slow_store_does_not_stop_the_watching(stage: Stage) -> None:
    go_on = threading.Event()
    stage.before_storing = lambda _found: wait_for(go_on)
    stage.capture.start()
    for step in range(1, 6):
        stage.save(f"checkpoint-{step}", trainer_files(step))
        while not any(stage.pins.folder.glob(f"*/checkpoint-{step}/trainer_state.json")):
            time.sleep(0.01)
        shutil.rmtree(stage.output / f"checkpoint-{step}")
    go_on.set()
    stage.capture.finish(is_clean=True)
    assert stage.stored == [(f"checkpoint-{step}", trainer_files(step)) for step in range(1, 6)]


def test_a_store_that_is_away_for_a_moment_is_tried_again(stage: Stage) -> None:
    tries = []

    def fail_twice(found: Found) -> None:
        tries.append(found.name)
        if len(tries) < 3:
            raise StorageUnavailableError("away")

    stage.before_storing = fail_twice
    stage.save("checkpoint-5", trainer_files(5))
    report = stage.capture.finish(is_clean=True)
    assert stage.stored == [("checkpoint-5", trainer_files(5))]
    assert report.failures == ()


def test_what_the_store_refuses_is_reported_and_others_go_on(stage: Stage) -> None:
    def refuse(found: Found) -> None:
        if found.name == "checkpoint-5":
            raise IntegrityError("broken")

    stage.before_storing = refuse
    stage.save("checkpoint-5", trainer_files(5))
    stage.save("checkpoint-6", trainer_files(6))
    report = stage.capture.finish(is_clean=True)
    assert [name for name, _ in stage.stored] == ["checkpoint-6"]
    assert report.failures == ("checkpoint 'checkpoint-5' could not be stored: broken",)
    assert report.uncaptured == tuple(sorted(f"checkpoint-5/{name}" for name in trainer_files(5)))
    assert report.is_pinned, "it was found to be whole, and another try needs to know that"


def test_pins_that_are_all_that_is_left_of_a_checkpoint_are_kept(stage: Stage) -> None:
    def refuse(found: Found) -> None:
        shutil.rmtree(stage.output / found.name)
        raise IntegrityError("broken")

    stage.before_storing = refuse
    stage.save("checkpoint-5", trainer_files(5))
    report = stage.capture.finish(is_clean=True)
    assert report.is_pinned
    (pins,) = stage.pins.leftovers()
    held = {path: pins.local_path(path).read_bytes() for path in pins.paths()}
    assert held == {f"checkpoint-5/{name}": content for name, content in trainer_files(5).items()}


def test_a_path_that_no_checkpoint_can_hold_is_no_failure_of_the_store(stage: Stage) -> None:
    def refuse(found: Found) -> None:
        raise UnsafePathError("path 'a:b' has a character")

    stage.before_storing = refuse
    stage.save("checkpoint-5", trainer_files(5))
    report = stage.capture.finish(is_clean=True)
    assert report.failures == ()
    assert stage.notes == ["checkpoint 'checkpoint-5' cannot be captured: path 'a:b' has a character"]
    assert report.uncaptured


def test_a_checkpoint_that_changes_while_it_is_stored_is_stored_as_it_is_afterwards(stage: Stage) -> None:
    def change_once(found: Found) -> None:
        if found.files["model.safetensors"].read_bytes() == weights(5):
            stage.save("last", trainer_files(6))
            raise SourceChangedError("changed")

    stage.before_storing = change_once
    stage.save("last", trainer_files(5))
    stage.capture.finish(is_clean=True)
    assert stage.stored == [("last", trainer_files(6))]


def test_a_mistake_in_the_storing_is_raised_at_the_end_and_not_before(stage: Stage) -> None:
    def wrong(found: Found) -> None:
        if found.name == "checkpoint-5":
            raise ZeroDivisionError

    stage.before_storing = wrong
    stage.save("checkpoint-5", trainer_files(5))
    stage.save("checkpoint-6", trainer_files(6))
    with pytest.raises(ZeroDivisionError):
        stage.capture.finish(is_clean=True)
    assert [name for name, _ in stage.stored] == ["checkpoint-6"]


def test_a_folder_that_cannot_be_read_for_a_moment_does_not_end_the_watching(stage: Stage) -> None:
    if os.geteuid() == 0:
        # The superuser may read anything; a file in the directory's place fails for everybody.
        stage.output.rmdir()
        stage.output.write_text("in the way")
    else:
        stage.output.chmod(0)
    stage.capture.start()
    while not stage.notes:
        time.sleep(0.01)
    assert "could not be read for a moment" in stage.notes[0]
    if os.geteuid() == 0:
        stage.output.unlink()
        stage.output.mkdir()
    else:
        stage.output.chmod(0o700)
    stage.save("checkpoint-5", trainer_files(5))
    stage.wait_for(1)
    assert len(stage.notes) == 1


def test_what_is_in_no_checkpoint_is_reported(stage: Stage) -> None:
    stage.save("tmp-checkpoint-6", trainer_files(6))
    stage.save(".cache", {"download": b"cached"})
    stage.save("checkpoint-5", trainer_files(5) | {"optimizer.pt": archive(5)[:20]})
    stage.save("checkpoint-4", trainer_files(4) | {"left.tmp": b"over"})
    report = stage.capture.finish(is_clean=True)
    assert {path.partition("/")[0] for path in report.uncaptured} == {
        ".cache",
        "tmp-checkpoint-6",
        "checkpoint-5",
        "checkpoint-4",
    }
    assert "checkpoint-4/left.tmp" in report.uncaptured
    assert "checkpoint-4/model.safetensors" not in report.uncaptured
    assert any("'tmp-checkpoint-6' has the name of an unfinished checkpoint" in note for note in stage.notes)


def test_an_abandoned_capture_leaves_what_it_had_pinned(stage: Stage) -> None:
    go_on = threading.Event()
    stage.before_storing = lambda _found: wait_for(go_on)
    stage.capture.start()
    for step in (5, 6):
        stage.save(f"checkpoint-{step}", trainer_files(step))
    while not any(stage.pins.folder.glob("*/checkpoint-6/trainer_state.json")):
        time.sleep(0.01)
    abandoning = threading.Thread(target=stage.capture.abandon)
    abandoning.start()
    abandoning.join()
    go_on.set()
    assert any("checkpoint-6/trainer_state.json" in pins.paths() for pins in stage.pins.leftovers())


# What a runner that died has left.


def test_whole_checkpoints_of_a_dead_runner_are_stored_and_torn_ones_left(stage: Stage) -> None:
    stage.save("checkpoint-5", trainer_files(5))
    stage.save("checkpoint-6", trainer_files(6) | {"optimizer.pt": archive(6)[:20]})
    stage.save("run-1", unknown_files(1))
    report = salvage(stage.output, stage.pins, store=stage.store, note=stage.notes.append)
    assert stage.stored == [("checkpoint-5", trainer_files(5))]
    assert {path.partition("/")[0] for path in report.uncaptured} == {"checkpoint-6", "run-1"}


def test_pinned_checkpoints_of_a_dead_runner_are_stored_though_the_trainer_had_deleted_them(stage: Stage) -> None:
    stage.save("checkpoint-5", trainer_files(5))
    stage.save("torn-6", {"model.safetensors": weights(6)[:-1]})
    stage.save("part-7", {"model.safetensors": weights(7)})
    output = Beneath(stage.output)
    for name in ("checkpoint-5", "torn-6", "part-7"):
        stage.pins.new_set().refresh(output, listed(stage.output, name))
        shutil.rmtree(stage.output / name)
    stage.save("checkpoint-8", trainer_files(8))
    report = salvage(stage.output, stage.pins, store=stage.store, note=stage.notes.append)
    assert stage.stored == [("checkpoint-5", trainer_files(5)), ("checkpoint-8", trainer_files(8))]
    assert not report.uncaptured
    assert not stage.pins.folder.exists()


@pytest.mark.parametrize("has_written_on", [False, True])
def test_what_a_dead_runner_had_copied_is_stored_where_the_trainer_has_written_over_it_and_only_there(
    stage: Stage, has_written_on: bool
) -> None:
    stage.save(".", {"epoch=5-step=5.pt": archive(5), "last.pt": archive(5)})
    copied = stage.pins.new_set()
    copied.refresh(Beneath(stage.output), {"last.pt": Stamp.of((stage.output / "last.pt").lstat())})
    assert copied.own("last.pt", copied.stamp("last.pt"))
    if has_written_on:
        stage.save(".", {"epoch=6-step=6.pt": archive(6), "last.pt": archive(6)})
    salvage(stage.output, stage.pins, store=stage.store, note=stage.notes.append)
    there = sorted((path.name for path in stage.output.iterdir()), key=lambda name: name == "last.pt")
    assert [name for name, _ in stage.stored] == ["last.pt"] * has_written_on + there


def test_pins_of_a_dead_runner_are_kept_while_the_store_is_away(stage: Stage) -> None:
    def away(found: Found) -> None:
        raise IntegrityError("broken")

    stage.before_storing = away
    stage.save("checkpoint-5", trainer_files(5))
    stage.pins.new_set().refresh(Beneath(stage.output), listed(stage.output, "checkpoint-5"))
    shutil.rmtree(stage.output / "checkpoint-5")
    report = salvage(stage.output, stage.pins, store=stage.store, note=stage.notes.append)
    assert report.is_pinned
    (left,) = stage.pins.leftovers()
    assert len(left.paths()) == len(trainer_files(5))


def test_output_that_is_gone_leaves_nothing_to_store(stage: Stage) -> None:
    stage.output.rmdir()
    report = salvage(stage.output, stage.pins, store=stage.store, note=stage.notes.append)
    assert (report.failures, report.uncaptured, stage.stored) == ((), (), [])


def test_a_trainer_that_renames_its_files_is_captured_like_any_other(stage: Stage) -> None:
    stage.capture.start()
    save_by_rename(stage.output / "checkpoint-5", trainer_files(5), pause=0.05)
    stage.capture.finish(is_clean=True)
    assert stage.stored == [("checkpoint-5", trainer_files(5))]


@pytest.mark.parametrize("remove", [shutil.rmtree, lambda folder: folder.rename(f"{folder}.old")])
def test_an_output_directory_that_is_removed_and_made_again_is_watched_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, remove: Callable[[Path], object]
) -> None:
    # Only notices, or what takes their place, tell of it.
    monkeypatch.setattr("flexai.checkpoints.training.managed_capture._UNNOTICED_SECONDS", 3600)
    stage.capture.start()
    for step in (5, 10, 15):
        stage.save(f"checkpoint-{step}", trainer_files(step))
        stage.wait_for(step // 5)
        remove(stage.output)
        time.sleep(0.2)  # long enough for a look that finds nothing there
        shutil.rmtree(f"{stage.output}.old", ignore_errors=True)
        stage.output.mkdir()
    stage.capture.finish(is_clean=True)
    assert stage.stored == [(f"checkpoint-{step}", trainer_files(step)) for step in (5, 10, 15)]


def test_each_version_of_a_file_that_is_written_over_is_stored(stage: Stage) -> None:
    stage.capture.start()
    for step in (1, 2, 3):
        save(stage.output, {"ckpt.pt": archive(step)})
        stage.wait_for(step)
    report = stage.capture.finish(is_clean=False)
    assert stage.stored == [("ckpt.pt", {"ckpt.pt": archive(step)}) for step in (1, 2, 3)]
    assert (report.lost, report.uncaptured, report.is_pinned) == ((), (), False)


def test_what_was_written_just_before_a_failure_is_stored(stage: Stage) -> None:
    stage.capture.start()
    save(stage.output, {"ckpt.pt": archive(1), "ckpt-1.pt": archive(1), "train.log": b"1"})
    report = stage.capture.finish(is_clean=False)
    assert sorted(name for name, _ in stage.stored) == ["ckpt-1.pt", "ckpt.pt"]
    assert report.rest == ("train.log",)
    assert report.uncaptured == ()


def test_files_written_as_fast_as_can_be_are_stored_or_counted_as_lost(stage: Stage) -> None:
    stage.capture.start()
    for step in range(200):
        save(stage.output, {f"ckpt-{step}.pt": archive(step)})
        (stage.output / f"ckpt-{step - 1}.pt").unlink(missing_ok=True)
    report = stage.capture.finish(is_clean=True)
    # Only the kernel's notices tell of files that come and go between two looks.
    seen = len(stage.stored) + len(report.lost)
    assert seen == 200 if hasattr(fcntl, "F_SETLEASE") else 0 < seen <= 200


def test_links_and_second_names_are_reported_as_pointers(stage: Stage) -> None:
    save(stage.output, {"ckpt-1.pt": archive(1)})
    (stage.output / "last.pt").symlink_to("ckpt-1.pt")
    report = stage.capture.finish(is_clean=True)
    assert report.pointers == {"last.pt": "ckpt-1.pt"}
    assert report.uncaptured == ()
