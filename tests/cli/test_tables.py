from __future__ import annotations

import re
import shutil

from hypothesis import given
from hypothesis import strategies as st

from flexai.cli.tables import box_table, dashed_table, fitted_table

HEAD = ("NAME", "FILES COUNT", "TOTAL SIZE", "STATUS", "CREATED AT")
ROWS = [
    ("base-llama2-pretrained-custom", "1", "17 GB", "available", "16d"),
    ("mistral-ft-owt", "2", "122 GB", "available", "2h"),
]

# The example of https://docs.flex.ai/commands/checkpoint; the page lost the spaces of all lines but the rule's.
REFERENCE = """\
NAME | FILES COUNT | TOTAL SIZE | STATUS | CREATED AT
--------------------------------+-------------+------------+-----------+-------------
base-llama2-pretrained-custom | 1 | 17 GB | available | 16d
mistral-ft-owt | 2 | 122 GB | available | 2h"""


def _without_spaces(table: str) -> str:
    return "\n".join(re.sub(r" +", " ", line).strip() for line in table.splitlines())


def test_the_list_is_the_references_table() -> None:
    table = dashed_table(HEAD, ROWS, right=frozenset({1}))
    assert _without_spaces(table) == REFERENCE
    assert table.splitlines()[1] == REFERENCE.splitlines()[1]


def test_the_columns_are_aligned_with_the_crossings_of_the_rule() -> None:
    head, rule, *rows = dashed_table(HEAD, ROWS).splitlines()
    crossings = [position for position, character in enumerate(rule) if character == "+"]
    for line in (head, *rows):
        assert [position for position, character in enumerate(line) if character == "|"] == crossings


def test_a_table_without_rows_still_has_its_head() -> None:
    assert _without_spaces(dashed_table(HEAD, [])).splitlines()[0] == REFERENCE.splitlines()[0]


def test_a_box_table_is_drawn_with_box_characters() -> None:
    head, rule, row = box_table(("ID", "NAME"), [("1", "x")]).splitlines()
    assert head == "  ID │ NAME"
    assert set(rule) == {"─", "┼"}
    assert row == "  1  │ x"


def test_a_name_cannot_command_the_terminal() -> None:
    table = dashed_table(("NAME",), [("\x1b]0;owned\x07\r\n",)])
    assert "\x1b" not in table
    assert "\\u001b]0;owned\\u0007\\u000d\\u000a" in table
    assert len(table.splitlines()) == 3


@given(st.lists(st.tuples(st.text("abc ", max_size=200), st.text("xyz ", max_size=200)), min_size=1, max_size=5))
def test_a_fitted_table_is_never_wider_than_the_terminal_and_loses_no_word(rows: list[tuple[str, str]]) -> None:
    table = fitted_table(("ACTION", "FILE", "SIZE", "WHY"), [("move", a, "1 KB", b) for a, b in rows], wide=(1, 3))
    assert max(map(len, table.splitlines())) <= max(80, shutil.get_terminal_size().columns)
    for a, b in rows:
        for letter in "abcxyz":
            assert (a + b).count(letter) <= table.count(letter)
