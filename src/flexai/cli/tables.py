"""Tables for people: FlexAI's two kinds, one ruled with dashes and one with box characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flexai.cli.terminal import printable


def dashed_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """A table whose columns are parted by ``|``, with a dashed rule; ``right`` has the columns aligned to the right."""
    return _table(titles, rows, right, column="|", rule="-", crossing="+")


def box_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """A table whose columns are parted by ``│``, with a rule of ``─``."""
    return _table(titles, rows, right, column="│", rule="─", crossing="┼")


def _table(
    titles: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: frozenset[int],
    *,
    column: str,
    rule: str,
    crossing: str,
) -> str:
    cells = [[printable(cell) for cell in row] for row in rows]
    columns = list(zip(titles, *cells, strict=True))
    widths = [max(map(len, texts)) for texts in columns]
    # As FlexAI draws it: two columns of margin on the left, and on the right.
    last = len(widths) - 1
    line = crossing.join(rule * (width + 2 + (number == 0) + (number == last)) for number, width in enumerate(widths))
    between = f" {column} "
    lines = [between.join(text.ljust(width) for text, width in zip(titles, widths, strict=True))]
    lines += [
        between.join(
            text.rjust(width) if number in right else text.ljust(width)
            for number, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]
    shown = [f"  {text}".rstrip() for text in lines]
    return "\n".join([shown[0], line, *shown[1:]])
