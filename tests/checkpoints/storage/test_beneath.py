"""Folders that are swapped for links, between two calls and while they run."""

from __future__ import annotations

import errno
import gc
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from flexai.checkpoints.errors import CheckpointError, UnsafePathError
from flexai.checkpoints.storage.beneath import KEPT_OPEN, Beneath
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.storage.protocol import BytesBody
from tests.hostile.swaps import swap, swapping
from tests.support.trees import read_tree, write_tree

_ROUNDS = 1500
_SECRET = {"file": b"secret", "other": b"secret"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "root", {"run/file": b"mine", "run/deep/file": b"mine"})


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "outside", _SECRET | {"deep/file": b"secret"})


@pytest.fixture
def storage(root: Path) -> LocalStorage:
    return LocalStorage(root)


def _read(tree: Beneath, path: str) -> bytes:
    folder, name = tree.at(path)
    with os.fdopen(folder.open(name, os.O_RDONLY), "rb") as file:
        return file.read()


def _get(storage: LocalStorage, key: str) -> bytes:
    return b"".join(bytes(block) for block in storage.get(key))


def _open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def test_no_link_below_the_root_is_followed(root: Path, outside: Path) -> None:
    tree = Beneath(root)
    assert _read(tree, "run/deep/file") == b"mine"
    swap(root / "run", outside)
    for path in ("run", "run/deep"):
        with pytest.raises(OSError, match="run") as caught:
            tree.folder(path)
        assert (caught.value.errno, caught.value.filename) == (errno.ELOOP, str(root / "run"))
    (root / "link").symlink_to(outside / "file")
    with pytest.raises(OSError, match="link") as caught:
        _read(tree, "link")
    assert caught.value.errno == errno.ELOOP


def test_a_folder_that_is_held_stays_the_one_that_it_was(root: Path, outside: Path) -> None:
    tree = Beneath(root, keep=KEPT_OPEN)
    held = tree.folder("run")
    aside = swap(root / "run", outside)
    assert _read(tree, "run/file") == b"mine"
    os.close(held.open("new", os.O_WRONLY | os.O_CREAT))
    assert (aside / "new").exists()
    assert not (outside / "new").exists()
    tree.forget()
    with pytest.raises(OSError, match="run"):
        tree.folder("run")


def test_the_root_may_be_reached_by_links_and_is_found_anew(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    tree = Beneath(tmp_path / "link")
    assert _read(tree, "run/file") == b"mine"
    root.rename(tmp_path / "old")
    write_tree(root, {"run/file": b"new"})
    assert _read(tree, "run/file") == b"new"


@pytest.mark.parametrize("path", ["..", "../outside/file", "run/../../outside/file", ".", "run/.", "/etc/passwd", ""])
def test_a_step_upwards_is_no_name(root: Path, outside: Path, path: str) -> None:
    with pytest.raises(OSError, match="is no name"):
        Beneath(root).at(path)


def test_folders_are_made_below_the_root_and_never_through_a_link(root: Path, outside: Path) -> None:
    tree = Beneath(root)
    tree.make("run/a/b", private=True)
    assert stat.S_IMODE((root / "run" / "a" / "b").stat().st_mode) == 0o700
    swap(root / "run", outside)
    with pytest.raises(OSError, match="run"):
        tree.make("run/c")
    assert not (outside / "c").exists()


def test_descriptors_are_few_and_none_is_left(tmp_path: Path) -> None:
    paths = [f"{number}/deep/file" for number in range(200)]
    root = write_tree(tmp_path / "many", dict.fromkeys(paths, b"mine"))
    gc.collect()
    before = _open_descriptors()
    tree = Beneath(root, keep=10)
    for path in paths * 2:
        assert _read(tree, path) == b"mine"
        assert _open_descriptors() <= before + 10
    del tree
    for path in paths:
        _read(Beneath(root), path)
    list(LocalStorage(root).list(""))
    assert _open_descriptors() == before


_Act = Callable[[LocalStorage, str], object]
_ACTS: dict[str, _Act] = {
    "read": lambda storage, _: _get(storage, "run/file"),
    "describe": lambda storage, _: storage.head("run/file"),
    "list": lambda storage, _: list(storage.list("run/")),
    "list unfinished": lambda storage, _: list(storage.list_uploads("run/")),
    "write": lambda storage, _: storage.put("run/new", BytesBody(b"x")),
    "write deeper": lambda storage, _: storage.put("run/deep/new", BytesBody(b"x")),
    "begin": lambda storage, _: storage.start_upload("run/new", size=1),
    "write a part": lambda storage, upload: storage.put_part(
        "run/up", upload, number=1, offset=0, body=BytesBody(b"x")
    ),
    "look": lambda storage, upload: storage.has_upload("run/up", upload),
    "complete": lambda storage, upload: storage.complete_upload("run/up", upload, ()),
    "give up": lambda storage, upload: storage.abort_upload("run/up", upload),
    "delete": lambda storage, _: storage.delete(["run/file"]),
    "copy": lambda storage, _: storage.copy(storage, "run/file", "copy"),
    "copy there": lambda storage, _: storage.copy(storage, "free", "run/copy"),
}


@pytest.mark.parametrize("act", _ACTS.values(), ids=_ACTS.keys())
def test_a_store_whose_folder_was_swapped_for_a_link_says_so_and_touches_nothing(
    storage: LocalStorage, outside: Path, act: _Act
) -> None:
    storage.put("free", BytesBody(b"x"))
    upload_id = storage.start_upload("run/up", size=1)
    # What it would find behind the link, if it followed it.
    (outside / f".up.{upload_id}.flexai-partial").write_bytes(b"s")
    before = read_tree(outside)
    swap(storage.root / "run", outside)
    with pytest.raises(UnsafePathError, match=r"root/run is a symbolic link") as caught:
        act(storage, upload_id)
    assert caught.value.hint
    assert read_tree(outside) == before
    assert set(read_tree(storage.root)) & {"copy", "new"} == set()


def test_a_store_whose_folders_are_swapped_while_it_works_reads_and_writes_nothing_outside(
    storage: LocalStorage, outside: Path
) -> None:
    before = read_tree(outside)
    reads = 0
    with swapping(storage.root / "run", outside):
        for _ in range(_ROUNDS):
            with suppress(CheckpointError):
                assert _get(storage, "run/file") == b"mine"
                reads += 1
            with suppress(CheckpointError):
                assert storage.head("run/file").size == len(b"mine")
            with suppress(CheckpointError):
                assert "run/other" not in {info.key for info in storage.list("")}
            with suppress(CheckpointError):
                storage.delete(["run/other"])
        # Last, because it makes the folder where it is away: what the attacker took stays away then.
        for number in range(_ROUNDS):
            with suppress(CheckpointError):
                storage.put(f"run/deep/{number}", BytesBody(b"new"))
    assert reads
    assert read_tree(outside) == before


def test_a_bucket_that_was_swapped_for_a_link_is_not_followed(root: Path, outside: Path) -> None:
    bucket = LocalStorage(root / "run", within=root)
    assert [info.key for info in bucket.list("")] == ["deep/file", "file"]
    bucket.put("new", BytesBody(b"x"))
    swap(root / "run", outside)
    for act in (
        lambda: _get(bucket, "file"),
        lambda: list(bucket.list("")),
        lambda: bucket.put("another", BytesBody(b"x")),
    ):
        with pytest.raises(UnsafePathError, match="run is a symbolic link"):
            act()
    assert set(read_tree(outside)) == {"file", "other", "deep/file"}


def test_a_listing_that_has_begun_stays_in_the_folder(storage: LocalStorage, outside: Path) -> None:
    write_tree(storage.root, {"run/zz": b"mine"})
    found = storage.list("run/")
    assert next(found).key == "run/deep/file"
    swap(storage.root / "run", outside)
    assert [(info.key, info.size) for info in found] == [("run/file", 4), ("run/zz", 4)]


def test_an_error_names_the_whole_path(root: Path) -> None:
    (root / "run" / "link").symlink_to("deep")
    tree = Beneath(root)
    folder = tree.folder("run")
    for act, path in (
        (lambda: tree.folder("run/link/below"), "run/link"),
        (lambda: tree.folder("run/none"), "run/none"),
        (lambda: tree.folder("run/file"), "run/file"),
        (lambda: folder.open("none", os.O_RDONLY), "run/none"),
        (lambda: folder.open("link", os.O_RDONLY), "run/link"),
        (lambda: folder.status("none"), "run/none"),
    ):
        with pytest.raises(OSError, match="run") as caught:
            act()
        assert caught.value.filename == str(root / path)
