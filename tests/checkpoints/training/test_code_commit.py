"""Which commit a directory's code is, from real repositories."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from flexai.checkpoints.training.code_commit import find_code_commit


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.com")
    answer = subprocess.run(
        ["git", "-C", str(folder), *identity, *words], capture_output=True, text=True, check=True, timeout=60
    )
    return answer.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one commit, above which there is none."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "code"
    (folder / "models").mkdir(parents=True)
    git(folder, "init", "-q")
    (folder / "train.py").write_text("print('one step')\n")
    (folder / "models" / "tiny.py").write_text("SIZE = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_the_commit_of_unchanged_code_is_named(repository: Path) -> None:
    assert find_code_commit(repository) == git(repository, "rev-parse", "HEAD")
    assert find_code_commit(repository / "models") == git(repository, "rev-parse", "HEAD")


def test_a_changed_file_makes_it_dirty_and_a_new_one_does_not(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    (repository / "output.log").write_text("not a part of it")
    assert find_code_commit(repository) == commit
    (repository / "train.py").write_text("print('another step')\n")
    assert find_code_commit(repository) == f"{commit}-dirty"


def test_a_directory_without_a_repository_has_none(tmp_path: Path) -> None:
    assert find_code_commit(tmp_path) == ""
    assert find_code_commit(tmp_path / "missing") == ""


def test_a_repository_without_a_commit_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert find_code_commit(tmp_path) == ""


def test_a_directory_that_its_repository_does_not_know_has_none(repository: Path) -> None:
    (repository / "scratch").mkdir()
    (repository / "scratch" / "train.py").write_text("print('mine')\n")
    assert find_code_commit(repository / "scratch") == ""


def test_without_git_there_is_none(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find_code_commit(repository) == ""


def test_variables_of_another_repository_lead_nowhere(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that a Git hook starts has them in its environment."""
    monkeypatch.setenv("GIT_DIR", "/nonexistent")
    assert find_code_commit(repository) == git_without_variables(repository, monkeypatch)


def git_without_variables(repository: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("GIT_DIR")
    return git(repository, "rev-parse", "HEAD")


def test_no_program_that_the_repository_names_is_run(repository: Path) -> None:
    program = repository / "program"
    program.write_text(f"#!/bin/sh\ntouch {repository}/was-run\n")
    program.chmod(0o700)
    git(repository, "config", "core.fsmonitor", str(program))
    git(repository, "config", "core.pager", str(program))
    hook = repository / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.symlink_to(program)
    (repository / "train.py").touch()
    assert find_code_commit(repository)
    assert not (repository / "was-run").exists()


def test_a_git_that_does_not_answer_in_time_is_not_waited_for(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/sh\ncase "$*" in *status*) exec sleep 600;; *ls-tree*) echo x;; *) echo {commit};; esac\n')
    slow.chmod(0o700)
    monkeypatch.setenv("PATH", f"{slow.parent}:/usr/bin:/bin")
    monkeypatch.setattr("flexai.checkpoints.training.code_commit._SECONDS", 0.2)
    assert find_code_commit(repository) == f"{commit}-unchecked"
