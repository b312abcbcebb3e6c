from __future__ import annotations

import pytest

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
    patterns = Patterns(["*.pt", "logs/", "!best.pt", "!logs/a.txt"])
    assert [patterns.name(path) for path in ("last.pt", "best.pt", "x/best.pt", "logs/a.txt")] == [
        True,
        False,
        False,
        True,
    ]
    assert patterns.name("logs", is_folder=True) and not patterns.name("logs")


@pytest.mark.parametrize("path", ["a", "x/y z.bin", "x/[1]*?.bin", "!b", "#c"])
def test_a_path_can_be_named_exactly(path: str) -> None:
    pattern = Patterns([exactly(path)])
    assert pattern.name(path) and pattern.name(f"{path}/below")
    assert not pattern.name(f"z/{path}") and not pattern.name("x/1abc.bin")


def test_a_pattern_of_many_stars_takes_no_time_that_grows_with_their_number() -> None:
    stars = Patterns(["/".join(["**", "*a*a*a*a*a*a*a*a*b"] * 8)])
    assert not stars.name("/".join(["a" * 60] * 30))
