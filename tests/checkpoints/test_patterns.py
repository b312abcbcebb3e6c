from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexai.checkpoints import patterns
from flexai.checkpoints.patterns import Patterns, exactly


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("a.pt", {"a.pt", "x/a.pt", "x/y/a.pt"}),
        ("/a.pt", {"a.pt"}),
        ("x/a.pt", {"x/a.pt"}),
        ("*.pt", {"a.pt", "x/a.pt", "x/y/a.pt"}),
        ("x/*.pt", {"x/a.pt"}),
        ("x/**/*.pt", {"x/a.pt", "x/y/a.pt"}),
        ("**/y/*", {"x/y/a.pt", "x/y/b[1].bin"}),
        ("x/**", {"x/a.pt", "x/y/a.pt", "x/y/b[1].bin"}),
        ("**", {"a.pt", "x/a.pt", "x/y/a.pt", "x/y/b[1].bin", "!c"}),
        ("x", {"x/a.pt", "x/y/a.pt", "x/y/b[1].bin"}),
        ("y/", {"x/y/a.pt", "x/y/b[1].bin"}),
        ("a.pt/", set()),
        ("x*a.pt", set()),
        ("x?a.pt", set()),
        ("[ab].pt", {"a.pt", "x/a.pt", "x/y/a.pt"}),
        ("b[1].bin", set()),
        (r"b\[1].bin", {"x/y/b[1].bin"}),
        (r"\!c", {"!c"}),
        ("A.pt", set()),
        ("!a.pt", set()),
        ("x/**/**/**/**/y/**", {"x/y/a.pt", "x/y/b[1].bin"}),
    ],
)
def test_a_pattern_names_what_it_would_in_a_gitignore(pattern: str, named: set[str]) -> None:
    paths = ["a.pt", "x/a.pt", "x/y/a.pt", "x/y/b[1].bin", "!c"]
    assert {path for path in paths if Patterns([pattern]).name(path)} == named


def test_the_last_pattern_decides_but_within_a_named_folder() -> None:
    found = Patterns(["*.pt", "logs/", "!best.pt", "!logs/a.txt"])
    assert [found.name(path) for path in ("last.pt", "best.pt", "x/best.pt", "logs/a.txt")] == [
        True,
        False,
        False,
        True,
    ]
    assert found.name("logs", is_folder=True) and not found.name("logs")


@pytest.mark.parametrize("path", ["a", "x/y z.bin", "x/[1]*?.bin", "!b", "#c"])
def test_a_path_can_be_named_exactly(path: str) -> None:
    pattern = Patterns([exactly(path)])
    assert pattern.name(path) and pattern.name(f"{path}/below")
    assert not pattern.name(f"z/{path}") and not pattern.name("x/1abc.bin")


def test_a_pattern_of_many_stars_takes_no_time_that_grows_with_their_number() -> None:
    stars = Patterns(["/".join(["**", "*a*a*a*a*a*a*a*a*b"] * 8)])
    assert not stars.name("/".join(["a" * 60] * 30))
    assert not Patterns(["**/" * 20_000 + "b"]).name("/".join(["a"] * 30))


@pytest.mark.parametrize("pattern", ["*.pt", "**/x/**", "/a/**/b", "**/a/a/a/b"])
def test_a_deep_path_is_looked_at_once_and_not_for_each_folder_that_it_is_in(
    pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0
    fits = patterns._fits

    def counted(*arguments: Any) -> bool:
        nonlocal compared
        compared += 1
        return fits(*arguments)

    monkeypatch.setattr(patterns, "_fits", counted)
    assert not Patterns([pattern]).name("/".join(["a"] * 500))
    assert compared <= 500 * pattern.count("/") + 500


_TEXTS = st.lists(st.sampled_from(["a", "b", "*", "?", "**/", "/"]), min_size=1, max_size=7).map("".join)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["", "", "!"]), _TEXTS).map("".join), min_size=1, max_size=3),
    st.lists(st.sampled_from(["a", "b", "ab"]), min_size=1, max_size=5),
    st.booleans(),
)
def test_a_path_is_named_where_it_or_a_folder_that_it_is_in_is_named_itself(
    texts: list[str], parts: list[str], is_folder: bool
) -> None:
    found = Patterns(texts)
    above = ["/".join(parts[:count]) for count in range(1, len(parts))]
    path = "/".join(parts)
    expected = found.name_itself(path, is_folder=is_folder) or any(
        found.name_itself(folder, is_folder=True) for folder in above
    )
    assert found.name(path, is_folder=is_folder) == expected
