"""Tables for people: FlexAI's two kinds, one ruled with dashes and one with box characters."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from flexai.checkpoints.names import printable

_NARROWEST = 80
"""Columns that a table may take on any terminal, and where there is none."""


def dashed_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """A table whose columns are parted by ``|``, with a dashed rule; ``right`` has the columns aligned to the right."""
    return _table(titles, rows, right, column="|", rule="-", crossing="+")


def box_table(titles: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """A table whose columns are parted by ``│``, with a rule of ``─``."""
    return _table(titles, rows, right, column="│", rule="─", crossing="┼")


def with_room_for(
    titles: Sequence[str], rows: Sequence[Sequence[str]], more: Iterable[Sequence[str]]
) -> tuple[list[str], list[list[str]]]:
    """A table's titles and rows with as many more columns, each a title and its cells, as the terminal has room for."""
    head, lines = list(titles), [list(row) for row in rows]
    taken = sum(max(map(len, texts)) + 3 for texts in zip(head, *lines, strict=True))
    room = max(_NARROWEST, shutil.get_terminal_size().columns)
    for title, *cells in more:
        taken += max(map(len, (title, *cells))) + 3
        if taken + 1 > room:  # with the margins of the rule
            break
        head.append(title)
        for line, cell in zip(lines, cells, strict=True):
            line.append(cell)
    return head, lines


def fitted_table(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    wide: tuple[int, int],
    right: frozenset[int] = frozenset(),
) -> str:
    """A dashed table that fits the terminal: the texts of its two ``wide`` columns are broken into lines."""
    rooms = dict(zip(wide, _share(titles, rows, wide), strict=True))
    broken: list[tuple[str, ...]] = []
    for row in rows:
        cells = [_wrap(cell, rooms[number]) if number in rooms else [cell] for number, cell in enumerate(row)]
        broken += zip_longest(*cells, fillvalue="")
    return dashed_table(titles, broken, right=right)


def _share(titles: Sequence[str], rows: Sequence[Sequence[str]], wide: tuple[int, int]) -> tuple[int, int]:
    """How many columns the two wide columns get, so that the table fits the terminal."""
    widths = [max(map(len, texts)) for texts in zip(titles, *rows, strict=True)]
    taken = sum(width for number, width in enumerate(widths) if number not in wide)
    # Two columns of margin on either side, which the rule has on both, and three between any two.
    room = max(_NARROWEST, shutil.get_terminal_size().columns) - 4 - taken - 3 * (len(titles) - 1)
    first, second = (widths[number] for number in wide)
    first = min(first, max(room // 2, room - second))
    return first, room - first


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(printable(text, keep=""), width, break_on_hyphens=False) or [""]


def _table(
    titles: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: frozenset[int],
    *,
    column: str,
    rule: str,
    crossing: str,
) -> str:
    cells = [[printable(cell, keep="") for cell in row] for row in rows]
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
