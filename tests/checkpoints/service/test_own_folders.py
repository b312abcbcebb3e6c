"""What flexai keeps for itself is no part of what is pushed, or captured, from a folder around it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from flexai.checkpoints.errors import SourceError, UsageError
from flexai.checkpoints.names import new_id
from flexai.checkpoints.own_folders import OwnFolders
from flexai.checkpoints.service.mirror import mirror
from flexai.checkpoints.service.preview import preview_export, preview_fetch, preview_push
from flexai.checkpoints.service.push_requests import PushRequest
from flexai.checkpoints.service.requests import ExportRequest, FetchRequest
from flexai.checkpoints.service.store_requests import MirrorRequest
from flexai.checkpoints.service.training import fetch_rest, job_log, list_rest, watch_directory
from flexai.checkpoints.service.training_requests import CaptureJobRequest
from flexai.connections.local import LocalConnection
from tests.checkpoints.service.test_watch import watch
from tests.checkpoints.training.trainers import save, trainer_files
from tests.support.fixtures import NewMachine
from tests.support.machine import Machine
from tests.support.training import Notes, contents, run, wait_until
from tests.support.trees import read_tree

WEIGHTS = b"weights"


def project(machine: Machine) -> Path:
    """The folder that the home folder lies in, with a file of the user's."""
    return machine.write(".", {"model.bin": WEIGHTS})


def test_a_push_of_a_folder_leaves_out_the_home_folder_in_it_and_says_so(machine: Machine) -> None:
    notes = Notes()
    machine.push("model", project(machine), progress=notes)
    assert machine.fetched("model") == {"model.bin": WEIGHTS}
    assert notes.messages == ["'home' left out: flexai keeps what is its own there"]
    again = Notes()
    request = PushRequest("other", [f"{machine.root}=deep/down"])
    assert [step.name for step in preview_push(machine.system, request, progress=again).steps] == [
        "deep/down/model.bin"
    ]
    assert again.messages == ["'deep/down/home' left out: flexai keeps what is its own there"]
    assert machine.push("model", project(machine), if_not_exists=True).name == "model"


def test_a_store_that_is_set_by_a_link_is_known_in_the_folder_that_is_pushed(
    new_machine: NewMachine, tmp_path: Path
) -> None:
    (tmp_path / "project" / "kept").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "project" / "kept")
    with new_machine(store=str(tmp_path / "link")) as machine:
        (tmp_path / "project" / "model.bin").write_bytes(WEIGHTS)
        notes = Notes()
        machine.push("model", tmp_path / "project", progress=notes)
        assert machine.fetched("model") == {"model.bin": WEIGHTS}
        assert notes.messages == ["'kept' left out: flexai keeps what is its own there"]


def test_links_that_are_followed_into_the_home_folder_bring_nothing_of_it(machine: Machine) -> None:
    folder = project(machine)
    blob = next(machine.store_folder.rglob("store.json"))
    (folder / "home-again").symlink_to("home")
    (folder / "a-file").symlink_to(blob.relative_to(folder))
    machine.push("model", folder, follow_symlinks=True)
    assert machine.fetched("model") == {"model.bin": WEIGHTS}


def test_a_push_of_the_home_folder_or_of_what_lies_in_the_store_is_refused(machine: Machine) -> None:
    home, store = machine.settings.home, machine.store_folder
    machine.push("model", project(machine) / "model.bin")
    machine.root.joinpath("home-link").symlink_to(home)
    for source in (home, f"{home}/catalog.db", store, store / "store.json", store / "blobs", f"{home}/../home"):
        with pytest.raises(SourceError, match="where flexai keeps what is its own") as raised:
            machine.push("own", source)
        assert "FLEXAI_HOME" in raised.value.hint
    with pytest.raises(SourceError, match="home-link is where flexai keeps"):
        machine.push("own", machine.root / "home-link", follow_symlinks=True)


def test_what_a_user_has_in_the_home_folder_can_be_pushed_by_its_name(machine: Machine) -> None:
    machine.write("home/jobs/1/attempt-1/unfinished", {"model.bin": WEIGHTS})
    machine.push("model", machine.settings.jobs_path / "1")
    assert machine.fetched("model") == {"attempt-1/unfinished/model.bin": WEIGHTS}


def test_a_folder_that_holds_nothing_else_is_no_source(machine: Machine, tmp_path: Path) -> None:
    machine.root.joinpath("around").mkdir()
    machine.settings.home.rename(machine.root / "around" / "home")
    machine.settings.home.symlink_to(machine.root / "around" / "home")
    with pytest.raises(SourceError, match="holds no file that is not excluded"):
        machine.push("own", machine.root / "around")


def test_a_training_captures_nothing_of_a_store_that_is_made_in_its_output_directory(
    new_machine: NewMachine, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with new_machine(store=str(out / "kept")) as machine:
        (out / "kept").rename(tmp_path / "aside")
        program = f"""
import os
step = 5; save(output() / "checkpoint-5", trainer_files(5))
os.rename({str(tmp_path / "aside")!r}, output() / "kept")
"""
        notes = Notes()
        run(machine, program, output_dir=out, progress=notes)
        assert contents(machine) == [("checkpoint-5", trainer_files(5))]
        assert list_rest(machine.system, next(iter(machine.system.catalog.jobs.list())).id) == []
        assert "'kept' left out: flexai keeps what is its own there" in notes.messages


def test_a_directory_that_is_watched_may_hold_the_home_folder(machine: Machine) -> None:
    def write() -> None:
        save(machine.root / "checkpoint-5", trainer_files(5))
        wait_until(lambda: bool(contents(machine)))

    job = watch(machine, machine.root, write)
    assert contents(machine) == [("checkpoint-5", trainer_files(5))]
    assert list_rest(machine.system, job.id) == []
    assert "'home' left out: flexai keeps what is its own there" in "".join(job_log(machine.system, job.id))


def test_an_output_directory_that_is_the_home_folder_or_lies_in_the_store_is_refused(machine: Machine) -> None:
    for place in (machine.settings.home, machine.store_folder, machine.store_folder / "blobs" / "new"):
        refused = f"the output directory {re.escape(str(place))} .*where flexai keeps what is its own"
        with pytest.raises(UsageError, match=refused):
            run(machine, "", output_dir=place)
        with pytest.raises(UsageError, match=refused):
            watch_directory(machine.system, CaptureJobRequest("run", str(place)))


def test_a_fetch_writes_nothing_where_flexai_keeps_what_is_its_own(machine: Machine) -> None:
    machine.push("model", project(machine) / "model.bin")
    (machine.root / "link").symlink_to(machine.store_folder)
    before = read_tree(machine.store_folder)
    for place in (machine.settings.home, machine.store_folder, machine.root / "link" / "blobs"):
        refused = f"the destination {re.escape(str(place))} .*where flexai keeps what is its own"
        with pytest.raises(UsageError, match=refused) as raised:
            machine.fetch("model", str(place), overwrite=True)
        with pytest.raises(UsageError, match=refused):
            preview_fetch(machine.system, FetchRequest("model", str(place), overwrite=True))
        assert "FLEXAI_HOME" in raised.value.hint
        with pytest.raises(UsageError, match=refused):
            fetch_rest(machine.system, new_id(), [], place, overwrite=True)
    assert read_tree(machine.store_folder) == before
    machine.fetch("model", ".")
    machine.fetch("model", "home/mine")


@pytest.fixture
def around(machine: Machine) -> Machine:
    """A machine with a checkpoint, on which the connection ``lab`` is to the directory that holds the home folder."""
    machine.push("model", project(machine) / "model.bin")
    machine.system.connect = cache(lambda name: LocalConnection(root=str(machine.root.parent)))
    return machine


@pytest.mark.parametrize(
    ("path", "is_own"),
    [
        ("home", "is where"),
        ("home/store", "is where"),
        ("home/store/blobs/new", "lies in .*, where"),
        ("", "holds .*, where"),
    ],
)
def test_a_directory_with_what_is_flexais_own_is_no_place_on_a_provider(
    around: Machine, path: str, is_own: str
) -> None:
    before = read_tree(around.store_folder)
    place = f"{around.root.name}/{path}".rstrip("/")
    requests = (
        lambda: around.push_from("own", place),
        lambda: around.export("model", place, overwrite=True),
        lambda: preview_export(around.system, ExportRequest("model", "lab", place)),
        lambda: mirror(around.system, MirrorRequest("lab", place, overwrite=True)),
    )
    for request in requests:
        with pytest.raises(UsageError, match=f"the place .* {is_own} flexai keeps what is its own") as raised:
            request()
        assert "FLEXAI_HOME" in raised.value.hint
    assert read_tree(around.store_folder) == before


def test_a_directory_beside_what_is_flexais_own_is_a_place_on_a_provider(around: Machine) -> None:
    around.export("model", f"{around.root.name}/exports")
    around.push_from("again", f"{around.root.name}/exports")
    assert around.fetched("again") == {"model.bin": WEIGHTS}


def test_folders_that_are_made_later_are_known_at_the_next_look(tmp_path: Path) -> None:
    own = OwnFolders(tmp_path / "home", Path("lab:bucket/prefix"))
    assert own.around(tmp_path / "home") is None
    (tmp_path / "home").mkdir()
    assert own.look()
    assert not own.look()
    assert own.have((tmp_path / "home").stat())
    assert own.around(tmp_path / "home") == tmp_path / "home"
