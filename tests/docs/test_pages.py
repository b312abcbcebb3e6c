"""What holds for every page: how it is written, and that what it names is there."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))

_PATH = re.compile(r"`([\w./-]+\.(?:py|md|toml|yaml|txt|cfg))`")


def pages() -> Iterator[Path]:
    """The pages of docs, and those in the root."""
    yield from sorted(ROOT.glob("*.md"))
    yield from sorted((ROOT / "docs").rglob("*.md"))


def test_every_module_that_a_page_for_contributors_names_is_there() -> None:
    """Named from the root, or from the package's or the checkpoint system's folder."""
    folders = (ROOT, ROOT / "src" / "flexai", ROOT / "src" / "flexai" / "checkpoints")
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md", *DECISIONS)
        for name in _PATH.findall(page.read_text(encoding="utf-8"))
        if not any((folder / name).is_file() for folder in folders)
    ]
    assert missing == []


def test_every_test_that_a_page_for_contributors_names_is_there() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    missing = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in (ROOT / "CONTRIBUTING.md", ROOT / "docs" / "architecture.md", *DECISIONS)
        for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))
        if f"def {name}(" not in tests
    ]
    assert missing == []


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_says_what_led_to_it_what_follows_and_what_keeps_it(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^\*\*(Context|Decision|Consequence)\.\*\*|^\*\*(Kept by)\*\*", text, re.M)
    assert [first or second for first, second in found] == ["Context", "Decision", "Consequence", "Kept by"]
    assert "tests/" in text.partition("**Kept by**")[2]


def test_the_architecture_leads_to_every_decision() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [page.name for page in DECISIONS if f"(decisions/{page.name})" not in text] == []


def test_the_pictures_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "docs/pictures.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
