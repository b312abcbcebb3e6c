"""Writes what was measured into two pages: the races, for users, and the rest, for those who change the engine."""

from __future__ import annotations

import json
import math
import os
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from benchmarks.results import Result
from benchmarks.table import COLUMNS, to_markdown

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
NOTES = Path(__file__).parent / "NOTES.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
CHART, GROWTH = "performance.svg", "performance-growth.svg"
_BAR, _GAP, _LABELS, _WIDTH, _FIGURES, _MOST = 14, 4, 300, 320, 60, 2.0
_MIB = 1024**2


def write(document: Mapping[str, Any], page: Path = PAGE, notes: Path = NOTES) -> None:
    """Replace what stands between the marks of two pages.

    ``page`` gets the races, with a chart, and ``performance.json`` beside it all figures; ``notes`` gets the cases that
    have figures of their own.

    ValueError where a page has no marks; nothing is written then.
    """
    races, runs, figures = [], [], []
    for one in document["results"]:
        result, run = Result.from_document(one), describe(one["machine"], one["remark"])
        if _fastest(result):
            # Cases that were measured in other runs are perhaps of another machine.
            if run not in runs:
                runs.append(run)
            races.append((result, runs.index(run) + 1))
        if result.figures:
            figures.append((result, run))
    images = page.parent / "images"
    drawings = {CHART: chart(drawn)} if (drawn := [race for race, _ in races if race.chart]) else {}
    if growth := [result for result, _ in figures if result.case == "growth"]:
        drawings[GROWTH] = growth_chart(growth[0])

    sections = ["\n".join(_table(races)), *(_wrapped(f"Run {number}. {run}") for number, run in enumerate(runs, 1))]
    sections += [f"![flexai's time by that of the fastest peer](images/{CHART})"] if CHART in drawings else []
    details = [text for result, run in figures for text in (to_markdown(result), _wrapped(run))]
    place = os.path.relpath(images / GROWTH, notes.parent)
    details += [f"![Seconds by the amount, both in powers of ten]({place})"] if GROWTH in drawings else []
    texts = {page: _between_marks(page, sections), notes: _between_marks(notes, details)}

    for former in images.glob("performance*.svg"):
        former.unlink()
    for name, drawing in drawings.items():
        images.mkdir(exist_ok=True)
        (images / name).write_text(drawing)
    for path, text in texts.items():
        path.write_text(text)
    page.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")


def _between_marks(page: Path, sections: Iterable[str]) -> str:
    """A page's text with these sections between its marks."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page} has no marks to write between: {BEGIN} and {END}")
    return "\n\n".join([f"{before}{BEGIN}", *sections, f"{END}{after}"])


def describe(machine: Mapping[str, Any], remark: str = "") -> str:
    """The machine and the day of a run, but for the hour."""
    words = (
        f"Measured on {machine['at'][:10]} on {machine['cores']} cores ({machine['cpu']}), {machine['memory_gib']} GiB"
        f" of memory, {machine['system']}, Python {machine['python']}; load {machine['load']:.1f} when it began."
    )
    return f"{words} {remark}".strip()


def _wrapped(text: str) -> str:
    return textwrap.fill(text, COLUMNS, break_long_words=False, break_on_hyphens=False)


def _fastest(result: Result) -> str | None:
    """The fastest of the others, where flexai and one of them ran."""
    return result.fastest([name for name in result.runs if name != "flexai"]) if "flexai" in result.runs else None


def _table(races: Iterable[tuple[Result, int]]) -> Iterator[str]:
    """A row for each race, with the number of its run: flexai's medians, and those of the fastest of the others."""
    yield "| case | s | CPU s | MiB | fastest peer | s | CPU s | ratio | runs | run |"
    yield "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |"
    for result, number in races:
        peer = _fastest(result) or "flexai"
        wall, cpu, peak = (result.median("flexai", figure) for figure in ("wall", "cpu", "peak"))
        other = (result.median(peer, figure) for figure in ("wall", "cpu"))
        ratio = wall / result.median(peer)
        missed = "**" if ratio > 1 else ""
        yield (
            f"| {result.title} | {wall:.2f} | {cpu:.2f} | {peak / _MIB:.0f} | {peer} | "
            + " | ".join(f"{value:.2f}" for value in other)
            + f" | {missed}{ratio:.2f}{missed} | {len(result.runs['flexai'])} | {number} |"
        )


def chart(results: Sequence[Result]) -> str:
    """Races as an SVG: a bar for each, flexai's median by that of the fastest peer, and a line where they are equal."""
    width, height = _LABELS + _WIDTH + _FIGURES, 34 + len(results) * (_BAR + _GAP)
    title = "flexai's time by that of the fastest peer: left of the line flexai is faster"

    def lines() -> Iterator[str]:
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="sans-serif" font-size="11" role="img" aria-label="{escape(title)}">'
        )
        yield f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
        yield f'<text x="8" y="18" font-weight="bold" fill="#222">{escape(title)}</text>'
        for number, result in enumerate(results):
            ratio = result.median("flexai") / result.median(_fastest(result) or "flexai")
            top = 30 + number * (_BAR + _GAP)
            length = min(ratio, _MOST) / _MOST * _WIDTH
            colour = "#0b7a75" if ratio <= 1 else "#c2571a"
            yield f'<text x="{_LABELS - 8}" y="{top + 11}" text-anchor="end" fill="#222">{escape(result.title)}</text>'
            yield f'<rect x="{_LABELS}" y="{top}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>'
            yield f'<text x="{_LABELS + length + 6:.1f}" y="{top + 11}" fill="#222">{ratio:.2f}</text>'
        equal = _LABELS + _WIDTH / _MOST
        yield f'<path d="M{equal:g} 26V{height - 4}" stroke="#444" stroke-width="1"/>'
        yield "</svg>"

    return "\n".join(lines()) + "\n"


_PLOT_WIDTH, _PLOT_HEIGHT, _NAMES = 360, 260, 240
_COLOURS = ("#0b7a75", "#c2571a", "#4a5fc1", "#7a4a8f")


def growth_chart(result: Result) -> str:
    """Series of a table as an SVG: seconds by the amount that a row's name holds, on logarithmic scales."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row, figures in result.figures.items():
        if found := re.search(r"[\d,]*\d", row):
            amount = float(found[0].replace(",", ""))
            name = row.replace(f"{found[0]} ", "")
            series.setdefault(name, []).append((math.log10(amount), math.log10(figures["s"])))
    points = [point for line in series.values() for point in line]
    left, right = 0, math.ceil(max(across for across, _ in points))
    low, high = math.floor(min(up for _, up in points)), math.ceil(max(up for _, up in points))

    def place(across: float, up: float) -> tuple[float, float]:
        return (
            50 + (across - left) / (right - left) * _PLOT_WIDTH,
            30 + (high - up) / max(high - low, 1) * _PLOT_HEIGHT,
        )

    def lines() -> Iterator[str]:
        width, height = 50 + _PLOT_WIDTH + _NAMES, 30 + _PLOT_HEIGHT + 30
        title = "Seconds of a whole process, by the amount"
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="sans-serif" font-size="11" role="img" aria-label="{escape(title)}">'
        )
        yield f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
        yield f'<text x="8" y="18" font-weight="bold" fill="#222">{escape(title)}</text>'
        for power in range(low, high + 1):
            _, y = place(left, power)
            yield f'<path d="M50 {y:.1f}h{_PLOT_WIDTH}" stroke="#ddd"/>'
            yield f'<text x="44" y="{y + 4:.1f}" text-anchor="end" fill="#222">{10.0**power:g} s</text>'
        for power in range(left, right + 1):
            x, y = place(power, low)
            yield f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle" fill="#222">{10**power:,}</text>'
        for number, (name, line) in enumerate(series.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            path = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in line)
            yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
            y = 50 + number * 20
            yield f'<text x="{60 + _PLOT_WIDTH}" y="{y}" fill="{colour}">{escape(name)}</text>'
        yield "</svg>"

    return "\n".join(lines()) + "\n"
