"""What holds for every page: how it is written, and that what it names is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = 100

_FENCE = re.compile(r"^ *(```+|~~~+)")
_TARGET = re.compile(r"\]\([^)]*\)")


def pages() -> Iterator[Path]:
    """The pages of docs, and those in the root."""
    yield from sorted(ROOT.glob("*.md"))
    yield from sorted((ROOT / "docs").rglob("*.md"))


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """A page's lines with their numbers, without code blocks and tables, and without where links lead."""
    is_code = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if _FENCE.match(line):
            is_code = not is_code
        elif not is_code and not line.startswith("|"):
            yield number, _TARGET.sub("]()", line)


def test_no_line_of_a_page_is_too_long_to_be_read_beside_code() -> None:
    long = [
        f"{page.relative_to(ROOT)}:{number}" for page in pages() for number, line in prose(page) if len(line) > COLUMNS
    ]
    assert long == []
