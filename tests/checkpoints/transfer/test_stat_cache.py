from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from flexai.checkpoints.paths import parse_path
from flexai.checkpoints.transfer.sources import LocalSource
from flexai.checkpoints.transfer.stat_cache import RACY_NS, StatCache

DIGEST = "ab" * 32


@pytest.fixture
def cache(tmp_path: Path) -> StatCache:
    return StatCache(tmp_path / "cache.db")


def _source(path: Path, *, content: bytes = b"content", age_ns: int = 10 * RACY_NS) -> LocalSource:
    """A file that was written some time ago."""
    path.write_bytes(content)
    written = time.time_ns() - age_ns
    os.utime(path, ns=(written, written))
    return _listed(path)


def _listed(path: Path) -> LocalSource:
    return LocalSource.of(parse_path("in/checkpoint"), path, path.lstat())


def _remember(cache: StatCache, source: LocalSource) -> None:
    cache.remember([source], {"in/checkpoint": bytes.fromhex(DIGEST)}, scanned_ns=time.time_ns())


def _recalled(cache: StatCache, source: LocalSource) -> str:
    (recalled,) = cache.recall([source])
    assert recalled.local_path == source.local_path
    return recalled.digest


def test_nothing_is_known_of_a_file_that_was_never_read(cache: StatCache, tmp_path: Path) -> None:
    assert _recalled(cache, _source(tmp_path / "a")) == ""
    assert not (tmp_path / "cache.db").exists()


def test_a_file_that_is_unchanged_is_known_by_its_digest(cache: StatCache, tmp_path: Path) -> None:
    _remember(cache, _source(tmp_path / "a"))
    assert _recalled(cache, _listed(tmp_path / "a")) == DIGEST
    assert _recalled(StatCache(tmp_path / "cache.db"), _listed(tmp_path / "a")) == DIGEST


def test_a_file_that_goes_to_two_paths_is_known_at_both(cache: StatCache, tmp_path: Path) -> None:
    _remember(cache, _source(tmp_path / "a"))
    twins = [_listed(tmp_path / "a"), _source(tmp_path / "b"), _listed(tmp_path / "a")]
    assert [one.digest for one in cache.recall(twins)] == [DIGEST, "", DIGEST]


def test_a_file_of_another_size_time_inode_or_path_is_not_known(cache: StatCache, tmp_path: Path) -> None:
    source = _source(tmp_path / "a")
    _remember(cache, source)
    os.utime(tmp_path / "a", ns=(source.identity[3], source.identity[3] + 1))
    assert _recalled(cache, _listed(tmp_path / "a")) == ""
    (tmp_path / "a").write_bytes(b"content and more")
    os.utime(tmp_path / "a", ns=(source.identity[3], source.identity[3]))
    assert _recalled(cache, _listed(tmp_path / "a")) == ""
    (tmp_path / "b").write_bytes(b"content")
    os.utime(tmp_path / "b", ns=(source.identity[3], source.identity[3]))
    assert _recalled(cache, _listed(tmp_path / "b")) == ""
    (tmp_path / "b").rename(tmp_path / "a")
    assert _recalled(cache, _listed(tmp_path / "a")) == ""


def test_a_file_that_was_written_just_before_it_was_read_is_not_remembered(cache: StatCache, tmp_path: Path) -> None:
    _remember(cache, _source(tmp_path / "a", age_ns=RACY_NS // 2))
    assert _recalled(cache, _listed(tmp_path / "a")) == ""
    _remember(cache, _source(tmp_path / "future", age_ns=-10 * RACY_NS))
    assert _recalled(cache, _listed(tmp_path / "future")) == ""


def test_a_newer_reading_replaces_an_older_one(cache: StatCache, tmp_path: Path) -> None:
    _remember(cache, _source(tmp_path / "a"))
    source = _source(tmp_path / "a", content=b"other")
    cache.remember([source], {"in/checkpoint": b"\xcd" * 32}, scanned_ns=time.time_ns())
    assert _recalled(cache, _listed(tmp_path / "a")) == "cd" * 32


def test_thousands_of_files_are_remembered_at_once(cache: StatCache, tmp_path: Path) -> None:
    sources = [_source(tmp_path / f"f{number}") for number in range(1200)]
    cache.remember(sources, {"in/checkpoint": bytes.fromhex(DIGEST)}, scanned_ns=time.time_ns())
    assert {source.digest for source in cache.recall(sources)} == {DIGEST}


@pytest.mark.parametrize("content", [b"no database at all" * 100, b""])
def test_a_damaged_file_is_as_good_as_none(cache: StatCache, tmp_path: Path, content: bytes) -> None:
    source = _source(tmp_path / "a")
    (tmp_path / "cache.db").write_bytes(content)
    assert _recalled(cache, source) == ""
    _remember(cache, source)
    _remember(cache, source)
    assert _recalled(cache, source) == DIGEST


def test_a_folder_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    cache = StatCache(tmp_path / "nowhere" / "cache.db")
    source = _source(tmp_path / "a")
    _remember(cache, source)
    assert _recalled(cache, source) == ""


def test_a_fifo_in_its_place_is_as_good_as_none_and_keeps_no_push_waiting(cache: StatCache, tmp_path: Path) -> None:
    source = _source(tmp_path / "a")
    os.mkfifo(tmp_path / "cache.db")
    _remember(cache, source)
    assert _recalled(cache, source) == ""


def test_a_name_in_any_encoding_is_remembered(cache: StatCache, tmp_path: Path) -> None:
    source = _source(tmp_path / os.fsdecode(b"caf\xe9"))
    _remember(cache, source)
    assert _recalled(cache, source) == DIGEST
