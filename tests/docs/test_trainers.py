"""The page about trainers shows the results that lie beside it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_table_of_trainers_is_that_of_the_results() -> None:
    page = (DOCS / "trainers.md").read_text()
    results = json.loads((DOCS / "trainers.json").read_text())
    assert page == runpy.run_path(str(DOCS / "trainers.py"))["render"](page, results)


def test_each_layout_that_is_tried_has_its_row() -> None:
    from tests.frameworks.test_captures import CASES

    assert set(json.loads((DOCS / "trainers.json").read_text())) == {case.id for case in CASES}
