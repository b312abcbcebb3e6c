"""Tables for people: one look for all, and how one comes to fit its terminal.

The look is that of FlexAI's list (https://docs.flex.ai/commands/checkpoint). On a terminal a table is never wider than
that: texts are broken between words, columns of little importance are left out, and long names are cut, in this order.
In a file or a pipe every column is there, whole.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import zip_longest
from typing import Generic, NamedTuple, TypeVar

from flexai.checkpoints.names import printable

R = TypeVar("R")

ID_DIGITS = 8
"""Digits of a UUID that stand for it where there is no room."""

_LEAST = 24
"""Columns that a cut name keeps, and that a text has for its words."""
_BETWEEN = 3
_MARGINS = 4
_CUT = "…"


class Column(NamedTuple, Generic[R]):
    """One column: its title, and what it shows of a row."""

    title: str
    of: Callable[[R], str]
    rank: int = 0
    """How soon it is left out where there is no room: 0 never, the highest first; 1 after names have been cut."""
    right: bool = False
    """Whether it is aligned to the right."""
    is_text: bool = False
    """Whether it is a sentence, to be broken between words."""
    is_name: bool = False
    """Whether it may be cut."""
    short: Callable[[str], str] | None = None
    """What a cell becomes where there is no room for it."""


class _Shown:
    """A column with its cells, and the room that they take."""

    def __init__(self, column: Column[R], rows: Iterable[R]) -> None:
        self.title, _, self.rank, self.right, self.is_text, self.is_name, self.short = column
        self.cells = _printable([column.of(row) for row in rows])

    def widest(self) -> int:
        return max(map(len, (self.title, *self.cells)))

    def least(self) -> int:
        """The room that it needs with its texts broken, and its names cut."""
        if self.is_text:
            longest = max((len(word) for cell in self.cells for word in cell.split()), default=0)
            return min(self.widest(), max(len(self.title), min(longest, _LEAST)))
        return min(self.widest(), max(len(self.title), _LEAST)) if self.is_name else self.widest()

    def unbroken(self) -> int:
        """The room that it needs with its texts broken only."""
        return self.least() if self.is_text else self.widest()


def table(rows: Iterable[R], *columns: Column[R]) -> str:
    """The rows under the titles, as wide as they are or, on a terminal, as its width lets them be."""
    every = list(rows)
    shown = [_Shown(one, every) for one in columns]
    room = _room()
    if room is None or _taken(shown, _Shown.widest) <= room:
        return _drawn(shown, {})
    for one in shown:
        if one.short is not None:
            one.cells = [one.short(cell) for cell in one.cells]
    for need, least_rank in ((_Shown.unbroken, 2), (_Shown.least, 1)):
        while _taken(shown, need) > room and (going := [one for one in shown if one.rank >= least_rank]):
            # Of equals the last one goes.
            shown.remove(max(reversed(going), key=lambda one: one.rank))
    return _drawn(shown, _widths(shown, room))


def _printable(cells: list[str]) -> list[str]:
    # All at once: a list has tens of thousands of cells, and nearly never one to be spelled out.
    return cells if "".join(cells).isprintable() else [printable(cell, keep="") for cell in cells]


def _room() -> int | None:
    """The columns of the terminal; None where there is none."""
    if "COLUMNS" in os.environ or sys.stdout.isatty():
        import shutil

        return shutil.get_terminal_size().columns
    return None


def _taken(shown: Sequence[_Shown], need: Callable[[_Shown], int]) -> int:
    return sum(map(need, shown)) + _BETWEEN * (len(shown) - 1) + _MARGINS


def _widths(shown: Sequence[_Shown], room: int) -> dict[int, int]:
    """How wide the columns are that are broken or cut: each has what it needs, and names come before texts."""
    widths = [one.least() for one in shown]
    left = room - _taken(shown, _Shown.least)
    for number in sorted(range(len(shown)), key=lambda number: shown[number].is_text):
        more = min(max(left, 0), shown[number].widest() - widths[number])
        widths[number] += more
        left -= more
    while left < 0 and max(widths) > 1:  # narrower than all that is never left out
        widest = max(range(len(widths)), key=widths.__getitem__)
        widths[widest] -= 1
        left += 1
    return dict(enumerate(widths))


def _drawn(shown: Sequence[_Shown], limits: dict[int, int]) -> str:
    """The table, with cells of several lines where a column is limited."""
    columns = [one.cells for one in shown]
    if limits and columns[0]:
        lines: list[tuple[str, ...]] = []
        for row in zip(*columns, strict=True):
            cells = [
                _broken(cell, limits[number], is_text=shown[number].is_text) if number in limits else [cell]
                for number, cell in enumerate(row)
            ]
            lines += zip_longest(*cells, fillvalue="")
        columns = [list(column) for column in zip(*lines, strict=True)]
    titles = [cut(one.title, limits.get(number, len(one.title))) for number, one in enumerate(shown)]
    widths = [max(map(len, (title, *column))) for title, column in zip(titles, columns, strict=True)]
    # As FlexAI draws it: two columns of margin on the left, and on the right.
    last = len(widths) - 1
    rule = "+".join("-" * (width + 2 + (number == 0) + (number == last)) for number, width in enumerate(widths))
    head = " | ".join(text.ljust(width) for text, width in zip(titles, widths, strict=True))
    aligned = [
        [text.rjust(width) for text in column] if one.right else [text.ljust(width) for text in column]
        for one, column, width in zip(shown, columns, widths, strict=True)
    ]
    rows = map(" | ".join, zip(*aligned, strict=True))
    head, *body = (f"  {text}".rstrip() for text in (head, *rows))
    return "\n".join([head, rule, *body])


def _broken(text: str, width: int, *, is_text: bool) -> list[str]:
    if not is_text or len(text) <= width:
        return [cut(text, width)]
    import textwrap

    words = textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)
    return [cut(line, width) for line in words]


def cut(text: str, width: int) -> str:
    """The text in so many columns: of a path its end, of another one its beginning and its end."""
    if len(text) <= width:
        return text
    if width <= 2 * len(_CUT):
        return _CUT[:width]
    _, slash, last = text.rpartition("/")
    if slash and len(last) + 2 <= width:
        start = text.index("/", len(text) - width + 1)
        return _CUT + text[start:]
    head = (width - 1) // 2
    return text[:head] + _CUT + text[len(text) - (width - 1 - head) :]


def number(value: float | None) -> str:
    """A loss or another metric in a column."""
    return "-" if value is None else f"{value:.4g}"
