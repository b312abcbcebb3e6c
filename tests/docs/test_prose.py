"""What `make lint` finds in the prose of a page."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.docs.test_pages import ROOT

FAULTS = runpy.run_path(str(ROOT / "docs" / "prose.py"))["faults"]
LONG = "a " * 31


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (LONG, ["long sentence"]),
        ("A " * 16 + "end.\n" + "A " * 16 + "end.", []),
        (f"- {'a ' * 20}\n- {'a ' * 20}", []),
        (f"| {'a ' * 20}| {'a ' * 20}|", []),
        (f"| {LONG}|", ["long sentence"]),
        (f"```\n{LONG}\n```", []),
        (f"`{LONG}` is one word.", []),
        ("x" * 101, ["long line"]),
        (f"[a page]({'x' * 101})", []),
        ("It is told to some" + "one.", ["no actor"]),
    ],
)
def test_a_page_is_faulted_for_what_is_hard_to_read(tmp_path: Path, text: str, found: list[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    assert [kind for kind, _, _ in FAULTS(page)] == found
