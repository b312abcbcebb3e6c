"""The table of a Lightning job in the README is what a terminal of 80 columns shows of the example's job."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.program import Program

pytestmark = pytest.mark.frameworks

ROOT = Path(__file__).parents[2]
COMMAND = "flexai training checkpoints lightning"


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in table.splitlines() if "|" in line]


def test_the_readme_s_table_is_that_of_the_example_s_job(frameworks: Path, tmp_path: Path) -> None:
    (block,) = re.findall(rf"^\$ {COMMAND}\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.M | re.S)
    program = Program(tmp_path)
    train = (str(frameworks / "bin/python"), str(ROOT / "examples/train_lightning.py"))
    done = program.run("training", "run", "lightning", "--checkpoint", "latest", "--", *train)
    assert done.code == 0, done.err

    shown = program.on_a_terminal(*COMMAND.split()[1:])
    assert max(map(len, shown.splitlines())) <= 80
    head, *rows = cells(shown)
    told, *lines = cells(block)
    assert head == told == ["NAME", "STEP", "EVAL LOSS", "RESUMABLE", "BEST", "SIZE"]
    # The loss has digits that differ from processor to processor, and a file's size from version to version.
    for row, line in zip(rows, lines, strict=True):
        assert [row[place] for place in (0, 1, 3, 4)] == [line[place] for place in (0, 1, 3, 4)]
        assert float(row[2]) == pytest.approx(float(line[2]), rel=0.05)
        assert row[5].split()[1] == line[5].split()[1]

    again = program.run("training", "run", "lightning", "--checkpoint", "latest", "--", *train)
    assert again.code == 0, again.err
    assert "Restored all states" in again.err
