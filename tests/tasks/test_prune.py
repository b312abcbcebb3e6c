"""Prune, as a task's function, and the page that shows its plan."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexai.checkpoints.errors import NotFoundError, UsageError
from flexai.checkpoints.service.prune import PruneScope
from flexai.checkpoints.service.support.retention import RetentionPolicy
from flexai.tasks import list_checkpoints, prune_checkpoints, push_checkpoint
from flexai.tasks.prune import SHOWN_ROWS, describe_plan, summary_of
from tests.tasks.conftest import as_json

SCOPE = PruneScope(pushed=("nightly-*",))
LAST = RetentionPolicy(keep_last=1)


@pytest.fixture
def nightly(home: Path, files: Path) -> None:
    """Three checkpoints of which two files are the same."""
    for number in range(3):
        (files / "own.bin").write_bytes(bytes([number]) * 1000)
        push_checkpoint.fn(f"nightly-{number}", files=[str(files)])


def test_a_plan_is_returned_and_nothing_done(nightly: None) -> None:
    document = prune_checkpoints.fn(LAST, SCOPE)
    assert as_json(document) == document
    assert [row["action"] for row in document["checkpoints"]] == ["delete", "delete", "keep"]
    assert summary_of(document).startswith("2 of 3 would be deleted, which would free ")
    assert len(list_checkpoints.fn()) == 3


def test_with_apply_it_is_done(nightly: None) -> None:
    document = prune_checkpoints.fn(LAST, SCOPE, apply=True)
    assert summary_of(document).startswith("2 of 3 deleted; gc frees ")
    assert [row["name"] for row in list_checkpoints.fn()] == ["nightly-2"]
    assert prune_checkpoints.fn(LAST, SCOPE, apply=True)["deletedCount"] == 0


def test_the_page_shows_first_what_goes_and_why(nightly: None) -> None:
    page = describe_plan(prune_checkpoints.fn(LAST, SCOPE))
    assert "Nothing was deleted." in page
    rows = [line.split(" | ") for line in page.splitlines() if "nightly" in line]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("| delete", "`nightly-0`", "no rule keeps it |"),
        ("| delete", "`nightly-1`", "no rule keeps it |"),
        ("| keep", "`nightly-2`", "last 1, the last one |"),
    ]
    assert "Nothing was deleted." not in describe_plan(prune_checkpoints.fn(LAST, SCOPE, apply=True))


def test_a_long_plan_is_cut_off_where_it_says_so(nightly: None) -> None:
    document = prune_checkpoints.fn(LAST, SCOPE)
    document["checkpoints"] *= SHOWN_ROWS
    page = describe_plan(document)
    assert f"… and {2 * SHOWN_ROWS} more" in page
    assert page.count("| delete |") == SHOWN_ROWS


def test_what_makes_no_sense_is_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="no rule"):
        prune_checkpoints.fn(RetentionPolicy())
    with pytest.raises(NotFoundError, match="unknown"):
        prune_checkpoints.fn(LAST, PruneScope(jobs=("unknown",)))
