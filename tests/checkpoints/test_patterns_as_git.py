"""What patterns name, beside what git says that they name."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexai.checkpoints.patterns import Patterns, ignored

_PIECES = (
    *"ab!#- ./^]\\?*[",
    *("**/", "/**", "/**/", "[ab]", "[!a]", "[^a]", "[a-c]", "[]a]", "[a-]", "[]-a]", "[\\]]", "[a/b]", "[/]"),
    *("[[:alpha:]]", "[[:punct:]_]", "[[:none:]]", "[[:]", "[^[:alpha:]b]", "\\*", "\\[", "\\#", "\\!", "\\ ", "\\\\"),
)
_UNLIKE = re.compile(r"//|\\/|[^/*]\*\*+(/|\Z)")
"""What means something else to git, as the module of patterns tells, and a slash behind a backslash."""
_LINES = st.lists(
    st.lists(st.sampled_from(_PIECES), max_size=6).map("".join).filter(lambda line: not _UNLIKE.search(line)),
    max_size=4,
)
_NAMES = st.text("ab!#-._^]\\*[ ", min_size=1, max_size=3).filter(lambda name: name.strip("."))
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map("/".join)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository without files."""
    folder = tmp_path_factory.mktemp("repository")
    _git(folder, "init", "-q")
    return folder


def _git(folder: Path, *words: str, given: str = "") -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-C", str(folder), "-c", "core.ignorecase=false", *words]
    done = subprocess.run(command, input=given.encode(), capture_output=True, env=environment, timeout=60, check=False)
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout.decode()


def _named_by_git(repository: Path, text: str, paths: Sequence[str]) -> set[str]:
    (repository / ".gitignore").write_bytes(text.encode())
    told = _git(repository, "check-ignore", "--no-index", "-z", "--stdin", given="".join(f"{path}\0" for path in paths))
    return set(told.split("\0")) - {""}


@given(lines=_LINES, paths=st.lists(_PATHS, min_size=1, max_size=20))
@settings(max_examples=150, deadline=None)
def test_an_ignore_file_names_what_git_names(repository: Path, lines: list[str], paths: list[str]) -> None:
    text = "\n".join(lines)
    patterns = Patterns(ignored(text))
    assert {path for path in paths if patterns.name(path)} == _named_by_git(repository, text, paths)


@pytest.mark.parametrize(
    "text",
    [
        "a  \n",
        "a\\  \n",
        "a\\\\ \n",
        "\ufeffa\n",
        "a\r\nb\r\n",
        "a\u2028b\n",
        "*\n!a/\n!a/b\n",
        "a/*\n!a/b\n",
        "[[:digit:][:upper:]]\n",
        "[z-a]\n",
        "[a-c-e]\n",
        "[--a]\n",
        "[a-[:alpha:]]\n",
        "a/***/b\n",
    ],
)
def test_a_line_names_what_git_names(repository: Path, text: str) -> None:
    paths = [
        "a",
        "b",
        "a ",
        "a\\",
        "a/b",
        "a/c/b",
        "x/a",
        "7",
        "X",
        "-",
        "a\u2028b",
        "\ufeffa",
        "a\r",
        "l]",
        "[]",
        "e",
        "d",
    ]
    patterns = Patterns(ignored(text))
    assert {path for path in paths if patterns.name(path)} == _named_by_git(repository, text, paths)


@pytest.mark.parametrize(
    ("pattern", "path", "is_named"),
    [("?", "é", True), ("[é]", "é", True), ("a//b", "a/b", True), ("/a**/b", "a/x/b", False)],
)
def test_what_git_names_otherwise_is_what_the_page_says(
    repository: Path, pattern: str, path: str, is_named: bool
) -> None:
    assert Patterns([pattern]).name(path) is is_named
    assert (path in _named_by_git(repository, pattern, [path])) is not is_named
