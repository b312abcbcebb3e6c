from __future__ import annotations

import re
from collections.abc import Sequence
from operator import itemgetter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexai.cli.tables import Column, cut, table
from tests.cli.conftest import Run
from tests.cli.program import Program

Row = tuple[str, ...]
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


def drawn(titles: Sequence[str], rows: Sequence[Row], right: int = -1) -> str:
    return table(rows, *(Column[Row](title, itemgetter(n), right=n == right) for n, title in enumerate(titles)))


def at_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))


def titles_of(text: str) -> list[str]:
    return [title.strip() for title in text.splitlines()[0].split("|")]


def _without_spaces(text: str) -> str:
    return "\n".join(re.sub(r" +", " ", line).strip() for line in text.splitlines())


@pytest.fixture(autouse=True)
def piped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def test_the_list_is_the_references_table() -> None:
    text = drawn(HEAD, ROWS, right=1)
    assert _without_spaces(text) == REFERENCE
    assert text.splitlines()[1] == REFERENCE.splitlines()[1]


def test_the_columns_are_aligned_with_the_crossings_of_the_rule() -> None:
    head, rule, *rows = drawn(HEAD, ROWS).splitlines()
    crossings = [position for position, character in enumerate(rule) if character == "+"]
    for line in (head, *rows):
        assert [position for position, character in enumerate(line) if character == "|"] == crossings


def test_a_table_without_rows_still_has_its_head() -> None:
    assert _without_spaces(drawn(HEAD, [])).splitlines()[0] == REFERENCE.splitlines()[0]


def test_a_name_cannot_command_the_terminal() -> None:
    text = drawn(("NAME",), [("\x1b]0;owned\x07\r\n",)])
    assert "\x1b" not in text
    assert "\\u001b]0;owned\\u0007\\u000d\\u000a" in text
    assert len(text.splitlines()) == 3


WORDS = st.lists(st.text("abcxyz/-", min_size=1, max_size=60), max_size=9).map(" ".join)


@given(
    st.lists(st.tuples(WORDS, WORDS, WORDS, WORDS), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=4, max_size=4),
    st.sampled_from([40, 60, 80, 120]),
)
def test_a_table_is_never_wider_than_the_terminal_and_breaks_no_word(
    rows: list[Row], kinds: list[tuple[int, bool]], width: int
) -> None:
    columns = [
        Column[Row](f"TITLE {n}", itemgetter(n), rank=rank, is_text=is_text, is_name=not is_text)
        for n, (rank, is_text) in enumerate(kinds)
    ]
    with pytest.MonkeyPatch.context() as patched:
        at_width(patched, width)
        text = table(rows, *columns)
    assert max(map(len, text.splitlines())) <= width
    words = {word for row in rows for cell in row for word in cell.split()}
    for line in text.splitlines()[2:]:
        assert all(word in words or "…" in word or word == "|" for word in line.split())


def test_columns_go_by_their_importance_before_a_name_is_cut_and_the_first_ones_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows: list[Row] = [("n" * 50, "1", "available", "alice@lab", "90c8f215-e131-4f9c-936c-12fe1fe9a6f1")]
    columns = (
        Column[Row]("NAME", itemgetter(0), is_name=True),
        Column[Row]("STEP", itemgetter(1)),
        Column[Row]("STATUS", itemgetter(2), rank=1),
        Column[Row]("BY", itemgetter(3), rank=3),
        Column[Row]("ID", itemgetter(4), rank=2, short=lambda text: text[:8]),
    )
    shown = {}
    for width in (200, 110, 84, 60, 44, 40, 20):
        at_width(monkeypatch, width)
        shown[width] = table(rows, *columns)
        assert max(map(len, shown[width].splitlines())) <= width
    assert [titles_of(text) for text in shown.values()] == [
        ["NAME", "STEP", "STATUS", "BY", "ID"],
        ["NAME", "STEP", "STATUS", "BY", "ID"],
        ["NAME", "STEP", "STATUS", "ID"],
        ["NAME", "STEP", "STATUS"],
        ["NAME", "STEP"],
        ["NAME", "STEP"],
        ["NAME", "STEP"],
    ]
    assert "90c8f215-e131" in shown[200]
    assert shown[110].endswith("90c8f215")
    assert "n" * 50 in shown[84]
    assert "…" in shown[60]


def test_a_file_or_a_pipe_has_every_column_whole() -> None:
    row = ("n" * 300, "words " * 50)
    text = table([row], Column("NAME", itemgetter(0), is_name=True), Column("WHY", itemgetter(1), rank=9, is_text=True))
    assert all(cell.strip() in text for cell in row)


def test_of_a_path_its_end_stays_and_of_a_name_both_ends() -> None:
    assert cut("lightning_logs/version_0/epoch=0-step=100.ckpt", 32) == "…/epoch=0-step=100.ckpt"
    assert cut("a/b/c/d.bin", 10) == "…/c/d.bin"
    assert cut("mistral-7b-instruct-500", 11) == "mistr…t-500"
    assert cut("short", 5) == "short"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_table_of_a_home_fits_the_terminal(
    flexai: Run, program: Program, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    name = "a-checkpoint-with-a-name-that-is-as-long-as-names-can-be-" + "x" * 6
    program.file("out/lightning_logs/version_0/checkpoints/epoch=0-step=100-of-a-long-training.safetensors", "x" * 3000)
    assert flexai("checkpoint", "push", name, "out").code == 0
    at_width(monkeypatch, width)
    for words in (
        ("checkpoint", "list"),
        ("checkpoint", "list", "--columns", "id,name,kind,step,size,status,created,creator,resumable"),
        ("checkpoint", "push", name[:-1], "out", "--dry-run"),
        ("checkpoint", "prune", "--keep-last", "1"),
        ("checkpoint", "history", name),
        ("history",),
        ("config", "show"),
        ("training", "list"),
    ):
        done = flexai(*words)
        assert done.code == 0, done.err
        assert max(map(len, done.out.splitlines())) <= width, words
