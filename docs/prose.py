"""Look over the prose of the pages: short sentences, short lines, and an actor in each.

python docs/prose.py            name each place that breaks a rule; fail where there is one
python docs/prose.py --count    print how many there are of each kind
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
AS_THEY_ARE = {ROOT / "CHANGELOG.md", *(ROOT / "docs" / "reference").glob("*.md")}
"""Pages whose sentences may be long: those of the past, and those made of the program's own texts."""
MOST_WORDS = 30
"""Of a sentence. A command or a name in code counts as one word."""
MOST_COLUMNS = 100
# Written in pieces, so that this file obeys the rule: a sentence names its actor, the worker, the caller, the owner.
WITHOUT_AN_ACTOR = re.compile(r"(?<![a-z`])(?:some|any|no)" + r"(?:body|one)(?![a-z])|whoe" + "ver", re.I)

_FENCE = re.compile(r"^ *(```+|~~~+)")
_STARTS = re.compile(r"^ *(?:[-*] |\d+\. |#|\||!\[)")
"""A line that begins something else than the sentence before it: an item, a heading, a row, a picture."""
_ENDS = re.compile(r"(?<=[.!?])[\"')*_]*\s+(?=[\"'(*_`\[]*[A-Z0-9])|[.!?]?\s\|\s")


def lines(page: Path) -> Iterator[tuple[int, str]]:
    """A page's lines with their numbers, without blocks of code, comments, and where links lead."""
    text = re.sub(
        r"<!--.*?-->", lambda match: "\n" * match[0].count("\n"), page.read_text(encoding="utf-8"), flags=re.S
    )
    is_code = False
    for number, line in enumerate(text.splitlines(), start=1):
        if _FENCE.match(line):
            is_code = not is_code
        yield number, "" if is_code or _FENCE.match(line) else re.sub(r"\]\([^)\s]*\)?", "]", line)


def paragraphs(page: Path) -> Iterator[tuple[int, str]]:
    """What stands together: a paragraph, an item, a row of a table; each with the number of its first line."""
    part = 0

    def of(entry: tuple[int, str]) -> int:
        nonlocal part
        part += not entry[1].strip() or bool(_STARTS.match(entry[1]))
        return part

    for _, together in groupby(lines(page), of):
        found = list(together)
        yield found[0][0], " ".join(line.strip() for _, line in found)


def sentences(page: Path) -> Iterator[tuple[int, list[str]]]:
    """The words of each sentence, with the number of the line that its paragraph begins in."""
    for number, text in paragraphs(page):
        for sentence in _ENDS.split(re.sub(r"`[^`]*`", "X", text)):
            yield number, re.findall(r"\S*\w\S*", sentence or "")


def faults(page: Path) -> Iterator[tuple[str, int, str]]:
    """The kind of each fault, its line, and what is wrong."""
    for number, words in sentences(page):
        if len(words) > MOST_WORDS and page not in AS_THEY_ARE:
            yield "long sentence", number, f"{len(words)} words: {' '.join(words[:8])} …"
    for number, line in lines(page):
        if len(line) > MOST_COLUMNS and not line.startswith("|"):
            yield "long line", number, f"{len(line)} columns"
        if found := WITHOUT_AN_ACTOR.search(line):
            yield "no actor", number, found[0]


def main(arguments: list[str] | None = None) -> int:
    """Print the faults, or how many there are; 1 where there is one."""
    parser = argparse.ArgumentParser(description="Look over the prose of the pages.")
    parser.add_argument("--count", action="store_true", help="print how many there are of each kind")
    options = parser.parse_args(arguments)
    found = [(page, *fault) for page in PAGES for fault in faults(page)]
    if options.count:
        total = sum(1 for page in PAGES for _, words in sentences(page) if words)
        for kind in ("long sentence", "long line", "no actor"):
            sys.stdout.write(f"{sum(one[1] == kind for one in found)} {kind}\n")
        sys.stdout.write(f"of {total} sentences\n")
    else:
        for page, kind, number, text in found:
            sys.stderr.write(f"{page.relative_to(ROOT)}:{number}: {kind}: {text}\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
