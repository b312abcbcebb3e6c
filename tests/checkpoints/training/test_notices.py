"""The kernel's notices, and who writes to a file, on the real file system."""

from __future__ import annotations

import mmap
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flexai.checkpoints.storage.beneath import Beneath
from flexai.checkpoints.training.notices import FolderWatch, is_written
from flexai.checkpoints.training.output_dir import OutputTree

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="inotify and leases are Linux'")


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[FolderWatch]:
    made = FolderWatch(tmp_path)
    yield made
    made.close()


def test_each_closing_and_renaming_of_a_file_is_noticed(watch: FolderWatch, tmp_path: Path) -> None:
    watch.add("")
    for content in (b"1", b"2"):
        (tmp_path / "ckpt.pt").write_bytes(content)
    (tmp_path / "other.tmp").write_bytes(b"3")
    (tmp_path / "other.tmp").replace(tmp_path / "ckpt.pt")
    notices = watch.read()
    assert notices.places == {""}
    assert notices.closed == {"ckpt.pt": 3}, "what was renamed counts under its last name"
    assert watch.read().places == set()


def test_what_is_only_read_or_appended_to_without_closing_is_not_noticed(watch: FolderWatch, tmp_path: Path) -> None:
    (tmp_path / "train.log").write_bytes(b"1")
    watch.add("")
    with (tmp_path / "train.log").open("ab") as log:
        log.write(b"2")
        log.flush()
        assert (tmp_path / "train.log").read_bytes() == b"12"
        assert watch.read().places == set()


def test_a_folder_that_is_renamed_is_noticed_under_its_new_name(watch: FolderWatch, tmp_path: Path) -> None:
    tree = OutputTree(Beneath(tmp_path), before=watch.add)
    (tmp_path / "tmp-5" / "nested").mkdir(parents=True)
    tree.refresh()
    (tmp_path / "tmp-5").rename(tmp_path / "checkpoint-5")
    tree.refresh(watch.read().places)
    (tmp_path / "checkpoint-5" / "nested" / "model.pt").write_bytes(b"1")
    assert watch.read().closed == {"checkpoint-5/nested/model.pt": 1}


def test_what_was_closed_in_a_folder_that_is_renamed_is_not_taken_for_gone(watch: FolderWatch, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    OutputTree(Beneath(tmp_path), before=watch.add).refresh()
    (tmp_path / "checkpoint-5" / "model.pt").write_bytes(b"1")
    (tmp_path / "checkpoint-5").rename(tmp_path / "best")
    assert watch.read().closed == {}


def test_a_folder_that_is_made_again_is_watched_again(watch: FolderWatch, tmp_path: Path) -> None:
    tree = OutputTree(Beneath(tmp_path), before=watch.add)
    for _ in range(3):
        (tmp_path / "last").mkdir()
        tree.refresh(watch.read().places | {""})
        (tmp_path / "last" / "model.pt").write_bytes(b"1")
        assert watch.read().closed == {"last/model.pt": 1}
        shutil.rmtree(tmp_path / "last")
        tree.refresh(watch.read().places)
        assert not watch.has("last")


def test_a_link_is_not_followed(watch: FolderWatch, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/tmp")
    assert not watch.add("link")
    assert not watch.add("gone")


def test_a_file_is_written_as_long_as_a_process_has_it_open_or_in_its_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    writer = path.open("wb")
    writer.write(b"content")
    writer.flush()
    reader = os.open(path, os.O_RDONLY)
    try:
        assert is_written(reader) is True
        writer.close()
        assert is_written(reader) is False
        with path.open("r+b") as opened:
            memory = mmap.mmap(opened.fileno(), 0)
        assert is_written(reader) is True
        memory.close()
        assert is_written(reader) is False
    finally:
        os.close(reader)
