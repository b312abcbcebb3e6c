"""What else lies where a checkpoint is fetched or exported to: it is told of, and removed where that was asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexai.checkpoints.errors import (
    AccessDeniedError,
    DestinationExistsError,
    ExtraFilesError,
    RequestError,
    UsageError,
)
from flexai.checkpoints.service.preview import preview_export, preview_fetch
from flexai.checkpoints.service.requests import ExportRequest, FetchRequest
from flexai.checkpoints.storage.checks import PARTIAL_SUFFIX
from flexai.checkpoints.transfer.extra import MOST_EXTRA, find_extra
from flexai.checkpoints.transfer.partial_files import partial_path
from flexai.checkpoints.transfer.steps import Action
from tests.hostile.swaps import swap
from tests.support.faults import Call
from tests.support.jobs import begin_job, capture_files
from tests.support.machine import Machine
from tests.support.training import Notes
from tests.support.trees import Tree, read_tree

OLD: Tree = {"config.json": b"old", "model/a.bin": b"a" * 50_000, "model/b.bin": b"b", "only/old.bin": b"x"}
NEW: Tree = {"config.json": b"old", "model/a.bin": b"a" * 50_000, "new.bin": b"n"}
EXTRA = ["model/b.bin", "only/old.bin"]
DELETE: dict[str, Any] = {"delete_extra": True, "force": True}


@pytest.fixture
def pushed(machine: Machine) -> Machine:
    """A machine with two checkpoints, of which the older one was fetched and exported."""
    machine.push("old", machine.write("old-files", OLD))
    machine.push("new", machine.write("new-files", NEW))
    machine.fetch("old")
    machine.export("old")
    machine.storage.reset()
    machine.buckets.storage.reset()
    return machine


def out(machine: Machine) -> Path:
    return machine.root / "out"


def place(machine: Machine) -> Path:
    return machine.buckets.root / "bucket" / "place"


# A fetch


def test_a_fetch_over_something_else_tells_what_lies_there_and_leaves_it(pushed: Machine) -> None:
    notes = Notes()
    report = pushed.fetch("new", progress=notes)
    assert notes.messages == [
        f"'model/b.bin' and 1 more in {out(pushed)} are no part of 'new': --delete-extra removes them"
    ]
    assert (report.extra_files, report.deleted_files) == (2, 0)
    assert read_tree(out(pushed)) == OLD | NEW


def test_a_fetch_into_a_folder_of_its_own_tells_nothing(pushed: Machine) -> None:
    notes = Notes()
    pushed.fetch("new", "fresh", progress=notes)
    pushed.fetch("new", "fresh", progress=notes)
    assert notes.messages == []


def test_what_is_no_part_of_the_checkpoint_goes_and_so_do_the_folders_that_it_was_in(pushed: Machine) -> None:
    (out(pushed) / "empty" / "deep").mkdir(parents=True)
    (out(pushed) / "link").symlink_to(pushed.root / "old-files")
    notes = Notes()
    report = pushed.fetch("new", progress=notes, **DELETE)
    assert (report.extra_files, report.deleted_files) == (0, 4)
    assert read_tree(out(pushed)) == NEW
    assert {path.name for path in out(pushed).iterdir()} == {"config.json", "model", "new.bin"}
    assert read_tree(pushed.root / "old-files") == OLD
    assert notes.messages == []


def test_without_an_answer_nothing_is_deleted_nor_fetched(pushed: Machine) -> None:
    with pytest.raises(ExtraFilesError, match=r"'model/b\.bin', 'only/old\.bin'") as caught:
        pushed.fetch("new", delete_extra=True)
    assert list(caught.value.paths) == EXTRA
    assert read_tree(out(pushed)) == OLD


def test_where_nothing_was_fetched_before_nothing_is_deleted(pushed: Machine) -> None:
    mine = pushed.write("mine", {"thesis.tex": b"years of work"})
    with pytest.raises(DestinationExistsError, match="where no checkpoint was fetched or exported to before"):
        pushed.fetch("new", "mine", **DELETE)
    assert read_tree(mine) == {"thesis.tex": b"years of work"}
    notes = Notes()
    pushed.fetch("new", "mine", progress=notes)
    assert notes.messages == [f"'thesis.tex' in {mine} is no part of 'new'"]


def test_a_folder_that_was_made_anew_since_was_not_fetched_to(pushed: Machine) -> None:
    out(pushed).rename(pushed.root / "kept")
    pushed.write("out", {"mine": b"x"})
    with pytest.raises(DestinationExistsError):
        pushed.fetch("new", **DELETE)


@pytest.mark.parametrize("inside", ["home", "store", "users"])
def test_a_folder_that_flexai_or_its_user_lives_in_is_never_cleared(
    pushed: Machine, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(pushed.root / "user"))
    folder = {"home": pushed.settings.home, "store": pushed.store_folder, "users": pushed.root / "user"}[inside]
    folder.mkdir(exist_ok=True)
    (folder / "mine").write_text("x")
    for target in (folder, folder.parent):
        place = os.path.relpath(target, pushed.root)
        is_own = target in (pushed.settings.home, pushed.store_folder)
        if not is_own:
            pushed.fetch("new", place)
        with pytest.raises(UsageError if is_own else DestinationExistsError):
            pushed.fetch("new", place, **DELETE)
    assert (folder / "mine").read_text() == "x"


def test_empty_folders_of_the_checkpoint_stay_and_others_go(pushed: Machine) -> None:
    source = pushed.root / "new-files"
    (source / "logs").mkdir()
    pushed.push("dressed", source)
    (out(pushed) / "logs").mkdir()
    (out(pushed) / "logs" / "old.log").write_text("x")
    pushed.fetch("dressed", **DELETE)
    assert {path.name for path in out(pushed).iterdir() if path.is_dir()} == {"model", "logs"}
    assert pushed.fetch("dressed", **DELETE).deleted_files == 0


def test_what_an_interrupted_fetch_left_of_the_same_files_is_no_leftover(pushed: Machine) -> None:
    (file,) = [one for one in pushed.system.blobs.files_of(pushed.checkpoint("new").id) if one.path == "model/a.bin"]
    left = out(pushed) / partial_path(file.path, file.content)
    left.write_bytes(b"")
    other = out(pushed) / f".other.0123{PARTIAL_SUFFIX}"
    other.write_bytes(b"")
    with pytest.raises(ExtraFilesError) as caught:
        pushed.fetch("new", delete_extra=True)
    assert set(caught.value.paths) == {*EXTRA, other.name}


def test_a_link_that_a_fetch_makes_is_no_leftover(machine: Machine) -> None:
    captured = capture_files(machine, begin_job(machine, "train"), "epoch=3.ckpt", {"epoch=3.ckpt": b"weights"})
    machine.system.catalog.checkpoints.set_pointers(captured.id, ["last.ckpt -> epoch=3.ckpt"])
    machine.fetch(captured.id)
    assert machine.fetch(captured.id, **DELETE).deleted_files == 0
    assert (out(machine) / "last.ckpt").is_symlink()


def test_a_name_that_a_file_system_may_take_for_the_same_one_stays(tmp_path: Path) -> None:
    for name in ("Model.bin", "other"):
        (tmp_path / name).write_text("x")
    assert [one.path for one in find_extra(tmp_path, ["model.bin"], [])] == ["other"]


def test_more_than_a_checkpoint_leaves_is_not_deleted(pushed: Machine) -> None:
    for number in range(MOST_EXTRA + 1):
        (out(pushed) / f"{number}").touch()
    with pytest.raises(DestinationExistsError, match="more than 10,000 other files"):
        pushed.fetch("new", **DELETE)
    assert (out(pushed) / "only" / "old.bin").exists()


def test_a_folder_that_is_swapped_for_a_link_meanwhile_is_not_followed(pushed: Machine) -> None:
    elsewhere = pushed.write("elsewhere", {"old.bin": b"mine"})

    def swap_it(_number: int, call: Call) -> None:
        if (out(pushed) / "only").is_dir() and not (out(pushed) / "only").is_symlink():
            swap(out(pushed) / "only", elsewhere)

    pushed.storage.before_call = swap_it
    with pytest.raises(Exception, match="symbolic link"):
        pushed.fetch("new", **DELETE)
    assert read_tree(elsewhere) == {"old.bin": b"mine"}


def test_what_came_while_the_fetch_was_on_its_way_stays(pushed: Machine) -> None:
    def write(_number: int, call: Call) -> None:
        (out(pushed) / "notes.txt").write_text("just now")

    pushed.storage.before_call = write
    pushed.fetch("new", **DELETE)
    assert (out(pushed) / "notes.txt").read_text() == "just now"


def test_a_folder_that_cannot_be_looked_into_fails_no_fetch(pushed: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    (out(pushed) / "closed").mkdir(mode=0)
    pushed.fetch("new")
    assert (out(pushed) / "new.bin").exists()


def test_a_dry_run_lists_what_would_be_deleted(pushed: Machine) -> None:
    preview = preview_fetch(pushed.system, FetchRequest("new", str(out(pushed)), delete_extra=True))
    assert [step.name for step in preview.steps if step.action is Action.DELETE] == EXTRA
    assert preview.conflict is None
    notes = Notes()
    assert preview_fetch(pushed.system, FetchRequest("new", str(out(pushed))), progress=notes).conflict is None
    assert notes.messages
    mine = pushed.write("mine", {"thesis.tex": b""})
    conflict = preview_fetch(pushed.system, FetchRequest("new", str(mine), delete_extra=True)).conflict
    assert isinstance(conflict, DestinationExistsError)


# An export


def test_an_export_over_something_else_tells_what_lies_there_and_leaves_it(pushed: Machine) -> None:
    notes = Notes()
    report = pushed.export("new", overwrite=True, progress=notes)
    assert (report.extra_files, report.deleted_files) == (2, 0)
    assert notes.messages == [
        f"'model/b.bin' and 1 more in {pushed.buckets.root}/bucket/place are no part of 'new':"
        " --delete-extra removes them"
    ]
    assert pushed.buckets.tree("bucket/place") == OLD | NEW


def test_what_an_earlier_export_left_goes_once_the_new_one_is_whole(pushed: Machine) -> None:
    order: list[str] = []
    pushed.buckets.storage.before_call = lambda _number, call: order.append(call.name)
    report = pushed.export("new", overwrite=True, **DELETE)
    assert (report.extra_files, report.deleted_files) == (0, 2)
    assert pushed.buckets.tree("bucket/place") == NEW
    assert order[-1] == "delete"
    assert pushed.export("new", **DELETE).deleted_files == 0
    pushed.push_from("again", "bucket/place")
    assert pushed.fetched("again") == NEW


@pytest.mark.parametrize("options", [{"delete_extra": True}, DELETE])
def test_an_export_deletes_only_where_one_was_before_and_once_the_caller_insists(
    pushed: Machine, options: dict[str, Any]
) -> None:
    mine = pushed.buckets.root / "bucket" / "mine"
    mine.mkdir()
    (mine / "data.csv").write_text("x")
    with pytest.raises(DestinationExistsError, match="before"):
        pushed.export("new", "bucket/mine", **options)
    if not options.get("force"):
        with pytest.raises(ExtraFilesError) as caught:
            pushed.export("new", overwrite=True, **options)
        assert list(caught.value.paths) == EXTRA
    assert read_tree(mine) == {"data.csv": b"x"}
    assert pushed.buckets.tree("bucket/place") == OLD


def test_an_export_below_another_one_is_no_leftover_of_it(pushed: Machine) -> None:
    pushed.export("old", "bucket/place/nested")
    pushed.export("new", overwrite=True, **DELETE)
    assert pushed.buckets.tree("bucket/place/nested") == OLD
    assert len(pushed.system.catalog.checkpoints.list_exports(pushed.checkpoint("old").id)) == 1


def test_an_export_that_may_not_delete_is_whole_all_the_same(pushed: Machine) -> None:
    def refuse(_number: int, call: Call) -> None:
        if call.name == "delete":
            raise AccessDeniedError("deleting is refused")

    pushed.buckets.storage.before_call = refuse
    with pytest.raises(AccessDeniedError):
        pushed.export("new", overwrite=True, **DELETE)
    pushed.buckets.storage.reset()
    assert len(pushed.system.catalog.checkpoints.list_exports(pushed.checkpoint("new").id)) == 1
    pushed.export("new", **DELETE)
    assert pushed.buckets.tree("bucket/place") == NEW


def test_a_dry_run_of_an_export_lists_what_would_be_deleted(pushed: Machine) -> None:
    request = ExportRequest("new", "lab", "bucket/place", overwrite=True, delete_extra=True)
    preview = preview_export(pushed.system, request)
    assert [step.name for step in preview.steps if step.action is Action.DELETE] == EXTRA
    assert pushed.buckets.tree("bucket/place") == OLD


# What makes no sense


@pytest.mark.parametrize(
    "make",
    [
        lambda: FetchRequest("new", force=True),
        lambda: ExportRequest("new", "lab", "bucket/place", force=True),
        lambda: FetchRequest("new", delete_extra=True, node=0),
    ],
)
def test_options_that_make_no_sense_are_refused(make: Callable[[], object]) -> None:
    with pytest.raises(RequestError):
        make()
