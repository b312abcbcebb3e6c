"""The page about security promises nothing without a test that is there."""

from __future__ import annotations

import re

from tests.docs.test_pages import ROOT

PAGE = ROOT / "docs" / "security.md"
_TEST = re.compile(r"\[(test_\w+)\]\(([^)]+)\)")
_KINDS = {
    *("digests", "`flexai up`", "modes", "addresses", "memory and time", "recovery", "comparison", "links"),
    *("terminal", "code", "answers", "secrets"),
}
_HELD = {"SQL", "paths", "XML", "HTML", "tokens", "JSON"}


def _rows() -> list[list[str]]:
    table = PAGE.read_text(encoding="utf-8").partition("| kind | attack |")[2].partition("\n\n")[0]
    return [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in table.splitlines()[2:]]


def test_every_test_that_the_page_links_to_is_there() -> None:
    links = _TEST.findall(PAGE.read_text(encoding="utf-8"))
    missing = [
        f"{target}: {name}"
        for name, target in links
        if not (file := PAGE.parent / target).is_file() or f"def {name}(" not in file.read_text(encoding="utf-8")
    ]
    assert missing == []
    assert len(links) > 50


def test_every_attack_has_what_happens_and_its_test() -> None:
    rows = _rows()
    assert [row for row in rows if len(row) != 4 or not row[2] or not _TEST.search(row[3])] == []
    assert {row[0] for row in rows} >= _KINDS | _HELD


def test_the_page_is_one_page_and_is_found() -> None:
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) < 250
    for page in ("README.md", "SECURITY.md", "docs/architecture.md", "CONTRIBUTING.md"):
        assert "security.md)" in (ROOT / page).read_text(encoding="utf-8"), page
