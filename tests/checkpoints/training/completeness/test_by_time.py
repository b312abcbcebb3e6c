"""When a folder is handed over as a checkpoint: each test takes the looks itself, so nothing depends on time."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexai.checkpoints.training.completeness import candidates
from flexai.checkpoints.training.completeness.by_time import Watch
from flexai.checkpoints.training.completeness.candidates import Fate, Found
from flexai.checkpoints.training.notices import Notices
from flexai.checkpoints.training.pins import Pins
from tests.checkpoints.training import trainers
from tests.checkpoints.training.trainers import Files, archive, model_files, trainer_files, unknown_files, weights

QUIET = 5.0
_seconds = itertools.count(1_700_000_000)


def save(folder: Path, files: Files) -> None:
    """Save files, one a second, some time ago."""
    trainers.save(folder, files)
    for name in files:
        os.utime(folder / name, (0, next(_seconds)))


def save_by_rename(folder: Path, files: Files) -> None:
    """The same, each beside its name first."""
    for name, content in files.items():
        save(folder, {f"{name}.tmp": content})
        (folder / f"{name}.tmp").replace(folder / name)


class Scene:
    """An output directory, the watch over it, and what the watch has handed over."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "output"
        self.output.mkdir(parents=True)
        self.taken: list[tuple[str, Files]] = []
        self.found: list[Found] = []
        self.notes: list[str] = []
        self.pins = Pins(folder / "pins", self.notes.append)
        self.watch = Watch(self.output, self.pins, quiet_period=QUIET, take=self._take, note=self.notes.append)
        self.now = 100.0

    def _take(self, found: Found) -> None:
        self.found.append(found)
        self.taken.append((found.name, {path: local.read_bytes() for path, local in found.files.items()}))

    def look(self, times: int = 1, *, after: float = 0.1) -> None:
        """Look, each time ``after`` some seconds."""
        for _ in range(times):
            self.now += after
            self.watch.look(self.now)

    def sweep(self, *, is_clean: bool = True) -> None:
        """Look a last time and sweep."""
        self.now += 0.1
        self.watch.look(self.now)
        self.watch.sweep(self.now, is_clean=is_clean)

    def save(self, name: str, files: Files) -> None:
        """Save a checkpoint all at once."""
        save(self.output / name, files)

    def delete(self, name: str) -> None:
        """Delete a checkpoint."""
        shutil.rmtree(self.output / name)

    @property
    def names(self) -> list[str]:
        """The names of what was handed over, in order."""
        return [name for name, _ in self.taken]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_a_checkpoint_with_its_last_file_is_handed_over_at_once(scene: Scene) -> None:
    scene.save("checkpoint-5", trainer_files(5))
    scene.look()
    assert scene.taken == [("checkpoint-5", trainer_files(5))]


@pytest.mark.parametrize("name", ["checkpoint-5/optimizer.pt", "ckpt-5.pt"])
def test_what_a_process_has_open_for_writing_is_not_handed_over_until_it_is_closed(scene: Scene, name: str) -> None:
    scene.save("checkpoint-5", trainer_files(5))
    save(scene.output, {"ckpt-5.pt": archive(5)})
    with (scene.output / name).open("ab"):
        scene.look(10, after=QUIET)
        assert len(scene.taken) == 1
    scene.look()
    assert sorted(scene.names) == ["checkpoint-5", "ckpt-5.pt"]


def test_where_the_system_does_not_tell_who_writes_two_looks_must_see_the_same(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(fcntl, "F_SETLEASE")
    scene.save("checkpoint-5", trainer_files(5))
    scene.look()
    assert scene.taken == []
    scene.look()
    assert scene.taken == [("checkpoint-5", trainer_files(5))]


@pytest.mark.parametrize("ending", ["two looks", "a deletion", "the end"])
def test_checkpoints_found_together_are_handed_over_in_the_order_of_their_writing(scene: Scene, ending: str) -> None:
    for step in (9, 10, 100, 11):
        scene.save(f"checkpoint-{step}", trainer_files(step))
        os.utime(scene.output / f"checkpoint-{step}", ns=(0, len(list(scene.output.iterdir()))))
        for path in (scene.output / f"checkpoint-{step}").iterdir():
            os.utime(path, ns=(0, len(list(scene.output.iterdir()))))
    save(scene.output, model_files(11))
    if ending == "the end":
        scene.sweep()
    else:
        scene.look()
        if ending == "a deletion":
            for folder in [path for path in scene.output.iterdir() if path.is_dir()]:
                scene.delete(folder.name)
        scene.look()
    assert scene.names[:4] == ["checkpoint-9", "checkpoint-10", "checkpoint-100", "checkpoint-11"]
    assert scene.names[4:] == ([""] if ending == "the end" else [])


def test_a_copy_of_the_same_tick_of_the_clock_comes_after_what_it_is_a_copy_of(scene: Scene) -> None:
    for name in ("epoch=9-step=9.ckpt", "last.ckpt"):
        save(scene.output, {name: trainers.lightning_file(9)})
        os.utime(scene.output / name, ns=(0, 1))
    scene.sweep()
    assert scene.names[0] == "epoch=9-step=9.ckpt"


def test_a_checkpoint_is_handed_over_once(scene: Scene) -> None:
    scene.save("checkpoint-5", trainer_files(5))
    scene.look(200)
    scene.sweep()
    assert scene.names == ["checkpoint-5"]


def test_a_checkpoint_that_grows_from_look_to_look_waits_until_it_is_whole(scene: Scene) -> None:
    for name, content in trainer_files(5).items():
        scene.save("checkpoint-5", {name: content[:10]})
        scene.look(2)
        scene.save("checkpoint-5", {name: content})
        scene.look(2)
    assert scene.taken == [("checkpoint-5", trainer_files(5))]


def test_a_torn_checkpoint_is_never_handed_over(scene: Scene) -> None:
    files = trainer_files(5)
    scene.save("checkpoint-5", files | {"optimizer.pt": archive(5)[:-10]})
    scene.look(1000)
    scene.sweep()
    assert scene.taken == []
    assert any("'checkpoint-5' is not whole" in note and "optimizer.pt" in note for note in scene.notes)


def test_a_folder_of_unknown_format_waits_for_the_quiet_period(scene: Scene) -> None:
    scene.save("run-1", unknown_files(1))
    scene.look(2)
    scene.look(after=QUIET - 0.2)
    assert scene.taken == []
    scene.look(after=0.2)
    assert scene.taken == [("run-1", unknown_files(1))]


def test_writing_goes_on_and_the_quiet_period_begins_anew(scene: Scene) -> None:
    for step in range(1, 4):
        scene.save("run-1", unknown_files(step))
        scene.look(2, after=QUIET - 0.1)
    assert scene.names == []
    scene.look(after=QUIET)
    assert scene.taken == [("run-1", unknown_files(3))]


def test_whole_files_of_a_format_without_a_last_file_wait_for_the_quiet_period(scene: Scene) -> None:
    scene.save("step-1", {"model.safetensors": weights(1)})
    scene.look(5)
    scene.save("step-1", {"optimizer.pt": archive(1)})
    scene.look(5)
    assert scene.taken == []
    scene.look(after=QUIET)
    assert scene.taken == [("step-1", {"model.safetensors": weights(1), "optimizer.pt": archive(1)})]


def test_a_checkpoint_deleted_after_one_look_is_handed_over_from_its_pins(scene: Scene) -> None:
    scene.save("checkpoint-5", trainer_files(5))
    scene.look()
    scene.delete("checkpoint-5")
    scene.look()
    assert scene.taken == [("checkpoint-5", trainer_files(5))]


def test_a_checkpoint_handed_over_can_be_read_after_its_deletion(scene: Scene) -> None:
    scene.save("checkpoint-5", trainer_files(5))
    scene.look(2)
    scene.delete("checkpoint-5")
    scene.look()
    (found,) = scene.found
    assert found.is_unchanged()
    assert {path: local.read_bytes() for path, local in found.files.items()} == trainer_files(5)


def test_a_folder_of_unknown_format_seen_twice_is_handed_over_when_it_is_deleted(scene: Scene) -> None:
    scene.save("run-1", unknown_files(1))
    scene.look(2)
    scene.delete("run-1")
    scene.look()
    assert scene.taken == [("run-1", unknown_files(1))]


def test_a_folder_of_unknown_format_seen_once_may_have_lacked_a_file(scene: Scene) -> None:
    scene.save("run-1", unknown_files(1))
    scene.look()
    scene.delete("run-1")
    scene.look()
    assert scene.taken == []
    assert any("'run-1' was deleted before it was seen whole" in note for note in scene.notes)


def test_a_file_that_grew_after_the_last_look_shows_that_others_may_have_come(scene: Scene) -> None:
    scene.save("step-1", {"model.safetensors": weights(1)[:-10]})
    scene.look(2)
    scene.save("step-1", {"model.safetensors": weights(1), "optimizer.pt": archive(1)})
    scene.delete("step-1")
    scene.look()
    assert scene.taken == []


def test_a_torn_folder_that_is_deleted_is_not_handed_over(scene: Scene) -> None:
    scene.save("checkpoint-5", {"model.safetensors": weights(5)[:-1]})
    scene.look(3)
    scene.delete("checkpoint-5")
    scene.look()
    assert scene.taken == []
    assert not any(scene.pins.folder.rglob("*"))


def test_what_is_left_in_the_middle_of_a_deletion_is_no_checkpoint(scene: Scene) -> None:
    files = {"model.safetensors": weights(5), "optimizer.pt": archive(5)}
    scene.save("step-5", files)
    scene.look(2)
    (scene.output / "step-5" / "optimizer.pt").unlink()
    scene.look(10)  # what is left has all that its format asks for
    assert scene.taken == []
    scene.delete("step-5")
    scene.look()
    assert scene.taken == [("step-5", files)]


def test_a_deletion_that_stalls_leaves_the_whole_checkpoint_to_be_captured(scene: Scene) -> None:
    scene.save("run-1", unknown_files(1))
    scene.look(2)
    (scene.output / "run-1" / "net.weights").unlink()
    scene.look(3, after=QUIET)
    assert scene.taken == [("run-1", unknown_files(1))]


def test_a_deletion_cut_off_by_the_end_leaves_the_whole_checkpoint_to_be_captured(scene: Scene) -> None:
    scene.save("checkpoint-5", trainer_files(5))
    scene.look()
    (scene.output / "checkpoint-5" / "optimizer.pt").unlink()
    scene.sweep(is_clean=False)
    assert scene.taken == [("checkpoint-5", trainer_files(5))]


def test_files_deleted_after_the_capture_are_no_new_checkpoint(scene: Scene) -> None:
    scene.save("checkpoint-5", trainer_files(5))
    scene.look(2)
    (scene.output / "checkpoint-5" / "optimizer.pt").unlink()
    scene.look(5, after=QUIET)
    scene.sweep()
    assert scene.names == ["checkpoint-5"]


def test_a_folder_rewritten_in_place_is_handed_over_again_when_its_last_file_is_the_youngest(scene: Scene) -> None:
    scene.save("last", trainer_files(5))
    scene.look(2)
    for name, content in trainer_files(6).items():
        scene.look(3)
        assert scene.names == ["last"]
        scene.save("last", {name: content})
    scene.look()
    assert scene.taken == [("last", trainer_files(5)), ("last", trainer_files(6))]


def test_a_folder_whose_files_are_all_rewritten_is_handed_over_again_soon(scene: Scene) -> None:
    for step in (5, 6):
        scene.save("state", {"model.safetensors": weights(step), "optimizer.pt": archive(step)})
        scene.look(after=QUIET if step == 5 else 0.1)
        scene.look(after=QUIET if step == 5 else 1.0)
    assert len(scene.names) == 2


def test_a_checkpoint_rewritten_in_place_just_before_the_end_is_handed_over_again(scene: Scene) -> None:
    scene.save("last", trainer_files(5))
    scene.look(2)
    scene.save("last", trainer_files(6))
    scene.sweep()
    assert scene.taken == [("last", trainer_files(5)), ("last", trainer_files(6))]


def test_half_old_and_half_new_files_are_no_checkpoint_though_each_is_whole(scene: Scene) -> None:
    scene.save("last", trainer_files(5))
    scene.look(2)
    for name, content in trainer_files(6).items():
        save_by_rename(scene.output / "last", {name: content})
        scene.look(20)  # two seconds: shorter than the quiet period
    scene.look(after=QUIET)
    assert scene.taken == [("last", trainer_files(5)), ("last", trainer_files(6))]


def test_a_folder_first_seen_while_it_is_rewritten_waits_for_the_quiet_period(scene: Scene) -> None:
    scene.save("last", trainer_files(5))
    save_by_rename(scene.output / "last", {"model.safetensors": weights(6)})
    os.utime(scene.output / "last" / "model.safetensors")
    with (scene.output / "last" / "optimizer.pt").open("ab"):
        scene.look(20)
    save_by_rename(scene.output / "last", {"model.safetensors": weights(7)})
    scene.look(20)
    assert scene.taken == []
    save_by_rename(scene.output / "last", trainer_files(8))
    scene.look(3, after=QUIET)
    assert scene.taken == [("last", trainer_files(8))]


def test_half_old_and_half_new_files_are_not_captured_when_the_command_dies(scene: Scene) -> None:
    scene.save("last", trainer_files(5))
    scene.look(2)
    save_by_rename(scene.output / "last", {"model.safetensors": weights(6)})
    scene.sweep(is_clean=False)
    assert scene.taken == [("last", trainer_files(5))]
    assert any("'last' was still being written" in note for note in scene.notes)


def test_a_folder_deleted_and_made_again_between_two_looks_is_two_checkpoints(scene: Scene) -> None:
    scene.save("best", unknown_files(5))
    scene.look(2)
    scene.delete("best")
    scene.save("best", unknown_files(6))
    scene.look(3)
    scene.sweep()
    assert scene.taken == [("best", unknown_files(5)), ("best", unknown_files(6))]


def test_a_single_file_replaced_by_rename_is_a_checkpoint_each_time(scene: Scene) -> None:
    for step in (1, 2, 3):
        save_by_rename(scene.output / "last", {"model.safetensors": weights(step)})
        scene.look(2)
    scene.sweep()
    assert scene.taken == [("last", {"model.safetensors": weights(step)}) for step in (1, 2, 3)]


def test_nested_folders_belong_to_their_checkpoint(scene: Scene) -> None:
    files = trainer_files(5) | {"global_step5/mp_rank_00_model_states.pt": archive(5)}
    scene.save("checkpoint-5", files)
    scene.look(2)
    scene.sweep()
    assert scene.taken == [("checkpoint-5", files)]


def test_files_in_the_root_form_one_checkpoint_that_waits_for_the_quiet_period(scene: Scene) -> None:
    scene.save("checkpoint-5", trainer_files(5))
    save(scene.output, model_files(5))
    scene.look(10)
    assert scene.names == ["checkpoint-5"]
    scene.look(after=QUIET)
    assert scene.taken[1:] == [("", model_files(5))]


def test_the_root_is_captured_at_the_end_without_waiting(scene: Scene) -> None:
    save(scene.output, model_files(5))
    scene.sweep()
    assert scene.taken == [("", model_files(5))]


def test_the_root_as_it_was_before_a_file_was_deleted_is_not_captured(scene: Scene) -> None:
    save(scene.output, {"model.safetensors": weights(1), "optimizer.pt": archive(2)})
    scene.look(2)
    (scene.output / "model.safetensors").unlink()
    scene.look(3, after=QUIET)
    assert scene.taken == [("", {"optimizer.pt": archive(2)})]


@pytest.mark.parametrize(
    "name", ["tmp-checkpoint-5", ".tmp-checkpoint-5", "checkpoint-5.tmp", "5.orbax-checkpoint-tmp-17", ".cache"]
)
def test_a_folder_with_a_temporary_name_is_no_checkpoint(scene: Scene, name: str) -> None:
    scene.save(name, trainer_files(5))
    scene.look(3, after=QUIET)
    scene.sweep()
    assert scene.taken == []


def test_a_folder_that_loses_its_temporary_name_is_a_checkpoint(scene: Scene) -> None:
    scene.save("tmp-checkpoint-5", trainer_files(5))
    scene.look(2)
    (scene.output / "tmp-checkpoint-5").rename(scene.output / "checkpoint-5")
    scene.look(2)
    assert scene.taken == [("checkpoint-5", trainer_files(5))]


def test_a_renamed_checkpoint_is_captured_under_both_names(scene: Scene) -> None:
    scene.save("checkpoint-5", trainer_files(5))
    scene.look()
    (scene.output / "checkpoint-5").rename(scene.output / "best")
    scene.look(2)
    assert sorted(scene.names) == ["best", "checkpoint-5"]


def test_a_file_with_a_temporary_name_holds_its_checkpoint_up_and_is_no_part_of_it(scene: Scene) -> None:
    scene.save("checkpoint-5", trainer_files(5) | {"optimizer.pt.tmp": b"half"})
    scene.look(10)
    assert scene.taken == []
    scene.look(after=QUIET)
    assert scene.taken == [("checkpoint-5", trainer_files(5))]


def test_a_temporary_file_that_grows_keeps_a_folder_from_being_quiet(scene: Scene) -> None:
    scene.save("run-1", unknown_files(1))
    for size in range(1, 5):
        scene.save("run-1", {"more.tmp": b"x" * size})
        scene.look(after=QUIET - 0.1)
    assert scene.taken == []


def test_a_symbolic_link_that_leads_elsewhere_is_left_out_of_its_checkpoint(scene: Scene, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not ours")
    scene.save("checkpoint-5", trainer_files(5))
    (scene.output / "checkpoint-5" / "extra.txt").symlink_to(secret)
    scene.save("checkpoint-6", trainer_files(6))
    scene.look(3)
    scene.sweep()
    assert scene.taken == [("checkpoint-5", trainer_files(5)), ("checkpoint-6", trainer_files(6))]
    assert scene.notes == ["'checkpoint-5/extra.txt' is a link that leads elsewhere, so it is left out"]


def test_a_checkpoint_is_captured_once_the_link_in_it_is_gone(scene: Scene) -> None:
    scene.save("checkpoint-5", trainer_files(5))
    link = scene.output / "checkpoint-5" / "latest"
    link.symlink_to("model.safetensors")
    scene.look(3)
    link.unlink()
    scene.look(2)
    assert scene.taken == [("checkpoint-5", trainer_files(5))]


def test_a_link_in_the_root_that_points_at_a_checkpoint_is_left_alone(scene: Scene) -> None:
    scene.save("checkpoint-5", trainer_files(5))
    save(scene.output, model_files(5))
    (scene.output / "latest").symlink_to("checkpoint-5")
    scene.look(2)
    scene.sweep()
    assert sorted(scene.names) == ["", "checkpoint-5"]
    assert scene.notes == []


def test_a_pipe_in_a_checkpoint_is_left_out_and_never_opened(scene: Scene) -> None:
    scene.save("checkpoint-5", trainer_files(5))
    os.mkfifo(scene.output / "checkpoint-5" / "pipe")
    scene.look(3)
    assert scene.taken == [("checkpoint-5", trainer_files(5))]
    assert scene.notes == ["'checkpoint-5/pipe' is neither a file nor a folder, so it is left out"]


def test_a_folder_whose_name_cannot_be_shown_is_refused(scene: Scene) -> None:
    scene.save("check\npoint", trainer_files(5))
    scene.look(3)
    assert scene.taken == []
    assert "cannot be shown" in scene.notes[0]


def test_an_empty_folder_is_nothing(scene: Scene) -> None:
    (scene.output / "checkpoint-5").mkdir()
    scene.look(3, after=QUIET)
    scene.sweep()
    assert (scene.taken, scene.notes) == ([], [])


def test_an_output_directory_that_is_deleted_for_a_moment_is_empty_for_a_moment(scene: Scene) -> None:
    scene.save("checkpoint-5", trainer_files(5))
    scene.look(2)
    shutil.rmtree(scene.output)
    scene.look(2)
    scene.save("checkpoint-6", trainer_files(6))
    scene.look(2)
    assert scene.names == ["checkpoint-5", "checkpoint-6"]


def test_a_checkpoint_that_changed_before_it_was_stored_is_looked_at_again(scene: Scene) -> None:
    scene.save("checkpoint-5", trainer_files(5))
    scene.look(2)
    (found,) = scene.found
    scene.save("checkpoint-5", trainer_files(6))
    assert not found.is_unchanged()
    found.fate = Fate.CHANGED
    assert not scene.watch.is_settled()
    scene.look(2)
    scene.look(after=QUIET)
    assert scene.taken[1:] == [("checkpoint-5", trainer_files(6))]
    assert scene.watch.is_settled()


@pytest.mark.parametrize("files", [trainer_files(5), model_files(5)], ids=["with its last file", "without one"])
def test_after_a_failure_what_its_format_calls_whole_is_captured(scene: Scene, files: Files) -> None:
    scene.save("step-5", files)
    scene.sweep(is_clean=False)
    assert scene.taken == [("step-5", files)]


def test_after_a_failure_a_folder_of_unknown_format_is_captured_only_if_it_was_quiet(scene: Scene) -> None:
    scene.save("old", unknown_files(1))
    scene.look()
    scene.now += QUIET
    scene.save("new", unknown_files(2))
    scene.sweep(is_clean=False)
    assert scene.names == ["old"]
    assert any("'new' was still being written" in note for note in scene.notes)


def test_after_a_success_a_folder_of_unknown_format_is_captured(scene: Scene) -> None:
    scene.save("new", unknown_files(2))
    scene.sweep()
    assert scene.taken == [("new", unknown_files(2))]


_STEPS = st.lists(
    st.tuples(st.sampled_from(["look", "write", "write", "delete", "rename", "quiet"]), st.integers(1, 3)), max_size=50
)


@given(steps=_STEPS, files_of=st.sampled_from([trainer_files, unknown_files]))
@settings(max_examples=150, deadline=None)
def test_whatever_happens_between_two_looks_nothing_torn_is_handed_over(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[str, int]],
    files_of: Callable[[int], Files],
) -> None:
    """A trainer that saves file by file, deletes and renames what it has saved, and is killed at the end."""
    scene = Scene(tmp_path_factory.mktemp("scene"))
    written: dict[int, int] = {}
    begun: set[int] = set()
    seen: set[int] = set()
    for action, step in steps:
        files = files_of(step)
        names = list(files)
        folder = scene.output / f"checkpoint-{step}"
        is_whole = written.get(step) == len(names)
        if action == "write" and written.get(step, 0) < len(names):
            name = names[written.get(step, 0)]
            save(folder, {name: files[name]})
            written[step] = written.get(step, 0) + 1
        elif action == "delete" and is_whole and (step in seen or (files_of is trainer_files and step not in begun)):
            # Between two looks a checkpoint may come and go, but not be finished and go.
            scene.delete(folder.name)
            written[step] = len(names) + 1
        elif action == "rename" and is_whole and step in seen:
            folder.rename(folder.with_name(f"kept-{step}"))
            written[step] = len(names) + 1
        elif action in {"look", "quiet"}:
            is_saving = any(count < len(files_of(one)) for one, count in written.items())
            # No save takes a pause that is longer than the quiet period.
            scene.look(2 if action == "quiet" else 1, after=0.1 if is_saving or action == "look" else QUIET)
            begun |= set(written)
            seen |= {one for one, count in written.items() if count == len(files_of(one))}
    scene.sweep(is_clean=False)
    for name, files in scene.taken:
        step = int(name.rpartition("-")[2])
        whole = files_of(step)
        assert all(content == whole[path] for path, content in files.items())
        was_killed_while_saving = written[step] < len(whole)
        assert files.keys() == whole.keys() or (was_killed_while_saving and files_of is trainer_files)
    if files_of is trainer_files:
        assert {int(name.rpartition("-")[2]) for name in scene.names} >= seen


# Versions of one name.


def test_a_file_that_is_written_over_is_a_checkpoint_each_time_it_is_closed(scene: Scene) -> None:
    for step in (1, 2, 3):
        save(scene.output, {"ckpt.pt": archive(step)})
        scene.look()
    assert scene.taken == [("ckpt.pt", {"ckpt.pt": archive(step)}) for step in (1, 2, 3)]
    assert all(found.may_be_rewritten for found in scene.found)


def test_a_file_that_was_just_written_and_may_be_written_over_waits_for_the_clock(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers.save(scene.output, {"ckpt.pt": archive(1), "ckpt-1.pt": archive(1)})
    monkeypatch.setattr(candidates, "_CLOCK_SECONDS", 3600.0)
    scene.look()
    assert scene.names == ["ckpt-1.pt"]
    monkeypatch.setattr(candidates, "_CLOCK_SECONDS", 0.0)
    scene.look()
    assert scene.names == ["ckpt-1.pt", "ckpt.pt"]


def test_versions_that_come_and_go_between_two_looks_are_counted_as_lost(scene: Scene) -> None:
    save(scene.output, {"ckpt.pt": archive(3)})
    scene.now += 1
    scene.watch.look(scene.now, Notices({""}, {"ckpt.pt": 3}))
    assert scene.names == ["ckpt.pt"]
    assert len(scene.watch.lost) == 2
    assert "a version of checkpoint 'ckpt.pt' is lost" in scene.watch.lost[0]


def test_a_version_that_was_written_over_before_it_was_stored_is_counted_as_lost(scene: Scene) -> None:
    save(scene.output, {"ckpt.pt": archive(1)})
    scene.look()
    save(scene.output, {"ckpt.pt": archive(2)})
    (found,) = scene.found
    assert not found.secure()
    found.fate = Fate.CHANGED
    scene.look(2)
    assert scene.taken[-1] == ("ckpt.pt", {"ckpt.pt": archive(2)})
    assert len(scene.watch.lost) == 1


def test_a_version_that_was_copied_outlives_what_is_written_over_it(scene: Scene) -> None:
    save(scene.output, {"ckpt.pt": archive(1)})
    scene.look()
    (found,) = scene.found
    assert found.secure()
    save(scene.output, {"ckpt.pt": archive(2)})
    assert found.is_unchanged()
    assert found.files["ckpt.pt"].read_bytes() == archive(1)


def test_a_file_under_a_second_name_is_a_pointer(scene: Scene) -> None:
    save(scene.output, {"ckpt-1.pt": archive(1)})
    scene.look()
    os.link(scene.output / "ckpt-1.pt", scene.output / "last.pt")
    scene.look(2)
    (scene.output / "ckpt-1.pt").unlink()
    scene.look(2)
    assert scene.names == ["ckpt-1.pt"]
    assert scene.watch.pointers == {"last.pt": "ckpt-1.pt"}


def test_a_file_that_is_renamed_is_captured_under_both_names(scene: Scene) -> None:
    save(scene.output, {"new.pt": archive(1)})
    scene.look()
    (scene.output / "new.pt").rename(scene.output / "ckpt-1.pt")
    scene.look(2)
    assert scene.names == ["new.pt", "ckpt-1.pt"]


def test_a_file_below_the_root_waits_a_moment_for_those_that_make_it_a_part(scene: Scene) -> None:
    save(scene.output / "last", {"state.pt": archive(1)})
    scene.look()
    assert scene.taken == []
    save(scene.output / "last", {"optimizer.pt": archive(1)})
    scene.look(after=QUIET)
    scene.look(after=QUIET)
    assert scene.taken == [("last", {"optimizer.pt": archive(1), "state.pt": archive(1)})]


def test_logs_make_no_checkpoint_and_delay_none(scene: Scene) -> None:
    for second in range(3):
        save(scene.output, {"metrics.csv": b"1,2\n" * second, "train.log": b"x" * second})
        save(scene.output, {f"ckpt-{second}.pt": archive(second)})
        scene.look()
    assert scene.names == [f"ckpt-{second}.pt" for second in range(3)]
    assert scene.watch.rest() == ["metrics.csv", "train.log"]


def test_what_came_and_went_between_two_looks_is_counted_as_lost(scene: Scene) -> None:
    scene.now += 1
    closed = {"ckpt-1.pt": 1, "train.log": 1, "wandb/model.pt": 1}
    scene.watch.look(scene.now, Notices({""}, closed, {"checkpoint-5", "runs", "tmp-checkpoint-6"}))
    assert [sentence.partition(" is lost")[0] for sentence in scene.watch.lost] == [
        "a version of checkpoint 'ckpt-1.pt'",
        "a version of checkpoint 'checkpoint-5'",
    ]


def test_a_folder_that_was_empty_when_it_was_seen_and_is_gone_since_is_counted_as_lost_where_it_was_filled(
    scene: Scene,
) -> None:
    for name in ("checkpoint-5", "checkpoint-6", "runs"):
        (scene.output / name).mkdir()
    scene.look()
    for name in ("checkpoint-5", "checkpoint-6", "runs"):
        (scene.output / name).rmdir()
    closed = {"checkpoint-5/model.safetensors": 1, "checkpoint-5/rank/rng.pkl": 1, "runs/events.log": 1}
    scene.watch.look(scene.now, Notices({"", "checkpoint-5", "checkpoint-6", "runs"}, closed))
    assert [sentence.partition(" is lost")[0] for sentence in scene.watch.lost] == [
        "a version of checkpoint 'checkpoint-5'"
    ]


def _pair(step: int) -> Files:
    return {"model.pt": archive(step), "optimizer.pt": archive(step + 100)}


def test_a_folder_without_a_last_file_that_is_written_over_is_a_checkpoint_each_time_it_had_settled(
    scene: Scene,
) -> None:
    for step in (1, 2, 3):
        save(scene.output, _pair(step))
        scene.look()
        scene.look(after=2.0)
    scene.sweep()
    assert scene.taken == [("", _pair(step)) for step in (1, 2, 3)]


def test_a_folder_that_had_settled_and_then_grows_was_not_whole(scene: Scene) -> None:
    save(scene.output, {"optimizer.pt": archive(1)})
    scene.look()
    scene.look(after=2.0)
    save(scene.output, {"model.pt": archive(1)})
    scene.look()
    scene.look(after=QUIET)
    assert scene.taken == [("", {"model.pt": archive(1), "optimizer.pt": archive(1)})]
    scene.sweep()
    assert len(scene.taken) == 1


def test_a_folder_that_had_settled_and_is_deleted_was_whole(scene: Scene) -> None:
    save(scene.output / "state", _pair(1))
    scene.look()
    scene.look(after=2.0)
    scene.delete("state")
    scene.look()
    assert scene.taken == [("state", _pair(1))]


@pytest.mark.parametrize("missed", [False, True])
def test_a_folder_deleted_after_one_look_was_whole_unless_a_file_of_it_was_never_seen(
    scene: Scene, missed: bool
) -> None:
    files = {"model.safetensors": weights(1), "optimizer.bin": archive(1), "random_states_0.pkl": archive(2)}
    scene.save("checkpoint_1", files)
    scene.look()
    scene.delete("checkpoint_1")
    closed = {"checkpoint_1/custom_checkpoint_0.pkl": 1} if missed else {}
    scene.watch.look(scene.now, Notices({"checkpoint_1", ""}, closed))
    assert scene.taken == ([] if missed else [("checkpoint_1", files)])
    assert len(scene.watch.lost) == missed


def test_a_version_that_was_closed_while_the_next_one_was_written_is_counted_as_lost(scene: Scene) -> None:
    save(scene.output, {"ckpt.pt": archive(1)})
    with (scene.output / "ckpt.pt").open("ab"):
        scene.watch.look(scene.now, Notices({""}, {"ckpt.pt": 1}))
    save(scene.output, {"ckpt.pt": archive(2)})
    scene.watch.look(scene.now, Notices({""}, {"ckpt.pt": 1}))
    assert scene.taken == [("ckpt.pt", {"ckpt.pt": archive(2)})]
    assert len(scene.watch.lost) == 1


def test_a_file_with_a_number_that_is_closed_twice_was_completed_and_not_replaced(scene: Scene) -> None:
    save(scene.output, {"model_1.pt": archive(1)})
    scene.watch.look(scene.now, Notices({""}, {"model_1.pt": 2}))
    assert scene.names == ["model_1.pt"]
    assert scene.watch.lost == []


@pytest.mark.parametrize(("beside", "lost"), [("last.pt", 1), ("ckpt-1.pt", 0)])
def test_what_may_be_a_copy_counts_as_a_version_where_no_original_lies_beside_it(
    scene: Scene, beside: str, lost: int
) -> None:
    save(scene.output, {"best.pt": archive(2), beside: archive(3)})
    scene.watch.look(scene.now, Notices({""}, {"best.pt": 2, beside: 1}))
    assert sorted(scene.names) == sorted(["best.pt", beside])
    assert len(scene.watch.lost) == lost
