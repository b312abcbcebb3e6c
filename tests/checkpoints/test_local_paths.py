from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from flexai.checkpoints.errors import UsageError
from flexai.checkpoints.local_paths import absolute, expanded, from_root, working_directory
from flexai.checkpoints.settings import home_path
from flexai.checkpoints.storage.local import LocalStorage
from tests.support.fixtures import work_in_a_deleted_directory


@pytest.fixture
def deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory that another process has deleted."""
    work_in_a_deleted_directory(tmp_path, monkeypatch)


def test_a_relative_path_begins_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_root("a/../b") == tmp_path / "a/../b"
    assert absolute("a/../b") == tmp_path / "b"
    assert working_directory() == tmp_path


def test_a_path_from_the_root_needs_no_working_directory(deleted: None) -> None:
    assert absolute("/a/../b") == Path("/b")
    assert working_directory() is None


@pytest.mark.parametrize(
    "use",
    [
        absolute,
        lambda path: LocalStorage(Path(path)),
        lambda path: home_path({"FLEXAI_HOME": path}),
    ],
    ids=["a path", "a directory of a provider", "the home folder"],
)
def test_a_relative_path_in_a_deleted_working_directory_is_refused_in_words(
    deleted: None, use: Callable[[str], object]
) -> None:
    with pytest.raises(UsageError, match="the working directory has been deleted"):
        use("folder")


def test_an_empty_home_is_what_the_list_of_users_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "")
    assert expanded(Path("~/a")) == Path(pwd.getpwuid(os.getuid()).pw_dir, "a")
    monkeypatch.setenv("HOME", "/somewhere")
    assert expanded(Path("~/a")) == Path("/somewhere/a")
