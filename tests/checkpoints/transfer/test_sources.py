from __future__ import annotations

import os
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from flexai.checkpoints.errors import SourceChangedError, SourceError
from flexai.checkpoints.paths import parse_path
from flexai.checkpoints.storage.beneath import Beneath
from flexai.checkpoints.storage.local import LocalStorage
from flexai.checkpoints.transfer.scan import scan_local
from flexai.checkpoints.transfer.sources import LocalSource, ObjectSource, RangeBody
from tests.hostile.swaps import swap
from tests.support.trees import noise, write_tree

KIB = 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(noise(300 * KIB))
    return path


def _source(path: Path) -> LocalSource:
    return LocalSource.of(parse_path("model.bin"), path, path.lstat())


def test_a_range_of_a_file_is_read(path: Path) -> None:
    opened = _source(path).open()
    try:
        body = RangeBody(opened, 1000, 2000)
        assert body.size == 2000
        for _ in range(2):
            assert b"".join(bytes(block) for block in body.blocks()) == path.read_bytes()[1000:3000]
    finally:
        opened.close()


def test_a_file_that_was_removed_since_it_was_listed_has_vanished(path: Path) -> None:
    source = _source(path)
    path.unlink()
    with pytest.raises(SourceChangedError, match="vanished"):
        source.open()
    with pytest.raises(SourceChangedError, match="vanished"):
        source.check()


@pytest.mark.parametrize("below", ["", "deep"])
def test_a_file_whose_folder_is_a_link_by_now_is_not_opened(tmp_path: Path, below: str) -> None:
    write_tree(tmp_path, {"run/deep/model.bin": b"mine"})
    (source,) = scan_local([str(tmp_path / "run")])
    with closing(source.open()) as opened:
        assert [bytes(block) for block in opened.blocks(0, 4)] == [b"mine"]
    # Even one that cannot be told from the file that was listed.
    aside = swap(tmp_path / "run" / below, tmp_path / "link")
    (tmp_path / "link").symlink_to(aside)
    (fresh,) = [replace(source, tree=Beneath(source.tree.root))]
    with pytest.raises(SourceChangedError, match="symbolic link has taken the place of source"):
        fresh.open()


def test_a_file_whose_folder_is_a_file_by_now_has_vanished(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "model.bin"
    path.write_bytes(b"x")
    source = _source(path)
    path.unlink()
    path.parent.rmdir()
    path.parent.write_bytes(b"a file")
    with pytest.raises(SourceChangedError, match="vanished"):
        source.open()
    with pytest.raises(SourceChangedError, match="vanished"):
        source.check()


def test_a_file_that_was_replaced_since_it_was_listed_has_changed(path: Path) -> None:
    source = _source(path)
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").replace(path)
    with pytest.raises(SourceChangedError, match="changed"):
        source.open()


def test_a_pipe_in_a_file_s_place_is_not_waited_for(path: Path) -> None:
    source = _source(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SourceChangedError, match="changed"):
        source.open()


def test_a_folder_in_a_file_s_place_has_changed(path: Path) -> None:
    source = _source(path)
    path.unlink()
    path.mkdir()
    with pytest.raises((SourceChangedError, SourceError)):
        source.open().blocks(0, 1)


def test_a_file_that_shrank_while_it_was_read_says_so(path: Path) -> None:
    opened = _source(path).open()
    try:
        os.truncate(path, 100)
        with pytest.raises(SourceChangedError, match="shrank"):
            list(opened.blocks(0, 1000))
        with pytest.raises(SourceChangedError, match="changed"):
            opened.check()
    finally:
        opened.close()


def test_a_file_is_read_into_a_buffer_however_little_comes_at_a_time(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = os.preadv
    monkeypatch.setattr(os, "preadv", lambda descriptor, views, at: read(descriptor, [views[0][:1000]], at))
    buffer = bytearray(300 * KIB)
    opened = _source(path).open()
    try:
        opened.read_into(memoryview(buffer))
        assert buffer == path.read_bytes()
        os.truncate(path, 100)
        with pytest.raises(SourceChangedError, match="shrank"):
            opened.read_into(memoryview(buffer))
    finally:
        opened.close()


def test_files_with_different_samples_differ_and_equal_files_have_equal_samples(path: Path) -> None:
    twin = path.with_name("twin")
    twin.write_bytes(path.read_bytes())
    assert _source(path).sample() == _source(twin).sample()
    for position in (0, 150 * KIB + 1, 300 * KIB - 1):
        content = bytearray(path.read_bytes())
        content[position] ^= 1
        twin.write_bytes(content)
        assert _source(path).sample() != _source(twin).sample()


@pytest.mark.parametrize("size", [0, 1, 64 * KIB, 64 * KIB + 1])
def test_small_files_have_samples_too(tmp_path: Path, size: int) -> None:
    path = tmp_path / "small"
    path.write_bytes(bytes(size))
    assert len(_source(path).sample()) == 32


@pytest.fixture
def remote(path: Path) -> ObjectSource:
    storage = LocalStorage(path.parent)
    return ObjectSource(path=parse_path("model.bin"), storage=storage, info=storage.head("model.bin"))


def test_a_range_of_an_object_is_read(remote: ObjectSource, path: Path) -> None:
    assert remote.open() is remote
    assert remote.size == 300 * KIB
    assert b"".join(bytes(block) for block in remote.blocks(1000, 2000)) == path.read_bytes()[1000:3000]
    remote.check()
    remote.close()


def test_an_object_that_was_replaced_has_changed(remote: ObjectSource, path: Path) -> None:
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").replace(path)
    with pytest.raises(SourceChangedError):
        list(remote.blocks(0, 10))
    with pytest.raises(SourceChangedError, match=r"model\.bin changed"):
        remote.check()


@pytest.mark.skipif(sys.platform != "linux", reason="the files that say less than they hold are those of /proc")
def test_a_file_that_holds_more_than_its_size_tells_is_refused(tmp_path: Path) -> None:
    place = Path("/proc/version")
    with pytest.raises(SourceError, match="has content, and a size of 0 bytes"):
        LocalSource.of(parse_path("version"), place, place.lstat()).open()
    empty = tmp_path / "empty"
    empty.touch()
    LocalSource.of(parse_path("empty"), empty, empty.lstat()).open().close()
