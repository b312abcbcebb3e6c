"""Writes what was measured into a page of the documentation: tables, charts, and the figures themselves as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.results import Result
from benchmarks.table import COLUMNS, to_markdown

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_BAR, _GAP, _LABELS, _WIDTH, _FIGURES = 18, 8, 150, 420, 80


def write(document: Mapping[str, Any], page: Path = PAGE) -> None:
    """Replace what stands between the page's two marks, and write charts and ``performance.json`` beside it.

    Charts of cases that are not among the results any more are removed.

    ValueError where the page has no marks.
    """
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no marks to write between: {BEGIN} and {END}")
    results = [Result.from_document(one) for one in document["results"]]
    sections = [describe(document["machine"], document.get("remark", ""))]
    images = page.parent / "images"
    for former in images.glob("performance-*.svg"):
        former.unlink()
    for result in results:
        sections.append(to_markdown(result))
        if result.chart and len(result.runs) > 1:
            images.mkdir(exist_ok=True)
            (images / f"performance-{result.case}.svg").write_text(chart(result))
            sections.append(f"![{escape(result.title)}](images/performance-{result.case}.svg)")
    page.write_text(f"{before}{BEGIN}\n\n" + "\n\n".join(sections) + f"\n\n{END}{after}")
    page.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")


def describe(machine: Mapping[str, Any], remark: str = "") -> str:
    """The machine and the day in a paragraph."""
    words = (
        f"Measured at {machine['at']} on {machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB of "
        f"memory, {machine['system']}, Python {machine['python']}; load {machine['load']:.1f} when it began."
    )
    return textwrap.fill(f"{words} {remark}".strip(), COLUMNS, break_long_words=False, break_on_hyphens=False)


def chart(result: Result) -> str:
    """A race as an SVG: a bar for each contestant's median, the fastest first, a line from low to high."""
    names = sorted(result.runs, key=result.median)
    spreads = {name: result.spread(name, "wall") for name in names}
    longest = max(spread.high for spread in spreads.values() if spread) or 1.0
    width, height = _LABELS + _WIDTH + _FIGURES, 34 + len(names) * (_BAR + _GAP)

    def lines() -> Iterator[str]:
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="sans-serif" font-size="12" role="img" aria-label="{escape(result.title)}">'
        )
        yield f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
        yield f'<text x="8" y="18" font-weight="bold" fill="#222">{escape(result.title)}: seconds</text>'
        for number, name in enumerate(names):
            spread = spreads[name]
            assert spread is not None
            top, middle = 30 + number * (_BAR + _GAP), 30 + number * (_BAR + _GAP) + _BAR / 2
            length, low, high = (value / longest * _WIDTH for value in (spread.median, spread.low, spread.high))
            colour = "#0b7a75" if name == "flexai" else "#b8c4cc"
            yield f'<text x="{_LABELS - 8}" y="{middle + 4:g}" text-anchor="end" fill="#222">{escape(name)}</text>'
            yield f'<rect x="{_LABELS}" y="{top}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>'
            yield (f'<path d="M{_LABELS + low:.1f} {middle:g}H{_LABELS + high:.1f}" stroke="#444" stroke-width="1.5"/>')
            yield f'<text x="{_LABELS + high + 6:.1f}" y="{middle + 4:g}" fill="#222">{spread.median:.2f}</text>'
        yield "</svg>"

    return "\n".join(lines()) + "\n"
