"""Results as tables for a terminal, and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.results import Result, Spread

_COLUMNS = ("wall s", "spread", "ratio", "CPU s", "span s", "server CPU", "peak MiB", "sent MiB", "got MiB", "requests")
_MIB = 1024**2

COLUMNS = 100
"""Columns at which the lines of pages wrap."""


def _figure(spread: Spread | None, unit: float = 1.0, digits: int = 2) -> str:
    return f"{spread.median / unit:.{digits}f}" if spread else ""


def cells(result: Result) -> tuple[list[str], list[tuple[str, ...]]]:
    """The names of the columns that have a figure, and the rows: a name, and a cell for each column."""
    if result.figures:
        columns = list(dict.fromkeys(column for row in result.figures.values() for column in row))
        body = [(name, *(_number(row.get(column)) for column in columns)) for name, row in result.figures.items()]
        return columns, body
    full = list(rows(result))
    used = [number for number in range(len(_COLUMNS)) if any(row[number + 1] for row in full)]
    return [_COLUMNS[number] for number in used], [(row[0], *(row[number + 1] for number in used)) for row in full]


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def rows(result: Result) -> Iterator[tuple[str, ...]]:
    """A row for each contestant, the fastest first; the reference by itself has no ratio."""
    for name in sorted(result.runs, key=result.median):
        wall = result.spread(name, "wall")
        assert wall is not None
        yield (
            name,
            f"{wall.median:.2f}",
            f"{wall.low:.2f}–{wall.high:.2f}",
            f"{result.ratio(name):.2f}" if name != result.reference and result.reference in result.runs else "",
            _figure(result.spread(name, "cpu")),
            _figure(result.spread(name, "span")),
            _figure(result.spread(name, "server_cpu")),
            f"{max(run.peak for run in result.runs[name]) / _MIB:.0f}",
            _figure(result.spread(name, "sent"), _MIB, 1),
            _figure(result.spread(name, "received"), _MIB, 1),
            _figure(result.spread(name, "requests"), 1, 0),
        )


def remarks(result: Result) -> Iterator[str]:
    """What there is to say about a result beside its figures."""
    counts = sorted({len(runs) for runs in result.runs.values()})
    if counts:
        few, many = counts[0], counts[-1]
        yield f"{few if few == many else f'{few} to {many}'} run{'s' if many > 1 else ''} of each, by turns"
    if result.reference != "flexai" and len(result.runs) > 1:
        yield f"ratio: the median of {result.reference} by that of the others"
    for bar in result.bars:
        sign = "≥" if bar.at_least else "≤"
        word = "reached" if bar.met else "MISSED"
        yield f"{word}: {bar.text}: {bar.value:.3g}{bar.unit} ({sign} {bar.limit:g}{bar.unit})"
    for name, reason in result.skipped.items():
        yield f"skipped: {name}: {reason}"
    for name, reasons in result.wrong.items():
        yield f"does not count: {len(reasons)} of {name}: {reasons[0].splitlines()[-1][:300]}"
    yield from result.notes


def print_result(result: Result, console: Console) -> None:
    """Print a result; columns without a figure are left out."""
    columns, body = cells(result)
    table = Table(box=None, pad_edge=False)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=column != "server CPU")
    for row in body:
        table.add_row(*row, style="bold" if row[0] == result.reference else "")
    console.print()
    console.print(Text(result.title, style="bold"))
    console.print(table)
    for remark in remarks(result):
        style = (
            "green" if remark.startswith("reached") else "red" if remark.startswith(("MISSED", "does not")) else "dim"
        )
        console.print(Text(f"  {remark}", style=style))


def _item(remark: str) -> str:
    return textwrap.fill(
        remark, COLUMNS, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def to_markdown(result: Result) -> str:
    """A result as a section of a page."""
    columns, body = cells(result)
    lines = [f"### {result.title}", ""]
    lines.append("| | " + " | ".join(columns) + " |")
    lines.append("| --- |" + " ---: |" * len(columns))
    for row in body:
        shown = [f"**{cell}**" if cell else "" for cell in row] if row[0] == result.reference else row
        lines.append("| " + " | ".join(shown) + " |")
    said = list(remarks(result))
    if said:
        lines += ["", *(_item(remark) for remark in said)]
    return "\n".join(lines)
