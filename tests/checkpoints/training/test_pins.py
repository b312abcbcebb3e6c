"""Hard links on real file systems."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from flexai.checkpoints.storage.beneath import Beneath, Folder
from flexai.checkpoints.training.formats.folder import CheckpointFolder
from flexai.checkpoints.training.output_dir import OutputTree, Stamp
from flexai.checkpoints.training.pins import Pins, PinSet
from tests.hostile.swaps import swap, swapping
from tests.support.trees import read_tree, write_tree


class Notes(list[str]):
    """What was noted."""


def _listed(folder: Path) -> dict[str, Stamp]:
    tree = OutputTree(Beneath(folder))
    tree.refresh()
    return dict(tree.files())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "output" / "checkpoint-5"
    (folder / "nested").mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"model")
    (folder / "nested" / "optimizer.bin").write_bytes(b"optimizer")
    return folder


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
def pins(tmp_path: Path, notes: Notes) -> Pins:
    return Pins(tmp_path / "pins", notes.append)


@pytest.fixture
def pinned(pins: Pins, source: Path) -> PinSet:
    found = pins.new_set()
    held = found.refresh(Beneath(source), _listed(source))
    assert list(held) == ["model.bin", "nested/optimizer.bin"]
    return found


def test_a_pin_is_the_file_itself_and_no_copy(pinned: PinSet, source: Path) -> None:
    assert pinned.local_path("model.bin").samefile(source / "model.bin")
    assert pinned.holds(["model.bin", "nested/optimizer.bin"])


def test_a_pinned_file_outlives_its_deletion(pinned: PinSet, source: Path) -> None:
    shutil.rmtree(source)
    assert pinned.local_path("nested/optimizer.bin").read_bytes() == b"optimizer"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "outside", {"model.bin": b"secret", "optimizer.bin": b"secret", "new.bin": b"secret"})


def test_a_folder_that_was_swapped_for_a_link_since_it_was_listed_is_not_pinned(
    pins: Pins, source: Path, outside: Path, notes: Notes
) -> None:
    listed = _listed(source)
    swap(source / "nested", outside)
    assert list(pins.new_set().refresh(Beneath(source), listed)) == ["model.bin"]
    source.rename(source.with_name("moved"))
    source.symlink_to(outside)
    output = OutputTree(Beneath(source.parent))
    below = {f"{source.name}/{path}": stamp for path, stamp in listed.items()}
    assert pins.new_set().refresh(Beneath(source.parent), below) == {}
    output.refresh()
    assert source.name not in output.folders
    assert all(path.stat().st_nlink == 1 for path in outside.iterdir())


@pytest.mark.parametrize("below", [".", "00001", "00001/nested"])
def test_pins_whose_folder_was_swapped_for_a_link_are_neither_read_nor_made_nor_removed(
    pins: Pins, pinned: PinSet, source: Path, outside: Path, notes: Notes, below: str
) -> None:
    for folder in ("00001", "00001/nested", "nested"):
        write_tree(outside / folder, {"optimizer.bin": b"secret"})
    before = read_tree(outside)
    swap(pins.folder / below, outside)
    (source / "nested" / "new.bin").write_bytes(b"new")
    held = pinned.refresh(Beneath(source), _listed(source))
    assert held.keys() == {"model.bin", "nested/optimizer.bin", "nested/new.bin"}
    assert [note for note in notes if "cannot be pinned" in note]
    read = CheckpointFolder("checkpoint-5", {path: stamp.size for path, stamp in held.items()}, pinned.at).read
    assert read("nested/new.bin", 0, 10) == b"new"
    with pytest.raises(OSError, match="symbolic"):
        read("nested/optimizer.bin", 0, 10)
    with contextlib.suppress(OSError):
        assert all("optimizer.bin" not in left.paths() for left in pins.leftovers())
    pinned.release()
    assert read_tree(outside) == before


def test_folders_that_are_swapped_for_links_while_they_are_pinned_lead_nowhere(
    pins: Pins, source: Path, outside: Path
) -> None:
    before = read_tree(outside)
    secrets = {Stamp.of(path.stat()) for path in outside.iterdir()}
    output = Beneath(source)
    tree = OutputTree(output)
    found: set[str] = set()
    with swapping(source / "nested", outside):
        for _ in range(1000):
            pin_set = pins.new_set()
            tree.refresh()
            held = pin_set.refresh(output, dict(tree.files()))
            assert secrets.isdisjoint(held.values())
            found |= held.keys()
            pin_set.release()
    assert "nested/optimizer.bin" in found
    assert read_tree(outside) == before


def test_a_link_that_becomes_a_folder_while_it_is_looked_at_is_found_by_the_next_look(
    source: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = swap(source / "nested", outside)
    status = Folder.status

    def then_swap_back(folder: Folder, name: str) -> os.stat_result:
        found = status(folder, name)
        if name == "nested" and stat.S_ISLNK(found.st_mode):
            (source / "nested").unlink()
            aside.rename(source / "nested")
        return found

    monkeypatch.setattr(Folder, "status", then_swap_back)
    tree = OutputTree(Beneath(source))
    tree.refresh()
    assert list(dict(tree.files())) == ["model.bin"]
    tree.refresh()
    assert sorted(dict(tree.files())) == ["model.bin", "nested/optimizer.bin"]


def test_a_file_that_is_replaced_is_pinned_anew(pinned: PinSet, source: Path) -> None:
    (source / "model.tmp").write_bytes(b"another")
    (source / "model.tmp").replace(source / "model.bin")
    assert pinned.local_path("model.bin").read_bytes() == b"model"
    pinned.refresh(Beneath(source), _listed(source))
    assert pinned.local_path("model.bin").read_bytes() == b"another"


def test_a_file_that_grows_keeps_its_pin(pinned: PinSet, source: Path) -> None:
    with (source / "model.bin").open("ab") as file:
        file.write(b" grown")
    listed = _listed(source)
    assert pinned.refresh(Beneath(source), listed) == listed
    assert pinned.local_path("model.bin").read_bytes() == b"model grown"


def test_a_file_that_is_gone_before_it_can_be_pinned_is_not_held(pins: Pins, source: Path) -> None:
    listed = _listed(source)
    (source / "model.bin").unlink()
    shutil.rmtree(source / "nested")
    assert pins.new_set().refresh(Beneath(source), listed) == {}


def test_a_link_that_takes_a_files_place_is_not_followed(pins: Pins, source: Path, tmp_path: Path) -> None:
    listed = _listed(source)
    (tmp_path / "secret").write_text("not ours")
    (source / "model.bin").unlink()
    (source / "model.bin").symlink_to(tmp_path / "secret")
    assert "model.bin" not in pins.new_set().refresh(Beneath(source), listed)


def test_a_folder_takes_a_files_place_and_the_other_way_round(pinned: PinSet, source: Path) -> None:
    (source / "model.bin").unlink()
    (source / "model.bin").mkdir()
    (source / "model.bin" / "part").write_bytes(b"part")
    shutil.rmtree(source / "nested")
    (source / "nested").write_bytes(b"file")
    listed = _listed(source)
    assert pinned.refresh(Beneath(source), listed) == listed
    assert pinned.local_path("model.bin/part").read_bytes() == b"part"
    assert pinned.local_path("nested").read_bytes() == b"file"


def test_released_pins_leave_no_folder_behind(pinned: PinSet, pins: Pins, source: Path) -> None:
    pinned.release()
    assert list(pins.folder.iterdir()) == []
    pins.remove_empty()
    assert not pins.folder.exists()
    assert (source / "model.bin").stat().st_nlink == 1


def test_a_folder_with_pins_is_not_empty(pinned: PinSet, pins: Pins) -> None:
    pins.remove_empty()
    assert pinned.local_path("model.bin").exists()


def test_pins_of_an_earlier_process_are_found_and_never_mixed_with_new_ones(
    pinned: PinSet, pins: Pins, source: Path, notes: Notes
) -> None:
    shutil.rmtree(source)
    later = Pins(pins.folder, notes.append)
    assert later.new_set().folder != pinned.folder
    (left,) = later.leftovers()
    assert left.paths() == ["model.bin", "nested/optimizer.bin"]
    assert left.local_path("model.bin").read_bytes() == b"model"
    left.release()
    assert later.leftovers() == []


def test_where_there_are_no_pins_there_is_nothing_left(pins: Pins) -> None:
    assert pins.leftovers() == []
    pins.remove()


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has one file system")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_where_links_cannot_reach_files_are_read_where_they_are_and_that_is_said_once(
    other_file_system: Path, source: Path, notes: Notes
) -> None:
    pins = Pins(other_file_system / "pins", notes.append)
    unpinned = pins.new_set()
    listed = _listed(source)
    assert unpinned.refresh(Beneath(source), listed) == listed
    assert unpinned.local_path("model.bin") == source / "model.bin"
    assert not unpinned.holds(["model.bin"])
    assert len(notes) == 1
    assert "is lost" in notes[0]
    assert os.strerror(18) in notes[0]  # EXDEV


def test_a_copy_takes_the_pins_place_and_does_not_change_with_its_original(pinned: PinSet, source: Path) -> None:
    stamp = pinned.stamp("model.bin")
    owned = pinned.own("model.bin", stamp)
    assert owned == pinned.stamp("model.bin") != stamp
    assert owned.is_copy_of(stamp)
    (source / "model.bin").write_bytes(b"rewritten")
    assert pinned.local_path("model.bin").read_bytes() == b"model"
    assert pinned.holds(["model.bin"])
    pinned.release()
    assert not any(pinned.folder.parent.iterdir())


def test_what_has_changed_or_is_being_written_is_not_copied(pinned: PinSet, source: Path) -> None:
    stamp = pinned.stamp("model.bin")
    with (source / "model.bin").open("ab") as file:
        assert pinned.own("model.bin", stamp) is None
        file.write(b"!")
    assert pinned.own("model.bin", stamp) is None
    assert pinned.local_path("model.bin").samefile(source / "model.bin")


def test_what_is_written_over_once_its_copy_is_there_stays_copied(
    pinned: PinSet, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename: Callable[..., None] = os.rename

    def write_over(*places: str, **folders: int) -> None:
        rename(*places, **folders)
        (source / "model.bin").write_bytes(b"rewritten")

    monkeypatch.setattr(os, "rename", write_over)
    assert pinned.own("model.bin", pinned.stamp("model.bin")) is not None
    assert pinned.local_path("model.bin").read_bytes() == b"model"


@pytest.mark.parametrize("error", [errno.EXDEV, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_the_system_copies_nothing_itself_the_bytes_are_read_and_written(
    pinned: PinSet, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    assert pinned.own("model.bin", pinned.stamp("model.bin"))
    assert pinned.local_path("model.bin").read_bytes() == b"model"


def test_a_copy_that_finds_no_room_leaves_the_pin(pinned: PinSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OSError, match="space"):
        pinned.own("model.bin", pinned.stamp("model.bin"))
    assert pinned.paths() == ["model.bin", "nested/optimizer.bin"]
    assert [path.name for path in pinned.folder.iterdir()] == ["model.bin", "nested"]


def test_a_copy_in_a_pin_s_place_may_be_executed_where_its_original_may(pinned: PinSet, source: Path) -> None:
    (source / "model.bin").chmod(0o755)
    for path in ("model.bin", "nested/optimizer.bin"):
        assert pinned.own(path, pinned.stamp(path))
    assert [os.access(pinned.local_path(path), os.X_OK) for path in pinned.paths()] == [True, False]
    assert stat.S_IMODE(pinned.local_path("model.bin").stat().st_mode) == 0o700
